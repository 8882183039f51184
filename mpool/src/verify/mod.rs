//! Whether stored bytes are what was written, one part at a time: heads of volumes, logs, objects.
//!
//! The scrub of an open pool and the check of one that nobody has open go through the parts, each
//! in its own order; both report a [`finding::Finding`]. `reader` reads, at the pace of `pace`, and
//! counts what the drive cannot read. `state` is how far a scrub is, `control` how it is observed
//! and stopped.

pub(crate) mod control;
pub(crate) mod finding;
pub(crate) mod heads;
pub(crate) mod logs;
pub(crate) mod objects;
pub(crate) mod pace;
pub(crate) mod reader;
pub(crate) mod state;
