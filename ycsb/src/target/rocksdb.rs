//! The RocksDB target: the baseline, tuned as for a read-mostly set larger than memory.
//!
//! - Reads: direct I/O, because a page cache beside the block cache caches twice.
//!   `--engine reads=buffered` for the other way.
//! - Flush, compaction: direct I/O, because what is written once would push out what is read often.
//! - Block cache: 4/5 of what the memtables leave of the memory; 1/3 with buffered reads. Index and
//!   filters live in it, too, with priority; the rest is for compaction buffers, table readers and
//!   the allocator, or for the page cache.
//! - Memory: `--memory`; else what is free when it is opened.
//! - Memtables: 3 of 64 MiB, the engine's own default, so both sides buffer alike.
//! - Filters: full Bloom, 10 bits a key, for about 1 % false positives.
//! - Compression: none. The rows do not compress; both sides store them as they are.
//! - WAL: on; synced by `--durability`. With `interval` and `off` a write stays in memory until a
//!   thread of ours syncs (every 100 ms), or the buffer is full: the promise that the engine makes.
//! - WAL files: recycled. A sync into blocks that were written before changes no file-system
//!   metadata; the engine's log does the same.
//! - Background jobs: 4, flush and compaction on a few cores.
//!
//! `--engine` changes: `block_cache`, `memtable_bytes`, `memtables_max`, `background_jobs`,
//! `cache=lru|hyper`, `reads=direct|buffered`.

use super::{Counted, Failure, Hold, Rows, See, Session, Target};
use crate::cli::{DurabilityArg, parse_bytes};
use crate::machine;
use crate::workload::Way;
use ::rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    Error, ErrorKind, Options, ReadOptions, WaitForCompactOptions, WriteOptions,
};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// Logs that are kept for the next ones: as many as there are memtables, and one that is written.
const LOGS_RECYCLED: usize = 4;
/// A cache below this holds little more than indexes.
const CACHE_MIN: u64 = 32 * MIB;

pub(crate) struct Config<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) table: &'a str,
    pub(crate) durability: DurabilityArg,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) allow_buffered: bool,
    /// `NAME=VALUE` each.
    pub(crate) engine: &'a [String],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuning {
    block_cache_bytes: Option<u64>,
    memtable_bytes: u64,
    memtables_max: u64,
    background_jobs: u64,
    hyper_clock: bool,
    reads: Reads,
}

/// How blocks are read that are not in the block cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Direct,
    /// Through the page cache, which then holds most of the data.
    Buffered,
}

/// Refuses options that no database can be opened with.
pub(crate) fn check(engine: &[String], memory_bytes: Option<u64>) -> Result<()> {
    Tuning::parse(engine)?.block_cache(memory_bytes).map(drop)
}

impl Tuning {
    fn parse(pairs: &[String]) -> Result<Self> {
        let mut tuning = Self {
            block_cache_bytes: None,
            memtable_bytes: 64 * MIB,
            memtables_max: 3,
            background_jobs: 4,
            hyper_clock: false,
            reads: Reads::Direct,
        };
        for pair in pairs {
            let Some((name, value)) = pair.split_once('=') else {
                bail!("--engine {pair}: an option is given as NAME=VALUE");
            };
            let number = || parse_bytes(value).with_context(|| format!("--engine {pair}"));
            match (name, value) {
                ("block_cache", _) => tuning.block_cache_bytes = Some(number()?),
                ("memtable_bytes", _) => tuning.memtable_bytes = number()?,
                ("memtables_max", _) => tuning.memtables_max = number()?,
                ("background_jobs", _) => tuning.background_jobs = number()?,
                ("cache", "lru") => tuning.hyper_clock = false,
                ("cache", "hyper") => tuning.hyper_clock = true,
                ("reads", "direct") => tuning.reads = Reads::Direct,
                ("reads", "buffered") => tuning.reads = Reads::Buffered,
                _ => bail!(
                    "--engine {pair}: known for rocksdb are block_cache, memtable_bytes, \
                     memtables_max, background_jobs, cache=lru|hyper and reads=direct|buffered"
                ),
            }
        }
        Ok(tuning)
    }

    /// The split of the budget; the module says why.
    fn block_cache(&self, memory_bytes: Option<u64>) -> Result<u64> {
        if let Some(given) = self.block_cache_bytes {
            return Ok(given);
        }
        let available = || machine::available_memory_bytes().unwrap_or(2048 * MIB);
        let memory = memory_bytes.unwrap_or_else(available);
        let memtables = self.memtable_bytes.saturating_mul(self.memtables_max);
        let cache = memory.checked_sub(memtables).map(|rest| match self.reads {
            Reads::Direct => rest / 5 * 4,
            Reads::Buffered => rest / 3,
        });
        match cache {
            Some(cache) if cache >= CACHE_MIN => Ok(cache),
            _ => bail!(
                "--memory {memory} leaves nothing beside {} memtables of {} bytes; give more, or \
                 smaller ones with --engine memtable_bytes=SIZE",
                self.memtables_max,
                self.memtable_bytes
            ),
        }
    }
}

