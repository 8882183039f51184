//! Latency over time as a picture: an SVG with a panel for each percentile of each operation.
//!
//! One row a block, workload and operation; in it one panel a percentile, with the seconds of the
//! measured part to the right and microseconds upwards, logarithmic. A policy has one colour: a
//! bold line for the median of the rounds, and a faint one for each round.

use crate::report::spread::median;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

const PANEL_WIDTH: u32 = 460;
const PANEL_HEIGHT: u32 = 260;
const HEAD_HEIGHT: u32 = 50;
const FONT: &str = "sans-serif";
/// By place; `off` is the first.
const COLOURS: [RGBColor; 5] = [
    RGBColor(110, 110, 110),
    RGBColor(214, 120, 0),
    RGBColor(20, 100, 200),
    RGBColor(30, 140, 60),
    RGBColor(160, 40, 140),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One curve: microseconds by second, for each round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    /// The policy's place among all, which decides the colour.
    pub(crate) policy: usize,
    pub(crate) rounds: Vec<Vec<(u32, f64)>>,
}

/// One picture in the grid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) curves: Vec<Curve>,
}

/// Draws rows of panels under a title and a legend.
pub(crate) fn draw(title: &str, policies: &[String], rows: &[Vec<Panel>]) -> Result<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let size = |n: usize, each: u32| u32::try_from(n).map(|n| n * each);
    let (width, height) = (size(columns, PANEL_WIDTH)?, size(rows.len().max(1), PANEL_HEIGHT)?);
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (width, height + HEAD_HEIGHT));
        let root = backend.into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (head, body) = root.split_vertically(HEAD_HEIGHT);
        draw_head(&head, title, policies)?;
        let cells = body.split_evenly((rows.len().max(1), columns));
        for (row, panels) in rows.iter().enumerate() {
            for (column, panel) in panels.iter().enumerate() {
                draw_panel(&cells[row * columns + column], panel)?;
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw the chart: {error}")
}

fn colour(policy: usize) -> RGBColor {
    COLOURS[policy % COLOURS.len()]
}

fn draw_head(head: &Area<'_>, title: &str, policies: &[String]) -> Result<()> {
    let style = (FONT, 16).into_text_style(head).pos(Pos::new(HPos::Left, VPos::Top));
    head.draw(&Text::new(title.to_owned(), (12, 6), style)).map_err(failed)?;
    let mut x = 12;
    for (at, policy) in policies.iter().enumerate() {
        let line = PathElement::new(vec![(x, 38), (x + 24, 38)], colour(at).stroke_width(3));
        head.draw(&line).map_err(failed)?;
        let style = (FONT, 13).into_text_style(head).pos(Pos::new(HPos::Left, VPos::Center));
        head.draw(&Text::new(policy.clone(), (x + 30, 38), style)).map_err(failed)?;
        x += 60 + 9 * i32::try_from(policy.len())?;
    }
    Ok(())
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Result<()> {
    let Some((seconds, low, high)) = bounds(panel) else {
        let style = (FONT, 13).into_text_style(area);
        let nothing = format!("{}: nothing was measured", panel.title);
        return area.draw(&Text::new(nothing, (12, 12), style)).map_err(failed);
    };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 14))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(52)
        .build_cartesian_2d(0..seconds, (low..high).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("second")
        .y_desc("us")
        .y_label_formatter(&|us| tick(*us))
        .label_style((FONT, 11))
        .max_light_lines(1)
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(BLACK.mix(0.05))
        .draw()
        .map_err(failed)?;
    for curve in &panel.curves {
        let colour = colour(curve.policy);
        let faint = colour.mix(0.3);
        for round in &curve.rounds {
            chart.draw_series(LineSeries::new(points(round), faint)).map_err(failed)?;
        }
        let middle = points(&middle(&curve.rounds));
        chart.draw_series(LineSeries::new(middle, colour.stroke_width(2))).map_err(failed)?;
    }
    Ok(())
}

/// The name of a tick; only 1, 2, 5, 10, .. have one, or they would lie over each other.
fn tick(us: f64) -> String {
    let lead = us / 10_f64.powf((us * 1.000_001).log10().floor());
    let named = [1.0, 2.0, 5.0].iter().any(|step| (lead - step).abs() < 0.01);
    if named { us.to_string() } else { String::new() }
}

/// What a logarithmic axis can show.
fn points(round: &[(u32, f64)]) -> Vec<(u32, f64)> {
    round.iter().filter(|(_, us)| *us > 0.0).copied().collect()
}

/// The median of the rounds, second by second.
fn middle(rounds: &[Vec<(u32, f64)>]) -> Vec<(u32, f64)> {
    let mut seconds: Vec<u32> = rounds.iter().flatten().map(|(second, _)| *second).collect();
    seconds.sort_unstable();
    seconds.dedup();
    let at = |second: u32| -> Vec<f64> {
        rounds.iter().flatten().filter(|(at, _)| *at == second).map(|(_, us)| *us).collect()
    };
    seconds.into_iter().map(|second| (second, median(&at(second)))).collect()
}

/// The end of the time axis, and both ends of the other, which are round numbers.
fn bounds(panel: &Panel) -> Option<(u32, f64, f64)> {
    let all = panel.curves.iter().flat_map(|curve| curve.rounds.iter().flatten());
    let drawn = all.filter(|(_, us)| *us > 0.0);
    let (mut last, mut low, mut high) = (0_u32, f64::INFINITY, 0.0_f64);
    for (second, us) in drawn {
        (last, low, high) = (last.max(*second), low.min(*us), high.max(*us));
    }
    (high > 0.0).then(|| (last.max(1), round_down(low), round_up(high)))
}

/// The power of ten at or below: ticks begin there.
fn round_down(x: f64) -> f64 {
    10_f64.powf(x.log10().floor())
}

/// The next of 1, 2, 5, 10, .. above.
fn round_up(x: f64) -> f64 {
    let decade = round_down(x);
    let steps = [2.0, 5.0].into_iter().map(|step| step * decade);
    steps.into_iter().find(|step| *step > x).unwrap_or(10.0 * decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(curves: Vec<Curve>) -> Panel {
        Panel { title: "READ p99, <b> & \"c\"".into(), curves }
    }

    fn curve(policy: usize) -> Curve {
        let round = |us: f64| (0..5).map(|at| (at, us + f64::from(at))).collect();
        Curve { policy, rounds: vec![round(10.0), round(20.0), round(400.0)] }
    }

    #[test]
    fn the_picture_is_well_formed_and_has_every_line() {
        let policies = ["off".to_owned(), "frequency & more".to_owned()];
        let rows = vec![vec![panel(vec![curve(0), curve(1)]), panel(vec![curve(1)])]];
        let text = draw("B & C <fast>", &policies, &rows).unwrap();
        let document = roxmltree::Document::parse(&text).expect("well-formed XML");
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "svg");
        assert_eq!(root.attribute("width"), Some("920"));
        let drawn = |policy: usize| {
            let RGBColor(r, g, b) = colour(policy);
            let stroke = format!("#{r:02X}{g:02X}{b:02X}");
            let lines = document.descendants().filter(|node| node.tag_name().name() == "polyline");
            lines.filter(|node| node.attribute("stroke") == Some(stroke.as_str())).count()
        };
        // Three rounds, their median and the legend; policy 1 is in two panels.
        assert_eq!((drawn(0), drawn(1)), (5, 9));
        for text in ["frequency & more", "B & C <fast>"] {
            let found = document.descendants().filter_map(|node| node.text());
            assert!(found.map(str::trim).any(|got| got == text), "{text:?} is not in the picture");
        }
    }

    #[test]
    fn nothing_measured_is_said_not_drawn() {
        for rows in [vec![], vec![vec![panel(vec![])]], vec![vec![panel(vec![Curve::default()])]]] {
            let text = draw("t", &[], &rows).unwrap();
            roxmltree::Document::parse(&text).expect("well-formed XML");
            assert_eq!(text.contains("nothing was measured"), !rows.is_empty());
        }
    }

    #[test]
    fn one_second_and_one_value_are_enough() {
        let one = Curve { policy: 0, rounds: vec![vec![(0, 7.0)], vec![(0, 0.0)]] };
        let text = draw("t", &["off".into()], &[vec![panel(vec![one])]]).unwrap();
        roxmltree::Document::parse(&text).expect("well-formed XML");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (x, down, up) in [(7.0, 1.0, 10.0), (10.0, 10.0, 20.0), (0.3, 0.1, 0.5)] {
            assert!((round_down(x) - down).abs() < 1e-9, "below {x}: {}", round_down(x));
            assert!((round_up(x) - up).abs() < 1e-9, "above {x}: {}", round_up(x));
        }
    }

    #[test]
    fn few_ticks_have_names() {
        let names = [1.0, 2.0, 3.0, 5.0, 9.0, 10.0, 1000.0, 7000.0, 0.5].map(tick);
        assert_eq!(names, ["1", "2", "", "5", "", "10", "1000", "", "0.5"]);
    }

    #[test]
    fn the_middle_is_taken_second_by_second() {
        let rounds = [vec![(0, 1.0), (1, 9.0)], vec![(0, 3.0), (1, 5.0)], vec![(0, 2.0), (2, 4.0)]];
        let got = middle(&rounds);
        assert_eq!(got, [(0, 2.0), (1, 7.0), (2, 4.0)]);
    }
}
