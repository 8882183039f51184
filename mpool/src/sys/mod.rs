//! The only doors to the kernel that need `unsafe`; everything here is small and dull.

pub(crate) mod advise;
pub(crate) mod cachestat;
pub(crate) mod sigbus;
pub(crate) mod uring;
