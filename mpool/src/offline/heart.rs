//! A pool that is looked at and not opened: nothing is repaired, nothing is written.
//!
//! The devices are opened to be read and nothing else, so they may be write-protected. They are
//! locked so that others may look, too, and nobody changes what is being looked at. Between them
//! and everything above stands [`ReadOnly`], which refuses every write.

use crate::{
    device::{Access, Device, Geometry, Zoned},
    error::Result,
    features::Features,
    heads::superblock::{self, Election, Superblock},
    io::volumes::Volumes,
    journal::{
        catalog::Catalog,
        mdc::pair::Position,
        pool_journal::{self, Replayed},
    },
    media::VolumeRecord,
    metrics::PoolMetrics,
    options::Options,
    site::{
        self, VOLUME_FILE,
        devices::{open_device, open_root},
        elect::{CUT_SHORT, check_len, no_pool},
        unusable,
    },
};
use std::{fs::File, io, ops::Range, path::Path, sync::Arc};

/// A device that cannot be written.
pub(crate) struct ReadOnly(pub(crate) Arc<dyn Device>);

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the pool is only looked at")
}

impl Device for ReadOnly {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn write_durable_at(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn flush(&self) -> io::Result<()> {
        Err(refused())
    }

    fn grow(&self, _len_bytes: u64) -> io::Result<()> {
        Err(refused())
    }

    // How full it is, is told as of a pool that is open.
    fn growth_left(&self) -> u64 {
        self.0.growth_left()
    }

    fn holes(&self, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        self.0.holes(offset, len)
    }

    fn disk_bytes(&self) -> Option<u64> {
        self.0.disk_bytes()
    }

    fn disk(&self) -> Option<u64> {
        self.0.disk()
    }

    fn set_len_max(&self, len_bytes_max: u64) -> io::Result<()> {
        self.0.set_len_max(len_bytes_max)
    }

    fn file(&self) -> Option<&File> {
        self.0.file()
    }

    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    // The zones are for reports; whoever looks calls nothing else.
    fn zones(&self) -> Option<&dyn Zoned> {
        self.0.zones()
    }
}

/// Finds the device of a volume that the journal names.
pub(crate) type Find<'a> = &'a dyn Fn(&VolumeRecord) -> Result<Arc<dyn Device>>;

/// The root volume alone, not to be written.
pub(crate) fn volumes_of(root: Arc<dyn Device>) -> Arc<Volumes> {
    Arc::new(Volumes::new(Arc::new(ReadOnly(root)), Arc::new(PoolMetrics::default())))
}

/// The root device of the pool in `dir`, which must be there, whatever is on it.
pub(crate) fn root_in(dir: &Path, options: &Options, access: Access) -> Result<Arc<dyn Device>> {
    options.validate()?;
    site::survey_root(dir)?;
    open_root(&dir.join(VOLUME_FILE), options, access)
}

/// Opens volumes of the pool in `dir` by the journal's word.
pub(crate) fn find_in<'a>(
    dir: &'a Path,
    options: &'a Options,
    access: Access,
) -> impl Fn(&VolumeRecord) -> Result<Arc<dyn Device>> + 'a {
    move |record| open_device(&dir.join(&record.path), record, options, access)
}

/// What a pool says of itself.
pub(crate) struct Heart {
    pub(crate) superblock: Superblock,
    pub(crate) catalog: Catalog,
    /// What the journal's records need.
    pub(crate) needs: Features,
    pub(crate) position: Position,
}

/// Reads superblock and journal of the pool in `dir`, if it is in one.
pub(crate) fn heart(volumes: &Volumes, dir: Option<&Path>) -> Result<Heart> {
    let superblock = match superblock::read(volumes, dir.and_then(site::named_in))? {
        Election::Elected(superblock) => {
            check_len(volumes, &superblock)?;
            superblock
        }
        Election::Begun => return Err(unusable(CUT_SHORT)),
        Election::Blank => return Err(no_pool(volumes)),
    };
    let place = pool_journal::place(superblock.uuid, superblock.logs);
    let (Replayed { catalog, needs }, position) = pool_journal::load(volumes, &place)?;
    Ok(Heart { superblock, catalog, needs, position })
}
