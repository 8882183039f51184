//! What jobs have met that the health of the database depends on.

use crate::error::Error;
use parking_lot::Mutex;

/// See the module.
#[derive(Default)]
pub(crate) struct Ailments {
    flush: Mutex<Option<String>>,
    compaction: Mutex<Option<String>>,
}

impl Ailments {
    /// Why the last flush failed, if it did.
    pub(crate) fn flush(&self) -> Option<String> {
        self.flush.lock().clone()
    }

    /// What compaction could not read, while it is there.
    pub(crate) fn compaction(&self) -> Option<String> {
        self.compaction.lock().clone()
    }

    pub(crate) fn flush_failed(&self, error: &Error) {
        *self.flush.lock() = Some(error.with_sources());
    }

    pub(crate) fn flushed(&self) {
        *self.flush.lock() = None;
    }

    pub(crate) fn compaction_failed(&self, error: &Error) {
        self.compaction.lock().get_or_insert_with(|| error.with_sources());
    }

    /// What compactions could not read is gone.
    pub(crate) fn nothing_is_left_alone(&self) {
        *self.compaction.lock() = None;
    }
}
