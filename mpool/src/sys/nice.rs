//! What part of busy processors a thread gets.

use rustix::process::{getpriority_process, setpriority_process};
use std::io;

/// As far as it goes.
const NICE_MAX: i32 = 19;

/// From now on the calling thread stands so many steps of `nice(1)` further behind others: each is
/// about a fifth less of a processor that others want, too, and a thread that wakes up interrupts
/// it sooner. Where a processor is idle nothing changes. There is no way back without privileges.
pub fn lower_priority(steps: u8) -> io::Result<()> {
    // On Linux "no process" means the calling thread alone.
    let nice = getpriority_process(None)?.saturating_add(steps.into()).min(NICE_MAX);
    setpriority_process(None, nice)?;
    Ok(())
}
