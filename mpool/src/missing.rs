//! Volumes that the pool's journal names and that cannot be had: which, where they were, what lies
//! on them, and what can be done.

use crate::{
    address::VolumeId,
    anchor::Anchor,
    catalog::Catalog,
    device::{Access, DENIED},
    error::{Error, Result},
    journal::Journal,
    mdc::{log::Log, record::Change},
    media::{MediaClass, VolumeKind, VolumeRecord},
    open::{VOLUME_FILE, elected, new_volume, open_device, open_root, with_path},
    options::{Create, Options},
    pool::Pool,
    site,
    space::extent::Extent,
    tidy::Tidy,
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

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
    pub(crate) fn of(catalog: &Catalog, id: VolumeId) -> Self {
        let here = |extent: &Extent| VolumeId::of(extent.offset) == id;
        let mut holds = Self::default();
        for place in catalog.mblocks.values() {
            let bytes: u64 = place.extents.iter().filter(|e| here(e)).map(|e| e.len).sum();
            holds.mblocks += u64::from(bytes > 0);
            holds.mblock_bytes += bytes;
        }
        let on_it = |logs: &&[Log; 2]| logs.iter().any(|log| log.volume() == id);
        holds.segments = catalog.segments.values().filter(|e| here(e)).count() as u64;
        holds.journals = catalog.mdcs.values().filter(on_it).count() as u64;
        holds
    }

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
    pub(crate) fn new(record: &VolumeRecord, catalog: &Catalog, reason: &str) -> Self {
        let VolumeRecord { id, class, kind, path, .. } = record.clone();
        let holds = VolumeHolds::of(catalog, id);
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

impl Pool {
    /// Takes a volume out of the pool in DIR that is lost and on which nothing lies, so that the
    /// pool opens without it. A volume that can be had is emptied and removed in the usual way.
    pub fn forget_volume(dir: &Path, id: VolumeId, options: &Options) -> Result<()> {
        options.validate()?;
        site::survey(dir, Create::Never)?;
        let path = dir.join(VOLUME_FILE);
        let volumes = new_volume(open_root(&path, options, Access::Write)?, options);
        volumes.flush()?;
        let superblock = elected(&volumes, Some(dir)).map_err(|error| with_path(error, &path))?;
        let anchor = Arc::new(Anchor::new(&volumes, superblock));
        let tidy = Tidy::start(false, || ())?;
        let journal = Journal::open(&volumes, &anchor, tidy.bell())?;
        let known = journal.read(|catalog| catalog.volumes.get(&id).cloned());
        let record = known.filter(|_| id != VolumeId::ROOT).ok_or_else(|| Error::no_such(id))?;
        let holds = journal.read(|catalog| VolumeHolds::of(catalog, id));
        if !holds.is_nothing() {
            return Err(Error::Options(format!("{id} cannot be given up: {holds}")));
        }
        match open_device(&dir.join(&record.path), &record, options, Access::Read) {
            // Whoever may not look cannot say that it is lost.
            Err(Error::Unusable { reason, .. }) if !is_denied(&reason) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let text = format!("{id} is there; evacuate it, and remove it without --lost");
                return Err(Error::Options(text));
            }
        }
        journal.commit(&[Change::VolumeRemoved(id)], |_| Ok(()), || ())
    }
}

fn is_denied(reason: &str) -> bool {
    reason.starts_with(DENIED)
}

/// The error that tells of them, if there are any.
pub(crate) fn check(missing: Vec<MissingVolume>) -> Result<()> {
    if missing.is_empty() { Ok(()) } else { Err(Error::VolumesMissing { missing }) }
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
