//! Errors of the engine.
//!
//! A caller asks one question: is it the call, the moment, or the store that is bad?
//! [`Error::scope`] answers it, so no caller matches on variants to decide.

use crate::key::{
    KEY_BYTES_MAX, KVS_MAX, KVS_NAME_BYTES_MAX, KeyText, Revision, SnapshotId, VALUE_BYTES_MAX,
};
use std::fmt;

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with the facts a person needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Key is empty or too long.
    #[error("key of {len} bytes: keys have 1 to {KEY_BYTES_MAX} bytes")]
    KeyLength {
        /// Length given.
        len: usize,
    },
    /// Value is too long.
    #[error(
        "value of {len} bytes: values have at most {VALUE_BYTES_MAX} bytes; split it over \
         several keys"
    )]
    ValueLength {
        /// Length given.
        len: usize,
    },
    /// A batch exceeds its limit.
    #[error("batch of {len} bytes: a batch has at most {max} bytes; write it in several")]
    BatchLength {
        /// Length so far.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// No KVS has this name.
    #[error("no KVS is named {name:?}; create it, or name one that is there")]
    NoSuchKvs {
        /// The name asked for.
        name: String,
    },
    /// The name is taken.
    #[error("a KVS named {name:?} exists")]
    KvsExists {
        /// The name asked for.
        name: String,
    },
    /// The name is malformed.
    #[error(
        "KVS name {name:?}: names have 1 to {KVS_NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and \
         are not . or .."
    )]
    KvsName {
        /// The name asked for.
        name: String,
    },
    /// The database is full of KVSs.
    #[error("the database holds {KVS_MAX} KVSs, its limit; drop one first")]
    KvsLimit,
    /// The KVS was dropped while this handle was in use.
    #[error("the KVS was dropped")]
    KvsDropped,
    /// The KVS was created after the snapshot it was looked for in.
    #[error("KVS {name:?} was created after the snapshot of revision {at}; take another one")]
    KvsNewer {
        /// Its name.
        name: Box<str>,
        /// Of the snapshot.
        at: Revision,
    },
    /// The snapshot was ended, because of its age or by
    /// [`Database::end_snapshot`](crate::Database::end_snapshot).
    #[error(
        "the snapshot of revision {at} was {why}, so that what it held becomes free; take another \
         one, and go on after the last key that was read"
    )]
    SnapshotEnded {
        /// Its revision.
        at: Revision,
        /// Why.
        why: SnapshotEnd,
    },
    /// No snapshot with this id lives.
    #[error("no snapshot {id} lives: it has ended, or there was none; list those that live")]
    NoSuchSnapshot {
        /// The id asked for.
        id: SnapshotId,
    },
    /// A handle was given to another database than its own, or to a later opening of its own.
    #[error("{what} is of {owner}, and was given to {given_to}; ask that one for a handle")]
    ForeignHandle {
        /// The handle.
        what: Box<str>,
        /// The open database that made it.
        owner: Box<str>,
        /// The open database that was to use it.
        given_to: Box<str>,
    },
    /// Writes come faster than they can be stored.
    #[error("writes are stalled by {reason}; try again later")]
    Stalled {
        /// What the writer would have waited for.
        reason: &'static str,
    },
    /// The volumes are full for puts. Deletes go on, and free what it takes.
    #[error(
        "{need_bytes} bytes wanted, 0 writable: of {free_bytes} free, {reserve_bytes} are kept for \
         the log, flushes and compaction; {}{}",
        way_out(*missing_bytes, *stuck_bytes),
        held(*held_bytes)
    )]
    Full {
        /// What was to be written.
        need_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What of that puts do not get.
        reserve_bytes: u64,
        /// About what must be deleted before puts are accepted again.
        missing_bytes: u64,
        /// What compaction needs beyond what is free before it can free anything; 0 as a rule.
        stuck_bytes: u64,
        /// What readers that live hold of what is deleted: free when they end.
        held_bytes: u64,
    },
    /// One compaction that was asked for runs at a time.
    #[error("compaction {number}, {what}, is running; wait for its end, or cancel it")]
    CompactionRuns {
        /// Its number.
        number: u64,
        /// What it compacts.
        what: Box<str>,
    },
    /// The range of a compaction makes no sense.
    #[error("the compaction has a range that it cannot have: {reason}")]
    CompactionRange {
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// The log has no room for another segment.
    #[error(
        "the log needs {need_bytes} bytes in one piece that can be overwritten, and finds none in \
         {free_bytes} free; delete data, grow a volume, add one, or make room on the disk"
    )]
    LogFull {
        /// Bytes of a segment.
        need_bytes: u64,
        /// What is free, though not in one piece.
        free_bytes: u64,
    },
    /// An option is out of its range.
    #[error("option {name} is {got}, must be in {min}..={max}")]
    Option {
        /// The option.
        name: &'static str,
        /// What was given.
        got: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// Bytes from the medium do not say what they must.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// What was being read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is stored for a key cannot be read; other keys are served.
    #[error("key {} of KVS {kvs:?} cannot be read; put it again or delete it", KeyText(key))]
    Damaged {
        /// Name of the KVS.
        kvs: Box<str>,
        /// The key.
        key: Box<[u8]>,
        /// What is wrong.
        source: Box<Error>,
    },
    /// A scan cannot say which keys there are in a range; it goes on, and shows of the range what
    /// other parts of the store hold.
    #[error("keys of KVS {kvs:?} from {} up to {} are not all listed", KeyText(from), KeyText(to))]
    DamagedRange {
        /// Name of the KVS.
        kvs: Box<str>,
        /// The first key that may be missing.
        from: Box<[u8]>,
        /// The first key after it that is not.
        to: Box<[u8]>,
        /// What is wrong.
        source: Box<Error>,
    },
    /// The pool holds something, and no manifest says what.
    #[error(
        "the pool holds {mblocks} mblocks, {segments} segments and {journals} journals, and no \
         manifest; restore it from a backup, or, if it is another program's, use a pool of your own"
    )]
    NoManifest {
        /// Mblocks in the pool.
        mblocks: u64,
        /// Segments in it.
        segments: u64,
        /// Journals in it.
        journals: u64,
    },
    /// The database was written by a newer version.
    #[error(
        "database format {found} is newer than {supported}, the newest this version knows; \
         upgrade Millpond"
    )]
    Format {
        /// Version found.
        found: u32,
        /// Newest version known.
        supported: u32,
    },
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
    /// The database is open for reading only.
    #[error("the database is open for reading only; open it for writing to change it")]
    ReadOnly,
    /// An earlier write or flush failed; nothing more is accepted, so that nothing acknowledged is
    /// lost.
    #[error("the database is read-only after a failed write: {cause}; restart to recover")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// The pool failed.
    #[error(transparent)]
    Pool(#[from] mpool::Error),
}

