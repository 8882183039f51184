//! Volumes that the pool's journal names and that cannot be had: which, where they were, what lies
//! on them, and what can be done.

use crate::{
    address::VolumeId,
    media::{MediaClass, VolumeKind, VolumeRecord},
};
use std::{fmt, path::PathBuf};

/// How the reason begins where something is there and this user may not open it.
pub(crate) const DENIED: &str = "permission denied";

/// What lies on a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeHolds {
    /// Mblocks, in whole or in part.
    pub mblocks: u64,
    /// Bytes of them.
    pub mblock_bytes: u64,
    /// Segments, which are for write-ahead logs.
    pub segments: u64,
    /// Journals, in whole or in part.
    pub journals: u64,
}

impl VolumeHolds {
    /// Whether nothing lies there.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for VolumeHolds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing lies on it");
        }
        let Self { mblocks, mblock_bytes, segments, journals } = self;
        let end = |count: &u64| if *count == 1 { "" } else { "s" };
        write!(f, "on it: {mblocks} mblock{} ({mblock_bytes} bytes)", end(mblocks))?;
        if *segments > 0 {
            write!(f, ", {segments} segment{} of the write-ahead log", end(segments))?;
        }
        if *journals > 0 {
            write!(f, ", {journals} journal{}", end(journals))?;
        }
        Ok(())
    }
}

/// A volume that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingVolume {
    /// Which.
    pub id: VolumeId,
    /// What it is for.
    pub class: MediaClass,
    /// What it is.
    pub kind: VolumeKind,
    /// Where it was last.
    pub path: PathBuf,
    /// Why it cannot be had.
    pub reason: String,
    /// What lies on it.
    pub holds: VolumeHolds,
}

impl MissingVolume {
    /// `holds`: what the journal says of it.
    pub(crate) fn new(record: &VolumeRecord, holds: VolumeHolds, reason: &str) -> Self {
        let VolumeRecord { id, class, kind, path, .. } = record.clone();
        Self { id, class, kind, path, reason: reason.to_owned(), holds }
    }

    /// Where it was, why it cannot be had, and what lies on it.
    pub(crate) fn whereabouts(&self) -> String {
        let Self { path, reason, holds, .. } = self;
        format!("last at {}, {reason}; {holds}", path.display())
    }

    /// What can be done about it.
    pub fn way_out(&self) -> String {
        if is_denied(&self.reason) {
            return "it is there, and this user may not open it: run this as the user of the pool's \
                    files, or give it to this user (chown)"
                .to_owned();
        }
        if self.holds.is_nothing() {
            let id = self.id;
            return format!("`millpond pool remove {id} --lost` takes it out of the pool");
        }
        "bring it back (is its disk mounted, has the device another name?), put a link at that path \
         to where it is, or restore the pool from a backup"
            .to_owned()
    }
}

impl fmt::Display for MissingVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, class, kind, .. } = self;
        write!(f, "{id} ({class}, kind {kind}), {}", self.whereabouts())
    }
}

pub(crate) fn is_denied(reason: &str) -> bool {
    reason.starts_with(DENIED)
}

/// All of them in one text.
pub(crate) fn text(missing: &[MissingVolume]) -> String {
    let each = missing.iter().map(|volume| format!("{volume}; {}", volume.way_out()));
    let each: Vec<String> = each.collect();
    format!("a volume of the pool cannot be had: {}", each.join("; and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A volume whose owner was another user was "missing", and to be given up.
    #[test]
    fn each_gets_the_advice_that_fits() {
        let mut volume = MissingVolume {
            id: VolumeId::new(1).unwrap(),
            class: MediaClass::Capacity,
            kind: VolumeKind::File,
            path: "fast.vol".into(),
            reason: format!("{DENIED}; give the pool's files to this user"),
            holds: VolumeHolds::default(),
        };
        let advice = volume.way_out();
        assert!(advice.contains("chown") && !advice.contains("--lost"), "{advice}");
        volume.reason = "does not exist".to_owned();
        let advice = volume.way_out();
        assert!(advice.contains("remove vol-1 --lost") && !advice.contains("backup"), "{advice}");
        assert_eq!(
            text(&[volume.clone()]).matches("vol-1").count(),
            2,
            "its name, and the command"
        );
        volume.holds.mblocks = 1;
        let advice = volume.way_out();
        assert!(advice.contains("backup") && !advice.contains("--lost"), "{advice}");
    }
}
