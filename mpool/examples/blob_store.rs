//! A tiny blob store: each blob is one mblock, and the mblock's id is its name.
//!
//! ```text
//! cargo run -p millpond-mpool --example blob_store -- ./blobs put photo.jpg     prints mb-1
//! cargo run -p millpond-mpool --example blob_store -- ./blobs get mb-1 > photo.jpg
//! ```
//!
//! `put` and `delete` are durable when they return; a `put` that was cut short leaves nothing.

use mpool::{Error, IoBuf, MblockId, Options, Pool, Priority, Result};
use std::{
    fs::File,
    io::{Read, Write, stdout},
    path::Path,
    sync::Arc,
};

const PIECE: usize = 1 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [dir, command @ ..] = &words[..] else { return usage() };
    let options = Options { allow_buffered: true, allow_volatile: true, ..Options::default() };
    let pool = Pool::open_or_create(Path::new(dir), &options)?;
    match command {
        ["put", file] => say(&put(&pool, file)?.to_string()),
        ["get", id] => get(&pool, parse(id)?),
        ["delete", id] => pool.commit(Vec::new(), &[parse(id)?]).map(drop),
        ["list"] => {
            let line = |id| say(&format!("{id} {} bytes", pool.mblock(id)?.len_bytes()));
            pool.mblock_ids().into_iter().try_for_each(line)
        }
        _ => usage(),
    }
}

fn put(pool: &Arc<Pool>, path: &str) -> Result<MblockId> {
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut writer = pool.allocate(len.max(1), Priority::Flush)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(pool.commit(vec![writer], &[])?[0].id()),
            read => writer.append(&piece[..read])?,
        }
    }
}

fn get(pool: &Arc<Pool>, id: MblockId) -> Result<()> {
    let blob = pool.mblock(id)?;
    let mut piece = IoBuf::zeroed(PIECE);
    for at in (0..blob.len_bytes()).step_by(PIECE) {
        blob.read_at(at, &mut piece)?;
        let len = usize::try_from(blob.len_bytes() - at).unwrap_or(PIECE).min(PIECE);
        stdout().write_all(&piece[..len]).map_err(failed)?;
    }
    Ok(())
}

fn parse(id: &str) -> Result<MblockId> {
    let number = id.strip_prefix("mb-").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.and_then(MblockId::new).ok_or_else(|| Error::Options(format!("{id} is no blob's id")))
}

fn say(line: &str) -> Result<()> {
    writeln!(stdout(), "{line}").map_err(failed)
}

fn failed(source: std::io::Error) -> Error {
    Error::Io { op: "copy", offset: 0, len: 0, source }
}

fn usage() -> Result<()> {
    Err(Error::Options("usage: blob_store DIR put FILE | get ID | list | delete ID".to_owned()))
}
