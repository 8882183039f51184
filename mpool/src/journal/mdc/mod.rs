//! MDC ("metadata container"): a crash-safe journal in two logs.
//!
//! One log is active and appended to, one frame per record, each durable before `append` returns.
//! When it is nearly full, the owner's present state is written into the other log, which then
//! becomes the active one: in the background if the owner has said how to get the state, else while
//! an append waits. `pair` keeps the two in order, `due` says when, `background` takes the steps,
//! `rewrite` is one attempt, `elect` decides at open which log counts, `scan` reads a log and tells
//! its torn end from rot, `writer` writes one, `frame` owns the bytes. `log` says where a log lies,
//! and that it is kept twice, `heal` makes its copies alike again.
//!
//! ```text
//! active log   [begin g][state ...][end][record][record]...torn or old bytes
//! passive log  [retired: successor g] or remains of an unfinished checkpoint
//! ```
//!
//! The pool keeps one for itself; its users get their own through [`crate::Pool::create_mdc`].

pub(crate) mod background;
pub(crate) mod due;
pub(crate) mod elect;
pub(crate) mod frame;
pub(crate) mod heal;
mod mend;
pub(crate) mod open;
pub(crate) mod pair;
pub(crate) mod rewrite;
pub(crate) mod scan;
pub(crate) mod turn;
pub(crate) mod writer;

use crate::{
    chores::{Bell, Chore, Progress, Registered},
    error::{Error, Result},
    id::MdcId,
    journal::mdc::open::OpenMdc,
    metrics::{PoolMetrics, histogram::Start},
    options::in_range,
};
use background::{Background, MdcSnapshot, Owner};
use due::Growth;
use pair::{LogPair, MdcRoom, no_move};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use turn::Turn;

/// The longest record: bounds the buffer a reader needs before it can trust anything of a frame.
pub const MDC_RECORD_BYTES_MAX: usize = 1 << 20;

/// Takes a snapshot of a journal's state; see [`Mdc::compact_in_background`].
pub type MdcState = dyn Fn() -> MdcSnapshot + Send + Sync;

/// A journal of a pool's user.
pub struct Mdc {
    /// Drops first: ends what the background does with `shared`.
    chore: Mutex<Option<Registered>>,
    shared: Arc<Shared>,
    bell: Bell,
}

struct Shared {
    pair: Turn<LogPair>,
    state: OnceLock<Arc<MdcState>>,
    metrics: Arc<PoolMetrics>,
    /// Marks the journal as open; gone with this handle.
    open: OpenMdc,
}

impl Mdc {
    pub(crate) fn new(
        pair: LogPair,
        open: OpenMdc,
        metrics: &Arc<PoolMetrics>,
        bell: &Bell,
    ) -> Self {
        let shared = Shared {
            pair: Turn::new(pair, metrics),
            state: OnceLock::new(),
            metrics: Arc::clone(metrics),
            open,
        };
        let shared = Arc::new(shared);
        let shown = Arc::downgrade(&shared);
        let position = move || Some(shown.upgrade()?.pair.lock().position());
        shared.open.set_position(Arc::new(position));
        Self { chore: Mutex::new(None), shared, bell: bell.clone() }
    }

    /// The journal's id.
    pub fn id(&self) -> MdcId {
        self.shared.open.id()
    }

    /// From here on the log is rewritten before it is full: in the background, or by an append that
    /// finds no room. Once for each handle.
    ///
    /// `state` is called while no append runs, and returns a snapshot of all that has been applied
    /// so far; what later appends apply is not part of it. It should do no more than it
    /// must, since appends wait for it: share the state rather than copy it, if it can be shared.
    /// The snapshot is turned into records on the pool's housekeeping thread, with appends going
    /// on. `state` may take locks of its owner that are never held while appending; it may not use
    /// this journal.
    pub fn compact_in_background(&self, state: Arc<MdcState>) -> Result<()> {
        if self.shared.state.set(state).is_err() {
            let text = format!("{} is rewritten in the background already", self.id());
            return Err(Error::Options(text));
        }
        let chore =
            MdcChore { shared: Arc::clone(&self.shared), background: Background::default() };
        *self.chore.lock() = Some(self.bell.add(Box::new(chore))?);
        Ok(())
    }

    /// Appends one record (1..=1 MiB), durable on return, and calls `apply` once it is, before any
    /// other append and before any snapshot: state and log are in step by construction. `apply` may
    /// take the locks that `state` takes. Appends from several threads are serialised.
    ///
    /// [`crate::Error::Full`] if state and record together do not fit into one log, or if the
    /// record does not and there is no state yet ([`Mdc::compact_in_background`]): nothing has
    /// changed then, and `apply` has not been called. Of a log an eighth (at most 512 KiB) is kept
    /// for [`MdcRoom::Reserve`]. It should hold its owner's state a few times over: the closer the
    /// state comes to the log's length, the more often it is rewritten. An error of scope
    /// [`crate::Scope::Pool`] leaves unknown whether the record is there; no more are accepted
    /// then.
    pub fn append(&self, record: &[u8], room: MdcRoom, apply: impl FnOnce()) -> Result<()> {
        if self.shared.append(record, room, apply)? {
            self.bell.ring();
        }
        Ok(())
    }

    /// Where it ends: the generation of its last frame, and that frame's number in the generation.
    /// Later ends are greater, compared in this order.
    pub fn end(&self) -> (u64, u64) {
        let position = self.shared.pair.lock().position();
        (position.generation, position.seqno)
    }

    /// Bytes of the active log in use, frames included.
    pub fn used_bytes(&self) -> u64 {
        self.shared.pair.lock().used_bytes()
    }

    /// Size of one log: state and appends since the last rewrite share it.
    pub fn log_bytes(&self) -> u64 {
        self.shared.pair.lock().log_bytes()
    }
}

impl Shared {
    /// True if the log should be looked at.
    fn append(&self, record: &[u8], room: MdcRoom, apply: impl FnOnce()) -> Result<bool> {
        in_range("length of an MDC record", record.len() as u64, 1, MDC_RECORD_BYTES_MAX as u64)?;
        let start = Start::now();
        let mut pair = self.pair.lock();
        let state = self.state.get().map(|state| move || state()());
        pair.append(record, room, state.as_ref().map(|state| state as &dyn Fn() -> _))?;
        apply();
        let look = state.is_some() && pair.is_look_due();
        drop(pair);
        self.metrics.mdc_append.end(start);
        Ok(look)
    }
}

/// Rewrites a user's journal.
struct MdcChore {
    shared: Arc<Shared>,
    background: Background,
}

impl Chore for MdcChore {
    fn step(&mut self) -> Progress {
        self.background.step(&*self.shared, Growth::Fixed, &mut no_move).into()
    }
}

impl Owner for Shared {
    fn name(&self) -> String {
        self.open.id().to_string()
    }

    fn is_look_due(&self) -> bool {
        self.pair.lock().is_look_due()
    }

    fn background<R>(&self, step: impl FnOnce(&mut LogPair) -> R) -> R {
        self.pair.background(step)
    }

    fn snapshot(&self) -> MdcSnapshot {
        let state = self.state.get().expect("the chore begins when the state is known");
        state()
    }
}
