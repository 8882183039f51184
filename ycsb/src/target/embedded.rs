//! The embedded target: the engine in this process.
//!
//! Sessions share one handle; the engine's own rules make that cheap. A row is copied out of the
//! engine's buffer, as a caller who keeps it would.

use super::{Counted, Failure, Hold, Rows, See, Session, Target};
use crate::workload::Way;
use crate::workload::row::key_hash;
use anyhow::{Context, Result, anyhow, bail};
use kvs::{CompactionRequest, CompactionState, Database, Durability, Kvs, Options, Range, Scope};
use mpool::{IoBackend, Value};
use std::path::{Path, PathBuf};

/// Options of the engine that `--engine NAME=VALUE` sets; see the engine's own documentation.
const NAMES: &str = "background_nice, background_threads, commit_queue_bytes_max, inline_bytes_max, interval_ms, \
                     media_policy, memtable_bytes, memtables_max, queue_depth, quiet_after_ms, \
                     reaper, reaper_budget_bytes, recovery_ms, value_cache_bytes, wal_bytes_max, \
                     wal_segment_bytes";

pub(crate) struct Embedded {
    database: Database,
    /// One a table.
    kvss: Vec<Kvs>,
    dir: PathBuf,
    durability: Durability,
    settings: Vec<(String, String)>,
}

/// How the engine is opened.
#[derive(Clone, Debug)]
pub(crate) struct Config<'a> {
    pub(crate) dir: &'a Path,
    /// At least one.
    pub(crate) tables: &'a [String],
    pub(crate) durability: Durability,
    pub(crate) io: IoBackend,
    pub(crate) allow_buffered: bool,
    /// `NAME=VALUE` each.
    pub(crate) engine: &'a [String],
}

impl Embedded {
    /// Refuses options that no engine can be opened with.
    pub(crate) fn check(engine: &[String]) -> Result<()> {
        options(engine)?.validate().context("--engine")
    }

    pub(crate) fn open(config: &Config<'_>) -> Result<Self> {
        let mut options = options(config.engine)?;
        options.pool.io = config.io;
        options.pool.allow_buffered = config.allow_buffered;
        // What a benchmark has written may go.
        options.pool.allow_volatile = true;
        let settings = settings(&options);
        let dir = config.dir.to_owned();
        let database = Database::open(&dir, options)
            .with_context(|| format!("cannot open the database in {}", dir.display()))?;
        let kvs = |table: &String| database.kvs(table).with_context(|| format!("table={table}"));
        let kvss = config.tables.iter().map(kvs).collect::<Result<Vec<_>>>()?;
        Ok(Self { database, kvss, dir, durability: config.durability, settings })
    }
}

