//! Volumes come, grow, are emptied and leave, while the pool is open.
//!
//! ```text
//!   add:       label, durable  --> record "volume set"      (a label without a record is nobody's)
//!   grow:      record with the new limit
//!   evacuate:  record "evacuating" --> every mblock moves    (repeatable after a crash)
//!   remove:    nothing lives there --> record "removed" --> label wiped
//! ```
//!
//! The root volume holds superblock and journal, and stays.

use crate::{
    address::VolumeId,
    device::{self, Access, Device, contents::Contents},
    error::{Error, Result},
    heads::{
        label::{self, Found, Label},
        session::Session,
    },
    id::MblockId,
    journal::{
        catalog::Catalog,
        last::LastOnVolume,
        record::{Change, VOLUME_PATH_BYTES_MAX},
    },
    media::{MediaClass, VolumeKind, VolumeRecord},
    object::mblock::Mblock,
    options::{CAPACITY_BYTES_MAX, check_capacity_max, size_in_range},
    pool::{Pool, create::Fresh, open::new_uuid, session},
    site::{self, devices::open_device},
    space::{extent::FreeExtents, volume::VolumeSpace},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// The least that a volume in a file may grow to: its label and a few objects.
const FILE_BYTES_MIN: u64 = 1 << 20;

/// A volume to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// The file or device; a relative path is within the pool's directory.
    pub path: PathBuf,
    /// What it is.
    pub kind: VolumeKind,
    /// What it is for.
    pub class: MediaClass,
    /// What a file may grow to; devices are used whole.
    pub capacity_bytes_max: u64,
    /// Take it even though something else is on it, which is then lost.
    pub force: bool,
}

impl NewVolume {
    /// Checks what can be checked before anything is made of it.
    pub fn validate(&self) -> Result<()> {
        let bytes = self.path.as_os_str().len();
        if !(1..=VOLUME_PATH_BYTES_MAX).contains(&bytes) {
            let text = format!("path of a volume has {bytes} bytes, must have 1 to 4096");
            return Err(Error::Options(text));
        }
        let path = self.path.display().to_string();
        if self.kind == VolumeKind::File {
            let (name, max) = (format!("capacity of {path}"), CAPACITY_BYTES_MAX);
            size_in_range(&name, self.capacity_bytes_max, FILE_BYTES_MIN, max)?;
        }
        check_capacity_max(&path, self.capacity_bytes_max)
    }
}

/// A volume in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its id.
    pub id: VolumeId,
    /// What it is for.
    pub class: MediaClass,
    /// What it is.
    pub kind: VolumeKind,
    /// Where it is.
    pub path: PathBuf,
    /// Whether a copy of the pool's directory would lead to this same volume: its path is absolute,
    /// or leads out of the directory.
    pub outside: bool,
    /// What device serves it, in the device's words.
    pub device: &'static str,
    /// Whether it is being emptied.
    pub evacuating: bool,
    /// Its present size.
    pub len_bytes: u64,
    /// What it can hold, or may grow to.
    pub capacity_bytes: u64,
    /// Bytes that belong to an object, a log or the volume itself.
    pub used_bytes: u64,
    /// Bytes free now or after growth, as far as the disk below has room for it.
    pub free_bytes: u64,
    /// Bytes that only allocations with [`crate::Placement::spare`] get.
    pub spare_bytes: u64,
    /// What is free within its present size, where bytes can be overwritten.
    pub free_extents: FreeExtents,
    /// What lies last on it.
    pub last: Option<LastOnVolume>,
    /// What it takes on the disk below, if that can be told: a file with holes takes less than its
    /// size.
    pub disk_bytes: Option<u64>,
    /// Mblocks on it.
    pub mblocks: u64,
    /// Segments and journals on it.
    pub logs: u64,
    /// For zoned volumes: zones that objects may use, and those of them that are empty or wholly
    /// dead.
    pub zones: Option<(u32, u32)>,
}

/// How far emptying a volume has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evacuation {
    /// Mblocks moved by this call.
    pub moved: u64,
    /// Bytes of them.
    pub moved_bytes: u64,
    /// What is still there and must be moved or deleted by its owner: journals and segments.
    pub left: Vec<String>,
    /// Mblocks that could not be moved, and why.
    pub failed: Vec<(MblockId, String)>,
}

