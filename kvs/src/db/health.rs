//! Whether the database can do its work: one answer made of what its parts know.
//!
//! ```text
//!   part         fails when                                          until
//!   log          an append or a sync of the log failed               a restart
//!   shape        an append to the manifest failed, a job panicked    a restart
//!   volumes      a write of the pool could not be made durable       a restart
//!   flush        the last flush of a memtable failed                 a flush succeeds
//!   compaction   a compaction could not read its inputs              they are gone, or an open
//! ```
//!
//! Without the first four no write is taken for long, so the database has *failed*; without the
//! last it is *degraded*: it serves, and what is damaged is left alone. A volume that is full is no
//! ailment. Asking takes no lock that is held across IO.

use super::Database;
use crate::shape::life::Failed;

/// A part of the database that may fail on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The write-ahead log.
    Log,
    /// The manifest, and what keeps it in step with memory.
    Shape,
    /// The pool's volumes.
    Volumes,
    /// Taking memtables to kvsets.
    Flush,
    /// Merging kvsets.
    Compaction,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Log, Self::Shape, Self::Volumes, Self::Flush, Self::Compaction];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Shape => "shape",
            Self::Volumes => "volumes",
            Self::Flush => "flush",
            Self::Compaction => "compaction",
        }
    }

    /// Whether the database serves without it.
    fn is_dispensable(self) -> bool {
        self == Self::Compaction
    }
}

/// A part that has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ailment {
    /// The part.
    pub part: Part,
    /// What failed, with its causes, on one line.
    pub cause: String,
}

/// What a database says of itself at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What has failed, the most serious first.
    pub ailments: Vec<Ailment>,
}

/// A health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has failed.
    Sound,
    /// All is served, but something cannot be done that will be missed in time.
    Degraded,
    /// Writes are refused, or will be.
    Failed,
}

impl Health {
    /// In one word.
    pub fn state(&self) -> State {
        match &*self.ailments {
            [] => State::Sound,
            all if all.iter().all(|ailment| ailment.part.is_dispensable()) => State::Degraded,
            _ => State::Failed,
        }
    }

    /// Why the state is what it is; `None` where it is sound.
    pub fn cause(&self) -> Option<String> {
        let first = self.ailments.first()?;
        Some(format!("{}: {}", first.part.as_str(), first.cause))
    }

    /// Whether `part` has failed.
    pub fn has_failed(&self, part: Part) -> bool {
        self.ailments.iter().any(|ailment| ailment.part == part)
    }
}

impl Database {
    /// What has failed, as far as it is known now. Cheap, and never blocks on the drive.
    pub fn health(&self) -> Health {
        let (life, jobs) = (&self.store().life, &self.work().jobs);
        let causes = [
            (Part::Log, life.failure(Failed::Log)),
            (Part::Shape, life.failure(Failed::Shape)),
            (Part::Volumes, self.pool().failure().map(str::to_owned)),
            (Part::Flush, jobs.ailments.flush()),
            (Part::Compaction, jobs.ailments.compaction()),
        ];
        let ailment = |(part, cause): (Part, Option<String>)| Some(Ailment { part, cause: cause? });
        Health { ailments: causes.into_iter().filter_map(ailment).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_part_is_a_failed_database_but_for_compaction() {
        let of = |parts: &[Part]| Health {
            ailments: parts.iter().map(|part| Ailment { part: *part, cause: "c".into() }).collect(),
        };
        assert_eq!(of(&[]).state(), State::Sound);
        assert_eq!(of(&[Part::Compaction]).state(), State::Degraded);
        for part in [Part::Log, Part::Shape, Part::Volumes, Part::Flush] {
            assert_eq!(of(&[part]).state(), State::Failed, "{part:?}");
            assert_eq!(of(&[part, Part::Compaction]).state(), State::Failed);
        }
        assert_eq!(of(&[Part::Flush]).cause().as_deref(), Some("flush: c"));
        assert_eq!(of(&[]).cause(), None);
    }
}
