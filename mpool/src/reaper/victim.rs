//! Which pages leave memory when some must.
//!
//! Pure: sums and histograms in, a list of steps out.
//!
//! Rules, in order:
//!
//! 1. Dead objects go first and whole, whether or not that is more than was asked for: nobody will
//!    read them again.
//! 2. Then `Cold` pages, then `Warm`, then `Hot`. Of a class, the pages with the lowest counts go:
//!    all up to a threshold, in clock order.
//! 3. The threshold is the smallest count that covers the bytes wanted of the class and at least
//!    [`SWEEP_PCT`] of its pages, so that the clock hand finds a victim every few pages.
//! 4. `Hot` pages go only for what is still missing after the consumers have come down to their
//!    targets: an index page saves a drive read in every lookup, a cached value in one.
//! 5. `Pinned` pages go only in an emergency.

use crate::object::mcache::{Class, pages::FREQUENCIES};

/// Part of a class's pages that a threshold covers at least.
const SWEEP_PCT: u64 = 10;

/// Pages of one class, by frequency; a sample is as good as all.
pub(crate) type Histogram = [u64; FREQUENCIES];

/// What there is to choose from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stock {
    /// Resident bytes of each dead object.
    pub(crate) dead_bytes: Vec<u64>,
    /// Resident bytes of each class, from `Cold` to `Pinned`.
    pub(crate) class_bytes: [u64; Class::COUNT],
    pub(crate) histograms: [Histogram; Class::COUNT],
}

/// What is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Want {
    pub(crate) bytes: u64,
    /// Part of it that consumers are about to give back.
    pub(crate) pending_bytes: u64,
    pub(crate) emergency: bool,
}

/// Evict `bytes` of `class`: pages counted up to `threshold`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) class: Class,
    pub(crate) threshold: u8,
    pub(crate) bytes: u64,
}

/// Applies the rules. Dead objects are implied: all of them go, before the steps.
pub(crate) fn choose(stock: &Stock, want: Want) -> Vec<Step> {
    let mut missing = want.bytes.saturating_sub(stock.dead_bytes.iter().sum());
    let mut pending = want.pending_bytes;
    let mut steps = Vec::new();
    for class in Class::ALL {
        if class == Class::Hot {
            missing = missing.saturating_sub(std::mem::take(&mut pending));
        }
        if class == Class::Pinned && !want.emergency {
            break;
        }
        let bytes = missing.min(stock.class_bytes[class.index()]);
        if bytes > 0 {
            let histogram = &stock.histograms[class.index()];
            let threshold = threshold(histogram, bytes, stock.class_bytes[class.index()]);
            steps.push(Step { class, threshold, bytes });
            missing -= bytes;
        }
    }
    steps
}

/// The smallest count up to which enough pages lie.
fn threshold(histogram: &Histogram, bytes: u64, of_bytes: u64) -> u8 {
    let pages = u128::from(histogram.iter().sum::<u64>());
    let wanted = (pages * u128::from(bytes)).div_ceil(u128::from(of_bytes.max(1)));
    let wanted = wanted.max(pages * u128::from(SWEEP_PCT) / 100).min(pages);
    let mut covered = 0;
    for (count, pages) in (0_u8..).zip(histogram) {
        covered += u128::from(*pages);
        if covered >= wanted && covered > 0 {
            return count;
        }
    }
    // Nothing was sampled: whatever the hand meets may go.
    u8::try_from(FREQUENCIES - 1).expect("a small number")
}

#[cfg(test)]
mod tests {
    use super::{Class::*, *};

    fn histogram(rows: &[(usize, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (count, pages) in rows {
            histogram[*count] = *pages;
        }
        histogram
    }

    fn step(class: Class, threshold: u8, bytes: u64) -> Step {
        Step { class, threshold, bytes }
    }

    type Row<'a> = (&'a str, Stock, Want, &'a [Step]);

    #[test]
    fn rules() {
        let one = histogram(&[(1, 100)]);
        let stock = |dead: &[u64], class_bytes| Stock {
            dead_bytes: dead.to_vec(),
            class_bytes,
            histograms: [one; Class::COUNT],
        };
        let all = [100, 100, 100, 100];
        let want = |bytes, pending_bytes, emergency| Want { bytes, pending_bytes, emergency };
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            ("nothing wanted",            stock(&[], all),       want(0, 0, false),   &[]),
            ("dead are enough",           stock(&[40, 60], all), want(90, 0, false),  &[]),
            ("dead first, then cold",     stock(&[40], all),     want(90, 0, false),
                &[step(Cold, 1, 50)]),
            ("cold before warm",          stock(&[], all),       want(150, 0, false),
                &[step(Cold, 1, 100), step(Warm, 1, 50)]),
            ("hot last",                  stock(&[], all),       want(250, 0, false),
                &[step(Cold, 1, 100), step(Warm, 1, 100), step(Hot, 1, 50)]),
            ("hot waits for consumers",   stock(&[], all),       want(250, 60, false),
                &[step(Cold, 1, 100), step(Warm, 1, 100)]),
            ("cold does not wait",        stock(&[], all),       want(50, 50, false),
                &[step(Cold, 1, 50)]),
            ("pinned stay",               stock(&[], [0, 0, 0, 100]), want(50, 0, false), &[]),
            ("but not in an emergency",   stock(&[], [0, 0, 0, 100]), want(50, 0, true),
                &[step(Pinned, 1, 50)]),
        ];
        for (name, stock, want, expect) in table {
            assert_eq!(choose(stock, *want), *expect, "{name}");
        }
    }

    type ThresholdRow<'a> = (&'a str, &'a [(usize, u64)], u64, u8);

    #[test]
    fn thresholds() {
        #[rustfmt::skip]
        let table: &[ThresholdRow<'_>] = &[
            ("what is wanted lies at 0",     &[(0, 50), (3, 50)],            40, 0),
            ("more than lies at 0",          &[(0, 30), (3, 20), (9, 50)],   40, 3),
            ("at least a tenth",             &[(0, 1), (2, 9), (5, 90)],      1, 2),
            ("all hot",                      &[(15, 100)],                    1, 15),
            ("everything",                   &[(0, 50), (12, 50)],          100, 12),
            ("nothing sampled",              &[],                            50, 15),
        ];
        for (name, rows, bytes, expect) in table {
            assert_eq!(threshold(&histogram(rows), *bytes, 100), *expect, "{name}");
        }
    }
}
