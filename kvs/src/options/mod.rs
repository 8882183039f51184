//! Options of a database, and what goes to which class of volume.
//!
//! Plain data with public fields. [`Options::validate`] is the only gate, and
//! [`Database::open`](crate::Database::open) calls it.

pub(crate) mod placement;

use crate::error::{Error, Result};
use crate::key::{KVS_MAX, is_kvs_name};
use crate::options::placement::MediaPolicy;
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
/// Thirty days.
const SNAPSHOT_AGE_MAX_MS: u64 = 30 * 86_400_000;
/// A third of a segment of 64 MiB, and what one of 24 MiB has room for.
const BATCH_BYTES: u64 = 64 * MIB / 3;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is on stable storage.
    #[default]
    Sync,
    /// At once; it reaches stable storage within [`Options::interval_ms`].
    Interval,
    /// At once; it reaches stable storage when something else takes it there (a later write, a
    /// flush, a close).
    Off,
}

/// Every field states its meaning, its unit, and what goes wrong at each end of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Options of the pool below.
    pub pool: mpool::Options,

    /// Bytes of unflushed writes at which the active memtable is sealed.
    ///
    /// Larger means fewer, bigger flushes and a longer recovery. Range 1 MiB to 4 GiB, default 64
    /// MiB; at most a 32nd of the pool is used.
    pub memtable_bytes: u64,

    /// Sealed memtables allowed to wait for flush before writers stall.
    ///
    /// Each one costs `memtable_bytes` of memory and one more probe a read. Range 1 to 16, default
    /// 3.
    pub memtables_max: u64,

    /// Bytes of one WAL segment, which is recycled again and again; written with zeros first where
    /// little is synced at a time.
    ///
    /// A batch never spans two, so it bounds the batch: a third of it, or most of one under 64
    /// MiB, up to 21 MiB. Longer ones are taken into use more rarely, which costs an append to the
    /// pool's journal, and each is free only when all of it is flushed, so the log takes more
    /// space. Range 4 MiB to 1 GiB, default 64 MiB; one of up to 64 MiB is shorter on a pool under
    /// 2 GiB, down to 24 MiB.
    pub wal_segment_bytes: u64,

    /// Bytes of WAL that may be waiting for a flush; beyond it the active memtable is sealed early.
    ///
    /// Bounds the work of recovery. Range 16 MiB to 64 GiB, default 512 MiB; at most an eighth of
    /// the pool is used.
    pub wal_bytes_max: u64,

    /// Longest time that a recovery should take to replay the log, milliseconds.
    ///
    /// Each open that replays 16 MiB or more measures how fast it is, and the log is kept so short
    /// that this suffices, down to 16 MiB; `wal_bytes_max` bounds it in any case, and alone until
    /// there is a measurement. Shorter means smaller memtables where the drive is slow. Range 1,000
    /// to 3,600,000, default 10,000.
    pub recovery_ms: u64,

    /// Longest time an acknowledged write of [`Durability::Interval`] is only in memory,
    /// milliseconds.
    ///
    /// Range 1 to 60,000, default 100 (HSE's default).
    pub interval_ms: u64,

    /// How long hardly anything (a 64th of a memtable) must have been put before the database is
    /// quiet and tidies up what busy times leave, milliseconds: garbage from 15 % of a KVS on,
    /// where 28 % are left while it is busy, and a memtable that is filled to a 16th.
    ///
    /// Shorter takes less space and writes more: at 0 each overwritten byte is collected early,
    /// whatever the load. Longer keeps pauses between bursts of writes free of that work. Range 0
    /// to 3,600,000 (an hour), default 2,000.
    pub quiet_after_ms: u64,

    /// Longest value kept in the index beside its key, bytes; longer ones go to vblocks.
    ///
    /// Larger saves a drive read for small values and costs index memory. Range 0 to 1,024, default
    /// 256.
    pub inline_bytes_max: u64,

    /// Bytes of writes that may wait for a commit before new ones are refused as stalled.
    ///
    /// Range 1 MiB to 4 GiB, default 64 MiB.
    pub commit_queue_bytes_max: u64,

    /// Threads for flush and compaction. Range 0 to 16, default 2. With 0 nothing runs in the
    /// background: writers flush when they must, and `Database::flush` and `compact` work on the
    /// calling thread; for tests.
    pub background_threads: u64,

    /// How far these threads stand behind the others where processors are busy, in steps of
    /// `nice(1)`.
    ///
    /// Larger makes reads and commits wait less for a processor, and compaction slower beside them,
    /// so that more garbage is left and writers are slowed down for it earlier. Beside a writer at
    /// full speed on two processors the p99 of short scans was 6.1 ms at 0 and 3.7 ms at 5; writers
    /// that did nothing but overwrite were equally fast, and up to 5 % more space was used on the
    /// way. Range 0 to 19, default 5.
    pub background_nice: u8,

    /// What goes on the pool's staging volume, where there is one. Default: all but the values of
    /// leaves. May change from one open to the next: what is there moves as it is rewritten.
    pub media_policy: MediaPolicy,

    /// What the open does about damage that would stop it. Default: refuse to open. Whether
    /// anything is written at all is [`mpool::Options::read_only`] of `pool`.
    pub salvage: Salvage,

    /// Bytes of the value cache; `None` lets the memory governor decide.
    pub value_cache_bytes: Option<u64>,

    /// Longest time that a snapshot, or a cursor over one of its own, may be held, milliseconds.
    /// Then it is ended, with [`Error::SnapshotEnded`] for who uses it.
    ///
    /// What a snapshot sees is not freed while it lives, so a forgotten one fills the volumes with
    /// what was overwritten since. Shorter ends scans that take long. A cursor that nobody uses
    /// lets go when it is used next, or dropped. Range 1 to 2,592,000,000 (30 days), default
    /// `None`: for ever.
    pub snapshot_age_max_ms: Option<u64>,

    /// Names of the KVSs that a new database begins with: it has them from its first moment, in the
    /// same durable step. A database that has had any KVS is left as it is, so what was dropped
    /// stays dropped. At most 256, default none.
    pub initial_kvs: Vec<String>,
}

