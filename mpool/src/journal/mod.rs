//! What is durable of the pool, besides the contents of objects: journals, and what they say.
//!
//! `mdc` keeps any journal, the pool's and those of its users. `record` is the schema of the pool's
//! own, `catalog` what its records add up to, `pool_journal` the one way to change that, and
//! `anchor` the superblock, which says where the journal lies. `last` asks the catalog what lies
//! last on a volume.

pub(crate) mod anchor;
pub(crate) mod catalog;
pub(crate) mod last;
pub(crate) mod mdc;
pub(crate) mod pool_journal;
pub(crate) mod record;
