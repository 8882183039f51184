//! What the pool stores for its users, as handles: mblocks, segments, and maps over mblocks.
//!
//! `sums` are the checksums behind the data of an mblock. `table` holds a handle of everything that
//! the catalog names.

pub(crate) mod mblock;
pub(crate) mod mcache;
pub(crate) mod segment;
pub(crate) mod sums;
pub(crate) mod table;
