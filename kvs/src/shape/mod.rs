//! What exists: trees of kvsets, the view of readers, the manifest.

pub(crate) mod amplification;
pub(crate) mod bell;
pub(crate) mod holds;
pub(crate) mod kvsets;
pub(crate) mod loss;
pub(crate) mod manifest;
pub(crate) mod references;
pub(crate) mod salvage;
pub(crate) mod store;
pub(crate) mod tree;
pub(crate) mod view;
