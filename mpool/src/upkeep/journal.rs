//! Housekeeping of the pool's own journal: rewriting it, and moving it to longer logs.
//!
//! Rewriting is what any journal does (`mdc::background`). When the state has come to fill more
//! than half a log, the journal moves:
//!
//! ```text
//! 1. two extents for logs of twice the length, filled with zeros, a piece a step
//! 2. begin, flush (of the zeros too), state, end in the first of them, as in any rewriting
//! 3. superblock copy 1, then copy 2, with the new places and the next generation
//! 4. the old extents are free
//! ```
//!
//! A crash before 3 leaves two extents that nothing names, and the old logs, which count; a crash
//! between the copies leaves a superblock of the later generation and new logs with the same
//! content, and the other copy is written again at open. Appends are kept out from the end of 2 to
//! the end of 3, so nothing is acknowledged that one of the two journals lacks.
//!
//! A log that cannot be written is left in the same way, for two of the same length. Where no two
//! extents are free, the journal is rewritten in its place and tries again after that.

use crate::{
    address::Extent,
    chores::{Chore, Progress},
    error::Result,
    heads::log::{Kept, Log},
    io::volumes::Volumes,
    journal::{
        anchor::Anchor,
        mdc::{
            background::{Background, Step},
            due::Growth,
            rewrite::Target,
        },
        pool_journal::Journal,
    },
    media::Priority,
    space::{Lease, Space},
};
use parking_lot::Mutex;
use std::sync::Arc;

/// Zeros written in one step.
const ZERO_BYTES: u64 = 4 << 20;

pub(crate) struct JournalChore {
    journal: Arc<Journal>,
    volume: Arc<Volumes>,
    space: Arc<Space>,
    background: Background,
    home: Home,
    next: Option<NewLogs>,
    growth: Growth,
}

/// What keeps the journal's logs from being free. The chore exchanges them when the journal has
/// moved; the pool holds them, too, and lets go of them when no chore is left that could take them
/// for free space.
pub(crate) type JournalLogs = Arc<Mutex<[Lease; 2]>>;

/// Where the journal lives.
struct Home {
    anchor: Arc<Anchor>,
    leases: JournalLogs,
}

/// Where it will live.
struct NewLogs {
    leases: [Lease; 2],
    /// What is still to be filled with zeros, last first.
    blank: Vec<Extent>,
}

impl NewLogs {
    fn logs(&self) -> [Log; 2] {
        self.leases.each_ref().map(|lease| Log::twice(lease.extent()))
    }
}

impl JournalChore {
    pub(crate) fn new(
        journal: &Arc<Journal>,
        volume: &Arc<Volumes>,
        space: &Arc<Space>,
        anchor: Arc<Anchor>,
    ) -> (Self, JournalLogs) {
        let logs = anchor.superblock().logs;
        let leases = Arc::new(Mutex::new(logs.map(|log| space.adopt(vec![log.extent()]))));
        let chore = Self {
            journal: Arc::clone(journal),
            volume: Arc::clone(volume),
            space: Arc::clone(space),
            background: Background::default(),
            home: Home { anchor, leases: Arc::clone(&leases) },
            next: None,
            growth: Growth::Possible,
        };
        (chore, leases)
    }

    /// Finds room for longer logs.
    fn prepare(&mut self, len: u64) -> Result<()> {
        let lease = || self.space.lease_on_root(Kept::Twice.copies() * len);
        let leases = [lease()?, lease()?];
        let mut next = NewLogs { leases, blank: Vec::new() };
        next.blank.extend(next.logs().into_iter().flat_map(|log| pieces(log.extent())));
        self.next = Some(next);
        Ok(())
    }

    /// One piece of zeros; then the attempt to move, whose begin mark is flushed, and they with it.
    fn fill(&mut self) -> Result<()> {
        let Some(next) = &mut self.next else { return Ok(()) };
        if let Some(piece) = next.blank.last() {
            self.volume.write_zeros(*piece, Priority::Compaction)?;
            next.blank.pop();
        } else {
            self.background.move_to(&*self.journal, next.logs());
        }
        Ok(())
    }

    fn moved(&mut self) {
        let next = self.next.take().expect("it has moved to them");
        let bytes = next.logs()[0].len;
        // The old ones are freed here.
        *self.home.leases.lock() = next.leases;
        self.volume.metrics().journal_moves.add(1);
        tracing::info!(bytes, "the pool's journal has moved to longer logs");
    }
}

fn pieces(log: Extent) -> impl Iterator<Item = Extent> {
    (log.offset..log.end())
        .step_by(usize::try_from(ZERO_BYTES).expect("a piece is small"))
        .map(move |offset| Extent { offset, len: ZERO_BYTES.min(log.end() - offset) })
}

impl JournalChore {
    /// One step of the rewriting or the move that is under way, or a look for garbage.
    fn rewrite(&mut self) -> Result<Progress> {
        let Self { journal, background, home, .. } = self;
        let mut move_to = |logs| home.anchor.move_journal(logs);
        let step = background.step(&**journal, self.growth, &mut move_to);
        match step {
            Step::Grow { len } => self.prepare(len)?,
            Step::Done(Target::NewLogs(_)) => self.moved(),
            Step::Done(Target::OtherLog) => self.growth = Growth::Possible,
            Step::Failed { target: Target::OtherLog, medium: true } => {
                self.prepare(self.journal.fill().len)?;
            }
            Step::Failed { target: Target::NewLogs(_), .. } => self.next = None,
            Step::Failed { .. } | Step::Idle | Step::More => {}
        }
        Ok(step.into())
    }
}

impl Chore for JournalChore {
    fn step(&mut self) -> Progress {
        let begins = self.background.is_idle() && self.next.is_some();
        let outcome = if begins { self.fill().map(|()| Progress::More) } else { self.rewrite() };
        outcome.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pool's journal cannot move to other logs yet");
            self.next = None;
            self.growth = Growth::Fixed;
            Progress::More
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{Options, Pool, ReturnOptions};
    use mpool_sim::SimDevice;
    use std::sync::Arc;

    /// A pool that ends lets go of its chores one after the other. What the journal's chore let go
    /// of was free then, and what was not gone yet cut it off the volume: no journal was left.
    #[test]
    #[expect(clippy::used_underscore_binding, reason = "the pool only keeps it")]
    fn the_journal_outlives_its_chore() {
        let returning = ReturnOptions { after_s: 0, ..ReturnOptions::default() };
        let options =
            Options { background: false, returning: Some(returning), ..Options::default() };
        let device = SimDevice::new(64 << 20);
        let pool = Pool::create(Arc::new(device.clone()), &options).unwrap();
        pool._journal_chore.end();
        while pool.tidy() {}
        drop(pool);
        Pool::open(Arc::new(device), &options).unwrap();
    }
}
