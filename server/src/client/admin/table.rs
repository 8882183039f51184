//! Trees, jobs, compactions and snapshots as tables, for people.

use crate::client::pool::table::{bytes, columns, human, number, rows, text};
use serde_json::Value;
use std::fmt::Write as _;

/// Most characters of a key that a table shows.
const KEY_CHARS: usize = 24;

/// A line for each KVS.
pub(crate) fn trees(value: &Value) -> String {
    let lines = rows(value, "trees").map(|tree| {
        let debt = &tree["debt"];
        let due = rows(debt, "due").next();
        let due = due.map_or_else(|| "-".to_owned(), due_text);
        let root = format!("{}/{}", debt["root_kvsets"], debt["root_stop"]);
        let mut line = vec![text(&tree["kvs"]), due, root];
        let counts = ["leaves", "kvsets", "keys", "tombstones", "left_alone"];
        line.extend(counts.map(|name| text(&tree[name])));
        line.extend(["index_bytes", "value_bytes", "vblock_bytes"].map(|name| bytes(&tree[name])));
        let part = percent(&debt["garbage_bytes"], &debt["garbage_slow_bytes"]);
        line.extend([bytes(&debt["garbage_bytes"]), part]);
        line.push(debt["writers_wait_for"].as_str().unwrap_or("-").to_owned());
        line
    });
    let titles = [
        "KVS",
        "DUE",
        "ROOT",
        "LEAVES",
        "KVSETS",
        "KEYS",
        "TOMBSTONES",
        "LEFT ALONE",
        "INDEX",
        "VALUES",
        "VBLOCKS",
        "GARBAGE",
        "OF SLOW",
        "WRITERS WAIT",
    ];
    columns(&titles, 2, lines.collect())
}

fn percent(part: &Value, whole: &Value) -> String {
    let part = u128::from(number(part)) * 100 / u128::from(number(whole).max(1));
    format!("{part} %")
}

/// The reason and its pressure.
fn due_text(due: &Value) -> String {
    format!("{} {} %", text(&due["reason"]), due["pressure_pct"])
}

/// What the writers of a KVS wait for.
fn writers_text(debt: &Value) -> String {
    match debt["writers_wait_for"].as_str() {
        Some(reason) => format!("are slowed down or wait: {reason}"),
        None if debt["garbage_helpless"] == true => {
            "are not slowed down for garbage, as compaction can do nothing about it".to_owned()
        }
        None => "do not wait for this tree".to_owned(),
    }
}

/// One tree: sums, debt, jobs, nodes.
pub(crate) fn tree(value: &Value) -> String {
    let debt = &value["debt"];
    let mut out = format!(
        "kvs       {}\nkvsets    {}, of {} leaves and the root: {} keys, {} tombstones\n\
         space     {} keys, {} values in {} vblocks of {}\n\
         root      {} kvsets: spilled from {}, writers slow down at {} and stop at {}\n\
         garbage   {}: writers slow down from {} on, and most from {} on; {} % of the bytes can \
         be collected, which is due from {} % on\nwriters   {}\n",
        text(&value["kvs"]),
        value["kvsets"],
        value["leaves"],
        value["keys"],
        value["tombstones"],
        bytes(&value["index_bytes"]),
        bytes(&value["value_bytes"]),
        value["vblocks"],
        bytes(&value["vblock_bytes"]),
        debt["root_kvsets"],
        debt["root_spill"],
        debt["root_slow"],
        debt["root_stop"],
        bytes(&debt["garbage_bytes"]),
        bytes(&debt["garbage_slow_bytes"]),
        bytes(&debt["garbage_slowest_bytes"]),
        debt["garbage_pct"],
        debt["garbage_pct_max"],
        writers_text(debt),
    );
    for due in rows(debt, "due") {
        let what = due["action"].as_str().map_or_else(
            || "waits for running jobs".to_owned(),
            |action| {
                let (node, size) = (node_text(&due["node"]), bytes(&due["output_bytes"]));
                format!("{action} of {} kvsets in {node}, up to {size}", due["inputs"])
            },
        );
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "due       {}: {what}", due_text(due));
    }
    if number(&value["left_alone"]) > 0 {
        let count = &value["left_alone"];
        let _ = writeln!(out, "damaged   {count} kvsets are left alone: they could not be read");
    }
    out.push('\n');
    out.push_str(&jobs(value));
    out.push('\n');
    out.push_str(&nodes(value));
    let next = key(value, "next");
    if let Some(next) = next {
        let _ = writeln!(out, "\nmore from {next} on: --from KEY, or --limit N");
    }
    out
}

fn node_text(node: &Value) -> String {
    if number(node) == 0 { "the root".to_owned() } else { format!("leaf {node}") }
}

