//! A store with damage that keeps it from opening: what `pool check` says, what `serve --read-only`
//! serves, what `millpond recover` costs, and that nothing is written before `--apply`.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::Server;
use tempfile::TempDir;

const WRITES: u64 = 6;
const PAGE: usize = 4096;

fn value(n: u64) -> String {
    format!("the value of write number {n}, which stands in one page of the log")
}

fn target(n: u64) -> String {
    format!("/v1/kv/default/key-{n}")
}

fn volume(data: &Path) -> PathBuf {
    data.join("capacity.vol")
}

/// A store with a few writes in its log: killed, for a stop in order would flush them.
fn store() -> TempDir {
    let (data, server) = written();
    server.kill();
    data
}

/// A server with a few writes.
fn written() -> (TempDir, Server) {
    let data = TempDir::new().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut client = server.connect();
    for n in 1..=WRITES {
        let written = client.send("PUT", &target(n), value(n).as_bytes()).unwrap();
        assert_eq!(written.status, 200);
    }
    (data, server)
}

fn stop(server: Server) {
    server.terminate();
    assert!(server.wait().success());
}

/// The first pages of the volume that hold these bytes, of which at most `count` are looked for.
fn pages_with(data: &Path, bytes: &[u8], count: usize) -> Vec<u64> {
    let (mut offset, mut found) = (0, Vec::new());
    let all = std::fs::read(volume(data)).unwrap();
    for page in all.chunks(PAGE) {
        if page.windows(bytes.len()).any(|window| window == bytes) {
            found.push(offset);
        }
        if found.len() == count {
            break;
        }
        offset += page.len() as u64;
    }
    found
}

