//! Compaction, carried out. [`pick`](crate::pick) decides what is compacted.

#[cfg(test)]
mod division_tests;
pub(crate) mod job;
