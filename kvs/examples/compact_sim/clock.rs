//! Writers, one thread that flushes and one that compacts, in simulated time.

use crate::loads::{Load, Stream, Write};
use crate::pick::Limits;
use crate::stall::{self, Debt, KvsDebt, Verdict};
use crate::tree::{Job, Tree};
use std::collections::VecDeque;
use std::fmt;

const MEMTABLE_BYTES: u64 = 64 << 20;
const MEMTABLES_MAX: u64 = 3;
/// Of an entry in a memtable, beside key and value.
const NODE_BYTES: u64 = 60;
/// What a thread gets of the drive, and what a key costs it.
const DRIVE_BYTES_PER_S: f64 = 600e6;
const KEY_S: f64 = 0.6e-6;
/// Two writers put no faster than one key in this time.
const WRITE_S: f64 = 4e-6;
/// Writers look at the debt so often while they fill a memtable.
const STEPS: u64 = 16;

/// What a load came to.
pub(crate) struct Outcome {
    name: String,
    put_bytes: u64,
    written_bytes: u64,
    read_bytes: u64,
    put_keys: u64,
    written_keys: u64,
    most: f64,
    end: f64,
    quiet: f64,
    longest_s: f64,
    waited_s: f64,
    slowed_s: f64,
    root_max: usize,
    leaf_max: usize,
    scatter: f64,
}

impl fmt::Display for Outcome {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let put = self.put_bytes as f64;
        write!(
            f,
            "{:<34} {:>9.1} {:>6.2} {:>6.2} {:>6.2} {:>6.2} {:>6.2} {:>6.2} {:>7.1} {:>7.1} \
             {:>7.1} {:>5} {:>5} {:>7.0}",
            self.name,
            put / 1e9,
            self.written_bytes as f64 / put,
            self.read_bytes as f64 / put,
            self.written_keys as f64 / self.put_keys as f64,
            self.most,
            self.end,
            self.quiet,
            self.longest_s,
            self.waited_s,
            self.slowed_s,
            self.root_max,
            self.leaf_max,
            self.scatter
        )
    }
}

struct Clock {
    tree: Tree,
    now: f64,
    /// Full memtables.
    sealed: VecDeque<Vec<Write>>,
    flush_ends: Option<f64>,
    compaction: Option<(f64, Job)>,
    /// Which keys live.
    live: Vec<bool>,
    lives: u64,
    loaded: bool,
    limits: Limits,
    told: Outcome,
}

/// Runs a load to its end, and on until nothing is due.
pub(crate) fn run(load: &Load) -> Outcome {
    let mut clock = Clock::new(load);
    let mut stream = Stream::new(load);
    let entry_bytes = clock.tree.bytes_of(1) + NODE_BYTES * load.scale;
    let step = (MEMTABLE_BYTES / STEPS / entry_bytes).max(1);
    loop {
        let mut memtable = Vec::new();
        while (memtable.len() as u64) * entry_bytes < MEMTABLE_BYTES {
            let writes: Vec<Write> =
                stream.by_ref().take(usize::try_from(step).unwrap_or(1)).collect();
            if writes.is_empty() {
                break;
            }
            clock.write(&writes, load.rate);
            memtable.extend(writes);
        }
        clock.loaded = stream.is_loaded();
        if memtable.is_empty() {
            break;
        }
        clock.sealed.push_back(memtable);
        clock.start();
    }
    clock.settle(Limits::DEFAULT);
    clock.told.end = clock.space();
    clock.settle(Limits::QUIET);
    clock.told.quiet = clock.space();
    clock.told.leaf_max = clock.tree.leaf_len_max;
    clock.told.scatter = clock.tree.scatter();
    clock.told
}

impl Clock {
    fn new(load: &Load) -> Self {
        let told = Outcome {
            name: load.name.clone(),
            put_bytes: 0,
            written_bytes: 0,
            read_bytes: 0,
            put_keys: 0,
            written_keys: 0,
            most: 0.0,
            end: 0.0,
            quiet: 0.0,
            longest_s: 0.0,
            waited_s: 0.0,
            slowed_s: 0.0,
            root_max: 0,
            leaf_max: 0,
            scatter: 0.0,
        };
        Self {
            tree: Tree::new(load),
            now: 0.0,
            sealed: VecDeque::new(),
            flush_ends: None,
            compaction: None,
            live: Vec::new(),
            lives: 0,
            loaded: false,
            limits: Limits::DEFAULT,
            told,
        }
    }

