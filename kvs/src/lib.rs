//! The Millpond engine: named, ordered key-value stores (KVSs) on an [`mpool`] pool.
//!
//! A [`Database`] holds up to 256 KVSs. Keys have 1 to 1,344 bytes, values 0 to 16 MiB. Every
//! committed [`WriteBatch`] gets the next [`Revision`]; readers see whole batches only.
//! [`Snapshot`]s and [`Cursor`]s are `Send + 'static`.
//!
//! # Durability
//!
//! A write acknowledged with [`Durability::Sync`] is on stable storage; with
//! [`Durability::Interval`] it is within 100 ms (configurable); with [`Durability::Off`] whenever a
//! later write, a flush or a close takes it along. A crash loses no more than that, and always a
//! suffix: if a batch survives, so do all before it.
//!
//! # Damage
//!
//! What comes from the medium is checked. A key whose value cannot be read is [`Error::Damaged`],
//! which names it; a scan reports it in its place and goes on ([`Cursor`]).
//!
//! # Example
//!
//! Run it as often as you like: [`Database::open`] and [`Database::kvs`] open what is there, and
//! create what is not. `kvs/examples/starter.rs` is a longer one.
//!
//! ```
//! # fn main() -> Result<(), kvs::Error> {
//! # let dir = tempfile::tempdir().expect("a scratch directory");
//! # for _again in 0..2 {
//! # let mut options = kvs::Options::default();
//! # options.pool.allow_buffered = true;
//! # options.pool.allow_volatile = true;
//! use kvs::{Database, Durability, Range};
//!
//! let db = Database::open(dir.path(), options)?;
//! let fruit = db.kvs("fruit")?;
//! let mut batch = db.batch();
//! batch.put(&fruit, b"apple", b"red")?;
//! batch.put(&fruit, b"pear", b"green")?;
//! db.write(batch, Durability::Sync)?;
//!
//! for item in fruit.cursor(Range { reverse: true, ..Range::default() })? {
//!     let item = item?;
//!     println!("{:?} is {:?}", item.key, item.value);
//! }
//! # }
//! # Ok(())
//! # }
//! ```

mod cache;
mod db;
mod dead;
mod debt;
mod entry;
mod error;
mod iter;
mod jobs;
mod key;
mod kvset;
mod memtable;
pub mod metrics;
mod options;
mod pick;
mod progress;
mod read;
mod shape;
mod store;
mod wal;
mod work;
mod write;

pub use db::check::Checked;
pub use db::compaction::Compaction;
pub use db::cursor::{Cursor, Item, Keys};
pub use db::handle::Kvs;
pub use db::health::{Ailment, Health, Part, State};
pub use db::snapshot::Snapshot;
pub use db::tree_info::{Debt, DueInfo, KvsetInfo, NodeInfo, TreeInfo, TreePage};
pub use db::{Database, KvsInfo};
pub use debt::space::SpaceInfo;
pub use entry::batch::WriteBatch;
pub use error::{Error, Result, Scope, SnapshotEnd};
pub use iter::bounded::{Advance, Range};
pub use jobs::ledger::{JobInfo, JobOutcome};
pub use jobs::requested::info::{
    CompactionInfo, CompactionProblem, CompactionRequest, CompactionState, ProblemReason,
};
pub use key::{
    KEY_BYTES_MAX, KVS_MAX, KVS_NAME_BYTES_MAX, KvsId, Revision, SnapshotId, VALUE_BYTES_MAX,
};
pub use options::placement::MediaPolicy;
pub use options::{Durability, LogDamage, Options, Salvage};
pub use progress::OpenProgress;
pub use read::cold::{ColdRead, NoRoom, TryGet};
pub use read::get::Entry;
pub use shape::holds::{SnapshotInfo, SnapshotsInfo};
pub use shape::loss::{Loss, LostKey, LostRange};
pub use shape::salvage::WayOut;

/// The example of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
