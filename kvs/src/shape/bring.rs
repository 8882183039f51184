//! What is read into memory before a change of shape is published.
//!
//! The upper parts of the new indexes in any case, as every lookup reads them, and leaves where
//! they take the place of others or there is room. The job that has written them waits for it, so
//! that no reader does: what was written lies on the drive, and busy as that is with jobs, each
//! page that a reader has to ask for takes a millisecond. Beyond [`BRING_BYTES_MAX`] the rest comes
//! in the background, so that no change waits for long.

use super::Shape;
use crate::kvset::{IndexPart, Kvset};
use std::sync::Arc;

/// What a change of shape waits for: a tenth of a second of a drive that gives 640 MB a second.
const BRING_BYTES_MAX: u64 = 64 << 20;

impl Shape {
    /// Reads indexes of new kvsets, which no view shows yet; `leaving_bytes` of others go.
    pub(crate) fn bring<'a>(
        &self,
        kvsets: &(impl Iterator<Item = &'a Arc<Kvset>> + Clone),
        leaving_bytes: u64,
    ) {
        if !self.brings {
            return;
        }
        let mut room = self.pool.reaper().room().saturating_add(leaving_bytes);
        let mut left = BRING_BYTES_MAX;
        for part in [IndexPart::Upper, IndexPart::Leaves] {
            for kvset in kvsets.clone() {
                let bytes = kvset.index_bytes(part);
                if part == IndexPart::Leaves && bytes > room {
                    continue;
                }
                room = room.saturating_sub(bytes);
                let brought = if bytes <= left {
                    left -= bytes;
                    kvset.preload_index(part, &|| !self.life.is_closed()).map(|_| ())
                } else {
                    kvset.want_index(part)
                };
                // Pages that cannot be read fail one by one when they are needed.
                if let Err(error) = brought {
                    tracing::debug!(kvset = kvset.meta().id.get(), %error, "index is not read ahead");
                }
            }
        }
    }
}
