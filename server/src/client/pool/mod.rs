//! `millpond pool`: one command, on a running server or on a data directory.

mod keep;
mod offline;
pub(crate) mod recover;
pub(crate) mod table;

use crate::cli::Server;
use crate::cli::pool::{PoolAdd, PoolCommand, PoolEvacuate, PoolPlace, PoolRemove, PoolScrub};
use crate::client::transport::ask_json;
use crate::client::{Failure, print};
use axum::http::Method;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// How often a running server is asked how far it is.
const ASK_AGAIN: Duration = Duration::from_millis(500);

const CHECK_FOUND: &str = "the pool is not sound, or not without warnings: each issue says what to \
     do; which keys damaged values have, millpond pool scrub --data DIR says";
const TROUBLE: &str = "the pool does not open; what keeps it from that is named";
const SCRUB_FOUND: &str = "something is damaged, or the store does not open: put those of the named \
     keys that a get refuses again, or delete them, and see docs/pool.md for the rest";

/// Runs one command.
pub(crate) async fn run(command: PoolCommand) -> Result<(), Failure> {
    match command {
        PoolCommand::Create(create) => print_info(&offline::create(&create)?),
        PoolCommand::Check(check) => {
            let report = offline::check(&check, &mut progress("verified"))?;
            show(&report, check.json, table::check)?;
            verdict(report["worst"].as_str().is_some_and(|worst| worst != "note"), CHECK_FOUND)
        }
        PoolCommand::Destroy(destroy) => print(offline::destroy(&destroy)?.as_bytes()),
        PoolCommand::Info(shown) => {
            let info = match &shown.place.server {
                Some(server) => ask(server, Method::GET, "", None).await?,
                None => offline::info(&shown.place)?,
            };
            show(&info, shown.json, table::info)?;
            verdict(info["trouble"].as_array().is_some_and(|trouble| !trouble.is_empty()), TROUBLE)
        }
        PoolCommand::Maps(shown) => match &shown.place.server {
            Some(server) => {
                let maps = ask(server, Method::GET, "/maps", None).await?;
                show(&maps, shown.json, table::maps)
            }
            None => {
                Err(Failure::Usage("maps are of a running server: say which with --url".to_owned()))
            }
        },
        PoolCommand::Add(add) => self::add(&add).await,
        PoolCommand::Evacuate(evacuate) => self::evacuate(&evacuate).await,
        PoolCommand::Grow(_) | PoolCommand::Rename(_) => print_info(&change(&command).await?),
        PoolCommand::Remove(remove) => self::remove(&remove).await,
        PoolCommand::Scrub(scrub) => self::scrub(&scrub).await,
    }
}

/// Commands that change the pool at once and then show it.
async fn change(command: &PoolCommand) -> Result<Value, Failure> {
    match command {
        PoolCommand::Grow(grow) => match &grow.place.server {
            Some(server) => {
                let path = format!("/volumes/{}/grow", volume(&grow.volume)?);
                ask(server, Method::POST, &path, Some(json!({ "capacity": grow.capacity.0 }))).await
            }
            None => offline::grow(grow),
        },
        PoolCommand::Rename(rename) => match &rename.place.server {
            Some(server) => {
                ask(server, Method::PUT, "/name", Some(json!({ "name": rename.name }))).await
            }
            None => offline::rename(rename),
        },
        _ => unreachable!("run gives these only"),
    }
}

async fn add(add: &PoolAdd) -> Result<(), Failure> {
    let id = match &add.place.server {
        Some(_) if add.mode.is_some() => {
            let text = "--mode is for a data directory; the files of a running server have 0600";
            return Err(Failure::Usage(text.to_owned()));
        }
        Some(server) => {
            let body = json!({
                "path": add.path.to_string_lossy(),
                "kind": add.kind.name(),
                "class": add.class.name(),
                "capacity": add.capacity.0,
                "force": add.force,
            });
            let added = ask(server, Method::POST, "/volumes", Some(body)).await?;
            added["id"].as_str().unwrap_or_default().to_owned()
        }
        None => offline::add(add)?,
    };
    print(format!("added {id}\n").as_bytes())
}

async fn remove(remove: &PoolRemove) -> Result<(), Failure> {
    let removed = match &remove.place.server {
        Some(server) => {
            let path = format!("/volumes/{}", volume(&remove.volume)?);
            ask(server, Method::DELETE, &path, None).await?["removed"].clone()
        }
        None => offline::remove(remove)?,
    };
    print(table::removed(&removed).as_bytes())
}

async fn evacuate(evacuate: &PoolEvacuate) -> Result<(), Failure> {
    let id = volume(&evacuate.volume)?;
    match (&evacuate.place.server, evacuate.cancel) {
        (Some(server), true) => {
            let path = format!("/volumes/{id}/cancel");
            print_info(&ask(server, Method::POST, &path, None).await?)
        }
        (Some(server), false) => evacuate_online(server, &id).await,
        (None, true) => print_info(&offline::cancel(evacuate)?),
        (None, false) => {
            let done = offline::evacuate(evacuate, &mut progress("left"))?;
            print(table::evacuation(&done).as_bytes())
        }
    }
}

/// Asks a running server's `/v1/admin/pool`.
async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Failure> {
    ask_json(server, method, &format!("/v1/admin/pool{path}"), body).await
}

