//! `millpond tree`, `millpond compact` and `millpond snapshots`: commands on a running server.

mod table;

use crate::api::target::{BASE64URL, percent_encode, percent_encode_segment};
use crate::cli::Server;
use crate::cli::admin::{Compact, Snapshots, Tree};
use crate::client::pool::{Line, show};
use crate::client::transport::{ask_json, request, send};
use crate::client::{Failure, key_bytes};
use axum::http::{Method, StatusCode};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often a running server is asked how far it is.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Runs `millpond tree`.
pub(crate) async fn tree(tree: &Tree) -> Result<(), Failure> {
    let Some(kvs) = &tree.kvs else { return all_trees(tree).await };
    let found = one_tree(tree, kvs, tree.limit).await?;
    show(&found, tree.json, table::tree)
}

async fn one_tree(tree: &Tree, kvs: &str, limit: u64) -> Result<Value, Failure> {
    let mut path =
        format!("/v1/admin/tree/{}?limit={limit}", percent_encode_segment(kvs.as_bytes()));
    if let Some(from) = &tree.from {
        path = format!("{path}&from={}", percent_encode(&key_bytes(from, tree.k64)?));
    }
    ask_json(&tree.server, Method::GET, &path, None).await
}

/// A line for each KVS, without its nodes.
async fn all_trees(tree: &Tree) -> Result<(), Failure> {
    let all = ask_json(&tree.server, Method::GET, "/v1/kvs", None).await?;
    let names = all["kvs"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let mut trees = Vec::new();
    for name in names.filter_map(|kvs| kvs["name"].as_str()) {
        match one_tree(tree, name, 1).await {
            Ok(mut found) => {
                if let Some(fields) = found.as_object_mut() {
                    fields.retain(|field, _| !matches!(&**field, "nodes" | "next" | "next64"));
                }
                trees.push(found);
            }
            // It was dropped meanwhile, or everything is refused: the first one says so.
            Err(error) if trees.is_empty() => return Err(error),
            Err(_) => {}
        }
    }
    show(&json!({ "trees": trees }), tree.json, table::trees)
}

/// Runs `millpond snapshots`.
pub(crate) async fn snapshots(snapshots: &Snapshots) -> Result<(), Failure> {
    let path = "/v1/admin/snapshots";
    let Some(id) = snapshots.end else {
        let found = ask_json(&snapshots.server, Method::GET, path, None).await?;
        return show(&found, snapshots.json, table::snapshots);
    };
    let answer =
        send(&snapshots.server, request(Method::DELETE, &format!("{path}/{id}"), "")?).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let text = format!(
            "no snapshot {id} lives: it has ended, or there was none; millpond snapshots lists \
             those that live"
        );
        return Err(Failure::Absent(text));
    }
    let ended: Value = answer.accepted().await?.json().await?;
    show(&ended, snapshots.json, table::ended_snapshot)
}

/// Runs `millpond compact`.
pub(crate) async fn compact(compact: &Compact) -> Result<(), Failure> {
    // From the first on, so that none falls between two questions.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    let seen = async {
        match (compact.status, compact.cancel) {
            (true, _) => last(&compact.server, Method::GET).await,
            (_, true) => last(&compact.server, Method::DELETE).await,
            (false, false) if compact.wait => end(&compact.server, begin(compact).await?).await,
            (false, false) => begin(compact).await,
        }
    };
    let seen = tokio::select! {
        seen = seen => seen?,
        _ = interrupts.recv() => {
            return Err(Failure::Interrupted(
                "interrupted; a compaction that has begun goes on in the server: `millpond compact \
                 --status` shows how far it is, `millpond compact --cancel` ends it"
                    .to_owned(),
            ));
        }
    };
    let told = if compact.cancel { table::cancelled } else { table::compaction };
    show(&seen, compact.json, told)?;
    if compact.wait || compact.status { verdict(&seen) } else { Ok(()) }
}

async fn begin(compact: &Compact) -> Result<Value, Failure> {
    let mut body = Map::new();
    if let Some(kvs) = &compact.kvs {
        body.insert("kvs".into(), kvs.as_str().into());
    }
    for (name, key) in [("from64", &compact.from), ("to64", &compact.to)] {
        if let Some(key) = key {
            body.insert(name.into(), encoded(key, compact.k64)?.into());
        }
    }
    let path = "/v1/admin/compact";
    ask_json(&compact.server, Method::POST, path, Some(body.into())).await
}