impl Pool {
    /// All volumes, in order of their ids.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        self.space.all().iter().map(|space| self.volume_info(space)).collect()
    }

    fn volume_info(&self, space: &Arc<VolumeSpace>) -> VolumeInfo {
        let record = self.volume_record(space.id());
        let device = space.volume().device();
        let table = self.table.read();
        let here = |id: VolumeId| id == space.id();
        let segments = table.segments.values().filter(|s| here(s.volume())).count();
        let mdcs = table.mdcs.values().filter(|logs| here(logs[0].volume())).count();
        VolumeInfo {
            id: self.volumes.marked(space.id()),
            class: record.class,
            kind: record.kind,
            outside: self.dir.as_ref().is_some_and(|dir| site::is_outside(dir, &record.path)),
            path: record.path,
            device: device.kind(),
            evacuating: space.is_evacuating(),
            len_bytes: device.geometry().len_bytes,
            capacity_bytes: space.capacity_bytes(),
            used_bytes: space.used_bytes(),
            free_bytes: space.free_bytes(),
            spare_bytes: space.spare_bytes(),
            free_extents: space.free_extents(),
            last: self.last_on(space.id()),
            disk_bytes: device.disk_bytes(),
            mblocks: table.mblocks.values().filter(|m| here(m.volume())).count() as u64,
            logs: (segments + mdcs) as u64,
            zones: space.zones().map(|zones| {
                let whole = u32::try_from(zones.usage().0).expect("zones are few");
                (zones.count(), whole)
            }),
        }
    }

    fn last_on(&self, id: VolumeId) -> Option<LastOnVolume> {
        // A copy, which costs nothing, so that commits do not wait.
        let catalog = self.journal.read(Catalog::clone);
        LastOnVolume::of(&catalog, self.anchor.superblock().logs, id)
    }

    /// What the journal says of a volume, or what holds of the root by default.
    pub(crate) fn volume_record(&self, id: VolumeId) -> VolumeRecord {
        let known = self.journal.read(|catalog| catalog.volumes.get(&id).cloned());
        known.unwrap_or_else(|| {
            let kind = device::volume_kind(&**self.volumes.root().device());
            VolumeRecord { kind, ..root_record(self.options.capacity_bytes_max) }
        })
    }

    /// Adds a volume; objects can be placed on it at once.
    pub fn add_volume(self: &Arc<Self>, new: &NewVolume) -> Result<VolumeId> {
        if self.is_read_only() {
            return Err(Error::Options("the pool is open for reading only".to_owned()));
        }
        let path = self.resolve(&new.path);
        new.validate()?;
        if self.volumes().iter().any(|volume| self.resolve(&volume.path) == path) {
            let reason = "is a volume of this pool already".to_owned();
            return Err(Error::Unusable { path, reason });
        }
        check_directory(new.kind, &path)?;
        let mut record = VolumeRecord {
            id: VolumeId::ROOT,
            class: new.class,
            kind: new.kind,
            evacuating: false,
            capacity_bytes_max: new.capacity_bytes_max,
            uuid: new_uuid()?,
            path: new.path.clone(),
        };
        let fresh = Fresh::at(&path);
        let device = open_device(&path, &record, &self.options, Access::Create);
        let device = device.inspect_err(|error| fresh.clean_up(error))?;
        if new.kind == VolumeKind::Block {
            record.capacity_bytes_max = device.geometry().len_bytes_max.min(CAPACITY_BYTES_MAX);
        }
        self.add_device(device, record, (new.force, &fresh))
    }

    /// Adds a volume on a given device, for devices that have no path. Opening the pool again takes
    /// [`Pool::open_with`].
    pub fn add_volume_on(
        self: &Arc<Self>,
        device: Arc<dyn Device>,
        class: MediaClass,
    ) -> Result<VolumeId> {
        let kind = match device.zones() {
            Some(_) => VolumeKind::EmulatedZoned,
            None => VolumeKind::File,
        };
        let record = VolumeRecord {
            id: VolumeId::ROOT,
            class,
            kind,
            evacuating: false,
            capacity_bytes_max: device.geometry().len_bytes_max.min(CAPACITY_BYTES_MAX),
            uuid: new_uuid()?,
            path: PathBuf::from(device.kind()),
        };
        self.add_device(device, record, (false, &Fresh::NOTHING))
    }

    fn add_device(
        self: &Arc<Self>,
        device: Arc<dyn Device>,
        mut record: VolumeRecord,
        (force, fresh): (bool, &Fresh<'_>),
    ) -> Result<VolumeId> {
        self.volumes.check_writable()?;
        let _one_at_a_time = self.changing_volumes.lock();
        // Id 0 is the root's, whether it is named or not.
        let raw = self.journal.read(|catalog| catalog.volume_limit).max(1);
        record.id = VolumeId::new(raw).ok_or_else(|| {
            Error::Options("the pool has had 1,023 volumes, which is all it can name".to_owned())
        })?;
        let (pool, volume, id) = (self.uuid, record.uuid, record.id);
        let label = Label { pool, volume, id, session: Session::NONE };
        let taken = self.check_takeable(&*device, &record, force);
        let labelled = taken.and_then(|()| label::write(&*device, &label));
        labelled.inspect_err(|error| fresh.clean_up(error))?;
        self.journal.commit(&[Change::VolumeSet(record.clone())], |_| Ok(()), || ())?;
        self.volumes.add(record.id, device);
        let space = VolumeSpace::rebuild(&self.volumes, &record, &[], self.options.spare_pct)?;
        self.mcache.add_volume(space.volume());
        self.space.add(space);
        self.begin_session()?;
        let path = record.path.display();
        tracing::info!(volume = %record.id, class = %record.class, %path, "added a volume");
        Ok(self.volumes.marked(record.id))
    }

    /// Gives all volumes the next session. One change of the volumes at a time.
    pub(crate) fn begin_session(&self) -> Result<()> {
        let bearers = |catalog: &_| session::bearers_of(self.uuid, catalog, &self.volumes);
        let others = self.journal.read(bearers);
        session::begin(&self.journal, &others)
    }

    /// Whether a device may be written over; what is forced is made blank.
    fn check_takeable(
        &self,
        device: &dyn Device,
        record: &VolumeRecord,
        force: bool,
    ) -> Result<()> {
        let refused = |reason: String| Error::Unusable { path: record.path.clone(), reason };
        let found = label::read(device)?;
        match found {
            // An earlier attempt to add it was cut short, or it was removed and not wiped.
            Found::Label(label) if label.pool == self.uuid && !self.is_member(&label) => {
                return Ok(());
            }
            Found::Label(label) if label.pool == self.uuid => {
                return Err(refused(format!("is {} of this pool already", label.id)));
            }
            Found::Label(_) if !force => {
                return Err(refused(
                    "belongs to another pool; remove it there first, or --force it and lose that"
                        .into(),
                ));
            }
            _ => {}
        }
        let failed = |op| move |source| Error::io(op, 0, 0, source);
        match device::contents::of_device(device).map_err(failed("read"))? {
            Contents::Blank => Ok(()),
            Contents::Taken(taken) if !force => Err(refused(taken.refusal())),
            // A drive of zones alone has nothing at fixed places, and is emptied by its label.
            Contents::Taken(_) => device::wipe_ends(device).map_err(failed("durable write")),
        }
    }

    fn is_member(&self, label: &Label) -> bool {
        self.journal.read(|catalog| {
            catalog.volumes.get(&label.id).is_some_and(|record| record.uuid == label.volume)
        })
    }

    /// Raises what a volume on a file may grow to; for a device, takes in what it has gained.
    pub fn grow_volume(self: &Arc<Self>, id: VolumeId, capacity_bytes_max: u64) -> Result<()> {
        let _one_at_a_time = self.changing_volumes.lock();
        let space = self.space_of(id)?;
        if space.zones().is_some() {
            return Err(Error::Options(format!("{id} is zoned; such a volume does not grow")));
        }
        space.check_growth(capacity_bytes_max)?;
        let device = space.volume().device();
        device.set_len_max(capacity_bytes_max).map_err(|source| Error::Io {
            op: "grow",
            offset: id.address(0),
            len: capacity_bytes_max,
            source,
        })?;
        // A device is used whole, whatever was asked for.
        let whole = if device::is_block(&**device) { device.geometry().len_bytes_max } else { 0 };
        let capacity_bytes_max = capacity_bytes_max.max(whole);
        let record = VolumeRecord { capacity_bytes_max, ..self.volume_record(id) };
        self.journal.commit(&[Change::VolumeSet(record)], |_| Ok(()), || ())?;
        self.mcache.add_volume(space.volume());
        space.raise(capacity_bytes_max.min(device.geometry().len_bytes_max));
        self.space.publish();
        Ok(())
    }

    /// Empties a volume: nothing new is placed on it from here on, and its mblocks are moved to
    /// others. Blocks until that is done; `progress` is told after each mblock how many there are
    /// still. Journals and segments are their owners' to move: [`Evacuation::left`] names them. Can
    /// be called again to go on.
    pub fn evacuate_volume(
        self: &Arc<Self>,
        id: VolumeId,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Evacuation> {
        self.set_evacuating(id, true)?;
        let mut done = Evacuation::default();
        let mut failed = std::collections::BTreeSet::new();
        loop {
            let ids = self.mblocks_on(id);
            let ids: Vec<MblockId> = ids.into_iter().filter(|id| !failed.contains(id)).collect();
            if ids.is_empty() {
                break;
            }
            for (n, mblock) in ids.iter().enumerate() {
                // Cancelled: what would be moved now would stay on the volume.
                if !self.is_evacuating(id) {
                    done.left = self.logs_on(id);
                    return Ok(done);
                }
                match self.relocate(*mblock) {
                    Ok(bytes) => {
                        done.moved += 1;
                        done.moved_bytes += bytes;
                    }
                    // One object is bad; the others can be saved.
                    Err(error) if error.scope() == crate::Scope::Object => {
                        tracing::error!(%mblock, %error, "an mblock cannot be moved");
                        failed.insert(*mblock);
                        done.failed.push((*mblock, error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
                progress((ids.len() - n - 1) as u64);
            }
        }
        done.left = self.logs_on(id);
        Ok(done)
    }

    /// Ends the emptying of a volume before it has come to its end; what was moved stays where it
    /// is, and a call of [`Pool::evacuate_volume`] that is under way returns.
    pub fn cancel_evacuation(&self, id: VolumeId) -> Result<()> {
        self.set_evacuating(id, false)
    }

    fn set_evacuating(&self, id: VolumeId, evacuating: bool) -> Result<()> {
        let _one_at_a_time = self.changing_volumes.lock();
        let space = self.space_of(id)?;
        check_not_root(id, "emptied")?;
        if space.is_evacuating() != evacuating {
            let record = VolumeRecord { evacuating, ..self.volume_record(id) };
            self.journal.commit(&[Change::VolumeSet(record)], |_| Ok(()), || ())?;
            space.set_evacuating(evacuating);
            self.space.publish();
        }
        Ok(())
    }

    /// Whether a volume is being emptied; its logs should not be used again.
    pub fn is_evacuating(&self, id: VolumeId) -> bool {
        self.space_of(id).is_ok_and(|space| space.is_evacuating())
    }

    fn mblocks_on(&self, id: VolumeId) -> Vec<MblockId> {
        let table = self.table.read();
        table.mblocks.values().filter(|m| m.volume() == id).map(Mblock::id).collect()
    }

    fn logs_on(&self, id: VolumeId) -> Vec<String> {
        let table = self.table.read();
        let segments = table.segments.values().filter(|segment| segment.volume() == id);
        let mdcs = table.mdcs.iter().filter(|(_, logs)| logs.iter().any(|l| l.volume() == id));
        let segments = segments.map(|segment| segment.id().to_string());
        segments.chain(mdcs.map(|(id, _)| id.to_string())).collect()
    }

    /// Takes an empty volume out of the pool. Readers of moved or deleted objects must be gone.
    pub fn remove_volume(&self, id: VolumeId) -> Result<()> {
        let _one_at_a_time = self.changing_volumes.lock();
        let space = self.space_of(id)?;
        check_not_root(id, "removed")?;
        if !space.is_evacuating() {
            let text = format!("{id} still takes new objects; evacuate it before it is removed");
            return Err(Error::Options(text));
        }
        let (mblocks, logs) = (self.mblocks_on(id), self.logs_on(id));
        let reserved = label::reserved(id, space.len_max()).map_or(0, |extent| extent.len);
        if !mblocks.is_empty() || !logs.is_empty() || space.used_bytes() > reserved {
            let text = format!(
                "{id} is not empty: {} mblocks, {} logs, {} bytes in use (some perhaps by readers \
                 of what has moved); evacuate it again, or restart",
                mblocks.len(),
                logs.len(),
                space.used_bytes() - reserved,
            );
            return Err(Error::Options(text));
        }
        self.journal.commit(&[Change::VolumeRemoved(id)], |_| Ok(()), || ())?;
        self.space.remove(id);
        self.mcache.remove_volume(id);
        self.volumes.remove(id);
        // It is out in any case; a label that stays is nobody's.
        if let Err(error) = label::wipe(&**space.volume().device()) {
            tracing::warn!(volume = %id, %error, "the label of a removed volume could not be wiped");
        }
        Ok(())
    }

    /// The space of a volume of this pool.
    pub(crate) fn space_of(&self, id: VolumeId) -> Result<Arc<VolumeSpace>> {
        self.volumes.check_volume(id)?;
        self.space.of(id).ok_or_else(|| Error::no_such(id))
    }

    /// Where a volume's path leads: a relative one is within the pool's directory.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.dir.as_ref().map_or_else(|| path.to_owned(), |dir| dir.join(path))
    }
}

/// The root volume as long as nothing about it was changed.
pub(crate) fn root_record(capacity_bytes_max: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId::ROOT,
        class: MediaClass::Capacity,
        kind: VolumeKind::File,
        evacuating: false,
        capacity_bytes_max,
        uuid: [0; 16],
        path: PathBuf::from(site::VOLUME_FILE),
    }
}

/// A file is made, its directory is not.
fn check_directory(kind: VolumeKind, path: &Path) -> Result<()> {
    let makes_file = matches!(kind, VolumeKind::File | VolumeKind::EmulatedZoned);
    match path.parent() {
        Some(parent) if makes_file && !parent.as_os_str().is_empty() && !parent.exists() => {
            let reason = format!(
                "its directory {} does not exist; make it first (a relative path is within the \
                 data directory)",
                parent.display()
            );
            Err(Error::Unusable { path: path.to_owned(), reason })
        }
        _ => Ok(()),
    }
}

fn check_not_root(id: VolumeId, what: &str) -> Result<()> {
    if id == VolumeId::ROOT {
        let text = format!("{id} holds the pool's superblock and journal and cannot be {what}");
        return Err(Error::Options(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    /// Two limits of 12000 PiB were taken, and the pool did not open again: their sum overflowed.
    #[test]
    fn limits_beyond_all_addresses_are_refused_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { allow_buffered: true, allow_volatile: true, ..Options::default() };
        let pool = Pool::create_dir(dir.path(), &options).unwrap();
        for (name, capacity_bytes_max) in [("a", u64::MAX), ("b", 12_000 << 50)] {
            let (path, kind, class) = (name.into(), VolumeKind::File, MediaClass::Capacity);
            let new = NewVolume { path, kind, class, capacity_bytes_max, force: false };
            let refused = pool.add_volume(&new).unwrap_err().to_string();
            assert!(refused.contains("capacity of"), "{refused}");
            assert!(!dir.path().join(name).exists(), "nothing is made");
            let id = pool.add_volume(&NewVolume { capacity_bytes_max: 64 << 20, ..new }).unwrap();
            assert!(pool.grow_volume(id, capacity_bytes_max).is_err());
            let record = VolumeRecord { capacity_bytes_max, ..pool.volume_record(id) };
            pool.journal.commit(&[Change::VolumeSet(record)], |_| Ok(()), || ()).unwrap();
        }
        drop(pool);
        let pool = Pool::open_dir(dir.path(), &options).unwrap();
        assert_eq!(pool.info().capacity_bytes_max, options.capacity_bytes_max + (2 << 52));
        assert!(pool.info().free_bytes > 0);
    }
}