fn jobs(value: &Value) -> String {
    let lines = rows(value, "jobs").map(|job| {
        let outcome = job["outcome"].as_str();
        let when = match (outcome, job["ended_seconds_ago"].as_f64()) {
            (Some(outcome), Some(ago)) => {
                let why = job["error"].as_str().map_or_else(String::new, |why| format!(": {why}"));
                format!("{outcome} {ago:.1} s ago{why}")
            }
            _ => "running".to_owned(),
        };
        let node = job["node"].as_u64().map_or_else(|| "-".to_owned(), |_| node_text(&job["node"]));
        // What was moved was not read.
        let walked = !(outcome == Some("done") && number(&job["entries"]) == 0);
        let part = number(&job["entries"]).saturating_mul(100);
        let part = part.checked_div(number(&job["entries_total"])).filter(|_| walked);
        vec![
            text(&job["number"]),
            text(&job["action"]),
            text(&job["reason"]),
            node,
            when,
            text(&job["inputs_total"]),
            part.map_or_else(|| "-".to_owned(), |part| format!("{part} %")),
            format!("{:.1} s", job["seconds"].as_f64().unwrap_or(0.0)),
            bytes(&job["read_bytes"]),
            bytes(&job["written_bytes"]),
        ]
    });
    let titles =
        ["JOB", "ACTION", "REASON", "NODE", "STATE", "INPUTS", "PAST", "TOOK", "READ", "WRITTEN"];
    columns(&titles, 5, lines.collect())
}

fn nodes(value: &Value) -> String {
    let mut lines = Vec::new();
    for node in rows(value, "nodes") {
        let name = node_text(&node["id"]);
        let from = key(node, "from").unwrap_or_default();
        let kvsets: Vec<&Value> = rows(node, "kvsets").collect();
        if kvsets.is_empty() {
            lines.push([name, from, "(no kvsets)".to_owned()].into());
            continue;
        }
        for (at, kvset) in kvsets.iter().enumerate() {
            let first = at == 0;
            let state = match (kvset["left_alone"] == true, kvset["busy"] == true) {
                (true, _) => "left alone",
                (false, true) => "busy",
                (false, false) => "",
            };
            let keys =
                [key(kvset, "min_key"), key(kvset, "max_key")].map(Option::unwrap_or_default);
            let mut line = vec![
                if first { name.clone() } else { String::new() },
                if first { from.clone() } else { String::new() },
                text(&kvset["id"]),
                state.to_owned(),
                keys.join(" to "),
                format!("{}-{}", kvset["revisions"][0], kvset["revisions"][1]),
            ];
            line.extend(["keys", "tombstones"].map(|name| text(&kvset[name])));
            line.extend(["index_bytes", "value_bytes"].map(|name| bytes(&kvset[name])));
            line.push(text(&kvset["vblocks"]));
            lines.push(line);
        }
        let left_out = number(&node["kvsets_total"]).saturating_sub(kvsets.len() as u64);
        if left_out > 0 {
            lines.push([String::new(), String::new(), format!("({left_out} more)")].into());
        }
    }
    let titles = [
        "NODE",
        "FROM",
        "KVSET",
        "STATE",
        "KEYS FROM TO",
        "REVISIONS",
        "KEYS",
        "TOMBSTONES",
        "INDEX",
        "VALUES",
        "VBLOCKS",
    ];
    for line in &mut lines {
        line.resize(titles.len(), String::new());
    }
    columns(&titles, 6, lines)
}

