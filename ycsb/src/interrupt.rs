//! Signals that end a run early: SIGINT and SIGTERM.
//!
//! The first one is only noted: whoever runs something long asks [`pending`] now and then, stops,
//! and reports what was measured until then. The second one does what it does to any program, so
//! that nothing which hangs can hold the user up. The process then exits as the shell expects of
//! one that a signal ended ([`Interruption::exit_code`]).

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// The number of the first signal; 0 before it.
static NOTED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// A signal that asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interruption {
    signal: u8,
}

impl Interruption {
    pub(crate) fn name(self) -> &'static str {
        if i32::from(self.signal) == SIGINT { "SIGINT" } else { "SIGTERM" }
    }

    /// 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.signal
    }
}

/// Begins to note signals. Called once, by `main`.
pub(crate) fn listen() -> Result<()> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let number = usize::try_from(signal).expect("signals have small numbers");
        // In this order: the first signal finds the flag unset, and sets it.
        flag::register_conditional_default(signal, Arc::clone(&again))
            .and_then(|_| flag::register(signal, Arc::clone(&again)))
            .and_then(|_| flag::register_usize(signal, Arc::clone(&NOTED), number))
            .context("signals cannot be awaited")?;
    }
    Ok(())
}

/// The signal that came, if one did.
pub(crate) fn pending() -> Option<Interruption> {
    // Nothing but the number itself is passed on.
    let signal = u8::try_from(NOTED.load(Ordering::Relaxed)).expect("signals have small numbers");
    (signal != 0).then_some(Interruption { signal })
}

/// An error once a signal has come: for work that has nothing to report yet.
pub(crate) fn check() -> Result<()> {
    match pending() {
        Some(interruption) => bail!("interrupted by {}", interruption.name()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_shells() {
        for (signal, name, code) in [(2, "SIGINT", 130), (15, "SIGTERM", 143)] {
            let interruption = Interruption { signal };
            assert_eq!((interruption.name(), interruption.exit_code()), (name, code));
        }
    }

    #[test]
    fn nothing_is_pending_before_a_signal() {
        assert_eq!(pending(), None);
        check().unwrap();
    }
}
