//! A batch of operations, a version of a key, and how both are encoded.

pub(crate) mod batch;
pub(crate) mod op;
pub(crate) mod owner;
pub(crate) mod varint;
pub(crate) mod version;
