//! Compaction: how it is done. What is, [`pick`](crate::pick) says.

#[cfg(test)]
mod division_tests;
pub(crate) mod job;
