//! Writing: group commit, its sink, and the throttle.

pub(crate) mod apply;
pub(crate) mod gate;
pub(crate) mod group;
pub(crate) mod sink;
