//! What the server logs, and that it serves whatever becomes of its log.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Client, Server};
use tempfile::TempDir;

fn millpond() -> Command {
    Command::new(env!("CARGO_BIN_EXE_millpond"))
}

/// A server that logs everything, to `stderr`.
fn noisy(directory: &TempDir, stderr: impl Into<Stdio>) -> Server {
    let mut command = millpond();
    command.stderr(stderr);
    Server::start_command(command, &directory.path().join("data"), &["--log", "trace"])
}

/// More requests than a pipe has room for lines.
fn ask_often(client: &mut Client) {
    for _ in 0..1500 {
        assert_eq!(client.send("GET", "/v1/kv/default/a", b"").unwrap().status, 404);
    }
}

fn lost_lines(client: &mut Client) -> u64 {
    let scrape = client.send("GET", "/metrics", b"").unwrap();
    let lost =
        scrape.text().lines().find_map(|line| line.strip_prefix("millpond_log_lines_lost_total "));
    lost.unwrap().parse().unwrap()
}

/// A line that could not be written panicked the thread that logged: no answer, exit code 101.
#[test]
fn a_log_that_cannot_be_written_stops_nothing_and_is_counted() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for stderr in [Stdio::from(full()), Stdio::from(writer)] {
        let directory = TempDir::new().unwrap();
        let server = noisy(&directory, stderr);
        let mut client = server.connect();
        ask_often(&mut client);
        assert_eq!(client.send("PUT", "/v1/kv/default/a", b"kept").unwrap().status, 200);
        assert!(lost_lines(&mut client) > 0);
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let directory = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let server = noisy(&directory, writer);
    let mut client = server.connect();
    ask_often(&mut client);
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    drop(reader);
}

#[test]
fn a_standard_output_that_is_full_stops_no_start() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let mut child = millpond()
        .args(["serve", "--listen", "127.0.0.1:0", "--allow-buffered", "--allow-volatile"])
        .arg("--data")
        .arg(directory.path().join("data"))
        .stdout(OpenOptions::new().write(true).open("/dev/full").unwrap())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let address = loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if let Some(line) = text.lines().find(|line| line.contains(" serving ")) {
            let (_, rest) = line.split_once("address=").unwrap();
            break rest.split(' ').next().unwrap().parse().unwrap();
        }
        assert_eq!(child.try_wait().unwrap(), None, "{text}");
        std::thread::yield_now();
    };
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.send("GET", "/readyz", b"").unwrap().status, 200);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(std::fs::read_to_string(&log).unwrap().contains("standard output cannot be written"));
}

/// Starts a server whose log goes to a file, runs `work`, stops it, and returns the log.
fn log_of(
    flags: &[&str],
    prepare: impl FnOnce(&mut Command, &Path),
    work: impl FnOnce(&mut Client),
) -> String {
    let directory = TempDir::new().unwrap();
    let (log, data) = (directory.path().join("log"), directory.path().join("data"));
    let mut command = millpond();
    command.stderr(File::create(&log).unwrap());
    prepare(&mut command, &data);
    let server = Server::start_command(command, &data, flags);
    work(&mut server.connect());
    server.terminate();
    assert!(server.wait().success());
    std::fs::read_to_string(&log).unwrap()
}