pub(crate) struct Rocks {
    db: Arc<DB>,
    dir: PathBuf,
    durability: DurabilityArg,
    block_cache_bytes: u64,
    tuning: Tuning,
    /// Drops to end it.
    syncing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Rocks {
    pub(crate) fn open(config: &Config<'_>) -> Result<Self> {
        let tuning = Tuning::parse(config.engine)?;
        let block_cache_bytes = tuning.block_cache(config.memory_bytes)?;
        let options = options(&tuning, block_cache_bytes, config)?;
        // One database a table: its own column family would share the WAL for nothing.
        let dir = config.dir.join(config.table);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot make the directory {}", dir.display()))?;
        let db = DB::open(&options, &dir)
            .with_context(|| format!("cannot open RocksDB in {}", dir.display()))?;
        let db = Arc::new(db);
        let syncing = (config.durability == DurabilityArg::Interval).then(|| sync_often(&db));
        let durability = config.durability;
        Ok(Self { db, dir, durability, block_cache_bytes, tuning, syncing })
    }
}

fn options(tuning: &Tuning, block_cache_bytes: u64, config: &Config<'_>) -> Result<Options> {
    let capacity = usize::try_from(block_cache_bytes)?;
    let cache = if tuning.hyper_clock {
        // 0: the cache measures the size of its entries itself.
        Cache::new_hyper_clock_cache(capacity, 0)
    } else {
        Cache::new_lru_cache(capacity)
    };
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    let direct = !config.allow_buffered;
    options.set_use_direct_reads(direct && tuning.reads == Reads::Direct);
    options.set_use_direct_io_for_flush_and_compaction(direct);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(usize::try_from(tuning.memtable_bytes)?);
    options.set_max_write_buffer_number(i32::try_from(tuning.memtables_max)?);
    options.set_max_background_jobs(i32::try_from(tuning.background_jobs)?);
    // Written out as it goes, so that a sync, or the memory cgroup, never meets a heap of it.
    options.set_wal_bytes_per_sync(MIB);
    options.set_recycle_log_file_num(LOGS_RECYCLED);
    options.set_manual_wal_flush(config.durability != DurabilityArg::Sync);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_stats_dump_period_sec(0);
    Ok(options)
}

/// Syncs the WAL every [`SYNC_EVERY`] until the sender is dropped.
fn sync_often(db: &Arc<DB>) -> (Sender<()>, JoinHandle<()>) {
    let (ending, end) = channel::<()>();
    let db = Arc::clone(db);
    let thread = std::thread::spawn(move || {
        while end.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
            if let Err(error) = db.flush_wal(true) {
                crate::output::say(&format!("RocksDB: the WAL cannot be synced: {error}"));
                return;
            }
        }
    });
    (ending, thread)
}

impl Target for Rocks {
    fn session(&self) -> Result<Box<dyn Session>> {
        let mut writes = WriteOptions::default();
        writes.set_sync(self.durability == DurabilityArg::Sync);
        let db = Arc::clone(&self.db);
        Ok(Box::new(Handle { db, reads: ReadOptions::default(), writes }))
    }

    fn data_dir(&self) -> Option<&Path> {
        Some(&self.dir)
    }

    fn facts(&self) -> Vec<(String, String)> {
        let property = |name: &str| self.db.property_value(name).ok().flatten();
        let mut facts = vec![
            ("crate".into(), "rocksdb 0.25.0 (RocksDB 11.8.1)".into()),
            ("block_cache_bytes".into(), self.block_cache_bytes.to_string()),
            ("tuning".into(), format!("{:?}", self.tuning)),
        ];
        for name in ["rocksdb.total-sst-files-size", "rocksdb.estimate-pending-compaction-bytes"] {
            facts.extend(property(name).map(|value| (name.to_owned(), value)));
        }
        facts
    }

    fn counters(&self) -> Vec<Counted> {
        let bytes = self.db.property_int_value("rocksdb.total-sst-files-size").ok().flatten();
        let counted = |bytes: u64| Counted {
            name: "rocksdb_sst_bytes".into(),
            grows: false,
            value: crate::number::float(bytes),
        };
        bytes.map(counted).into_iter().collect()
    }

    fn flush(&self) -> Result<()> {
        self.db.flush().context("RocksDB cannot flush")
    }

    fn settle(&self) -> Result<()> {
        self.flush()?;
        let done = self.db.wait_for_compact(&WaitForCompactOptions::default());
        done.context("RocksDB cannot compact")
    }

    fn compact(&self) -> Result<()> {
        self.flush()?;
        let mut options = CompactOptions::default();
        // Without this a file that lies lowest is left as it is, with its tombstones.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.compact_range_opt::<&[u8], &[u8]>(None, None, &options);
        Ok(())
    }

