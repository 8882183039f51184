//! Buffers and the asynchronous queue.
//!
//! [`queue::IoQueue`] is what the rest of the pool sees; `uring` and `threads` are its back-ends,
//! `lanes` the rule of who goes first. `pacer` holds background requests back, as `pace` decides.

pub(crate) mod buf;
pub(crate) mod buf_pool;
pub(crate) mod lanes;
pub(crate) mod pace;
pub(crate) mod pacer;
pub(crate) mod queue;
#[cfg(test)]
mod tests;
pub(crate) mod threads;
pub(crate) mod uring;
