//! The scan: one loop over all objects, by the way that is asked for.

use crate::support::{Outcome, Schedule};
use mpool::{Class, IoBuf, Mblock, Pool, Priority};
use rustix::{
    fs::{Advice, fadvise},
    io::{ReadWriteFlags, preadv2},
};
use std::{
    fmt,
    fs::File,
    io::IoSliceMut,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    path::Path,
    str::FromStr,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::ScopedJoinHandle,
};

/// `RWF_DONTCACHE` (Linux 6.14), which rustix does not name yet.
const DONTCACHE: u32 = 0x80;
/// What a compaction reads at a time; the engine cuts it when others wait.
const ENGINE_READ_BYTES: u64 = 256 << 10;

/// How the scan reads; see the program's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    None,
    Paced,
    Unpaced,
    Direct,
    Uring,
    DontNeed,
    DontCache,
    Map,
}

const NAMES: [(Scan, &str); 8] = [
    (Scan::None, "none"),
    (Scan::Paced, "paced"),
    (Scan::Unpaced, "unpaced"),
    (Scan::Direct, "direct"),
    (Scan::Uring, "uring"),
    (Scan::DontNeed, "dontneed"),
    (Scan::DontCache, "dontcache"),
    (Scan::Map, "map"),
];

impl FromStr for Scan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = NAMES.iter().find(|(_, name)| *name == text);
        known.map(|(scan, _)| *scan).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
            format!("{text} is no scan; known: {}", names.join(", "))
        })
    }
}

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) scan: Scan,
    pub(crate) chunk_bytes: u64,
    pub(crate) depth: u32,
    /// Scheduling priority of the scan's threads.
    pub(crate) nice: i32,
}

impl Plan {
    /// Without what makes no difference.
    pub(crate) fn normal(self) -> Self {
        match self.scan {
            Scan::None => Self { chunk_bytes: 4096, depth: 1, nice: 0, ..self },
            Scan::Direct | Scan::Map => Self { chunk_bytes: 1 << 20, depth: 1, ..self },
            Scan::DontNeed | Scan::DontCache => Self { depth: 1, ..self },
            Scan::Paced | Scan::Unpaced | Scan::Uring => self,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = NAMES.iter().find(|(scan, _)| *scan == self.scan).expect("all are named");
        match self.scan {
            Scan::None | Scan::Map => f.write_str(name)?,
            _ => write!(f, "{name} {} KiB x {}", self.chunk_bytes >> 10, self.depth)?,
        }
        if self.nice == 0 { Ok(()) } else { write!(f, " nice {}", self.nice) }
    }
}

/// What a scan works on.
pub(crate) struct Scanner<'a> {
    pub(crate) pool: &'a std::sync::Arc<Pool>,
    pub(crate) mblocks: &'a [Mblock],
    pub(crate) volume: &'a Path,
    pub(crate) stop: &'a AtomicBool,
}

