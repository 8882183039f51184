//! Sources of versions made of others: merged, bounded, visible at a revision.

pub(crate) mod bounded;
pub(crate) mod merge;
#[cfg(test)]
pub(crate) mod model;
