//! Drives of zones: what the pool asks of them.
//!
//! A zoned drive is divided into zones of one size that are written from their start to their
//! capacity and emptied whole. [`Zoned`] is the part of a [`Device`](super::Device) that knows it;
//! the rules are the drive's own, and `rules` holds them for the emulated devices. What is placed
//! in which zone, and how the budgets of open and active zones are kept, is the business of
//! `space`.

mod block;
mod emulated;
mod passthrough;
mod sidecar;
mod sysfs;
#[cfg(test)]
mod tests;
mod transfer;

use std::path::Path;

pub use block::{AppendBy, ZonedDevice};
pub use emulated::{Allow, EmulatedOptions, EmulatedZoned};
pub(crate) use mpool_device::rules;
pub(crate) use mpool_device::{Zone, ZoneCondition, ZoneLimits, Zoned};
pub use passthrough::Passthrough;
pub(crate) use sidecar::sidecar_path;

/// Whether the block device at `path` is one of zones.
pub(crate) fn is_zoned(path: &Path) -> bool {
    let model = sysfs::Queue::of(path).ok().and_then(|queue| queue.text("zoned"));
    model.is_some_and(|model| model == "host-managed" || model == "host-aware")
}
