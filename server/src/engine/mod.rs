//! What the routes need of the engine, and nothing more.
//!
//! [`kvs::Database`] implements it for real ([`database`]); [`memory::MemoryEngine`] implements it
//! on a map, with faults on request, so that every status can be tested without a drive.
//!
//! Which calls may block is part of the contract: [`Engine::try_get`], [`Engine::check_writable`],
//! [`Engine::check_write`] and [`Engine::write`] never do and run on async workers; everything else
//! may, and runs in a lane of [`crate::state::blocking`].

pub(crate) mod capacity;
pub mod database;
pub mod memory;

use bytes::Bytes;
use kvs::metrics::Sample;
use kvs::{
    Advance, Database, Durability, Entry, Error, Health, KvsInfo, Part, Range, Result, Revision,
    SpaceInfo,
};
use mpool::{Evacuation, Pool, ScrubOptions, ScrubProgress, VolumeId};
use std::sync::Arc;

/// Name of the KVS that a new store begins with.
pub(crate) const DEFAULT_KVS: &str = "default";

/// Called once with the outcome, on a thread of the engine: it must be short.
pub type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// A question to the drive: call it with what shall happen when the drive has answered.
pub type Ask<T> = Box<dyn FnOnce(Done<T>) + Send>;

/// Answer of [`Engine::try_get`].
pub enum Lookup {
    /// The entry, or that there is none.
    Ready(Option<Entry>),
    /// There was no room for a copy of the value, and none was made.
    NoRoom {
        /// Bytes of the value.
        value_len: usize,
    },
    /// The drive has to be asked where the value is. Its answer is never this one.
    ColdIndex(Ask<Lookup>),
    /// The drive has to be asked for the value.
    ColdValue {
        /// Bytes of the value.
        value_len: usize,
        /// Brings the entry.
        ask: Ask<Option<Entry>>,
    },
}

/// One write of a batch, borrowed from the request.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Name of the KVS.
    pub kvs: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// The value, or `None` to delete the key.
    pub value: Option<&'a [u8]>,
}

/// A walk over the keys of one KVS in one snapshot. Blocks on the drive.
pub trait Walk: Send {
    /// To the next key in at most `steps_max` steps, of which there must be one. After
    /// [`kvs::Error::Damaged`] it stands on that key, after [`kvs::Error::DamagedRange`] before
    /// one; either way it goes on. Any other error ends it.
    fn advance(&mut self, steps_max: u32) -> Result<Advance>;
    /// The key that was come to; after a pause, the one that is looked at next.
    fn key(&self) -> &[u8];
    /// The revision of the key that was come to.
    fn key_revision(&self) -> Revision;
    /// Bytes of its value; nothing is read.
    fn value_len(&self) -> usize;
    /// Its value.
    fn value(&self) -> Result<Bytes>;
    /// The revision of the snapshot.
    fn revision(&self) -> Revision;
    /// Fails once the snapshot was ended; from then on the walk holds nothing, and is over.
    fn check(&mut self) -> Result<()>;
    /// Has `call` called when the snapshot is ended, on the thread that ends it: it must be short.
    fn on_end(&self, call: Box<dyn FnOnce() + Send>);
}

/// The engine as the server sees it.
pub trait Engine: Send + Sync + 'static {
    /// Looks a key up. Never blocks. A value that has to be copied to be answered with is copied
    /// only if `room` says that there is room for so many bytes.
    fn try_get(&self, kvs: &str, key: &[u8], room: &mut dyn FnMut(usize) -> bool)
    -> Result<Lookup>;

    /// Writes all of `writes` or none. Never blocks; `done` learns the revision once the write is
    /// as durable as asked. An error returned at once means that nothing was written and that
    /// `done` is not called; `at` of the error is the index of the write that is at fault.
    fn write(
        &self,
        writes: &[Write<'_>],
        durability: Durability,
        done: Done<Revision>,
    ) -> Result<(), WriteRefused>;

    /// Whether every change would be refused as things are, and where a KVS is named, whether it
    /// is there: asked before a body is read. Never blocks.
    fn check_writable(&self, kvs: Option<&str>) -> Result<()>;

    /// Whether a write of `key` would be refused as things are, whatever its value, of so many
    /// bytes: asked before a body is read. Never blocks.
    fn check_write(&self, kvs: &str, key: &[u8], value_bytes: u64) -> Result<()>;

    /// Opens a cursor on a snapshot taken now, which is listed under the name of its holder. May
    /// block.
    fn walk(&self, kvs: &str, range: Range, holder: &str) -> Result<Box<dyn Walk>>;

    /// Creates a KVS. Blocks.
    fn create_kvs(&self, name: &str) -> Result<()>;

    /// Drops a KVS and everything in it. Blocks.
    fn drop_kvs(&self, name: &str) -> Result<()>;

    /// All KVSs, sorted by name. May block.
    fn list_kvs(&self) -> Result<Vec<KvsInfo>>;

    /// Shows every metric to `see`. May block.
    fn visit_metrics(&self, see: &mut dyn FnMut(Sample<'_>));

    /// What has failed, as far as it is known now. Never blocks.
    fn health(&self) -> Health;

    /// Facts about the store for `/version`: format, device, I/O back-end.
    fn about(&self) -> About;

    /// The database itself, for its operator; `None` where there is none.
    fn database(&self) -> Option<&Database> {
        None
    }

    /// The pool below; `None` where there is none.
    fn pool(&self) -> Option<&Arc<Pool>> {
        None
    }

    /// The space, by who may use it; `None` where there is no pool.
    fn space(&self) -> Option<SpaceInfo> {
        None
    }

    /// Verifies everything the pool holds; see [`Pool::scrub`]. Blocks until its end.
    fn scrub(&self, options: &ScrubOptions) -> Result<ScrubProgress>;

    /// Empties a volume of the pool; see [`Pool::evacuate_volume`]. Blocks until its end.
    fn evacuate_volume(&self, id: VolumeId, left: &mut dyn FnMut(u64)) -> Result<Evacuation>;

    /// Takes an emptied volume out of the pool; see [`Pool::remove_volume`]. Blocks.
    fn remove_volume(&self, id: VolumeId) -> Result<()>;

    /// Makes everything acknowledged durable and releases the store. Blocks. Idempotent.
    fn close(&self) -> Result<()>;
}

/// `Err` where a part has failed that every change needs.
pub(crate) fn check_health(health: &Health) -> Result<()> {
    let mut ailments = health.ailments.iter();
    let fatal = |part: Part| matches!(part, Part::Log | Part::Shape | Part::Volumes);
    match ailments.find(|ailment| fatal(ailment.part)) {
        Some(ailment) => Err(Error::Poisoned { cause: ailment.cause.clone() }),
        None => Ok(()),
    }
}

/// Why a batch was not accepted.
#[derive(Debug)]
pub struct WriteRefused {
    /// Index of the write at fault.
    pub at: usize,
    /// What is wrong with it.
    pub error: Error,
}

/// Facts about an open store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Version of the format on the medium.
    pub format: u32,
    /// The device, such as `file`.
    pub device: &'static str,
    /// The I/O back-end, such as `uring`.
    pub io_backend: &'static str,
    /// Whether it is open for reading only.
    pub read_only: bool,
    /// Damaged parts that the open has left out, as it was asked to.
    pub left_out: usize,
}
