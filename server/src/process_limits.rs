//! Limits that the system sets for this process: how long a file may be, how many may be open.

use anyhow::Context;
use rustix::process::{Resource, Rlimit, Signal as Number, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Files kept for everything but connections, where so many may be open: volumes, rings and their
/// like, the listener, the log.
const FILES_KEPT: u64 = 128;

/// A write beyond the longest file that this process may make fails from here on, and ends nothing.
/// The handler stays when the stream of signals is dropped; nobody waits for one.
pub(crate) fn heed_file_size() -> anyhow::Result<()> {
    let kind = SignalKind::from_raw(Number::XFSZ.as_raw());
    let _signals: Signal = signal(kind).context("SIGXFSZ cannot be taken")?;
    Ok(())
}

/// For a message about a full store: the limit on files that may be the reason.
pub(crate) fn file_size_note() -> String {
    mpool::file_bytes_max().map_or_else(String::new, |max| {
        format!(
            "; this process may write files up to {max} bytes (ulimit -f, LimitFSIZE= of systemd)"
        )
    })
}

/// Raises the number of files that may be open to the most that is permitted; says how many.
pub(crate) fn raise_open_files() -> u64 {
    let found = getrlimit(Resource::Nofile);
    if found.current != found.maximum {
        let raised = Rlimit { current: found.maximum, maximum: found.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files cannot be raised (ulimit -n)");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of the connections asked for can be open beside everything else, of `files` in all.
pub(crate) fn connections_that_fit(asked: usize, files: u64) -> usize {
    let left = files - FILES_KEPT.min(files / 2);
    asked.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_store() {
        for (asked, files, want) in [
            (10_000, 1 << 20, 10_000),
            (10_000, u64::MAX, 10_000),
            (10_000, 10_128, 10_000),
            (10_000, 10_127, 9_999),
            (10_000, 1024, 896),
            (10_000, 200, 100),
            (10, 200, 10),
            (10, 1, 1),
            (10, 0, 1),
        ] {
            assert_eq!(connections_that_fit(asked, files), want, "{asked} of {files}");
        }
    }
}
