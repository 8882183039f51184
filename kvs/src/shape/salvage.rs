//! What an open does about damage that would stop it, and what that loses.
//!
//! By default nothing: the open is refused, for what goes on past damage loses something, and a
//! person must have asked for it. [`Salvage`](crate::Salvage) says what to do instead; [`Loss`]
//! says what that has cost, in revisions and keys as far as they can be told. On a pool that is
//! open for reading only, nothing of it is written: so one sees beforehand what would be lost, or
//! reads what is left.

use crate::error::Error;
use crate::key::{KvsId, Revision};
use crate::shape::kvsets::{Holds, Unusable};
use crate::shape::loss::{Loss, LostKey, LostRange, of_error};
use crate::shape::manifest;
use crate::shape::manifest::live::Live;
use crate::wal::Hole;
use crate::wal::mark;
use bytes::Bytes;

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
        range: None,
        keys: hole.keys.into_iter().map(key).collect(),
        keys_left_off: hole.keys_left_off,
    }
}

/// A kvset that is left out.
pub(crate) fn of_kvset(unusable: &Unusable) -> Loss {
    let Holds { kvs, from, to, revisions } = unusable.holds.clone();
    let mut loss = of_error(
        &unusable.error,
        &format!("{}; older values may show again, and deleted keys too", unusable.holds),
    );
    loss.revisions = Some(revisions);
    loss.range = Some(LostRange { kvs, from, to });
    loss
}

/// The name of a KVS whose creation is lost, and which has another now.
pub(crate) fn of_name(kvs: KvsId, name: &str) -> Loss {
    Loss {
        what: format!("the name of KVS {kvs}"),
        reason: format!("the edit that made it is lost; what the log has of it is in KVS {name}"),
        ..Loss::default()
    }
}

/// How an open that was refused because of damage goes on all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WayOut {
    /// By [`Salvage::log`](crate::Salvage::log).
    Log,
    /// By [`Salvage::skip_kvsets`](crate::Salvage::skip_kvsets).
    Kvsets,
    /// By [`Salvage::cut_manifest`](crate::Salvage::cut_manifest).
    Manifest,
    /// With a backup.
    Backup,
}

impl WayOut {
    /// What a person can do, by the commands of Millpond.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Log => {
                "millpond recover --wal skip-damaged, or --wal stop-at-damage, says what going on \
                 would lose; millpond serve --read-only --read-only-wal skip-damaged serves the rest"
            }
            Self::Kvsets => {
                "millpond recover --drop-kvsets takes it out, with what is in it; millpond serve \
                 --read-only --read-only-skip-kvsets serves the rest"
            }
            Self::Manifest => {
                "millpond recover --cut-manifest goes on without its last edits, and with what they \
                 made; millpond serve --read-only --read-only-skip-kvsets serves the rest"
            }
            Self::Backup => "restore from a backup; nothing else says which kvsets there are",
        }
    }
}

impl Error {
    /// How the open that ended with this error can go on; `None` if it was not damage.
    pub fn way_out(&self) -> Option<WayOut> {
        let Self::Corrupt { what, reason } = self else { return None };
        if what.starts_with("kvset ") {
            return Some(WayOut::Kvsets);
        }
        if what.contains("write-ahead log") {
            return Some(WayOut::Log);
        }
        let has_end = [manifest::MISFIT, manifest::UNKNOWN, mark::CLOSED];
        let is_cut = what.starts_with("manifest") && has_end.iter().any(|at| reason.contains(at));
        Some(if is_cut { WayOut::Manifest } else { WayOut::Backup })
    }
}
