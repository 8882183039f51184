//! How often one place in the code may log: a flood of one line hides all others and fills disks.
//!
//! A place is a call site, and the value of the field `kind` where the line has one, so that many
//! refusals of one kind do not hide a failure of another. After [`LINES_MAX`] lines in
//! [`WINDOW`], further ones of the place are left out; when the window ends, one line says how
//! many. Lines below INFO are not limited: who asks for them wants all. Nor are those of the target
//! [`UNLIMITED`], each of which an administrator has caused.

use super::queue::Queue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one place in one window.
const LINES_MAX: u64 = 20;

/// How long lines are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// The target whose lines are never left out: what administrators did, and what was left out.
pub(super) const UNLIMITED: &str = "millpond::admin";

/// A call site and the kind of what it says.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    site: Identifier,
    kind: String,
}

/// A place's lines since its window began.
#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    lines: u64,
    metadata: &'static Metadata<'static>,
}

/// Lines of one place that were left out.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    kind: String,
    lines: u64,
    file: &'static str,
    line: u32,
}

/// The books. Clone = another handle.
#[derive(Clone, Default)]
pub(super) struct Books(Arc<Mutex<HashMap<Place, Seen>>>);

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Log,
    /// The first one over the limit: somebody has to tell of it later.
    LeaveOutFirst,
    LeaveOut,
}

impl Books {
    fn count(&self, place: Place, metadata: &'static Metadata<'static>, now: Instant) -> Verdict {
        match self.0.lock().entry(place) {
            Entry::Vacant(entry) => {
                entry.insert(Seen { since: now, lines: 1, metadata });
                Verdict::Log
            }
            Entry::Occupied(mut entry) => {
                let seen = entry.get_mut();
                // What was left out before is told by `take_left_out`, which starts anew.
                if now.duration_since(seen.since) >= WINDOW && seen.lines <= LINES_MAX {
                    *seen = Seen { since: now, lines: 0, metadata };
                }
                seen.lines += 1;
                match seen.lines {
                    lines if lines <= LINES_MAX => Verdict::Log,
                    lines if lines == LINES_MAX + 1 => Verdict::LeaveOutFirst,
                    _ => Verdict::LeaveOut,
                }
            }
        }
    }

    /// Takes what was left out in windows that are over; and whether there is more to come.
    fn take_left_out(&self, now: Instant) -> (Vec<LeftOut>, bool) {
        let mut left_out = Vec::new();
        let mut more = false;
        self.0.lock().retain(|place, seen| {
            let over = now.duration_since(seen.since) >= WINDOW;
            let lines = seen.lines.saturating_sub(LINES_MAX);
            if over && lines > 0 {
                let (file, line) = (seen.metadata.file(), seen.metadata.line());
                left_out.push(LeftOut {
                    kind: place.kind.clone(),
                    lines,
                    file: file.unwrap_or_default(),
                    line: line.unwrap_or_default(),
                });
            }
            more |= !over && lines > 0;
            !over
        });
        (left_out, more)
    }

    /// Logs what was left out. True if there is more to come.
    pub(super) fn tell(&self) -> bool {
        let (left_out, more) = self.take_left_out(Instant::now());
        for LeftOut { kind, lines, file, line } in left_out {
            tracing::warn!(
                target: UNLIMITED, lines, kind, place = %format_args!("{file}:{line}"),
                "lines like the last ones from this place were left out"
            );
        }
        more
    }
}

/// The layer that leaves lines out.
pub(super) struct Limit {
    pub(super) books: Books,
    pub(super) queue: Queue,
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == UNLIMITED {
            return true;
        }
        let mut kind = Kind::default();
        event.record(&mut kind);
        let place = Place { site: metadata.callsite(), kind: kind.0 };
        match self.books.count(place, metadata, Instant::now()) {
            Verdict::Log => true,
            Verdict::LeaveOutFirst => {
                self.queue.look_later();
                false
            }
            Verdict::LeaveOut => false,
        }
    }
}

/// The field `kind` of an event.
#[derive(Default)]
struct Kind(String);

impl Visit for Kind {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "kind" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::callsite::DefaultCallsite;
    use tracing::metadata::Kind as Event;

    static SITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
    static METADATA: Metadata<'static> = Metadata::new(
        "event",
        "millpond",
        Level::WARN,
        Some("app.rs"),
        Some(7),
        None,
        tracing::field::FieldSet::new(&[], Identifier(&SITE)),
        Event::EVENT,
    );

    fn place(kind: &str) -> Place {
        Place { site: Identifier(&SITE), kind: kind.into() }
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_told_and_hides_no_other() {
        let (books, begin) = (Books::default(), Instant::now());
        let count = |kind, now| books.count(place(kind), &METADATA, now);
        let verdicts: Vec<Verdict> = (0..1500).map(|_| count("overloaded", begin)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Log).count(), 20);
        assert_eq!(verdicts[20], Verdict::LeaveOutFirst);
        assert!(verdicts[21..].iter().all(|verdict| *verdict == Verdict::LeaveOut));
        assert_eq!(count("damaged", begin), Verdict::Log);
        assert_eq!(books.take_left_out(begin), (Vec::new(), true));
        let later = begin + WINDOW;
        let told = LeftOut { kind: "overloaded".into(), lines: 1480, file: "app.rs", line: 7 };
        assert_eq!(books.take_left_out(later), (vec![told], false));
        assert_eq!(count("overloaded", later), Verdict::Log);
    }

    #[test]
    fn a_place_that_logs_now_and_then_is_never_cut() {
        let (books, begin) = (Books::default(), Instant::now());
        for n in 0..200 {
            let now = begin + n * WINDOW / 10;
            assert_eq!(books.count(place("slow"), &METADATA, now), Verdict::Log, "{n}");
        }
    }

    #[test]
    fn places_that_are_quiet_are_forgotten() {
        let (books, begin) = (Books::default(), Instant::now());
        for n in 0..100 {
            assert_eq!(books.count(place(&n.to_string()), &METADATA, begin), Verdict::Log);
        }
        books.take_left_out(begin + WINDOW);
        assert!(books.0.lock().is_empty());
    }
}
