//! The lock that keeps a volume for one process.
//!
//! A killed process keeps its own for a moment after its end, until the kernel has cancelled what
//! its `io_uring` had in flight; so a held lock is asked for again before it counts, and what is
//! waited for is told at once.

use super::Access;
use crate::error::{Error, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// How often, and how long apart, a held lock is asked for: two seconds in all.
pub(super) const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock of a file.
pub(super) fn take(file: &File, path: &Path, access: Access) -> Result<()> {
    let how = if access.is_read() {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    for tried in 0..LOCK_TRIES {
        match rustix::fs::flock(file, how) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => wait(path, tried),
            Err(errno) => {
                let reason = format!("cannot be locked ({errno}); is it on a network file system?");
                return Err(Error::Unusable { path: path.to_owned(), reason });
            }
        }
    }
    Err(Error::InUse { path: path.to_owned() })
}

/// Waits before another try; the first time says for what, and for how long.
pub(super) fn wait(path: &Path, tried: u32) {
    if tried == 0 {
        let wait_max = LOCK_PAUSE * LOCK_TRIES;
        let path = path.display();
        tracing::warn!(%path, ?wait_max, "in use by another process: waiting for its end");
    }
    std::thread::park_timeout(LOCK_PAUSE);
}
