//! The seam between the pool and the medium.
//!
//! [`Device`] is a handful of verbs and a geometry. [`FileDevice`], [`BlockDevice`] and the drives
//! of zones implement it; nothing above this file knows which one it has. One suite checks all of
//! them, and the simulated device of the tests (`mpool_sim::suite`).

mod block;
pub(crate) mod contents;
mod direct;
mod file;
mod file_size;
mod file_space;
mod lock;
mod overlay;
pub(crate) mod signature;
mod volatile;
pub(crate) mod zoned;

pub use block::BlockDevice;
pub(crate) use file::dangling;
pub use file::{FileDevice, FileOptions};
pub use file_size::file_bytes_max;
pub(crate) use mpool_device::check_access;
pub use mpool_device::{
    Device, Geometry, ResetFate, Zone, ZoneCondition, ZoneHabits, ZoneLimits, Zoned,
};
pub(crate) use overlay::Overlay;
pub use zoned::{Allow, AppendBy, EmulatedOptions, EmulatedZoned, Passthrough, ZonedDevice};

use crate::{error::Result, media::VolumeKind};
use mpool_device::{IO_ALIGN, IoBuf};
use rustix::fs::OFlags;
use signature::{HEAD_BYTES, TAIL_BYTES};
use std::{io, os::unix::fs::FileTypeExt, path::Path, sync::Arc};

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To be read. Nothing about it changes, and it may be write-protected; others may read it,
    /// too, and nobody may write.
    Read,
    /// To be read and written, by this process alone.
    Write,
    /// The same; a file that is not there is made.
    Create,
}

impl Access {
    pub(crate) fn is_read(self) -> bool {
        self == Self::Read
    }

    /// As flags of `open`.
    pub(crate) fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write => OFlags::RDWR,
            Self::Create => OFlags::RDWR | OFlags::CREATE,
        }
    }
}

/// What kind of volume a device makes, whatever its path is called.
pub(crate) fn volume_kind(device: &dyn Device) -> VolumeKind {
    let metadata = device.file().and_then(|file| file.metadata().ok());
    let is_device = metadata.is_some_and(|metadata| metadata.file_type().is_block_device());
    match (device.zones().is_some(), is_device) {
        (false, false) => VolumeKind::File,
        (false, true) => VolumeKind::Block,
        (true, false) => VolumeKind::EmulatedZoned,
        (true, true) => VolumeKind::Zoned,
    }
}

/// Whether a device is a conventional block device.
pub(crate) fn is_block(device: &dyn Device) -> bool {
    volume_kind(device) == VolumeKind::Block
}

/// Whether a path leads to a block device.
pub(crate) fn is_block_path(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Opens a block device of either kind.
pub(crate) fn open_block(path: &Path, access: Access) -> Result<Arc<dyn Device>> {
    if zoned::is_zoned(path) {
        return Ok(Arc::new(ZonedDevice::open_for(path, AppendBy::Auto, access)?));
    }
    Ok(Arc::new(BlockDevice::open_for(path, access)?))
}

/// Overwrites both ends of a device with zeros, durably, so that no signature is left that another
/// program would take for its own. The first page goes last: until then it can be told whose the
/// device is. Of a zoned device only the conventional zones can be.
pub(crate) fn wipe_ends(device: &dyn Device) -> io::Result<()> {
    const PAGE: u64 = IO_ALIGN as u64;
    let len_bytes = match device.zones().map(Zoned::limits) {
        Some(limits) => u64::from(limits.conventional_zones) * limits.zone_bytes,
        None => device.geometry().len_bytes / PAGE * PAGE,
    };
    let tail = len_bytes.saturating_sub(TAIL_BYTES).max(PAGE)..len_bytes;
    for part in [tail, PAGE..HEAD_BYTES.min(len_bytes), 0..PAGE.min(len_bytes)] {
        if !part.is_empty() {
            let len = usize::try_from(part.end - part.start).expect("a piece of an end");
            device.write_durable_at(part.start, &IoBuf::zeroed(len))?;
        }
    }
    Ok(())
}
