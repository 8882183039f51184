//! The real server under limits that the system sets: files of some length, files open at a time.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Client, Server};
use tempfile::TempDir;

/// A program that starts the server after a command of the shell, which lowers a limit.
fn limited(directory: &TempDir, command: &str) -> PathBuf {
    let program = directory.path().join("limited");
    let server = env!("CARGO_BIN_EXE_millpond");
    let script = format!("#!/bin/sh\n{command}\nexec {server} \"$@\"\n");
    // A shell writes it: a program that this process had open for writing could not be run while a
    // child of another test, forked meanwhile, still has the descriptor.
    let write = r#"printf %s "$1" > "$0" && chmod 755 "$0""#;
    let written = Command::new("sh").args(["-c", write]).arg(&program).arg(script).status();
    assert!(written.unwrap().success());
    program
}

fn metric(client: &mut Client, name: &str) -> u64 {
    let text = client.send("GET", "/metrics", b"").unwrap();
    let line = text.text().lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// `ulimit -f` ended the server by SIGXFSZ with the first write beyond it.
#[test]
fn a_file_that_may_grow_no_more_is_a_full_store() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    // In units of 512 or 1024 bytes, as the shell has it: 300 or 600 MiB.
    let program = limited(&directory, "ulimit -f 614400");
    let server = Server::start_program(&program, &data, &["--memtable", "8MiB"]);
    let mut client = server.connect();
    let value: Vec<u8> = (0..8_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
    let put = |client: &mut Client, key: &str| {
        let target = format!("/v1/kv/default/{key}?durability=off");
        client.send("PUT", &target, &value).unwrap()
    };
    assert_eq!(put(&mut client, "first").status, 200);
    let refused =
        (0..200).map(|n| put(&mut client, &format!("k{n}"))).find(|put| put.status != 200);
    let refused = refused.expect("600 MiB hold less than 1,600");
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(refused.text().contains("ulimit -f"), "{}", refused.text());
    let size = std::fs::metadata(data.join("capacity.vol")).unwrap().len();
    assert!(size <= 600 << 20, "{size}");
    // It is full, and nothing else.
    assert_eq!(client.send("GET", "/readyz", b"").unwrap().status, 200);
    assert_eq!(client.send("GET", "/v1/kv/default/first", b"").unwrap().body, value);
    assert_eq!(client.send("DELETE", "/v1/kv/default/first", b"").unwrap().status, 200);
    server.terminate();
    assert!(server.wait().success());
    // A file that is longer than may be written is not opened, and the limit named.
    let program = limited(&directory, "ulimit -f 1000");
    let refused = start_and_fail(&program, &data);
    assert!(refused.contains("ulimit -f"), "{refused}");
    let server = Server::start_program(Path::new(env!("CARGO_BIN_EXE_millpond")), &data, &[]);
    assert_eq!(server.connect().send("GET", "/v1/kv/default/k0", b"").unwrap().body, value);
}

/// With 64 MiB nothing could ever be put, and the first 507 advised to delete.
#[test]
fn a_store_that_can_take_no_put_is_told_at_its_start() {
    let directory = TempDir::new().unwrap();
    // In blocks of 512 bytes, as POSIX has it: there is room for an empty store, and little more.
    let program = limited(&directory, "ulimit -f 131072");
    let (data, log) = (directory.path().join("data"), directory.path().join("log"));
    let mut command = Command::new(&program);
    command.stderr(std::fs::File::create(&log).unwrap());
    let server = Server::start_command(command, &data, &[]);
    let refused = server.connect().send("PUT", "/v1/kv/default/a", b"1").unwrap();
    assert_eq!(refused.status, 507, "{}", refused.text());
    server.terminate();
    assert!(server.wait().success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("too small for any put") && log.contains("reserve_bytes="), "{log}");
}

fn start_and_fail(program: &Path, data: &Path) -> String {
    let mut command = Command::new(program);
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--allow-buffered",
            "--allow-volatile",
            "--data",
        ])
        .arg(data);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn connections_are_as_many_as_files_may_be_open() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    // The soft limit is raised to the hard one.
    let program = limited(&directory, "ulimit -Sn 60; ulimit -Hn 300");
    let server = Server::start_program(&program, &data, &["--connections", "1000"]);
    let mut client = server.connect();
    assert_eq!(metric(&mut client, "process_max_fds"), 300);
    assert_eq!(metric(&mut client, "millpond_http_connections_max"), 172);
    let mut open: Vec<Client> = (1..172).map(|_| server.connect()).collect();
    for client in &mut open {
        assert_eq!(client.send("GET", "/livez", b"").unwrap().status, 200);
    }
    let told = server.connect().reply("GET").unwrap();
    assert_eq!((told.status, told.header("x-millpond-stall")), (503, Some("connections")));
    assert!(told.text().contains("172 connections are open"), "{}", told.text());
}
