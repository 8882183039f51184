//! The JSON documents of administration. They are the same whether a running server shows them or a
//! command that reads a data directory.

pub(crate) mod admin;
pub(crate) mod pool;