fn encoded(key: &OsStr, k64: bool) -> Result<String, Failure> {
    Ok(BASE64URL.encode(key_bytes(key, k64)?))
}

/// The one that was asked for last, looked at or ended.
async fn last(server: &Server, method: Method) -> Result<Value, Failure> {
    let answer = send(server, request(method, "/v1/admin/compact", "")?).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let text = "no compaction was asked for since the server was started";
        return Err(Failure::Absent(text.to_owned()));
    }
    answer.accepted().await?.json().await
}

/// The end of a compaction that runs.
async fn end(server: &Server, begun: Value) -> Result<Value, Failure> {
    let mut line = Line::on_terminal();
    let mut seen = begun.clone();
    while seen["running"] == true {
        line.show(&table::compaction_line(&seen));
        tokio::time::sleep(ASK_AGAIN).await;
        let answer = ask_json(server, Method::GET, "/v1/admin/compact", None).await;
        seen = answer.map_err(gone_meanwhile)?;
        if seen["number"] != begun["number"] {
            let text = "another compaction was begun since; the one that was waited for is over";
            return Err(Failure::Refused(text.to_owned()));
        }
    }
    Ok(seen)
}

/// Why a compaction that runs cannot be waited for any longer.
fn gone_meanwhile(failure: Failure) -> Failure {
    match failure {
        Failure::Connection(error) => Failure::Connection(error.context(
            "the server went away while it compacted; what is compacted stays, the rest is not \
             gone on with when the server is started again: ask for it again",
        )),
        other => other,
    }
}

/// What a compaction came to; one that runs has not failed.
fn verdict(seen: &Value) -> Result<(), Failure> {
    if seen["running"] == true {
        return Ok(());
    }
    match seen["state"].as_str() {
        Some("done") => Ok(()),
        Some("incomplete") => {
            let parts = seen["problems_total"].as_u64().unwrap_or(0);
            let what = if seen["jobs"] == 0 { "nothing was compacted: " } else { "" };
            let text = format!(
                "{what}{parts} part(s) could not be done; the problems say why and what helps"
            );
            Err(Failure::Incomplete(text))
        }
        Some("cancelled") => {
            Err(Failure::Refused("it was cancelled; what it had done by then stays".to_owned()))
        }
        _ => {
            let why = seen["error"].as_str().unwrap_or("it failed");
            Err(Failure::Refused(why.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `--status` ended with 0 whatever had become of it.
    #[test]
    fn the_exit_code_says_what_a_compaction_came_to() {
        let seen = |state: &str, jobs: u64| {
            let running = matches!(state, "running" | "flushing");
            json!({"state": state, "running": running, "jobs": jobs, "problems_total": 2,
                   "error": if state == "failed" { Some("the drive is gone") } else { None }})
        };
        for (state, jobs, code, says) in [
            ("flushing", 0, 0, ""),
            ("running", 1, 0, ""),
            ("done", 0, 0, ""),
            ("incomplete", 0, 1, "nothing was compacted: 2 part(s)"),
            ("incomplete", 3, 1, "2 part(s) could not be done"),
            ("cancelled", 1, 3, "cancelled"),
            ("failed", 0, 3, "the drive is gone"),
        ] {
            let failure = verdict(&seen(state, jobs)).err();
            assert_eq!(failure.as_ref().map_or(0, Failure::code), code, "{state}");
            let text = failure.map_or_else(String::new, |failure| failure.to_string());
            assert!(text.contains(says) && text.is_empty() == says.is_empty(), "{state}: {text}");
        }
    }

    #[tokio::test]
    async fn a_server_that_goes_away_while_it_compacts_is_told() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Server { url: format!("http://{nobody}"), timeout: "60s".parse().unwrap() };
        let failure = end(&server, json!({"running": true, "number": 1})).await.unwrap_err();
        let text = failure.to_string();
        assert!(matches!(failure, Failure::Connection(_)), "{text}");
        for part in ["went away while it compacted", "ask for it again", "no server answers"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
