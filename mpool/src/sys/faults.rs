//! How many page faults of this process have waited for a drive: `getrusage(2)`.
//!
//! One system call of a microsecond. The count covers every file that is mapped, programs included,
//! so it says *that* something came back from a drive, not what.

use std::{io, mem::MaybeUninit};

/// Faults so far, of all threads, that had to read.
pub(crate) fn major_faults() -> io::Result<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, which is its own.
    let rc = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeros are a valid `rusage`, and the call has succeeded.
    let usage = unsafe { usage.assume_init() };
    Ok(u64::try_from(usage.ru_majflt).unwrap_or(0))
}