#[test]
fn nothing_from_outside_breaks_a_line_or_reaches_a_terminal() {
    let evil = "%0AFORGED%20ERROR%1B%5B31m%C2%9B";
    let log = log_of(
        &["--log", "trace"],
        |_, _| {},
        |client| {
            for target in [
                format!("/v1/kv/default/{evil}"),
                format!("/v1/kv/{evil}/a"),
                format!("/v1/kv/default?limit={evil}"),
                format!("/v1/kv/default?cursor={evil}"),
                format!("/v1/kvs/{evil}"),
            ] {
                assert!(client.send("GET", &target, b"").unwrap().status >= 400);
            }
            let batch = br#"[{"op":"put","k":"a\nFORGED\u001b[31m","v":"1","x":2}]"#;
            assert_eq!(client.send("POST", "/v1/batch", batch).unwrap().status, 400);
            let id = "x-request-id: tab\there\r\n";
            assert_eq!(client.send_with("GET", "/nothing", id, b"").unwrap().status, 404);
        },
    );
    assert!(log.contains("request refused"), "{log}");
    for line in log.lines() {
        assert!(line.starts_with("20"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// 1,500 lines in 0.4 s said neither what was asked for nor by whom.
#[test]
fn a_flood_of_warnings_is_cut_and_each_names_its_request() {
    let log = log_of(&["--slow-request", "0s"], |_, _| {}, ask_often);
    let slow: Vec<&str> = log.lines().filter(|line| line.contains("slow request")).collect();
    // A slow machine may need more than one window for them.
    assert!(slow.len() >= 20 && slow.len() < 400, "{} lines", slow.len());
    assert!(slow.iter().all(|line| line.contains("method=GET path=")), "{}", slow[0]);
}

#[test]
fn what_administrators_do_is_logged_with_who_did_it() {
    let log = log_of(
        &["--log", "info"],
        |_, _| {},
        |client| {
            for (method, target, body, status) in [
                ("PUT", "/v1/kvs/users", &b""[..], 201),
                ("DELETE", "/v1/kvs/users", b"", 200),
                ("DELETE", "/v1/kvs/users", b"", 404),
                ("PUT", "/v1/admin/pool/name", br#"{"name":"north"}"#, 200),
            ] {
                let json = "content-type: application/json\r\n";
                assert_eq!(client.send_with(method, target, json, body).unwrap().status, status);
            }
        },
    );
    for (level, said) in [
        ("INFO", "method=PUT path=/v1/kvs/users status=201"),
        ("INFO", "method=DELETE path=/v1/kvs/users status=200"),
        ("WARN", "method=DELETE path=/v1/kvs/users status=404"),
        ("INFO", "method=PUT path=/v1/admin/pool/name status=200"),
    ] {
        let line = log.lines().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(level) && line.contains("peer=127.0.0.1:"), "{line}");
    }
}

#[test]
fn variables_that_are_no_options_are_told_and_empty_ones_are_not_set() {
    let prepare = |command: &mut Command, _: &Path| {
        command.envs([
            ("MILLPOND_MEMROY", "2GiB"),
            ("MILLPOND_LISTEN", ""),
            ("MILLPOND_CONFIG", ""),
            ("MILLPOND_MEMORY", ""),
            ("MILLPOND_ALLOW_BUFFERED", ""),
            ("MILLPOND_PORT_7300_TCP", "tcp://10.0.0.1:7300"),
        ]);
    };
    let log = log_of(&[], prepare, |_| {});
    let told: Vec<&str> = log.lines().filter(|line| line.contains("is no option")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("MILLPOND_MEMROY") && told[0].contains("nearest=\"MILLPOND_MEMORY\""));
    // A client's variable, too.
    let mut command = millpond();
    let output = command.args(["get", "a"]).env("MILLPOND_URL", "").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_ne!(output.status.code(), Some(2), "{said}");
}

#[test]
fn the_data_are_their_owners_whatever_the_umask() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("above/data");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_millpond")]);
    let server = Server::start_command(command, &data, &["--allow-buffered"]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in data.read_dir().unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(server);
    // One that is there stays as it is, and is told.
    let prepare = |_: &mut Command, data: &Path| {
        std::fs::create_dir(data).unwrap();
        std::fs::set_permissions(data, Permissions::from_mode(0o777)).unwrap();
    };
    let log = log_of(&[], prepare, |_| {});
    assert!(log.contains("mode=777") && log.contains("chmod 700"), "{log}");
}

#[test]
fn listening_where_strangers_reach_is_told() {
    let log = log_of(&["--listen", "0.0.0.0:0"], |_, _| {}, |_| {});
    assert!(log.contains("no authentication"), "{log}");
    assert!(!log_of(&[], |_, _| {}, |_| {}).contains("no authentication"));
}

/// Who was cut off found a broken connection, and the log said nothing.
#[test]
fn a_slow_reader_that_is_cut_off_is_told_of_in_the_log() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let mut command = millpond();
    command.stderr(File::create(&log).unwrap());
    let flags = ["--write-timeout", "1s", "--rate-min", "1GiB"];
    let server = Server::start_command(command, &directory.path().join("data"), &flags);
    let value = vec![7; 12 << 20];
    assert_eq!(server.connect().send("PUT", "/v1/kv/default/a", &value).unwrap().status, 200);
    let mut client = server.connect();
    client.write(b"GET /v1/kv/default/a HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let text = loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("slow-reader") && text.ends_with('\n') {
            break text;
        }
        std::thread::yield_now();
    };
    let line = text.lines().find(|line| line.contains("slow-reader")).unwrap();
    for word in [
        " WARN ",
        "peer=127.0.0.1:",
        "route=\"key\"",
        " bytes=",
        " bytes_per_s=",
        "rate_min=1073741824",
        "write_timeout_s=1.0",
        "a lower rate_min or a longer write_timeout",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
}