fn flip(data: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(volume(data)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(arguments).args(["--allow-buffered", "--allow-volatile", "--data"]).arg(data);
    command.output().unwrap()
}

/// Runs a command and compares its exit code; what it wrote.
fn expect(data: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(data, arguments);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn refused_start(data: &Path) -> String {
    let text = expect(data, &["serve", "--listen", "127.0.0.1:0"], 1);
    assert!(text.contains("cannot be opened"), "{text}");
    text
}

/// Which of the writes are served.
fn served(server: &Server) -> Vec<u64> {
    let mut client = server.connect();
    let mut found = Vec::new();
    for n in 1..=WRITES {
        let read = client.send("GET", &target(n), b"").unwrap();
        match read.status {
            200 => {
                assert_eq!(read.text(), value(n));
                found.push(n);
            }
            status => assert_eq!(status, 404),
        }
    }
    found
}

fn check_refusals(server: &Server) {
    let mut client = server.connect();
    let json = "content-type: application/json\r\n";
    for (method, target, body) in [
        ("PUT", "/v1/kv/default/new", "v"),
        ("DELETE", "/v1/kv/default/key-1", ""),
        ("POST", "/v1/batch", r#"[{"op":"put","k":"a","v":"b"}]"#),
        ("PUT", "/v1/kvs/fish", ""),
        ("DELETE", "/v1/kvs/default", ""),
        ("PUT", "/v1/admin/pool/name", r#"{"name":"north"}"#),
        ("POST", "/v1/admin/pool/volumes", r#"{"path":"more.vol"}"#),
        ("POST", "/v1/admin/pool/volumes/vol-0/grow", r#"{"capacity":"2TiB"}"#),
        ("POST", "/v1/admin/pool/volumes/vol-0/evacuate", ""),
    ] {
        let headers = if body.starts_with(['[', '{']) { json } else { "" };
        let reply = client.send_with(method, target, headers, body.as_bytes()).unwrap();
        let text = reply.text();
        assert_eq!(reply.status, 403, "{method} {target}: {text}");
        assert_eq!(reply.json()["type"], "urn:millpond:problem:read-only", "{method} {target}");
    }
    let ready = client.send("GET", "/readyz", b"").unwrap();
    assert_eq!((ready.status, ready.text()), (200, "ready\nread-only\n"));
    let version = client.send("GET", "/version", b"").unwrap().json();
    assert_eq!(version["read_only"], true);
    let metrics = client.send("GET", "/metrics", b"").unwrap();
    assert!(metrics.text().contains("\nmillpond_read_only 1\n"));
}

/// The log's segments are files that hold the damaged page, and a text says what they are.
fn check_kept(dir: &Path, before: &[u8], page: u64) {
    let text = std::fs::read_to_string(dir.join("KEPT.txt")).unwrap();
    assert!(text.contains("revision 3 was durable"), "{text}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments: Vec<PathBuf> =
        files.filter(|path| path.to_str().unwrap().contains("/segment-seg-")).collect();
    assert!(!segments.is_empty(), "{text}");
    let page = usize::try_from(page).unwrap();
    let damaged = &before[page..page + PAGE];
    let has = |path: &PathBuf| {
        assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
        std::fs::read(path).unwrap().chunks(PAGE).any(|page| page == damaged)
    };
    assert_eq!(segments.iter().filter(|path| has(path)).count(), 1);
}

/// One flipped byte in the log: nothing opened, and the check said "sound".
#[test]
fn damage_in_the_log_is_named_read_past_and_recovered_from() {
    let data = store();
    let data = data.path();
    assert!(expect(data, &["pool", "check"], 0).contains("sound"));
    let page = pages_with(data, value(3).as_bytes(), 1)[0];
    flip(data, page + 9);
    let before = std::fs::read(volume(data)).unwrap();
    let text = refused_start(data);
    assert!(text.contains("revision 3 was durable"), "{text}");
    for way in ["millpond recover --wal skip-damaged", "--read-only --read-only-wal skip-damaged"] {
        assert!(text.contains(way), "{way} is not in: {text}");
    }
    let text = expect(data, &["serve", "--listen", "127.0.0.1:0", "--read-only"], 1);
    assert!(text.contains("--read-only --read-only-wal skip-damaged"), "{text}");
    for check in [&["pool", "check"][..], &["pool", "check", "--full"]] {
        let text = expect(data, check, 1);
        assert!(text.contains("write-ahead log segment 1 (seg-"), "{text}");
        assert!(text.contains("revisions 3 to 3 are lost"), "{text}");
        assert!(text.contains("millpond recover"), "{text}");
    }
    assert!(expect(data, &["recover"], 3).contains("say what to do about it with --wal"));
    for (wal, left, lost) in [
        ("skip-damaged", &[1, 2, 4, 5, 6][..], "revisions 3 to 3 are lost"),
        ("stop-at-damage", &[1, 2], "default/key-6 of revision 6"),
    ] {
        let text = expect(data, &["recover", "--wal", wal], 1);
        assert!(text.contains(lost) && text.contains("dry run"), "{text}");
        let flags = ["--read-only", "--read-only-wal", wal];
        let server = Server::start(data, &flags);
        assert_eq!(served(&server), left, "{wal}");
        check_refusals(&server);
        stop(server);
    }
    let server = Server::start(data, &["--read-only", "--read-only-wal", "leave-out"]);
    assert!(served(&server).is_empty());
    stop(server);
    assert!(std::fs::read(volume(data)).unwrap() == before, "nothing was written so far");

    let kept = TempDir::new().unwrap();
    let dir = kept.path().join("evidence");
    let keep = dir.to_str().unwrap();
    let command = ["recover", "--wal", "skip-damaged", "--apply", "--keep", keep];
    expect(data, &["recover", "--wal", "skip-damaged", "--keep", keep], 2);
    let text = expect(data, &command, 0);
    assert!(text.contains("done"), "{text}");
    check_kept(&dir, &before, page);
    let text = expect(data, &command, 3);
    assert!(text.contains("it is not empty"), "{text}");
    assert!(expect(data, &["pool", "check", "--full"], 0).contains("sound"));
    // It reads no values, and so does not vouch for them.
    let text = expect(data, &["recover"], 0);
    assert!(text.contains("opens without loss") && text.contains("pool check --full"), "{text}");
    let server = Server::start(data, &[]);
    assert_eq!(served(&server), [1, 2, 4, 5, 6]);
    let written = server.connect().send("PUT", &target(3), value(3).as_bytes()).unwrap();
    let revision: u64 = written.header("x-millpond-revision").unwrap().parse().unwrap();
    assert!(revision > WRITES);
    stop(server);
}

/// `pool scrub` refused, where there was most to be looked for.
#[test]
fn a_store_that_does_not_open_is_scrubbed() {
    let data = store();
    let page = pages_with(data.path(), value(3).as_bytes(), 1)[0];
    flip(data.path(), page + 9);
    let text = expect(data.path(), &["pool", "scrub", "--rate", "0"], 1);
    assert!(text.contains("it belongs to write-ahead log segment 1, revision 3"), "{text}");
    assert!(text.contains("the store does not open: write-ahead log segment 1"), "{text}");
    let json = run(data.path(), &["pool", "scrub", "--rate", "0", "--json"]).stdout;
    let seen: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(seen["findings_total"], 1, "{seen:#}");
    assert!(seen["store_refused"].as_str().unwrap().contains("revision 3 was durable"));
}

/// The last write before a clean stop was silently gone. Then it is in a kvset.
#[test]
fn the_last_write_before_a_clean_stop_does_not_vanish() {
    let (data, server) = written();
    stop(server);
    for page in pages_with(data.path(), value(WRITES).as_bytes(), 2) {
        flip(data.path(), page + 100);
    }
    let server = Server::start(data.path(), &[]);
    let read = server.connect().send("GET", &target(WRITES), b"").unwrap();
    assert_eq!(read.status, 500, "{}", read.text());
}

#[test]
fn a_kvset_that_cannot_be_opened_is_named_left_out_and_taken_out() {
    let data = TempDir::new().unwrap();
    let data = data.path();
    let server = Server::start(data, &["--memtable", "1MiB"]);
    let mut client = server.connect();
    for n in 0..12 {
        let target = format!("/v1/kv/default/large-{n}");
        assert_eq!(client.send("PUT", &target, &vec![7; 200_000]).unwrap().status, 200);
    }
    for n in 1..=WRITES {
        assert_eq!(client.send("PUT", &target(n), value(n).as_bytes()).unwrap().status, 200);
    }
    stop(server);
    flip(data, pages_with(data, b"MPHB", 1)[0] + 20);
    let before = std::fs::read(volume(data)).unwrap();
    assert!(refused_start(data).contains("kvset 1 of KVS default (hblock mb-"));
    let text = expect(data, &["pool", "check"], 1);
    assert!(text.contains("kvset 1 of KVS default (hblock mb-"), "{text}");
    assert!(expect(data, &["recover"], 3).contains("--drop-kvsets"));
    assert!(expect(data, &["recover", "--drop-kvsets"], 1).contains("kvset 1 of KVS default"));
    let server = Server::start(data, &["--read-only", "--read-only-skip-kvsets"]);
    assert_eq!(served(&server), [1, 2, 3, 4, 5, 6]);
    let version = server.connect().send("GET", "/version", b"").unwrap().json();
    assert_eq!(version["left_out"], 1);
    stop(server);
    assert!(std::fs::read(volume(data)).unwrap() == before, "nothing was written so far");
    expect(data, &["recover", "--drop-kvsets", "--apply"], 0);
    let server = Server::start(data, &[]);
    assert_eq!(served(&server), [1, 2, 3, 4, 5, 6]);
    stop(server);
}

/// The first part of the volume is zeros: superblocks, and the start of the journal's first copy.
#[test]
fn a_lost_superblock_is_written_again_when_asked_for_by_name() {
    for bytes in [128 << 10, 1 << 20] {
        let data = store();
        let data = data.path();
        let file = File::options().write(true).open(volume(data)).unwrap();
        file.write_all_at(&vec![0; bytes], 0).unwrap();
        let text = refused_start(data);
        assert!(text.contains("recover --superblock"), "{text}");
        let before = std::fs::read(volume(data)).unwrap();
        let text = expect(data, &["recover", "--superblock"], 1);
        assert!(text.contains("both copies of the superblock are lost"), "{text}");
        assert!(text.contains("the store opens without loss"), "{text}");
        assert!(std::fs::read(volume(data)).unwrap() == before, "a dry run writes nothing");
        refused_start(data);
        expect(data, &["recover", "--superblock", "--apply"], 0);
        let text = expect(data, &["recover", "--superblock"], 3);
        assert!(text.contains("there is nothing to find"), "{text}");
        expect(data, &["pool", "check", "--full"], 0);
        let server = Server::start(data, &[]);
        assert_eq!(served(&server), (1..=WRITES).collect::<Vec<_>>());
        stop(server);
    }
}