/// How far the damage reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The call is wrong; the same call will fail again.
    Call,
    /// The moment is wrong; the same call may succeed later.
    Moment,
    /// One object is damaged; other keys are served.
    Object,
    /// Nothing more can be written until a restart.
    Store,
}

/// How a full volume takes puts again.
fn way_out(missing_bytes: u64, stuck_bytes: u64) -> String {
    match stuck_bytes {
        0 => format!(
            "delete about {missing_bytes} bytes, grow a volume, add one, or make room on the disk"
        ),
        _ => format!(
            "compaction lacks {stuck_bytes} bytes to free what is deleted: drop a KVS, or grow a \
             volume by as much, add one, or make room on the disk"
        ),
    }
}

/// What a full store says of the space that readers hold.
fn held(held_bytes: u64) -> String {
    match held_bytes {
        0 => String::new(),
        _ => format!("; snapshots and scans that live hold {held_bytes} bytes of what is deleted"),
    }
}

impl Error {
    /// It with what caused it, on one line, for those who get it as text.
    pub(crate) fn with_sources(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }

    /// How far the damage reaches.
    pub fn scope(&self) -> Scope {
        match self {
            Self::KeyLength { .. }
            | Self::ValueLength { .. }
            | Self::BatchLength { .. }
            | Self::NoSuchKvs { .. }
            | Self::KvsExists { .. }
            | Self::KvsName { .. }
            | Self::KvsLimit
            | Self::KvsDropped
            | Self::KvsNewer { .. }
            | Self::SnapshotEnded { .. }
            | Self::NoSuchSnapshot { .. }
            | Self::ReadOnly
            | Self::ForeignHandle { .. }
            | Self::CompactionRange { .. }
            | Self::Option { .. } => Scope::Call,
            Self::Stalled { .. }
            | Self::CompactionRuns { .. }
            | Self::Full { .. }
            | Self::LogFull { .. }
            | Self::Pool(mpool::Error::Full { .. } | mpool::Error::Io { op: "grow", .. }) => {
                Scope::Moment
            }
            Self::Corrupt { .. } | Self::Damaged { .. } | Self::DamagedRange { .. } => {
                Scope::Object
            }
            Self::NoManifest { .. }
            | Self::Format { .. }
            | Self::Closed
            | Self::Poisoned { .. } => Scope::Store,
            Self::Pool(error) => match error.scope() {
                mpool::Scope::Call => Scope::Call,
                mpool::Scope::Object => Scope::Object,
                mpool::Scope::Pool => Scope::Store,
            },
        }
    }
}

/// Why a snapshot was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotEnd {
    /// It was older than the option `snapshot_age_max_ms` allows.
    Age {
        /// The limit.
        max_ms: u64,
    },
    /// By [`Database::end_snapshot`](crate::Database::end_snapshot).
    Requested,
}

impl fmt::Display for SnapshotEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age { max_ms } => write!(
                f,
                "held for longer than {max_ms} ms (option snapshot_age_max) and was ended"
            ),
            Self::Requested => f.write_str("ended on request (millpond snapshots --end)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_names_kvs_and_key_and_leaves_the_cause_to_its_source() {
        let source = || Box::new(Error::Corrupt { what: "page 3".into(), reason: "rot".into() });
        let (kvs, key) = ("birds".into(), b"he\nron"[..].into());
        let error = Error::Damaged { kvs, key, source: source() };
        let text = error.to_string();
        assert!(text.contains("\"birds\"") && text.contains(r#""he\nron""#), "{text}");
        assert!(!text.contains("page 3"), "{text}");
        assert!(
            std::error::Error::source(&error).is_some_and(|e| e.to_string().contains("page 3"))
        );
        let (kvs, from, to) = ("birds".into(), b"a"[..].into(), vec![b'x'; 1344].into());
        let error = Error::DamagedRange { kvs, from, to, source: source() };
        assert_eq!(error.scope(), Scope::Object);
        let text = error.to_string();
        assert!(text.contains(r#"from "a" up to "xxx"#) && text.len() < 300, "{text}");
    }
}
