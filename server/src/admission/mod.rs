//! Who is let in, and with which heads: what is refused before a route sees the request.

pub mod access;
pub(crate) mod head;
