//! What an open does about damage that would stop it, and what that loses.
//!
//! By default nothing: the open is refused, for whatever goes on past damage loses something, and
//! somebody must have asked for it. [`Salvage`] says what to do instead; [`Loss`] says what that
//! has cost, in revisions and keys as far as they can be told. On a pool that is open for reading
//! only, nothing of it is written: so one sees beforehand what would be lost, or reads what is
//! left.

use crate::error::{Error, Result};
use crate::key::{KvsId, Revision};
use crate::manifest::live::{Live, LiveKvset};
use crate::wal::Hole;
use bytes::Bytes;
use std::fmt;
use std::ops::RangeInclusive;

/// What to do about damage that would stop an open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// About damage in the write-ahead log.
    pub log: LogDamage,
    /// Leave kvsets out that cannot be opened, and on a pool that is open for writing take them
    /// out for good. Older values of their keys may show again, deleted keys too. Default false.
    pub skip_kvsets: bool,
    /// Go on with a manifest whose last edits, before a clean close, are lost: kvsets that they
    /// made are gone. A KVS that they made, and that the log writes to, is there again with what
    /// the log has of it, as `recovered-N`. Default false.
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

/// Something that an open has left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What is damaged, by its name.
    pub what: String,
    /// What is wrong, or what follows from it.
    pub reason: String,
    /// Revisions that are lost, some of which may never have been given out.
    pub revisions: Option<RangeInclusive<u64>>,
    /// Keys that the lost writes changed, as far as they can be read; at most 10,000.
    pub keys: Vec<LostKey>,
    /// How many more there were.
    pub keys_left_off: u64,
}

/// A key that a lost write changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostKey {
    /// Name of its KVS.
    pub kvs: String,
    /// The key.
    pub key: Bytes,
    /// Of the lost write.
    pub revision: Revision,
    /// Read from bytes whose checksum is right. Otherwise it may be wrong itself.
    pub is_certain: bool,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// Holes in the log, for whoever opened the database.
pub(crate) fn of_holes(holes: Vec<Hole>, live: &Live) -> Vec<Loss> {
    holes.into_iter().map(|hole| of_hole(hole, live)).collect()
}

fn of_hole(hole: Hole, live: &Live) -> Loss {
    let name = |id: KvsId| {
        live.kvs.get(&id).map_or_else(|| format!("dropped {id}"), |kvs| kvs.name.clone())
    };
    let key = |(revision, kvs, key): (Revision, KvsId, Bytes)| LostKey {
        kvs: name(kvs),
        key,
        revision,
        is_certain: hole.is_certain,
    };
    Loss {
        what: hole.what,
        reason: hole.reason,
        revisions: hole.revisions.map(|(first, last)| first.get()..=last.get()),
        keys: hole.keys.into_iter().map(key).collect(),
        keys_left_off: hole.keys_left_off,
    }
}

/// A kvset that is left out.
pub(crate) fn of_kvset(error: &Error, keys: &str) -> Loss {
    let (what, reason) = match error {
        Error::Corrupt { what, reason } => (what.clone(), reason.clone()),
        other => ("kvset".to_owned(), other.to_string()),
    };
    Loss {
        what,
        reason: format!("{reason}; {keys}, older values may show again, and deleted keys too"),
        revisions: None,
        keys: Vec::new(),
        keys_left_off: 0,
    }
}

/// The error of a kvset that cannot be opened, with the name of whose it is.
pub(crate) fn name_kvset(id: u64, kvset: &LiveKvset, live: &Live, error: Error) -> Error {
    let name = live.kvs.get(&kvset.kvs).map_or("a dropped one", |kvs| &kvs.name);
    let owner = format!("kvset {id} of KVS {name} (hblock {})", kvset.hblock);
    match error {
        Error::Corrupt { what, reason } => {
            Error::Corrupt { what: owner, reason: format!("{what}: {reason}") }
        }
        Error::Pool(error @ (mpool::Error::Corrupt { .. } | mpool::Error::NoSuchObject { .. })) => {
            Error::Corrupt { what: owner, reason: error.to_string() }
        }
        Error::Pool(error @ mpool::Error::Io { .. }) => {
            tracing::error!(owner, "a kvset cannot be read");
            Error::Pool(error)
        }
        other => other,
    }
}

/// Which keys a kvset may hold, in words, as far as the manifest tells.
pub(crate) fn keys_of(kvset: &LiveKvset, live: &Live) -> String {
    let Some(kvs) = live.kvs.get(&kvset.kvs) else { return "nothing of use is lost".to_owned() };
    let Some(first) = kvs.leaves.get(&kvset.node) else {
        return "any key of the KVS may be in it".to_owned();
    };
    let next = kvs.leaves.values().filter(|key| *key > first).min();
    let until = next.map_or_else(String::new, |key| format!(" and before {:?}", text(key)));
    format!("keys from {:?} on{until} may be in it", text(first))
}

fn text(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The last edits of the manifest.
pub(crate) fn of_manifest(error: &Error) -> Loss {
    let (what, reason) = match error {
        Error::Corrupt { what, reason } => (what.clone(), reason.clone()),
        other => ("manifest".to_owned(), other.to_string()),
    };
    Loss {
        what,
        reason: format!("{reason}; KVSs and kvsets that the edits between made are lost"),
        revisions: None,
        keys: Vec::new(),
        keys_left_off: 0,
    }
}

/// The name of a KVS whose creation is lost, and which has another now.
pub(crate) fn of_name(kvs: KvsId, name: &str) -> Loss {
    Loss {
        what: format!("the name of KVS {kvs}"),
        reason: format!("the edit that made it is lost; what the log has of it is in KVS {name}"),
        revisions: None,
        keys: Vec::new(),
        keys_left_off: 0,
    }
}

/// Whether an open goes on without something that has this error.
pub(crate) fn may_skip(salvage: Salvage, error: &Error) -> bool {
    salvage.skip_kvsets && !matches!(error, Error::Format { .. })
}

/// Err if there is none to be had.
pub(crate) fn check_writable(read_only: bool) -> Result<()> {
    if read_only { Err(Error::ReadOnly) } else { Ok(()) }
}
