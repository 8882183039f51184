//! What stands at the heads of volumes, as bytes and as values: the superblock on the root, a label
//! on each of the others, and the session that says which of them belong together. `log` is how the
//! superblock names the logs of the pool's journal.

pub(crate) mod label;
pub(crate) mod log;
pub(crate) mod session;
pub(crate) mod superblock;
