//! Checking a database that nobody has open: whether it would open, and what would stop it.
//!
//! The pool checks its own structures ([`Pool::check_dir`]); what is the database's is looked at
//! here, on a pool that is open for reading only: every edit of the manifest, every kvset's hblock
//! and footers, every frame of the write-ahead log that an open needs. Names are those that a scrub
//! and the errors of an open give.

use crate::db::Database;
use crate::error::Error;
use crate::key::Revision;
use crate::kvset::Kvset;
use crate::manifest::Manifest;
use crate::manifest::live::Live;
use crate::salvage::{keys_of, name_kvset};
use crate::store::mblocks_of;
use crate::wal;
use mpool::{Class, Issue, MblockId, Pool, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;

const LOG_WAY_OUT: &str = "millpond recover says what --wal skip-damaged and --wal \
                           stop-at-damage would lose; millpond serve --read-only serves the rest";
const KVSET_WAY_OUT: &str = "millpond recover --drop-kvsets takes it out, with what is in it; \
                             millpond serve --read-only --read-only-skip-kvsets serves the rest";
const MANIFEST_WAY_OUT: &str = "restore from a backup; nothing else says which kvsets there are";

/// Stands in the error of a manifest that is whole but for its last edits.
const CUT: &str = "it was closed at frame";
const CUT_WAY_OUT: &str = "millpond recover --cut-manifest goes on without its last edits, and \
                           with what they made";

/// What a check of the database found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What would stop an open, or lose something.
    pub issues: Vec<Issue>,
    /// Whose mblocks are: "kvset 17 of KVS users, vblock".
    pub owners: BTreeMap<MblockId, String>,
}

impl Checked {
    fn note(&mut self, what: String, text: String, way_out: &str) {
        let way_out = way_out.to_owned();
        self.issues.push(Issue { severity: Severity::Error, what, text, way_out });
    }

    fn fail(&mut self, error: Error, otherwise: &str, way_out: &str) {
        match error {
            Error::Corrupt { what, reason } => self.note(what, reason, way_out),
            other => self.note(otherwise.to_owned(), other.to_string(), way_out),
        }
    }
}

impl Database {
    /// Checks the database on a pool, which must be open for reading only and is of no other use
    /// afterwards. A pool without a database is sound.
    pub fn check_on(pool: &Arc<Pool>) -> Checked {
        let mut checked = Checked::default();
        if !pool.is_read_only() || !Self::is_on(pool) {
            return checked;
        }
        let live = match Manifest::open(pool, &[], None) {
            Ok(manifest) => manifest.live().clone(),
            Err(error) => {
                let is_cut = error.to_string().contains(CUT);
                let way_out = if is_cut { CUT_WAY_OUT } else { MANIFEST_WAY_OUT };
                checked.fail(error, "manifest", way_out);
                return checked;
            }
        };
        check_kvsets(pool, &live, &mut checked);
        check_log(pool, live.floor, &mut checked);
        checked
    }
}

fn check_kvsets(pool: &Arc<Pool>, live: &Live, checked: &mut Checked) {
    for (id, kvset) in &live.kvsets {
        match Kvset::open(pool, kvset.hblock, Class::Cold, Class::Cold) {
            Ok(opened) => {
                let meta = opened.meta();
                let name = live.kvs.get(&kvset.kvs).map_or("", |kvs| &kvs.name);
                for mblock in mblocks_of(meta) {
                    let part = crate::scrub::part_of(meta, mblock).unwrap_or("mblock");
                    let owner = format!("kvset {} of KVS {name}, {part}", id.get());
                    checked.owners.insert(mblock, owner);
                }
            }
            Err(error) => {
                let named = name_kvset(id.get(), kvset, live, error);
                checked.fail(named, "kvset", KVSET_WAY_OUT);
                if let Some(issue) = checked.issues.last_mut() {
                    issue.text = format!("{}; {}", issue.text, keys_of(kvset, live));
                }
            }
        }
    }
}

fn check_log(pool: &Arc<Pool>, floor: Revision, checked: &mut Checked) {
    match wal::survey(pool, floor) {
        Ok(holes) => {
            for hole in holes {
                let lost = hole.revisions.map_or_else(String::new, |(first, last)| {
                    format!("; revisions {first} to {last} are lost")
                });
                checked.note(hole.what, hole.reason + &lost, LOG_WAY_OUT);
            }
        }
        Err(error) => checked.fail(error, "write-ahead log", LOG_WAY_OUT),
    }
}
