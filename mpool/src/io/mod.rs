//! How bytes get to the volumes and back.
//!
//! [`volumes::Volumes`] is one range of addresses over several devices, for callers that wait.
//! [`queue::IoQueue`] is the same for those that do not: `request` is one transfer from acceptance
//! to end, `uring` and `threads` are the back-ends, `lanes` the rule of who goes first. `pacer`
//! holds background requests back, as `pace` decides. `appends` keeps many appends to zones in
//! flight. `owner` tells handles of different pools apart.

pub(crate) mod appends;
pub(crate) mod buf_pool;
pub(crate) mod lanes;
pub(crate) mod owner;
pub(crate) mod pace;
pub(crate) mod pacer;
pub(crate) mod queue;
pub(crate) mod request;
#[cfg(test)]
mod tests;
pub(crate) mod thread;
pub(crate) mod threads;
pub(crate) mod uring;
pub(crate) mod volumes;
