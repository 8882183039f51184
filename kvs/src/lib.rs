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

mod amplification;
mod batch;
mod bell;
mod cache;
mod compaction;
mod db;
mod dead;
mod error;
mod health;
mod holds;
mod iter;
mod jobs;
mod key;
mod kvset;
mod kvsets;
mod loss;
mod manifest;
mod mark;
mod memtable;
pub mod metrics;
mod options;
mod owner;
mod pick;
mod placement;
mod progress;
mod read;
mod recovery;
mod references;
mod salvage;
mod space;
mod stall;
mod store;
mod tree;
mod varint;
mod version;
mod view;
mod wal;
mod work;
mod write;

pub use batch::WriteBatch;
pub use compaction::{
    CompactionInfo, CompactionProblem, CompactionRequest, CompactionState, ProblemReason,
};
pub use db::check::Checked;
pub use db::compaction::Compaction;
pub use db::cursor::{Cursor, Item, Keys};
pub use db::handle::Kvs;
pub use db::snapshot::Snapshot;
pub use db::tree_info::{Debt, DueInfo, KvsetInfo, NodeInfo, TreeInfo, TreePage};
pub use db::{Database, KvsInfo};
pub use error::{Error, Result, Scope, SnapshotEnd};
pub use health::{Ailment, Health, Part, State};
pub use holds::{SnapshotInfo, SnapshotsInfo};
pub use iter::bounded::{Advance, Range};
pub use jobs::ledger::{JobInfo, JobOutcome};
pub use key::{
    KEY_BYTES_MAX, KVS_MAX, KVS_NAME_BYTES_MAX, KvsId, Revision, SnapshotId, VALUE_BYTES_MAX,
};
pub use loss::{Loss, LostKey, LostRange};
pub use options::{Durability, LogDamage, Options, Salvage};
pub use placement::MediaPolicy;
pub use progress::OpenProgress;
pub use read::cold::{ColdRead, NoRoom, TryGet};
pub use read::get::Entry;
pub use salvage::WayOut;
pub use space::SpaceInfo;

/// The example of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
