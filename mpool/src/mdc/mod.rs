//! MDC ("metadata container"): a crash-safe journal in two logs.
//!
//! One log is active and appended to, one frame per record, each durable before `append` returns.
//! When it is full, the owner's present state is written into the other log, which then becomes the
//! active one. `pair` keeps the two in order, `elect` decides at open which one counts, `scan`
//! reads a log and tells its torn end from rot, `frame` owns the bytes.
//!
//! ```text
//! active log   [begin g][state ...][end][record][record]...torn or old bytes
//! passive log  [retired: successor g] or remains of an unfinished checkpoint
//! ```
//!
//! The pool keeps one for itself; its users get their own through [`crate::Pool::create_mdc`].

pub(crate) mod elect;
pub(crate) mod frame;
pub(crate) mod pair;
pub(crate) mod record;
pub(crate) mod scan;

use crate::{error::Result, id::MdcId, options::in_range, pool::OpenMdc};
use pair::LogPair;
use parking_lot::Mutex;

/// The longest record: bounds the buffer a reader needs before it can trust anything of a frame.
pub const MDC_RECORD_BYTES_MAX: usize = 1 << 20;

/// A journal of a pool's user.
pub struct Mdc {
    pair: Mutex<LogPair>,
    /// Marks the journal as open; gone with this handle.
    open: OpenMdc,
}

impl Mdc {
    pub(crate) fn new(pair: LogPair, open: OpenMdc) -> Self {
        Self { pair: Mutex::new(pair), open }
    }

    /// The journal's id.
    pub fn id(&self) -> MdcId {
        self.open.id()
    }

    /// Appends one record (1..=1 MiB), durable on return. If it does not fit, rewrites the log into
    /// its other half first: `state` gives the records that describe everything *before* this
    /// append.
    ///
    /// Appends from several threads are serialised. Whoever keeps the state in memory must
    /// therefore apply each record under a lock that it also holds while appending; else `state`
    /// may miss a record that another thread has appended and not yet applied.
    ///
    /// [`crate::Error::Full`] if state and record together do not fit into one log: nothing has
    /// changed then. A log should hold its owner's state a few times over: the closer the state
    /// comes to the log's length, the more often it is rewritten. An error of scope
    /// [`crate::Scope::Pool`] leaves unknown whether the record is there; no more are accepted
    /// then.
    pub fn append(&self, record: &[u8], state: &mut dyn FnMut() -> Vec<Vec<u8>>) -> Result<()> {
        in_range("length of an MDC record", record.len() as u64, 1, MDC_RECORD_BYTES_MAX as u64)?;
        self.pair.lock().append(record, state)
    }

    /// Bytes of the active log in use, frames included.
    pub fn used_bytes(&self) -> u64 {
        self.pair.lock().used_bytes()
    }

    /// Size of one log: state and appends since the last rewrite share it.
    pub fn log_bytes(&self) -> u64 {
        self.pair.lock().log_bytes()
    }
}
