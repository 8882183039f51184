//! Compaction: what, and how.

pub(crate) mod job;
pub(crate) mod pick;
