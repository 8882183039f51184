//! The RocksDB target: the baseline, tuned as for a read-mostly set larger than memory.
//!
//! | setting | value | why |
//! |---|---|---|
//! | reads, flush, compaction | direct I/O | a page cache beside the block cache caches twice |
//! | block cache | 3/4 of what the memtables leave of `--memory`; else half of the free memory | index and filters live in it, too, with priority; the rest is for compaction buffers, table readers and the allocator |
//! | memtables | 3 of 64 MiB | the engine's own default, so both sides buffer alike |
//! | filters | full Bloom, 10 bits a key | about 1 % false positives |
//! | compression | none | the rows do not compress; both sides store them as they are |
//! | WAL | on; synced by `--durability` | `interval` syncs every 100 ms in a thread of ours |
//! | background jobs | 4 | flush and compaction on a few cores |
//!
//! `--engine` changes: `block_cache`, `memtable_bytes`, `memtables_max`, `background_jobs`,
//! `cache=lru|hyper`.

use super::{Failure, Rows, Session, Target};
use crate::cli::{DurabilityArg, parse_bytes};
use ::rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Error, ErrorKind, Options, ReadOptions,
    WriteOptions,
};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const SYNC_EVERY: Duration = Duration::from_millis(100);

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
}

impl Tuning {
    fn parse(pairs: &[String]) -> Result<Self> {
        let mut tuning = Self {
            block_cache_bytes: None,
            memtable_bytes: 64 * MIB,
            memtables_max: 3,
            background_jobs: 4,
            hyper_clock: false,
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
                _ => bail!(
                    "--engine {pair}: known for rocksdb are block_cache, memtable_bytes, \
                     memtables_max, background_jobs and cache=lru|hyper"
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
        let Some(memory) = memory_bytes else {
            return Ok(available_memory().unwrap_or(2048 * MIB) / 2);
        };
        let memtables = self.memtable_bytes.saturating_mul(self.memtables_max);
        match memory.checked_sub(memtables) {
            Some(rest) if rest >= 32 * MIB => Ok(rest / 4 * 3),
            _ => bail!(
                "--memory {memory} leaves nothing beside {} memtables of {} bytes; give more, or \
                 smaller ones with --engine memtable_bytes=SIZE",
                self.memtables_max,
                self.memtable_bytes
            ),
        }
    }
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
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
        let options = options(&tuning, block_cache_bytes, config.allow_buffered)?;
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

fn options(tuning: &Tuning, block_cache_bytes: u64, allow_buffered: bool) -> Result<Options> {
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
    options.set_use_direct_reads(!allow_buffered);
    options.set_use_direct_io_for_flush_and_compaction(!allow_buffered);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(usize::try_from(tuning.memtable_bytes)?);
    options.set_max_write_buffer_number(i32::try_from(tuning.memtables_max)?);
    options.set_max_background_jobs(i32::try_from(tuning.background_jobs)?);
    // Written out as it goes, so that a sync, or the memory cgroup, never meets a heap of it.
    options.set_wal_bytes_per_sync(MIB);
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
                crate::progress::say(&format!("RocksDB: the WAL cannot be synced: {error}"));
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

    fn close(self: Box<Self>) -> Result<()> {
        let Self { db, syncing, .. } = *self;
        if let Some((ending, thread)) = syncing {
            drop(ending);
            thread.join().map_err(|_| anyhow::anyhow!("the thread that syncs the WAL panicked"))?;
        }
        // The last handle: dropping it waits for background work and closes the database.
        db.cancel_all_background_work(true);
        drop(db);
        Ok(())
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
        assert_eq!(default.block_cache(Some(2048 * MIB)).unwrap(), (2048 - 192) * MIB / 4 * 3);
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