/// What was asked for, as far as it decides about writing; the engine may fit it to a small volume.
fn settings(options: &Options) -> Vec<(String, String)> {
    let cache = options.value_cache_bytes.map_or("by the reaper".into(), |n| n.to_string());
    [
        ("background_threads", options.background_threads.to_string()),
        ("memtable_bytes", options.memtable_bytes.to_string()),
        ("memtables_max", options.memtables_max.to_string()),
        ("value_cache_bytes", cache),
        ("wal_bytes_max", options.wal_bytes_max.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn options(engine: &[String]) -> Result<Options> {
    let mut options = Options::default();
    engine.iter().try_for_each(|pair| set(&mut options, pair))?;
    Ok(options)
}

fn set(options: &mut Options, pair: &str) -> Result<()> {
    let Some((name, value)) = pair.split_once('=') else {
        bail!("--engine {pair}: an option is given as NAME=VALUE");
    };
    if name == "reaper" {
        let policy = value.parse().with_context(|| format!("--engine {pair}"))?;
        options.pool.reaper.policy = policy;
        return Ok(());
    }
    if name == "media_policy" {
        options.media_policy =
            value.parse().map_err(|text: String| anyhow!("--engine {pair}: {text}"))?;
        return Ok(());
    }
    let number = crate::cli::parse_bytes(value).with_context(|| format!("--engine {pair}"))?;
    match name {
        "background_nice" => options.background_nice = u8::try_from(number)?,
        "background_threads" => options.background_threads = number,
        "commit_queue_bytes_max" => options.commit_queue_bytes_max = number,
        "inline_bytes_max" => options.inline_bytes_max = number,
        "interval_ms" => options.interval_ms = number,
        "memtable_bytes" => options.memtable_bytes = number,
        "memtables_max" => options.memtables_max = number,
        "quiet_after_ms" => options.quiet_after_ms = number,
        "recovery_ms" => options.recovery_ms = number,
        "queue_depth" => options.pool.queue_depth = u32::try_from(number)?,
        "reaper_budget_bytes" => options.pool.reaper.budget_bytes = Some(number),
        "value_cache_bytes" => options.value_cache_bytes = Some(number),
        "wal_bytes_max" => options.wal_bytes_max = number,
        "wal_segment_bytes" => options.wal_segment_bytes = number,
        _ => bail!("--engine {pair}: no option is named {name:?}; known are {NAMES}"),
    }
    Ok(())
}

impl Target for Embedded {
    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Handle { kvss: self.kvss.clone(), durability: self.durability }))
    }

    fn data_dir(&self) -> Option<&Path> {
        Some(&self.dir)
    }

    fn facts(&self) -> Vec<(String, String)> {
        let info = self.database.pool().info();
        let reaper = self.database.pool().reaper().stats();
        let mut facts = vec![
            ("io".into(), info.io_backend.into()),
            ("device".into(), info.device.into()),
            ("volume_bytes".into(), info.len_bytes.to_string()),
            ("used_bytes".into(), info.used_bytes.to_string()),
            ("reaper_policy".into(), reaper.policy.to_string()),
            ("reaper_pressure".into(), reaper.pressure.into()),
            ("reaper_budget_bytes".into(), reaper.budget_bytes.to_string()),
            ("reaper_budget_source".into(), reaper.source.into()),
        ];
        facts.extend(self.settings.iter().cloned());
        facts
    }

    fn counters(&self) -> Vec<Counted> {
        let mut all = Vec::new();
        self.database.visit_metrics(&mut |sample| {
            let labels = sample.labels.iter().map(|(name, value)| format!("{name}={value:?}"));
            let labels = labels.collect::<Vec<_>>().join(",");
            let name = |part: &str| match labels.as_str() {
                "" => format!("{}{part}", sample.name),
                labels => format!("{}{part}{{{labels}}}", sample.name),
            };
            let mut add = |part, grows, value| all.push(Counted { name: name(part), grows, value });
            match &sample.value {
                Value::Counter(value) => add("", true, *value),
                Value::Gauge(value) => add("", false, *value),
                Value::Histogram(counts) => {
                    #[expect(clippy::cast_precision_loss, reason = "counters are floats here")]
                    add("_count", true, counts.count as f64);
                    add("_sum", true, counts.sum);
                }
            }
        });
        all
    }

    fn flush(&self) -> Result<()> {
        self.database.flush().context("cannot flush")
    }

    fn settle(&self) -> Result<()> {
        self.flush()?;
        self.database.compact().context("cannot compact")
    }

    fn compact(&self) -> Result<()> {
        let asked = self.database.start_compaction(CompactionRequest::default());
        let info = asked.and_then(|compaction| compaction.wait()).context("cannot compact")?;
        match (&info.state, info.problems.first()) {
            (CompactionState::Done, None) => Ok(()),
            (state, problem) => {
                let problem = problem.map_or("", |problem| &problem.detail);
                bail!("the compaction ended as {}: {problem}", state.as_str())
            }
        }
    }

    fn hold(&self) -> Result<Hold> {
        Ok(Box::new(self.database.snapshot()))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.close().context("cannot close the database")
    }
}

struct Handle {
    kvss: Vec<Kvs>,
    durability: Durability,
}

impl Handle {
    /// The KVS that a key is in.
    fn kvs(&self, key: &[u8]) -> &Kvs {
        match &*self.kvss {
            [only] => only,
            all => {
                let tables = u64::try_from(all.len()).expect("at most 256");
                &all[usize::try_from(key_hash(key) % tables).expect("below their number")]
            }
        }
    }
}

impl Session for Handle {
    fn read(&mut self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some(entry) = self.kvs(key).get(key).map_err(failure)? else { return Ok(false) };
        row.clear();
        row.extend_from_slice(&entry.value);
        Ok(true)
    }

    fn write(&mut self, key: &[u8], row: &[u8]) -> Result<(), Failure> {
        self.kvs(key).put(key, row, self.durability).map(drop).map_err(failure)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Failure> {
        self.kvs(key).delete(key, self.durability).map(drop).map_err(failure)
    }

    fn walk(&mut self, way: Way, see: &mut See<'_>) -> Result<(), Failure> {
        let range = Range { reverse: way == Way::Reverse, ..Range::default() };
        for kvs in &self.kvss {
            for item in kvs.cursor(range.clone()).map_err(failure)? {
                let item = item.map_err(failure)?;
                if see(&item.key, &item.value).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn scan(&mut self, start: &[u8], limit: usize, rows: &mut Rows) -> Result<(), Failure> {
        let range = Range { start: Some(start.to_vec().into()), ..Range::default() };
        rows.clear();
        if let [only] = &*self.kvss {
            for item in only.cursor(range).map_err(failure)?.take(limit) {
                let item = item.map_err(failure)?;
                rows.push(&item.key, &item.value);
            }
            return Ok(());
        }
        let mut found = Vec::new();
        for kvs in &self.kvss {
            for item in kvs.cursor(range.clone()).map_err(failure)?.take(limit) {
                let item = item.map_err(failure)?;
                found.push((item.key, item.value));
            }
        }
        found.sort_unstable();
        found.iter().take(limit).for_each(|(key, value)| rows.push(key, value));
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn failure(error: kvs::Error) -> Failure {
    match error.scope() {
        Scope::Moment => Failure::Busy(error.to_string()),
        Scope::Call | Scope::Object | Scope::Store => Failure::Failed(error.to_string()),
    }
}
