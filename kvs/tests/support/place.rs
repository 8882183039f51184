//! Pools of several volumes, simulated ones or files.

use kvs::{Database, Options};
use mpool::{Device, MediaClass, NewVolume, Pool, VolumeId, VolumeKind, ZoneLimits};
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Where a database is.
pub enum Place {
    Devices { root: Arc<dyn Device>, others: BTreeMap<VolumeId, Arc<dyn Device>> },
    Files(TempDir),
}

/// What a new volume is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Zoned,
}

/// Zones of 1 MiB, of which the first can be overwritten.
pub fn zones(conventional: u32, sequential: u32) -> ZoneLimits {
    ZoneLimits {
        zones: conventional + sequential,
        zone_bytes: MIB,
        conventional_zones: conventional,
        open_max: 6,
        active_max: 6,
        append_bytes_max: 64 << 10,
        block_bytes: 4096,
    }
}

impl Place {
    pub fn on(root: impl Device + 'static) -> Self {
        Self::Devices { root: Arc::new(root), others: BTreeMap::new() }
    }

    pub fn files() -> Self {
        Self::Files(tempfile::tempdir().unwrap())
    }

    /// Options with which pools may be made here.
    pub fn options(&self, options: &Options) -> Options {
        let mut options = options.clone();
        if let Self::Files(_) = self {
            options.pool.allow_buffered = true;
            options.pool.allow_volatile = true;
            options.pool.reserve_bytes = Some(0);
            options.pool.capacity_bytes_max = 1 << 30;
        }
        options
    }

    pub fn create(&self, options: &Options) -> kvs::Result<Database> {
        Database::open_pool(self.create_pool(options)?, self.options(options))
    }

    /// A pool without a database.
    pub fn create_pool(&self, options: &Options) -> kvs::Result<Arc<Pool>> {
        let options = self.options(options).pool;
        Ok(match self {
            Self::Devices { root, .. } => Pool::create(Arc::clone(root), &options)?,
            Self::Files(dir) => Pool::open_or_create(dir.path(), &options)?,
        })
    }

    pub fn open(&self, options: &Options) -> kvs::Result<Database> {
        let options = self.options(options);
        match self {
            Self::Devices { root, others } => {
                let others: Vec<_> =
                    others.iter().map(|(id, device)| (*id, Arc::clone(device))).collect();
                let pool = Pool::open_with(Arc::clone(root), &others, &options.pool)?;
                Database::open_pool(pool, options)
            }
            Self::Files(dir) => Database::open(dir.path(), options),
        }
    }

    /// Adds a volume of 256 MiB.
    pub fn add(&mut self, db: &Database, class: MediaClass, kind: Kind) -> VolumeId {
        self.add_to(db.pool(), class, kind)
    }

    pub fn add_to(&mut self, pool: &Arc<Pool>, class: MediaClass, kind: Kind) -> VolumeId {
        match self {
            Self::Devices { others, .. } => {
                let device: Arc<dyn Device> = match kind {
                    Kind::Plain => Arc::new(SimDevice::new(256 * MIB)),
                    Kind::Zoned => Arc::new(SimDevice::zoned(zones(0, 256))),
                };
                let id = pool.add_volume_on(Arc::clone(&device), class).unwrap();
                others.insert(id, device);
                id
            }
            Self::Files(_) => {
                assert!(kind == Kind::Plain, "zones are simulated here");
                let volumes = pool.volumes();
                let is_free = |name: &String| !volumes.iter().any(|v| v.path.ends_with(name));
                let name = (1..=volumes.len()).map(|n| format!("volume{n}.vol")).find(is_free);
                let new = NewVolume {
                    path: name.expect("the root has another name").into(),
                    kind: VolumeKind::File,
                    class,
                    capacity_bytes_max: 256 * MIB,
                    // Of one that was removed before, perhaps.
                    force: true,
                };
                pool.add_volume(&new).unwrap()
            }
        }
    }
}

/// Empties a volume and takes it out; readers come and go meanwhile.
pub fn drain(db: &Database, id: VolumeId) {
    let done = db.evacuate_volume(id, &mut |_| ()).unwrap();
    assert!(done.left.is_empty() && done.failed.is_empty(), "{done:?}");
    // Reads under way may see the old places a little longer.
    for _ in 0..100_000 {
        match db.remove_volume(id) {
            Ok(()) => return,
            Err(kvs::Error::Pool(mpool::Error::Options(_))) => std::thread::yield_now(),
            Err(other) => panic!("{id}: {other}"),
        }
    }
    panic!("{id} stays in use: {:?}", db.volumes());
}