/// The printed id of a volume given as `vol-2` or `2`.
fn volume(text: &str) -> Result<String, Failure> {
    let id = crate::documents::pool::parse_volume(text);
    let id = id.ok_or_else(|| Failure::Usage(format!("{text:?} is no volume such as vol-1")))?;
    Ok(id.to_string())
}

fn print_info(info: &Value) -> Result<(), Failure> {
    print(table::info(info).as_bytes())
}

/// Prints a document as a table or as it is.
pub(crate) fn show(
    value: &Value,
    json: bool,
    text: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    let out = if json { format!("{value:#}\n") } else { text(value) };
    print(out.as_bytes())
}

fn verdict(damaged: bool, say: &str) -> Result<(), Failure> {
    if damaged { Err(Failure::Damaged(say.to_owned())) } else { Ok(()) }
}

async fn evacuate_online(server: &Server, id: &str) -> Result<(), Failure> {
    let mut job = ask(server, Method::POST, &format!("/volumes/{id}/evacuate"), None).await?;
    let mut progress = progress("left");
    while job["running"] == true {
        progress(0, job["left"].as_u64().unwrap_or(0));
        tokio::time::sleep(ASK_AGAIN).await;
        let info = ask(server, Method::GET, "", None).await?;
        job = info["evacuations"][0].clone();
    }
    drop(progress);
    print(table::evacuation(&job).as_bytes())?;
    match job["error"].as_str() {
        Some(error) => Err(Failure::Refused(error.to_owned())),
        None => Ok(()),
    }
}

async fn scrub(scrub: &PoolScrub) -> Result<(), Failure> {
    let seen = match &scrub.place.server {
        Some(server) => scrub_online(server, scrub).await?,
        None if scrub.stop || scrub.detach => {
            let text = "--stop and --detach are for a running server: say which with --url";
            return Err(Failure::Usage(text.to_owned()));
        }
        None if scrub.status => offline::scrub_status(&scrub.place)?,
        None => offline::scrub(scrub, &mut progress("verified"))?,
    };
    show(&seen, scrub.json, table::scrub)?;
    if scrub.detach {
        // What is known so far is of the scrub before.
        return Ok(());
    }
    let found = seen["findings_total"].as_u64().is_some_and(|found| found > 0);
    verdict(found || seen["store_refused"].is_string(), SCRUB_FOUND)
}

async fn scrub_online(server: &Server, scrub: &PoolScrub) -> Result<Value, Failure> {
    if scrub.status {
        return ask(server, Method::GET, "/scrub", None).await;
    }
    if scrub.stop {
        return ask(server, Method::DELETE, "/scrub", None).await;
    }
    let body = json!({ "rate": scrub.rate.0, "from_start": scrub.from_start });
    let before = ask(server, Method::GET, "/scrub", None).await?;
    let mut seen = ask(server, Method::POST, "/scrub", Some(body)).await?;
    let mut progress = progress("verified");
    // Until it has begun the answer is of the one before.
    let mut begun = seen["running"] == true;
    while !scrub.detach && (seen["running"] == true || !begun) {
        progress(seen["bytes"].as_u64().unwrap_or(0), seen["goal_bytes"].as_u64().unwrap_or(0));
        tokio::time::sleep(ASK_AGAIN).await;
        seen = ask(server, Method::GET, "/scrub", None).await?;
        begun |= seen["running"] == true || seen["passes"] != before["passes"];
    }
    Ok(seen)
}

/// Shows how far long work is, on a terminal: bytes of a goal, or with a goal alone what is left.
fn progress(what: &'static str) -> impl FnMut(u64, u64) {
    let mut line = Line::on_terminal();
    move |done, goal| {
        let text = match (what, goal) {
            ("left", left) => format!("{left} mblocks left"),
            (what, goal) => format!("{} of {} {what}", table::human(done), table::human(goal)),
        };
        line.show(&text);
    }
}

/// A line that is written again and again; ended when it goes.
pub(crate) struct Line {
    open: bool,
    on: bool,
}

impl Line {
    /// On standard error, where that is a terminal.
    pub(crate) fn on_terminal() -> Self {
        Self { open: false, on: std::io::stderr().is_terminal() }
    }

    pub(crate) fn show(&mut self, text: &str) {
        if self.on {
            self.open = true;
            // Where standard error cannot be written, nobody is watching.
            drop(write!(std::io::stderr(), "\r\x1b[K{text}"));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.open {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

/// What a locked pool means for who asked by a command that can ask a server, too.
pub(super) fn refused(place: &PoolPlace, error: &mpool::Error) -> Failure {
    let way_out = "if that is a server, ask it with --url (http://127.0.0.1:7300 unless it was told \
                   otherwise), or stop it first";
    refused_with(&place.data, error, way_out)
}

/// As [`refused`], of a command that works on a directory only.
pub(super) fn refused_at(data: &Path, error: &mpool::Error) -> Failure {
    let way_out = "this needs it alone: if that is a server, stop it first (what it has stored can be \
                   verified while it serves, by millpond pool scrub)";
    refused_with(data, error, way_out)
}

fn refused_with(data: &Path, error: &mpool::Error, way_out: &str) -> Failure {
    match error {
        mpool::Error::InUse { .. } => {
            let data = data.display();
            Failure::Refused(format!("the pool in {data} is in use by another process; {way_out}"))
        }
        other => Failure::Refused(crate::api::problem::Chain(other).to_string()),
    }
}
