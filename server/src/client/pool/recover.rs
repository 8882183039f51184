//! `millpond recover`: a store that damage keeps from opening, opened again at the price of what is
//! damaged.
//!
//! The store is opened for reading only first, with everything left out that was asked for: that
//! says what would be lost, and writes nothing. Only then, if asked, what is damaged is copied as
//! files (`keep`), the store is opened for writing, what its log still holds goes into kvsets, and
//! the damaged log is never read again. Each step of that
//! is one that a crash may cut off; the next recovery ends it.

use super::refused_at;
use super::{keep, offline};
use crate::api::problem::Chain;
use crate::cli::pool::{Recover, RecoverWal};
use crate::client::{Failure, print};
use crate::engine::DEFAULT_KVS;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use kvs::{Database, LogDamage, Loss, LostKey, LostRange, Salvage, WayOut};
use mpool::{FoundJournal, Pool};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// Keys of a loss that are shown to people; the JSON has all.
const KEYS_SHOWN: usize = 20;

pub(crate) fn run(recover: &Recover) -> Result<(), Failure> {
    if let Some(dir) = &recover.keep {
        keep::check_empty(dir)?;
    }
    let (pool, found) = pool(recover)?;
    let database = open(recover, pool)?;
    let (losses, condemned) = (database.losses().to_vec(), database.condemned().to_vec());
    // Its lock goes with it.
    drop(database);
    let is_sound = losses.is_empty() && found.is_none();
    let applies = recover.apply && !is_sound;
    if !recover.json {
        // Before it is done, so that it is known whatever becomes of this program.
        print((found.map(found_text).unwrap_or_default() + &text(&losses)).as_bytes())?;
    }
    if applies {
        // What the look has shown is printed, and what is repaired beside that is not.
        offline::tell_repairs();
        if let Some(dir) = &recover.keep {
            // Not the pool of the look, whose memory has the store without them.
            let (pool, _) = self::pool(recover)?;
            keep::copy(&pool, &condemned, &losses, dir)?;
        }
        if found.is_some() {
            // Closed again: it is opened below with its own limits, which are in the journal.
            drop(offline::open_lost(&recover.place, false)?);
        }
        apply(recover)?;
    }
    if recover.json {
        let losses: Vec<Value> = losses.iter().map(document).collect();
        let superblock = found.map(found_document);
        let all = json!({ "applied": applies, "superblock": superblock, "losses": losses });
        print(format!("{all:#}\n").as_bytes())?;
    } else if applies {
        print(b"done: the store opens again\n")?;
    }
    if is_sound || recover.apply {
        return Ok(());
    }
    Err(Failure::Damaged("this was a dry run; --apply does it".to_owned()))
}

/// The pool, to be looked at; and where its journal was found, if its superblock is lost.
fn pool(recover: &Recover) -> Result<(Arc<Pool>, Option<FoundJournal>), Failure> {
    if recover.superblock {
        let (pool, found) = offline::open_lost(&recover.place, true)?;
        return Ok((pool, Some(found)));
    }
    Ok((offline::open_as(&recover.place, true)?, None))
}

fn open(recover: &Recover, pool: Arc<Pool>) -> Result<Database, Failure> {
    let data = &recover.place.data;
    let log = match recover.wal {
        RecoverWal::Refuse => LogDamage::Refuse,
        RecoverWal::SkipDamaged => LogDamage::SkipDamaged,
        RecoverWal::StopAtDamage => LogDamage::StopAtDamage,
    };
    let (skip_kvsets, cut_manifest) = (recover.drop_kvsets, recover.cut_manifest);
    let salvage = Salvage { log, skip_kvsets, cut_manifest };
    if !Database::is_on(&pool) {
        let text = format!("{} holds a pool without a store; nothing is recovered", data.display());
        return Err(Failure::Refused(text));
    }
    let options = kvs::Options {
        salvage,
        background_threads: 0,
        // As a server would open it.
        initial_kvs: vec![DEFAULT_KVS.to_owned()],
        ..kvs::Options::default()
    };
    Database::open_pool(pool, options).map_err(|error| {
        let way_out = match error.way_out() {
            // In its own words, as it is asked already.
            Some(WayOut::Log) => "; say what to do about it with --wal",
            Some(WayOut::Kvsets) => "; --drop-kvsets takes it out",
            Some(WayOut::Manifest) => "; --cut-manifest goes on without its last edits",
            Some(WayOut::Backup) => "; restore it from a backup",
            _ => "",
        };
        Failure::Refused(format!("{}: {}{way_out}", data.display(), Chain(&error)))
    })
}

