//! One key, and a range of keys.

pub(crate) mod cold;
pub(crate) mod get;
pub(crate) mod scan;
