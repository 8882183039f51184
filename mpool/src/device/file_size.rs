//! How long a file this process may make: `RLIMIT_FSIZE`, in a shell `ulimit -f`.
//!
//! A write beyond it does not only fail, it sends SIGXFSZ, which ends a process that has not said
//! otherwise; and it counts for bytes within a longer file, too. So a volume file grows up to the
//! limit and no further, as on a disk that is full there, and a longer one is not opened.

use crate::error::{Error, Result};
use rustix::process::{Resource, getrlimit};
use std::path::Path;

/// Bytes that a file of this process may have; `None` where nothing limits it.
pub fn file_bytes_max() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// Refuses a file that could be written in parts only.
pub(super) fn check(path: &Path, len_bytes: u64) -> Result<()> {
    match file_bytes_max() {
        Some(max) if len_bytes > max => {
            let reason = format!(
                "is {len_bytes} bytes long, and this process may write files up to {max} bytes; \
                 raise that limit (ulimit -f, LimitFSIZE= of systemd)"
            );
            Err(Error::Unusable { path: path.to_owned(), reason })
        }
        _ => Ok(()),
    }
}

/// Why a file cannot grow to `len_bytes`, where this limit is the reason.
pub(super) fn refusal(path: &Path, len_bytes: u64) -> Option<String> {
    let max = file_bytes_max().filter(|max| len_bytes > *max)?;
    Some(format!(
        "{}: {len_bytes} bytes wanted, and this process may write files up to {max} bytes (ulimit \
         -f)",
        path.display()
    ))
}
