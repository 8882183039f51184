//! What is read at both ends of the measured part of a run, and what came of it between them.
//!
//! | fact | from |
//! |---|---|
//! | CPU, bytes read and written | the processes ([`resources`]) |
//! | reads and writes completed | the block device under the data ([`block`]) |
//! | times the memory limit was met | the memory cgroup |
//! | the store's own counters | the target |
//!
//! [`block`]: crate::machine::block
//! [`resources`]: crate::machine::resources

use crate::machine::block::{BlockDevice, DriveCounts};
use crate::machine::cgroup::{MemoryGroup, MemoryMeasured};
use crate::machine::resources::Usage;
use crate::target::{Counted, Target};
use std::collections::BTreeMap;

/// The counter by which a store tells its own CPU time.
const CPU: &str = "process_cpu_seconds_total";

/// Everything that can be looked at.
pub(crate) struct Observer<'a> {
    target: &'a dyn Target,
    group: Option<&'a MemoryGroup>,
    device: Option<BlockDevice>,
}

/// One look, or the difference of two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    pub(crate) usage: Usage,
    /// The device's name, and what it did.
    pub(crate) drive: Option<(String, DriveCounts)>,
    pub(crate) memory: Option<MemoryMeasured>,
    pub(crate) counters: Vec<Counted>,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(target: &'a dyn Target, group: Option<&'a MemoryGroup>) -> Self {
        let device = target.data_dir().and_then(BlockDevice::under);
        Self { target, group, device }
    }

    pub(crate) fn look(&self) -> Observation {
        let drive = self.device.as_ref().and_then(|d| Some((d.to_string(), d.counts()?)));
        let counters = self.target.counters();
        let own_cpu = counters.iter().find(|counted| counted.name == CPU).map(|c| c.value);
        Observation {
            usage: Usage::read(self.target.place(), own_cpu),
            drive,
            memory: self.group.map(MemoryGroup::look),
            counters,
        }
    }
}

impl Observation {
    /// What happened since `before`. Levels are those of now.
    pub(crate) fn since(self, before: &Self) -> Self {
        let drives = self.drive.zip(before.drive.as_ref());
        let groups = self.memory.zip(before.memory);
        let then: BTreeMap<&str, f64> =
            before.counters.iter().map(|c| (c.name.as_str(), c.value)).collect();
        let mut counters = self.counters;
        for counted in counters.iter_mut().filter(|counted| counted.grows) {
            counted.value -= then.get(counted.name.as_str()).copied().unwrap_or(0.0);
        }
        Self {
            usage: self.usage.since(&before.usage),
            drive: drives.map(|((name, now), (_, then))| (name, now.since(then))),
            memory: groups.map(|(now, then)| now.since(&then)),
            counters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(name: &str, grows: bool, value: f64) -> Counted {
        Counted { name: name.into(), grows, value }
    }

    #[test]
    fn counts_are_differences_and_levels_are_not() {
        let before = Observation {
            counters: vec![counted("reads_total", true, 10.0), counted("bytes", false, 7.0)],
            ..Observation::default()
        };
        let after = Observation {
            counters: vec![
                counted("bytes", false, 9.0),
                counted("reads_total", true, 25.0),
                // A label that nothing had counted under before.
                counted("stalls_total{reason=\"wal\"}", true, 3.0),
            ],
            ..Observation::default()
        };
        let values: Vec<f64> = after.since(&before).counters.iter().map(|c| c.value).collect();
        assert_eq!(values, [9.0, 15.0, 3.0]);
    }

    #[test]
    fn what_was_not_seen_at_both_ends_is_unknown() {
        let drive = Some(("vda".to_owned(), DriveCounts::default()));
        let after = Observation { drive, ..Observation::default() };
        assert!(after.since(&Observation::default()).drive.is_none());
    }
}
