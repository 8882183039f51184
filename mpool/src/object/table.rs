//! Handles of everything that a pool's catalog names.

use super::{mblock::Mblock, segment::Segment};
use crate::{
    id::{MblockId, MdcId, SegmentId},
    space::Lease,
};
use std::collections::BTreeMap;

/// Handles of everything the catalog names; each holds the lease of its extent.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) mblocks: BTreeMap<MblockId, Mblock>,
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    pub(crate) mdcs: BTreeMap<MdcId, [Lease; 2]>,
}