    /// Bytes of kvsets over bytes that live.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn space(&self) -> f64 {
        self.tree.bytes() as f64 / self.tree.bytes_of(self.lives).max(1) as f64
    }

    /// Puts at the given rate, or as the debt lets.
    #[expect(clippy::cast_precision_loss, reason = "times for people")]
    fn write(&mut self, writes: &[Write], rate: f64) {
        let bytes = self.tree.bytes_of(writes.len() as u64);
        let delay = loop {
            match stall::verdict(self.debt(bytes)) {
                Verdict::Go => break 0.0,
                Verdict::Delay(delay, _) => break delay.as_secs_f64(),
                Verdict::Stop(_) => {
                    let before = self.now;
                    assert!(self.step(), "writers wait for nothing");
                    self.told.waited_s += self.now - before;
                }
            }
        };
        self.told.slowed_s += delay;
        let takes =
            (bytes as f64 / rate).max(self.tree.keys_of(writes.len() as u64) as f64 * WRITE_S);
        self.advance(self.now + takes + delay);
        self.told.put_bytes += bytes;
        self.told.put_keys += self.tree.keys_of(writes.len() as u64);
        // The log.
        self.told.written_bytes += bytes;
        for write in writes {
            let (key, lives) = match write {
                Write::Put(key) => (*key, true),
                Write::Delete(key) => (*key, false),
            };
            let at = usize::try_from(key).expect("32 bits");
            if self.live.len() <= at {
                self.live.resize(at + 1, false);
            }
            let was = std::mem::replace(&mut self.live[at], lives);
            self.lives = self.lives + u64::from(lives) - u64::from(was);
        }
    }

    /// The delay of a step is that of writes of 1 MiB.
    fn debt(&self, write_bytes: u64) -> Debt {
        let live_bytes = self.tree.bytes_of(self.lives);
        let kvs = KvsDebt {
            root_kvsets: self.tree.root_len() as u64,
            garbage_bytes: self.tree.bytes().saturating_sub(live_bytes),
            live_bytes,
            memtable_bytes: MEMTABLE_BYTES,
        };
        Debt {
            sealed_memtables: self.sealed.len() as u64,
            memtables_max: MEMTABLES_MAX,
            ..kvs.debt(write_bytes)
        }
    }

    /// Lets time pass until `then`.
    fn advance(&mut self, then: f64) {
        while self.next_end().is_some_and(|end| end <= then) {
            self.step();
        }
        self.now = self.now.max(then);
    }

    fn next_end(&self) -> Option<f64> {
        let compaction = self.compaction.as_ref().map(|(end, _)| *end);
        match (self.flush_ends, compaction) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Ends what ends next, and begins what can begin then; `false` if nothing runs.
    fn step(&mut self) -> bool {
        let Some(end) = self.next_end() else { return false };
        self.now = self.now.max(end);
        if self.flush_ends == Some(end) {
            self.flush_ends = None;
            let memtable = self.sealed.pop_front().expect("a flush has a memtable");
            self.told.written_bytes += self.tree.flush(&memtable);
            self.told.root_max = self.told.root_max.max(self.tree.root_len());
        } else {
            let (_, job) = self.compaction.take().expect("it ends now");
            self.tree.end(job);
        }
        self.start();
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "times for people")]
    fn start(&mut self) {
        if self.loaded {
            self.told.most = self.told.most.max(self.space());
        }
        if let (None, Some(memtable)) = (self.flush_ends, self.sealed.front()) {
            let writes = memtable.len() as u64;
            let bytes = self.tree.bytes_of(writes) as f64;
            let keys = self.tree.keys_of(writes) as f64;
            self.flush_ends = Some(self.now + bytes / DRIVE_BYTES_PER_S + keys * KEY_S);
        }
        if self.compaction.is_none()
            && let Some(job) = self.tree.begin(self.limits)
        {
            let bytes = (job.read_bytes + job.written_bytes) as f64;
            let lasts = bytes / DRIVE_BYTES_PER_S + job.keys as f64 * KEY_S;
            self.told.longest_s = self.told.longest_s.max(lasts);
            self.told.read_bytes += job.read_bytes;
            self.told.written_keys += job.written_keys;
            self.told.written_bytes += job.written_bytes;
            self.compaction = Some((self.now + lasts, job));
        }
    }

    fn settle(&mut self, limits: Limits) {
        self.limits = limits;
        self.start();
        while self.step() {}
    }
}
