//! The manifest: the journal of the database's shape, in an MDC of its own.
//!
//! An edit is a list of [`Item`]s that becomes durable by one MDC record: that append is the commit
//! point of a flush and of a compaction. The mblocks an edit names are committed in the pool
//! *before* it is appended, and the mblocks it drops are deleted *after*; a crash in between leaves
//! mblocks that no edit names, which recovery deletes.

pub(crate) mod live;
pub(crate) mod record;

use crate::error::Result;
use live::Live;
use mpool::{MdcId, Pool};
use record::{Item, bad, decode, encode};
use std::sync::Arc;

/// Property of the pool that names the manifest's MDC.
const PROPERTY: &str = "kvs.manifest";
/// Bytes of each of the MDC's two logs. A kvset costs 29 bytes of checkpoint, so this holds tens of
/// thousands.
const LOG_BYTES: u64 = 4 << 20;

/// The open manifest.
pub(crate) struct Manifest {
    mdc: mpool::Mdc,
    live: Live,
}

impl Manifest {
    /// Opens the pool's manifest, or starts an empty one in a pool that has none.
    pub(crate) fn open(pool: &Arc<Pool>) -> Result<Self> {
        let id = if let Some(raw) = pool.property(PROPERTY) {
            let raw = raw.as_slice().try_into().map_err(|_| bad("its property is malformed"))?;
            MdcId::new(u64::from_le_bytes(raw)).ok_or_else(|| bad("its property is zero"))?
        } else {
            let id = pool.create_mdc(LOG_BYTES)?;
            pool.set_property(PROPERTY, &id.get().to_le_bytes())?;
            id
        };
        let mut live = Live { next_kvs: 1, next_node: 1, next_kvset: 1, ..Live::default() };
        let mut failure = None;
        let mdc = pool.open_mdc(id, &mut |record| {
            // The pool's replay has its own error type; ours is kept aside and wins.
            if failure.is_none() {
                failure = decode(record)
                    .and_then(|items| items.iter().try_for_each(|item| live.apply(item)))
                    .err();
            }
            Ok(())
        })?;
        failure.map_or(Ok(Self { mdc, live }), Err)
    }

    /// The shape now.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// Makes an edit durable, then true. On an error its fate is unknown: the caller must stop
    /// editing.
    pub(crate) fn append(&mut self, items: &[Item]) -> Result<()> {
        let mut next = self.live.clone();
        for item in items {
            next.apply(item).expect("an edit of ours fits the shape it was made for");
        }
        self.mdc.append(&encode(items), &mut || self.live.records())?;
        self.live = next;
        Ok(())
    }
}
