//! Checking a database that nobody has open: whether it would open, and what would stop it.
//!
//! The pool checks its own structures ([`Pool::check_dir`]); what is the database's is looked at
//! here, on a pool that is open for reading only: every edit of the manifest, every kvset's hblock,
//! footers and heads of vblocks, every frame of the write-ahead log that an open needs. Names are
//! those that a scrub and the errors of an open give.

use crate::db::Database;
use crate::db::recover::check_known;
use crate::entry::batch::WriteBatch;
use crate::error::Error;
use crate::progress::OpenProgress;
use crate::shape::kvsets::{Kvsets, Unusable};
use crate::shape::manifest::Manifest;
use crate::shape::manifest::live::Live;
use crate::shape::references::mblocks_of;
use crate::shape::salvage::WayOut;
use crate::wal;
use mpool::{Class, Issue, MblockId, Pool, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;

fn way_out(error: &Error) -> &'static str {
    error.way_out().unwrap_or(WayOut::Backup).advice()
}

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

    /// Damage that loses nothing.
    fn warn(&mut self, error: &Error, owner: &str) {
        let text = format!("{error}; its values carry checks of their own and are served");
        let way_out = "nothing needs to be done: it goes when its values are rewritten".to_owned();
        let what = owner.to_owned();
        self.issues.push(Issue { severity: Severity::Warning, what, text, way_out });
    }

    fn fail(&mut self, error: Error, otherwise: &str) {
        let way_out = way_out(&error);
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
                checked.fail(error, "manifest");
                return checked;
            }
        };
        check_kvsets(pool, &live, &mut checked);
        check_log(pool, &live, &mut checked);
        checked
    }
}

fn check_kvsets(pool: &Arc<Pool>, live: &Live, checked: &mut Checked) {
    let Kvsets { usable, unusable } =
        match Kvsets::open(pool, live, Class::Cold, &OpenProgress::default()) {
            Ok(kvsets) => kvsets,
            Err(error) => return checked.fail(error, "kvset"),
        };
    for (kvs, _, kvset) in usable {
        let meta = kvset.meta();
        let name = live.kvs.get(&kvs).map_or("", |kvs| &kvs.name);
        for error in kvset.damaged_heads() {
            checked.warn(&error, &format!("kvset {} of KVS {name}", meta.id.get()));
        }
        for (mblock, _) in mblocks_of(meta) {
            let part = crate::db::scrub::part_of(meta, mblock).unwrap_or("mblock");
            let owner = format!("kvset {} of KVS {name}, {part}", meta.id.get());
            checked.owners.insert(mblock, owner);
        }
    }
    for Unusable { id, hblock, error, holds } in unusable {
        let owner = format!("kvset {} of KVS {}, hblock", id.get(), holds.kvs);
        checked.owners.insert(hblock, owner);
        checked.fail(error, "kvset");
        if let Some(issue) = checked.issues.last_mut() {
            issue.text = format!("{}; {holds}", issue.text);
        }
    }
}

fn check_log(pool: &Arc<Pool>, live: &Live, checked: &mut Checked) {
    let mut unknown = None;
    let mut see = |revision, batch: &WriteBatch| {
        let mut all = batch.ops().map(|(kvs, ..)| check_known(revision, kvs, live));
        unknown = unknown.take().or_else(|| all.find_map(Result::err));
        Ok(())
    };
    let holes = wal::survey(pool, live.floor, &mut see);
    if let Some(error) = unknown {
        checked.fail(error, "manifest");
    }
    match holes {
        Ok(holes) => {
            for hole in holes {
                let lost = hole.revisions.map_or_else(String::new, |(first, last)| {
                    format!("; revisions {first} to {last} are lost")
                });
                checked.note(hole.what, hole.reason + &lost, WayOut::Log.advice());
            }
        }
        Err(error) => checked.fail(error, "write-ahead log"),
    }
}
