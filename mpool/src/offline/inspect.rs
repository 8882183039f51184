//! A look at a pool that nobody has open: what it is, how full, and what keeps it from opening.
//! Everything is read and nothing written, so it works on what is write-protected.

use crate::{
    address::VolumeId,
    device::{self, Access},
    error::{Error, Result},
    features::{FORMAT_MAJOR, Features},
    heads::{
        label::{self, Found},
        log::Log,
    },
    id::uuid_text,
    io::volumes::Volumes,
    journal::{
        catalog::{Catalog, name_of},
        last::LastOnVolume,
    },
    media::{VolumeKind, VolumeRecord},
    missing::{MissingVolume, VolumeHolds},
    offline::heart::{Heart, ReadOnly, find_in, heart, root_in, volumes_of},
    options::Options,
    pool::{
        Pool, session,
        volumes::{VolumeInfo, root_record},
    },
    site::{self, VOLUME_FILE, with_path},
    space::{FreeSpace, Space, volume::VolumeSpace},
};
use std::{path::Path, sync::Arc};

/// What a pool is, without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Names the pool.
    pub uuid: [u8; 16],
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Major version of the format.
    pub format: u32,
    /// What it uses beyond that.
    pub features: Features,
    /// Committed mblocks.
    pub mblocks: u64,
    /// Bytes free on the volumes that are here, as [`crate::PoolInfo::free_bytes`].
    pub free_bytes: u64,
    /// The same by who can use it, as [`Pool::free_space`].
    pub free: FreeSpace,
    /// The volumes that are here, the root's first.
    pub volumes: Vec<VolumeInfo>,
    /// Those that are not.
    pub missing: Vec<MissingVolume>,
    /// What else keeps the pool from opening: volumes that are not of one moment with the root.
    pub stale: Vec<String>,
}

impl Pool {
    /// Looks at the pool in DIR, which nobody may have open for writing.
    pub fn inspect(dir: &Path, options: &Options) -> Result<Inspection> {
        let volumes = volumes_of(root_in(dir, options, Access::Read)?);
        let heart =
            heart(&volumes, Some(dir)).map_err(|error| with_path(error, &dir.join(VOLUME_FILE)))?;
        let Heart { superblock, catalog, .. } = &heart;
        let mut used = catalog.extents();
        used.extend(superblock.logs.map(Log::extent));
        let space = Space::new(&volumes);
        let mut infos = Vec::new();
        let (mut missed, mut stales) = (Vec::new(), Vec::new());
        let find = find_in(dir, options, Access::Read);
        for record in records(catalog, &volumes, options) {
            if record.id == VolumeId::ROOT {
                allow_growth(&volumes, &record)?;
            } else {
                match find(&record) {
                    Ok(device) => {
                        stales.extend(stale(catalog, &record, &*device)?);
                        volumes.add(record.id, Arc::new(ReadOnly(device)));
                    }
                    Err(Error::Unusable { reason, .. }) => {
                        missed.push(MissingVolume::new(
                            &record,
                            catalog.held_by(record.id),
                            &reason,
                        ));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let one = VolumeSpace::rebuild(&volumes, &record, &used, options.spare_pct)?;
            infos.push(info(dir, &one, record, &heart));
            space.add(one);
        }
        Ok(Inspection {
            uuid: superblock.uuid,
            name: name_of(catalog),
            format: FORMAT_MAJOR,
            features: superblock.features,
            mblocks: catalog.mblocks.len() as u64,
            free_bytes: space.free_bytes(),
            free: space.free(catalog.segments.values().map(|extent| extent.len).sum()),
            volumes: infos,
            missing: missed,
            stale: stales,
        })
    }
}

/// The root is opened before its limit is known.
fn allow_growth(volumes: &Volumes, root: &VolumeRecord) -> Result<()> {
    if root.kind != VolumeKind::File {
        return Ok(());
    }
    let (len, root) = (root.capacity_bytes_max, volumes.root());
    let failed = |source| Error::Io { op: "open", offset: 0, len, source };
    root.device().set_len_max(len).map_err(failed)
}

/// All volumes; of the root what holds by default, if nothing is said of it.
fn records(catalog: &Catalog, volumes: &Volumes, options: &Options) -> Vec<VolumeRecord> {
    let kind = device::volume_kind(&**volumes.root().device());
    let unnamed = VolumeRecord { kind, ..root_record(options.capacity_bytes_max) };
    let root = catalog.volumes.get(&VolumeId::ROOT).cloned().unwrap_or(unnamed);
    let others = catalog.volumes.values().filter(|record| record.id != VolumeId::ROOT);
    std::iter::once(root).chain(others.cloned()).collect()
}

fn stale(
    catalog: &Catalog,
    record: &VolumeRecord,
    device: &dyn device::Device,
) -> Result<Option<String>> {
    let sessions = session::sessions_of(catalog).unwrap_or_default();
    Ok(match label::read(device)? {
        Found::Label(label) if (label.id, label.volume) != (record.id, record.uuid) => {
            let (path, pool) = (record.path.display(), uuid_text(label.pool));
            Some(format!("{path} carries the label of {} of pool {pool}", label.id))
        }
        Found::Label(label) => match sessions.judge(label.session) {
            Ok(()) => None,
            Err(stale) => {
                let text = stale.text(record.id, sessions, label.session);
                Some(format!("{} {text}", record.path.display()))
            }
        },
        _ => Some(format!("{} does not carry a label", record.path.display())),
    })
}

fn info(dir: &Path, space: &Arc<VolumeSpace>, record: VolumeRecord, heart: &Heart) -> VolumeInfo {
    let Heart { superblock, catalog, .. } = heart;
    let device = space.volume().device();
    let VolumeHolds { mblocks, segments, journals, .. } = catalog.held_by(record.id);
    VolumeInfo {
        id: record.id,
        class: record.class,
        kind: record.kind,
        outside: site::is_outside(dir, &record.path),
        path: record.path,
        device: device.kind(),
        evacuating: record.evacuating,
        len_bytes: device.geometry().len_bytes,
        capacity_bytes: space.capacity_bytes(),
        used_bytes: space.used_bytes(),
        free_bytes: space.free_bytes(),
        spare_bytes: space.spare_bytes(),
        free_extents: space.free_extents(),
        last: LastOnVolume::of(catalog, superblock.logs, record.id),
        disk_bytes: device.disk_bytes(),
        mblocks,
        logs: segments + journals,
        zones: space.zones().map(|zones| {
            let whole = u32::try_from(zones.usage().0).expect("zones are few");
            (zones.count(), whole)
        }),
    }
}