/// A key on one line in ASCII, cut where it is long; as base64url where it is no text.
fn key(value: &Value, name: &str) -> Option<String> {
    if let Some(base64) = value[format!("{name}64")].as_str() {
        return Some(cut(&format!("k64:{base64}")));
    }
    let key = value[name].as_str()?;
    Some(cut(&format!("\"{}\"", key.escape_default())))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(KEY_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

fn compaction_facts(value: &Value) -> String {
    let what = match value["kvs"].as_str() {
        None => "everything".to_owned(),
        Some(kvs) => {
            let bound = |name, word| {
                key(value, name).map_or_else(String::new, |key| format!(" {word} {key}"))
            };
            format!("KVS {kvs}{}{}", bound("from", "from"), bound("to", "up to"))
        }
    };
    let nothing = if value["nothing_to_do"] == true { ": there was nothing to do" } else { "" };
    let mut out = format!(
        "compaction {} of {what}\nstate      {}{nothing}\nover       {} of about {}, in {} jobs\n\
         read       {}\nwritten    {}\ntook       {:.1} s\n",
        value["number"],
        text(&value["state"]),
        bytes(&value["bytes_done"]),
        bytes(&value["bytes_total"]),
        value["jobs"],
        bytes(&value["read_bytes"]),
        bytes(&value["written_bytes"]),
        value["seconds"].as_f64().unwrap_or(0.0),
    );
    // Writing to a string cannot fail, here and below.
    if let Some(error) = value["error"].as_str() {
        let _ = writeln!(out, "error      {error}");
    }
    for problem in rows(value, "problems") {
        let [reason, detail] = ["reason", "detail"].map(|name| text(&problem[name]));
        let _ = writeln!(out, "problem    {reason}: {detail}");
    }
    let told = rows(value, "problems").count() as u64;
    let more = number(&value["problems_total"]).saturating_sub(told);
    if more > 0 {
        let _ = writeln!(out, "           and {more} more");
    }
    out
}

/// A compaction that was asked for, or looked at.
pub(crate) fn compaction(value: &Value) -> String {
    let mut out = compaction_facts(value);
    if value["running"] == true {
        out.push_str("it goes on in the server; millpond compact --status shows how far it is\n");
    }
    out
}

/// A compaction that was to be cancelled.
pub(crate) fn cancelled(value: &Value) -> String {
    let mut out = compaction_facts(value);
    if value["running"] == true {
        out.push_str("it was told to end, and will soon; millpond compact --status shows when\n");
    } else if value["state"] == "cancelled" {
        out.push_str("it is cancelled; what it had done by then stays\n");
    } else {
        let state = text(&value["state"]);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "it was over before ({state}); nothing was cancelled");
    }
    out
}

/// How far a compaction is, on one line.
pub(crate) fn compaction_line(value: &Value) -> String {
    let (done, total) = (number(&value["bytes_done"]), number(&value["bytes_total"]));
    let at = value["at_kvs"].as_str().map_or_else(String::new, |kvs| format!(", at KVS {kvs}"));
    match value["state"].as_str() {
        Some("flushing") => "writing what is in memory".to_owned(),
        _ => format!("{} of about {} compacted{at}", human(done), human(total)),
    }
}

/// Snapshots.
pub(crate) fn snapshots(value: &Value) -> String {
    let limit = value["age_max_seconds"].as_f64();
    let limit = limit.map_or_else(|| "none".to_owned(), |limit| format!("{limit:.0} s"));
    let mut out = format!(
        "snapshots {}\nhold      {} of what was deleted since\nage limit {limit}; {} were ended at \
         it, {} on request\n\n",
        value["count"],
        bytes(&value["held_bytes"]),
        value["ended_total"],
        value["ended_requested_total"],
    );
    let lines = rows(value, "oldest").map(|one| {
        let age = one["age_seconds"].as_f64().unwrap_or(0.0);
        let holder = one["holder"].as_str().map_or_else(|| "-".to_owned(), one_line);
        let kvs = one["kvs"].as_str().unwrap_or("-").to_owned();
        let state = if one["ended"] == true { "ended, and not let go of" } else { "" };
        let [id, kind] = ["id", "kind"].map(|name| text(&one[name]));
        let (age, revision) = (format!("{age:.1} s"), text(&one["revision"]));
        vec![id, kind, kvs, holder, state.to_owned(), age, revision]
    });
    let titles = ["ID", "KIND", "KVS", "HOLDER", "STATE", "AGE", "REVISION"];
    out.push_str(&columns(&titles, 5, lines.collect()));
    let told = rows(value, "oldest").count() as u64;
    let more = number(&value["count"]).saturating_sub(told);
    if more > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "and {more} younger ones");
    }
    out
}

/// A snapshot that was ended.
pub(crate) fn ended_snapshot(value: &Value) -> String {
    let ended = &value["ended"];
    let age = ended["age_seconds"].as_f64().unwrap_or(0.0);
    let holder = ended["holder"].as_str().map_or_else(|| "not named".to_owned(), one_line);
    format!(
        "snapshot {} of revision {} is ended, after {age:.1} s\nholder   {holder}\nheld     {} by \
         those that are left\n",
        ended["id"],
        ended["revision"],
        bytes(&value["held_bytes"]),
    )
}

/// What others have chosen, on one line in ASCII.
fn one_line(text: &str) -> String {
    text.escape_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_compaction_that_was_over_is_not_told_to_be_cancelled() {
        let seen = |state: &str, running: bool| json!({"state": state, "running": running});
        for (state, running, says) in [
            ("running", true, "it was told to end"),
            ("cancelled", false, "it is cancelled; what it had done"),
            ("done", false, "it was over before (done); nothing was cancelled"),
            ("failed", false, "it was over before (failed); nothing was cancelled"),
        ] {
            let text = cancelled(&seen(state, running));
            assert!(text.lines().last().unwrap().starts_with(says), "{state}: {text}");
        }
    }

    #[test]
    fn keys_are_shown_on_one_line_in_ascii() {
        let value = json!({"a": "x\n\u{1b}[2J\u{e9}", "b64": "_w", "c": "k".repeat(50)});
        assert_eq!(key(&value, "a").unwrap(), "\"x\\n\\u{1b}[2J\\u{e9}\"");
        assert_eq!(key(&value, "b").unwrap(), "k64:_w");
        let long = key(&value, "c").unwrap();
        assert!(long.len() == KEY_CHARS + 3 && long.ends_with("..."), "{long}");
        assert_eq!(key(&value, "d"), None);
    }
}
