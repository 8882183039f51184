//! Compaction: what, and how.

#[cfg(test)]
mod division_tests;
pub(crate) mod job;
pub(crate) mod metrics;
pub(crate) mod pick;
