//! Whether a database is open, and what has failed so that nothing more is written.

use super::bell::Bell;
use crate::error::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What fails for good: only a restart mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The log: nobody can say what it holds.
    Log,
    /// The manifest, or what keeps it in step with memory.
    Shape,
}

/// See the module.
pub(crate) struct Life {
    is_read_only: bool,
    closed: AtomicBool,
    log: OnceLock<String>,
    shape: OnceLock<String>,
    /// Rung when this changes, and when jobs, sealed memtables or trees do.
    pub(crate) bell: Bell,
}

impl Life {
    pub(crate) fn new(is_read_only: bool) -> Self {
        Self {
            is_read_only,
            closed: AtomicBool::new(false),
            log: OnceLock::new(),
            shape: OnceLock::new(),
            bell: Bell::default(),
        }
    }

    fn cause(&self, what: Failed) -> &OnceLock<String> {
        match what {
            Failed::Log => &self.log,
            Failed::Shape => &self.shape,
        }
    }

    /// Remembers the first failure of each kind; from then on nothing is written. Returns the error
    /// of every later write.
    pub(crate) fn fail(&self, what: Failed, cause: String) -> Error {
        if self.cause(what).set(cause.clone()).is_ok() {
            tracing::error!(?what, cause, "the database takes no more writes");
        }
        self.bell.ring();
        self.check(what).err().unwrap_or(Error::Poisoned { cause })
    }

    /// As [`Life::fail`], by an error of the shape.
    pub(crate) fn fail_shape(&self, error: &Error) {
        self.fail(Failed::Shape, error.with_sources());
    }

    /// Why it has failed, if it has.
    pub(crate) fn failure(&self, what: Failed) -> Option<String> {
        self.cause(what).get().cloned()
    }

    /// `Err` once it has failed.
    pub(crate) fn check(&self, what: Failed) -> Result<()> {
        self.failure(what).map_or(Ok(()), |cause| Err(Error::Poisoned { cause }))
    }

    /// `Err` where nothing may be written: it is closed, open for reading only, or has failed.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.is_read_only {
            return Err(Error::ReadOnly);
        }
        self.check(Failed::Shape)?;
        self.check(Failed::Log)
    }

    /// `Err` once it is closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// True for the one caller that closes it.
    pub(crate) fn close_once(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What had failed in the log was not seen by flushes and jobs.
    #[test]
    fn a_failure_of_either_kind_ends_all_writing_and_the_first_cause_stays() {
        for what in [Failed::Log, Failed::Shape] {
            let life = Life::new(false);
            life.check_writable().unwrap();
            let seen = life.bell.rings();
            for cause in ["first", "second"] {
                assert_eq!(
                    life.fail(what, cause.to_owned()).to_string().matches("first").count(),
                    1
                );
            }
            assert_eq!(life.bell.rings(), seen + 2);
            assert!(
                matches!(life.check_writable(), Err(Error::Poisoned { cause }) if cause == "first")
            );
            assert_eq!(life.failure(what).as_deref(), Some("first"));
            let other = if what == Failed::Log { Failed::Shape } else { Failed::Log };
            assert_eq!(life.failure(other), None);
        }
    }

    #[test]
    fn one_caller_closes_it_and_what_is_read_only_is_never_written() {
        let life = Life::new(true);
        assert!(matches!(life.check_writable(), Err(Error::ReadOnly)));
        life.check_open().unwrap();
        assert_eq!([life.close_once(), life.close_once()], [true, false]);
        assert!(matches!(life.check_writable(), Err(Error::Closed)));
    }
}