impl Scanner<'_> {
    /// Scans until it is told to stop; `scanned` counts bytes.
    pub(crate) fn run(&self, plan: &Plan, rate: u64, scanned: &AtomicU64) -> Outcome<()> {
        // Of this thread, and of those that it starts.
        rustix::process::setpriority_process(None, plan.nice)?;
        match plan.scan {
            Scan::None => Ok(()),
            Scan::Paced => self.in_threads(plan.depth, ENGINE_READ_BYTES, u64::MAX, scanned),
            Scan::Unpaced => self.in_threads(plan.depth, plan.chunk_bytes, rate, scanned),
            Scan::Direct => self.in_threads(1, 1 << 20, rate, scanned),
            Scan::Uring => self.by_queue(plan, rate, scanned),
            Scan::DontNeed | Scan::DontCache => self.buffered(plan, rate, scanned),
            Scan::Map => self.mapped(rate, scanned),
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    /// As many compactions as `threads`, each over its share of the objects.
    fn in_threads(
        &self,
        threads: u32,
        read_bytes: u64,
        rate: u64,
        scanned: &AtomicU64,
    ) -> Outcome<()> {
        let share = self.mblocks.len().div_ceil(usize::try_from(threads)?);
        let ends: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let shares = self.mblocks.chunks(share);
            let handles: Vec<_> = shares
                .map(|mblocks| {
                    let own_rate = rate / u64::from(threads);
                    scope.spawn(move || {
                        self.compaction(mblocks, read_bytes, own_rate, scanned)
                            .map_err(|error| error.to_string())
                    })
                })
                .collect();
            let joined = handles.into_iter().map(ScopedJoinHandle::join);
            joined.map(|end| end.unwrap_or_else(|_| Err("a scanner panicked".into()))).collect()
        });
        ends.into_iter().try_for_each(|end| end.map_err(Into::into))
    }

    fn compaction(
        &self,
        mblocks: &[Mblock],
        read_bytes: u64,
        rate: u64,
        scanned: &AtomicU64,
    ) -> Outcome<()> {
        let mut schedule = Schedule::new(rate);
        let mut buf = IoBuf::zeroed(usize::try_from(read_bytes)?);
        for mblock in mblocks.iter().cycle() {
            for at in (0..mblock.len_bytes()).step_by(buf.len()) {
                if !self.goes_on() {
                    return Ok(());
                }
                schedule.wait(read_bytes);
                mblock.read_at_priority(at, &mut buf, Priority::Compaction)?;
                scanned.fetch_add(read_bytes, Relaxed);
            }
        }
        Ok(())
    }

    /// Straight from the volume, through the queue.
    fn by_queue(&self, plan: &Plan, rate: u64, scanned: &AtomicU64) -> Outcome<()> {
        let end = std::fs::metadata(self.volume)?.len() / plan.chunk_bytes * plan.chunk_bytes;
        let chunk = usize::try_from(plan.chunk_bytes)?;
        let mut schedule = Schedule::new(rate);
        let (tx, rx) = mpsc::channel();
        let mut in_flight = 0;
        let mut at = 0;
        while self.goes_on() || in_flight > 0 {
            if self.goes_on() && in_flight < plan.depth {
                schedule.wait(plan.chunk_bytes);
                let tx = tx.clone();
                let done = Box::new(move |end: mpool::Result<IoBuf>| {
                    // The receiver outlives what is in flight.
                    let _ = tx.send(end.map(|buf| buf.len() as u64));
                });
                self.pool.queue().submit_read(at, chunk, Priority::Compaction, done);
                in_flight += 1;
                at = (at + plan.chunk_bytes) % end;
            }
            let full = in_flight == plan.depth || !self.goes_on();
            let ended = if full { rx.recv().ok() } else { rx.try_recv().ok() };
            if let Some(end) = ended {
                scanned.fetch_add(end?, Relaxed);
                in_flight -= 1;
            }
        }
        Ok(())
    }

    fn buffered(&self, plan: &Plan, rate: u64, scanned: &AtomicU64) -> Outcome<()> {
        let file = File::open(self.volume)?;
        let end = file.metadata()?.len() / plan.chunk_bytes * plan.chunk_bytes;
        let mut schedule = Schedule::new(rate);
        let mut buf = vec![0; usize::try_from(plan.chunk_bytes)?];
        let mut at = 0;
        while self.goes_on() {
            schedule.wait(plan.chunk_bytes);
            if plan.scan == Scan::DontCache {
                let flags = ReadWriteFlags::from_bits_retain(DONTCACHE);
                let read = preadv2(&file, &mut [IoSliceMut::new(&mut buf)], at, flags)?;
                scanned.fetch_add(read as u64, Relaxed);
            } else {
                file.read_exact_at(&mut buf, at)?;
                fadvise(&file, at, NonZeroU64::new(plan.chunk_bytes), Advice::DontNeed)?;
                scanned.fetch_add(plan.chunk_bytes, Relaxed);
            }
            at = (at + plan.chunk_bytes) % end;
        }
        Ok(())
    }

    fn mapped(&self, rate: u64, scanned: &AtomicU64) -> Outcome<()> {
        const READ_BYTES: u64 = 64 << 10;
        let map = self.pool.map(self.mblocks, Class::Cold)?;
        let mut schedule = Schedule::new(rate);
        let mut scratch = IoBuf::zeroed(usize::try_from(READ_BYTES)?);
        for object in (0..self.mblocks.len()).cycle() {
            for at in (0..self.mblocks[object].len_bytes()).step_by(scratch.len()) {
                if !self.goes_on() {
                    return Ok(());
                }
                schedule.wait(READ_BYTES);
                // Twice: what is read once only goes past the map.
                for _ in 0..2 {
                    let bytes = map.read(object, at..at + READ_BYTES, &mut scratch)?;
                    std::hint::black_box(bytes[0]);
                }
                scanned.fetch_add(READ_BYTES, Relaxed);
            }
        }
        Ok(())
    }
}
