//! The devices of a pool's volumes, opened as its options say.

use crate::{
    device::{
        self, Access, Allow, AppendBy, BlockDevice, Device, EmulatedOptions, EmulatedZoned,
        FileDevice, FileOptions, Overlay, ZoneLimits, ZonedDevice,
    },
    error::Result,
    media::{VolumeKind, VolumeRecord},
    options::{CAPACITY_BYTES_MAX, Options, size_in_range},
};
use std::{path::Path, sync::Arc};

/// An emulated drive has at least 16 zones of 1 MiB.
const EMULATED_BYTES_MIN: u64 = 16 << 20;

/// Opens the device of the root volume, which must be there.
pub(crate) fn open_root(path: &Path, options: &Options, access: Access) -> Result<Arc<dyn Device>> {
    if device::is_block_path(path) {
        return device::open_block(path, access);
    }
    Ok(Arc::new(FileDevice::open_for(path, &file_options(options), access)?))
}

/// Opens the device of a volume that is not the root.
pub(crate) fn open_device(
    path: &Path,
    record: &VolumeRecord,
    options: &Options,
    access: Access,
) -> Result<Arc<dyn Device>> {
    let len_bytes_max = record.capacity_bytes_max.min(CAPACITY_BYTES_MAX);
    let file = FileOptions { len_bytes_max, ..file_options(options) };
    match record.kind {
        VolumeKind::File => Ok(Arc::new(FileDevice::open_for(path, &file, access)?)),
        VolumeKind::Zoned => Ok(Arc::new(ZonedDevice::open_for(path, AppendBy::Auto, access)?)),
        VolumeKind::EmulatedZoned if access == Access::Create && !path.exists() => {
            let new = emulated_options(record.capacity_bytes_max, allow(options))?;
            Ok(Arc::new(EmulatedZoned::create(path, &new)?))
        }
        VolumeKind::EmulatedZoned => {
            Ok(Arc::new(EmulatedZoned::open_for(path, allow(options), access)?))
        }
        VolumeKind::Block => Ok(Arc::new(BlockDevice::open_for(path, access)?)),
    }
}

/// An emulated drive of this size: zones of up to 64 MiB, and the budgets of usual ZNS drives.
fn allow(options: &Options) -> Allow {
    Allow { buffered: options.allow_buffered, volatile: options.allow_volatile }
}

fn emulated_options(capacity: u64, allow: Allow) -> Result<EmulatedOptions> {
    size_in_range("capacity of an emulated zoned volume", capacity, EMULATED_BYTES_MIN, 1 << 44)?;
    let zone_bytes = (capacity / 64).next_power_of_two().clamp(1 << 20, 64 << 20);
    let zones = u32::try_from(capacity / zone_bytes).expect("2^18 at most");
    let limits = ZoneLimits {
        zones,
        zone_bytes,
        conventional_zones: 0,
        open_max: 14,
        active_max: 14,
        append_bytes_max: 1 << 20,
        block_bytes: 4096,
    };
    Ok(EmulatedOptions { limits, capacity: zone_bytes, allow })
}

pub(crate) fn file_options(options: &Options) -> FileOptions {
    FileOptions {
        allow_buffered: options.allow_buffered,
        allow_volatile: options.allow_volatile,
        len_bytes_max: options.capacity_bytes_max,
        grow_step_bytes: options.grow_step_bytes,
        reserve_bytes: options.reserve_bytes,
    }
}

/// The device as the pool may use it.
pub(crate) fn guarded(device: Arc<dyn Device>, options: &Options) -> Arc<dyn Device> {
    if options.read_only { Arc::new(Overlay::new(device)) } else { device }
}

/// How the pool's devices are opened.
pub(crate) fn access(options: &Options) -> Access {
    if options.read_only { Access::Read } else { Access::Write }
}
