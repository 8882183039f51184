//! vblocks: values, one record after the other.
//!
//! A vblock says nothing about which of its records are in use: the kvsets that reference it do,
//! each in its hblock. [`format`](mod@format) owns the bytes, [`build`] the writing, [`read`] the
//! large sequential reads of compaction.

pub(crate) mod ahead;
pub(crate) mod build;
pub(crate) mod format;
pub(crate) mod read;
