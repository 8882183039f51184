//! Trees, jobs, compactions and snapshots as JSON.
//!
//! Keys are bytes: one that is text stands in a field of its name, one that is not in base64url in
//! the field with `64` behind the name, as in scans.

use crate::api::target::BASE64URL;
use base64::Engine as _;
use kvs::{
    Compaction, CompactionInfo, CompactionProblem, CompactionState, Debt, DueInfo, JobInfo,
    JobOutcome, KvsetInfo, NodeInfo, SnapshotInfo, SnapshotsInfo, TreeInfo,
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A tree, and the jobs of its KVS.
pub(crate) fn tree(tree: &TreeInfo, jobs: &[JobInfo]) -> Value {
    let mut found = json!({
        "kvs": tree.kvs,
        "root_kvsets": tree.root_kvsets,
        "leaves": tree.leaves,
        "kvsets": tree.kvsets,
        "keys": tree.keys,
        "tombstones": tree.tombstones,
        "index_bytes": tree.index_bytes,
        "value_bytes": tree.value_bytes,
        "vblocks": tree.vblocks,
        "vblock_bytes": tree.vblock_bytes,
        "busy": tree.busy,
        "left_alone": tree.left_alone,
        "debt": debt(&tree.debt),
        "jobs": jobs.iter().map(job).collect::<Vec<_>>(),
        "nodes": tree.nodes.iter().map(node).collect::<Vec<_>>(),
    });
    if let (Some(next), Value::Object(fields)) = (&tree.next, &mut found) {
        put_key(fields, "next", next);
    }
    found
}

fn debt(debt: &Debt) -> Value {
    let due = |due: &DueInfo| {
        json!({
            "reason": due.reason,
            "pressure_pct": due.pressure_pct,
            "action": due.action,
            "node": due.node,
            "inputs": due.inputs,
            "output_bytes": due.output_bytes,
        })
    };
    json!({
        "root_kvsets": debt.root_kvsets,
        "root_spill": debt.root_spill,
        "root_slow": debt.root_slow,
        "root_stop": debt.root_stop,
        "garbage_bytes": debt.garbage_bytes,
        "garbage_slow_bytes": debt.garbage_slow_bytes,
        "garbage_slowest_bytes": debt.garbage_slowest_bytes,
        "garbage_pct": debt.garbage_pct,
        "garbage_pct_max": debt.garbage_pct_max,
        "garbage_helpless": debt.garbage_helpless,
        "writers_wait_for": debt.writers_wait_for,
        "due": debt.due.iter().map(due).collect::<Vec<_>>(),
    })
}

fn job(job: &JobInfo) -> Value {
    let outcome = job.ended.as_ref().map(|(outcome, ago)| match outcome {
        JobOutcome::Failed(why) => ("failed", Some(why.clone()), ago),
        JobOutcome::Cancelled => ("cancelled", None, ago),
        _ => ("done", None, ago),
    });
    json!({
        "number": job.number,
        "action": job.action,
        "reason": job.reason,
        "kvs": job.kvs.as_deref(),
        "node": job.node,
        "inputs": job.inputs,
        "inputs_total": job.inputs_total,
        "seconds": seconds(job.elapsed),
        "entries": job.entries,
        "entries_total": job.entries_total,
        "read_bytes": job.read_bytes,
        "written_bytes": job.written_bytes,
        "outcome": outcome.as_ref().map(|(word, ..)| *word),
        "error": outcome.as_ref().and_then(|(_, why, _)| why.clone()),
        "ended_seconds_ago": outcome.as_ref().map(|(.., ago)| seconds(**ago)),
    })
}

fn node(node: &NodeInfo) -> Value {
    let mut fields = Map::new();
    fields.insert("id".into(), node.id.into());
    put_key(&mut fields, "from", &node.from);
    if let Some(to) = &node.to {
        put_key(&mut fields, "to", to);
    }
    fields.insert("kvsets_total".into(), node.kvsets_total.into());
    fields.insert("kvsets".into(), node.kvsets.iter().map(kvset).collect());
    fields.into()
}

fn kvset(kvset: &KvsetInfo) -> Value {
    let mut found = json!({
        "id": kvset.id,
        "keys": kvset.keys,
        "tombstones": kvset.tombstones,
        "index_bytes": kvset.index_bytes,
        "value_bytes": kvset.value_bytes,
        "vblocks": kvset.vblocks,
        "revisions": [kvset.min_revision.get(), kvset.max_revision.get()],
        "busy": kvset.busy,
        "left_alone": kvset.left_alone,
    });
    if let Value::Object(fields) = &mut found {
        put_key(fields, "min_key", &kvset.min_key);
        put_key(fields, "max_key", &kvset.max_key);
    }
    found
}

/// How far a compaction is.
pub(crate) fn compaction(compaction: &Compaction) -> Value {
    compaction_info(&compaction.info())
}

fn compaction_info(info: &CompactionInfo) -> Value {
    let mut found = json!({
        "number": info.number,
        "state": info.state.as_str(),
        "running": !info.state.is_over(),
        "error": match &info.state {
            CompactionState::Failed(why) => Some(why),
            _ => None,
        },
        "kvs": info.request.kvs,
        "at_kvs": info.kvs.as_deref(),
        "seconds": seconds(info.elapsed),
        "bytes_done": info.bytes_done,
        "bytes_total": info.bytes_total,
        "jobs": info.jobs,
        "read_bytes": info.read_bytes,
        "written_bytes": info.written_bytes,
        "nothing_to_do": info.had_nothing_to_do(),
        "problems": info.problems.iter().map(problem).collect::<Vec<_>>(),
        "problems_total": info.problems_total,
    });
    if let Value::Object(fields) = &mut found {
        for (name, key) in [("from", &info.request.from), ("to", &info.request.to)] {
            if let Some(key) = key {
                put_key(fields, name, key);
            }
        }
    }
    found
}

fn problem(problem: &CompactionProblem) -> Value {
    json!({ "reason": problem.reason.as_str(), "detail": problem.detail })
}

/// The snapshots that live.
pub(crate) fn snapshots(info: &SnapshotsInfo) -> Value {
    json!({
        "count": info.count,
        "held_bytes": info.held_bytes,
        "ended_total": info.ended,
        "ended_requested_total": info.ended_requested,
        "age_max_seconds": info.age_max.map(seconds),
        "oldest": info.oldest.iter().map(snapshot).collect::<Vec<_>>(),
    })
}

fn snapshot(info: &SnapshotInfo) -> Value {
    json!({
        "id": info.id.get(),
        "kind": if info.kvs.is_some() { "cursor" } else { "snapshot" },
        "kvs": info.kvs.as_deref(),
        "holder": info.holder.as_deref(),
        "revision": info.revision.get(),
        "age_seconds": seconds(info.age),
        "ended": info.is_ended,
    })
}

/// A snapshot that was ended, and what others hold still.
pub(crate) fn ended_snapshot(ended: &SnapshotInfo, held_bytes: u64) -> Value {
    json!({ "ended": snapshot(ended), "held_bytes": held_bytes })
}

/// Writes a key as text where it is text, else as base64url.
fn put_key(fields: &mut Map<String, Value>, name: &str, key: &[u8]) {
    match std::str::from_utf8(key) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}64"), BASE64URL.encode(key).into()),
    };
}

/// Seconds, to the millisecond.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}