fn apply(recover: &Recover) -> Result<(), Failure> {
    let database = open(recover, offline::open_as(&recover.place, false)?)?;
    let done = database.settle().and_then(|()| database.close());
    done.map_err(|error| match error {
        kvs::Error::Pool(error) => refused_at(&recover.place.data, &error),
        other => Failure::Refused(Chain(&other).to_string()),
    })
}

fn found_document(found: FoundJournal) -> Value {
    let FoundJournal { offset, twice, generation, frame } = found;
    json!({"journal_at": offset, "twice": twice, "generation": generation, "frame": frame})
}

fn found_text(found: FoundJournal) -> String {
    let FoundJournal { offset, twice, generation, frame } = found;
    let copies = if twice { "in two copies" } else { "in one copy" };
    format!(
        "both copies of the superblock are lost; what they said is known from the pool's journal at \
         byte {offset}, {copies}, up to frame {frame} of generation {generation}\n"
    )
}

fn document(loss: &Loss) -> Value {
    let key = |lost: &LostKey| {
        let (revision, certain) = (lost.revision.get(), lost.is_certain);
        if let Ok(k) = std::str::from_utf8(&lost.key) {
            return json!({"kvs": lost.kvs, "k": k, "rev": revision, "certain": certain});
        }
        let k64 = BASE64_URL_SAFE_NO_PAD.encode(&lost.key);
        json!({"kvs": lost.kvs, "k64": k64, "rev": revision, "certain": certain})
    };
    let bytes = |key: &[u8]| match std::str::from_utf8(key) {
        Ok(k) => json!({ "k": k }),
        Err(_) => json!({ "k64": BASE64_URL_SAFE_NO_PAD.encode(key) }),
    };
    let range = |range: &LostRange| {
        let LostRange { kvs, from, to } = range;
        json!({"kvs": kvs, "from": bytes(from), "to": to.as_deref().map(bytes)})
    };
    json!({
        "what": loss.what,
        "reason": loss.reason,
        "range": loss.range.as_ref().map(range),
        "revisions": loss.revisions.as_ref().map(|lost| [*lost.start(), *lost.end()]),
        "keys": loss.keys.iter().map(key).collect::<Vec<_>>(),
        "keys_left_off": loss.keys_left_off,
    })
}

fn text(losses: &[Loss]) -> String {
    if losses.is_empty() {
        return "the store opens without loss; values and index pages were not read: \
                millpond pool check --full reads them\n"
            .to_owned();
    }
    let mut out = String::new();
    for loss in losses {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "{loss}");
        // Where a range is lost, the reason has its revisions.
        if let (Some(lost), None) = (&loss.revisions, &loss.range) {
            let _ = writeln!(out, "    revisions {} to {} are lost", lost.start(), lost.end());
        }
        for lost in loss.keys.iter().take(KEYS_SHOWN) {
            let LostKey { kvs, key, revision, is_certain } = lost;
            let doubt = if *is_certain { "" } else { " (read from damaged bytes)" };
            let key = key.escape_ascii();
            let _ = writeln!(out, "    {kvs}/{key} of revision {revision}{doubt}");
        }
        let more = loss.keys.len().saturating_sub(KEYS_SHOWN) as u64 + loss.keys_left_off;
        if more > 0 {
            let _ = writeln!(out, "    and {more} keys more; --json has up to 10000");
        }
    }
    out
}
