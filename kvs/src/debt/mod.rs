//! What writers owe, how long they wait, and for what space is kept.

pub(crate) mod patience;
pub(crate) mod space;
pub(crate) mod stall;
