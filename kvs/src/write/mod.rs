//! One batch from its caller to log and memtable: group commit.

pub(crate) mod apply;
pub(crate) mod gate;
pub(crate) mod group;
pub(crate) mod sink;
