//! One flipped bit in what the store wrote last of its journals before it was killed: nothing that
//! was acknowledged is lost, and the start says that it has put the bit right.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use support::Server;
use tempfile::TempDir;

const PAGE: u64 = 4096;
/// The pool's journal follows the two copies of the superblock.
const JOURNAL_AT: u64 = 128 << 10;
const WRITES: u64 = 5;

fn put_and_kill(data: &Path) -> Vec<String> {
    let server = Server::start(data, &[]);
    let mut client = server.connect();
    let mut tags = Vec::new();
    for n in 0..WRITES {
        let target = format!("/v1/kv/default/key-{n}?durability=sync");
        let reply = client.send("PUT", &target, format!("value {n}").as_bytes()).unwrap();
        assert_eq!(reply.status, 200);
        tags.push(reply.header("etag").unwrap().to_owned());
    }
    server.kill();
    tags
}

fn volume(data: &Path) -> File {
    File::options().read(true).write(true).open(data.join("capacity.vol")).unwrap()
}

fn read(data: &Path, at: u64) -> Vec<u8> {
    let mut page = vec![0; usize::try_from(PAGE).unwrap()];
    volume(data).read_exact_at(&mut page, at).unwrap();
    page
}

/// Every place at which the frames of a journal begin, and go on to another one.
fn logs(data: &Path) -> Vec<u64> {
    let len = volume(data).metadata().unwrap().len();
    let is_frame = |at: u64| at < len && read(data, at).starts_with(b"MDCF");
    (JOURNAL_AT..len.min(64 << 20))
        .step_by(64 << 10)
        .filter(|at| is_frame(*at) && is_frame(at + PAGE))
        .collect()
}

/// The last page of a log before the first that was never written.
fn last_page(data: &Path, log: u64) -> u64 {
    let pages = (log..).step_by(usize::try_from(PAGE).unwrap());
    let zeros = |at: &u64| read(data, *at).iter().all(|byte| *byte == 0);
    pages.take_while(|at| !zeros(at)).last().unwrap()
}

fn check(data: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["pool", "check", "--allow-buffered", "--allow-volatile", "--data"]).arg(data);
    let output = command.output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The write-ahead log's segments were gone, whole and with all that was acknowledged.
#[test]
fn a_flipped_bit_in_the_last_frame_of_a_journal_loses_nothing() {
    let store = TempDir::new().unwrap();
    let mut tags = put_and_kill(store.path());
    // The pool's own, and the engine's manifest; two copies each.
    let all = logs(store.path());
    assert_eq!(all.len(), 4, "{all:?}");
    for log in all {
        let at = last_page(store.path(), log);
        let byte = read(store.path(), at)[0];
        volume(store.path()).write_all_at(&[byte ^ 1], at).unwrap();
        let told = check(store.path());
        assert!(told.contains("the next start writes this copy again"), "{log}: {told}");
        let server = Server::start(store.path(), &[]);
        let mut client = server.connect();
        for (n, tag) in tags.iter().enumerate() {
            let target = format!("/v1/kv/default/key-{n}");
            let reply = client.send("GET", &target, b"").unwrap();
            assert_eq!((reply.status, reply.text()), (200, &*format!("value {n}")), "log at {log}");
            assert_eq!(reply.header("etag"), Some(&**tag));
        }
        let metrics = client.send("GET", "/metrics", b"").unwrap();
        let healed = "\nmillpond_mpool_mdc_healed_total 1\n";
        assert!(metrics.text().contains(healed), "log at {log}");
        server.kill();
        assert_eq!(read(store.path(), at)[0], byte, "it is put right");
        tags = put_and_kill(store.path());
    }
}
