//! A first program: open a database, write, read, scan, and read a moment of the past.
//!
//! ```sh
//! cargo run -p millpond-kvs --example starter            # in ./millpond-starter
//! cargo run -p millpond-kvs --example starter /some/dir
//! ```
//!
//! It can be run again and again on one directory: everything is opened if it is there, and created
//! if it is not. The directory must be on a file system that takes direct IO, such as ext4 or XFS.

use kvs::{Database, Durability, Options, Range};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
fn main() -> ExitCode {
    let dir = std::env::args_os().nth(1).unwrap_or_else(|| "./millpond-starter".into());
    match run(&PathBuf::from(dir), Options::default()) {
        Ok(lines) => lines.iter().for_each(|line| println!("{line}")),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The whole tour; returns what it has to say.
pub(crate) fn run(dir: &Path, options: Options) -> Result<Vec<String>, kvs::Error> {
    let mut said = Vec::new();

    // One directory, one database; one process at a time.
    let db = Database::open(dir, options)?;

    // A named key space. `create_kvs` insists that it is new, `open_kvs` that it exists.
    let birds = db.kvs("birds")?;
    let visits = db.kvs("visits")?;

    // How often this has run: the value has a stroke for each run. `Sync` returns once the write is
    // on stable storage, so a crash after this line does not lose it.
    let before = visits.get(b"count")?.map_or(0, |entry| entry.value.len());
    visits.put(b"count", &vec![b'|'; before + 1], Durability::Sync)?;
    said.push(format!("run {}", before + 1));

    // Several writes, over any KVSs, that happen together or not at all.
    let mut batch = db.batch();
    batch.put(&birds, b"heron", b"grey")?;
    batch.put(&birds, b"kingfisher", b"blue")?;
    batch.put(&birds, b"teal", b"small")?;
    batch.delete(&birds, b"dodo")?;
    let revision = db.write(batch, Durability::Sync)?;
    said.push(format!("written as revision {revision}"));

    // A snapshot goes on seeing what there was. `Interval` returns at once: a crash within the next
    // 100 ms may lose this write, and never one that came before it.
    let snapshot = db.snapshot();
    birds.put(b"heron", b"white", Durability::Interval)?;
    // A key that is not there is `None`, and no error.
    for bird in [&b"heron"[..], b"ostrich"] {
        let name = bird.escape_ascii();
        match birds.get(bird)? {
            Some(entry) => {
                let was = snapshot.get(&birds, bird)?.map(|entry| entry.value);
                said.push(format!("{name} is {:?}, was {was:?}", entry.value));
            }
            None => said.push(format!("{name} is not there")),
        }
    }

    // A cursor is an iterator of results. Damage to one key is an error in its place, and the
    // cursor goes on after it; `?` ends the loop there instead.
    let range = Range { start: Some("i".into()), ..Range::default() };
    for item in birds.cursor(range)?.take(10) {
        let item = item?;
        said.push(format!("{:?} = {:?}", item.key, item.value));
    }

    // The last handle would close it, too; this way an error is heard of.
    db.close()?;
    Ok(said)
}
