//! The only doors to the kernel that need `unsafe`; everything here is small and dull.

pub(crate) mod advise;
pub(crate) mod anonymous;
pub(crate) mod append_ring;
pub(crate) mod cachestat;
pub(crate) mod discard;
pub(crate) mod faults;
pub(crate) mod heap;
pub(crate) mod nice;
pub(crate) mod nvme;
pub(crate) mod sigbus;
pub(crate) mod uring;
pub(crate) mod zones;