/// What to do about damage that would stop an open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// About damage in the write-ahead log.
    pub log: LogDamage,
    /// Leave kvsets out that cannot be opened, or are not what the manifest says, and on a pool
    /// that is open for writing take them out for good. Older values of their keys may show again,
    /// deleted keys too. Default false.
    pub skip_kvsets: bool,
    /// Go on with a manifest whose last edits, before a clean close, are lost, or do not fit those
    /// before them: kvsets that they made are gone. A KVS that they made, and that the log writes
    /// to, is there again with what the log has of it, as `recovered-N`. Default false.
    pub cut_manifest: bool,
}

/// What to do about damage in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogDamage {
    /// Refuse to open.
    #[default]
    Refuse,
    /// The log ends where the damage begins: what is left is a state that was once the latest.
    StopAtDamage,
    /// Pass over what is damaged: everything that can be read counts, so later writes are there
    /// without earlier ones.
    SkipDamaged,
    /// Leave all of it out, sound or not: only what is in kvsets counts.
    LeaveOut,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool: mpool::Options::default(),
            memtable_bytes: 64 * MIB,
            memtables_max: 3,
            wal_segment_bytes: 64 * MIB,
            wal_bytes_max: 512 * MIB,
            recovery_ms: 10_000,
            interval_ms: 100,
            quiet_after_ms: 2000,
            inline_bytes_max: 256,
            commit_queue_bytes_max: 64 * MIB,
            background_threads: 2,
            background_nice: 5,
            media_policy: MediaPolicy::Auto,
            salvage: Salvage::default(),
            value_cache_bytes: None,
            snapshot_age_max_ms: None,
            initial_kvs: Vec::new(),
        }
    }
}

impl Options {
    /// Checks every field against its range.
    pub fn validate(&self) -> Result<()> {
        in_range("memtable_bytes", self.memtable_bytes, MIB, 4096 * MIB)?;
        in_range("memtables_max", self.memtables_max, 1, 16)?;
        in_range("wal_segment_bytes", self.wal_segment_bytes, 4 * MIB, 1024 * MIB)?;
        in_range("wal_bytes_max", self.wal_bytes_max, 16 * MIB, 65_536 * MIB)?;
        in_range("recovery_ms", self.recovery_ms, 1000, 3_600_000)?;
        in_range("interval_ms", self.interval_ms, 1, 60_000)?;
        in_range("quiet_after_ms", self.quiet_after_ms, 0, 3_600_000)?;
        in_range("inline_bytes_max", self.inline_bytes_max, 0, 1024)?;
        in_range("commit_queue_bytes_max", self.commit_queue_bytes_max, MIB, 4096 * MIB)?;
        in_range("background_threads", self.background_threads, 0, 16)?;
        in_range("background_nice", self.background_nice.into(), 0, 19)?;
        let age = self.snapshot_age_max_ms.unwrap_or(1);
        in_range("snapshot_age_max_ms", age, 1, SNAPSHOT_AGE_MAX_MS)?;
        self.check_initial_kvs()
    }

    fn check_initial_kvs(&self) -> Result<()> {
        if self.initial_kvs.len() > KVS_MAX {
            return Err(Error::KvsLimit);
        }
        let mut seen = BTreeSet::new();
        for name in &self.initial_kvs {
            if !is_kvs_name(name) {
                return Err(Error::KvsName { name: name.clone() });
            }
            if !seen.insert(name) {
                return Err(Error::KvsExists { name: name.clone() });
            }
        }
        Ok(())
    }

    /// Most bytes one batch may hold: a third of a WAL segment; of a short one nearly all, as far
    /// as 21 MiB, so that the longest value always fits where it can.
    pub fn batch_bytes_max(&self) -> usize {
        let segment = self.wal_segment_bytes;
        let bytes = (segment / 3).max((segment / 16 * 15).min(BATCH_BYTES));
        usize::try_from(bytes).expect("validated to 1 GiB at most")
    }
}

fn in_range(name: &'static str, got: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&got) { Ok(()) } else { Err(Error::Option { name, got, min, max }) }
}