    fn hold(&self) -> Result<Hold> {
        Ok(Box::new(Holding::new(&self.db)))
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { db, syncing, .. } = *self;
        if let Some((ending, thread)) = syncing {
            drop(ending);
            thread.join().map_err(|_| anyhow::anyhow!("the thread that syncs the WAL panicked"))?;
        }
        db.flush_wal(true).context("RocksDB cannot sync its WAL")?;
        // The last handle: dropping it waits for background work and closes the database.
        db.cancel_all_background_work(true);
        drop(db);
        Ok(())
    }
}

/// A thread that holds a snapshot, which borrows the database, until this is dropped.
struct Holding {
    ending: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Holding {
    /// Returns when the snapshot is taken.
    fn new(db: &Arc<DB>) -> Self {
        let (ending, end) = channel::<()>();
        let (taken, is_taken) = channel();
        let db = Arc::clone(db);
        let thread = std::thread::spawn(move || {
            let _snapshot = db.snapshot();
            drop(taken);
            // Nothing is sent: it ends when the other side is dropped.
            let _ended = end.recv();
        });
        // The same here.
        let _taken: Result<(), _> = is_taken.recv();
        Self { ending: Some(ending), thread: Some(thread) }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        drop(self.ending.take());
        if let Some(thread) = self.thread.take() {
            // It does nothing that can panic.
            let _ended = thread.join();
        }
    }
}

struct Handle {
    db: Arc<DB>,
    reads: ReadOptions,
    writes: WriteOptions,
}

impl Session for Handle {
    fn read(&mut self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Failure> {
        let found = self.db.get_pinned_opt(key, &self.reads).map_err(failure)?;
        let Some(value) = found else { return Ok(false) };
        row.clear();
        row.extend_from_slice(&value);
        Ok(true)
    }

    fn write(&mut self, key: &[u8], row: &[u8]) -> Result<(), Failure> {
        self.db.put_opt(key, row, &self.writes).map_err(failure)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Failure> {
        self.db.delete_opt(key, &self.writes).map_err(failure)
    }

    fn walk(&mut self, way: Way, see: &mut See<'_>) -> Result<(), Failure> {
        let mut cursor = self.db.raw_iterator_opt(ReadOptions::default());
        match way {
            Way::Forward => cursor.seek_to_first(),
            Way::Reverse => cursor.seek_to_last(),
        }
        while let Some((key, value)) = cursor.item()
            && see(key, value).is_continue()
        {
            match way {
                Way::Forward => cursor.next(),
                Way::Reverse => cursor.prev(),
            }
        }
        cursor.status().map_err(failure)
    }

    fn scan(&mut self, start: &[u8], limit: usize, rows: &mut Rows) -> Result<(), Failure> {
        let mut cursor = self.db.raw_iterator_opt(ReadOptions::default());
        cursor.seek(start);
        rows.clear();
        while rows.len() < limit
            && let Some((key, value)) = cursor.item()
        {
            rows.push(key, value);
            cursor.next();
        }
        cursor.status().map_err(failure)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn failure(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Busy | ErrorKind::TryAgain | ErrorKind::TimedOut | ErrorKind::Incomplete => {
            Failure::Busy(error.to_string())
        }
        _ => Failure::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuning(pairs: &[&str]) -> Result<Tuning> {
        Tuning::parse(&pairs.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_budget_is_split() {
        let default = tuning(&[]).unwrap();
        assert_eq!(default.block_cache(Some(2048 * MIB)).unwrap(), (2048 - 192) * MIB / 5 * 4);
        let buffered = tuning(&["reads=buffered"]).unwrap();
        assert_eq!(buffered.block_cache(Some(2048 * MIB)).unwrap(), (2048 - 192) * MIB / 3);
        assert!(default.block_cache(Some(200 * MIB)).is_err());
        let given = tuning(&["block_cache=1GiB", "cache=hyper"]).unwrap();
        assert_eq!(given.block_cache(Some(16 * MIB)).unwrap(), 1024 * MIB);
        assert!(tuning(&["cache=arc"]).unwrap_err().to_string().contains("lru|hyper"));
    }

    #[test]
    fn records_come_back_in_order_and_after_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            dir: dir.path(),
            table: "t",
            durability: DurabilityArg::Interval,
            memory_bytes: None,
            allow_buffered: true,
            engine: &["block_cache=8MiB".to_owned()],
        };
        let rocks = Box::new(Rocks::open(&config).unwrap());
        let mut session = rocks.session().unwrap();
        for key in ["b", "a", "c"] {
            session.write(key.as_bytes(), key.as_bytes()).unwrap();
        }
        drop(session);
        rocks.settle().unwrap();
        rocks.close().unwrap();
        let rocks = Box::new(Rocks::open(&config).unwrap());
        let mut session = rocks.session().unwrap();
        let (mut row, mut rows) = (Vec::new(), Rows::default());
        assert!(session.read(b"a", &mut row).unwrap() && row == b"a");
        assert!(!session.read(b"x", &mut row).unwrap());
        session.scan(b"b", 9, &mut rows).unwrap();
        let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"b", b"c"]);
        drop(session);
        rocks.close().unwrap();
    }
}
