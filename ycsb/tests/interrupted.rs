//! Ends that nobody planned: signals to `ycsb`, and its death. The servers that it starts are
//! scripts here, and answer through a listener of the test.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long something may take before the test has failed.
const PATIENCE: Duration = Duration::from_mins(2);

/// Answers every request with 200, and tells of every write.
fn serve(written: Sender<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the test's own parts work");
    let url = format!("http://{}", listener.local_addr().expect("the test's own parts work"));
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, written) = (stream.expect("the test's own parts work"), written.clone());
            std::thread::spawn(move || while answer(&stream, &written).is_some() {});
        }
    });
    url
}

fn answer(mut stream: &TcpStream, written: &Sender<()>) -> Option<()> {
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut first, mut line, mut len) = (String::new(), String::new(), 0);
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    while reader.read_line(&mut line).ok()? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    if len > 0 {
        // Nobody may be listening any more.
        let _late = written.send(());
    }
    Some(())
}

/// A server that writes "stopped" into a pipe when it is told to stop, and its end of that pipe is
/// all that the test needs to wait for.
struct FakeServer {
    program: PathBuf,
    fifo: PathBuf,
}

impl FakeServer {
    fn new(dir: &Path, url: &str) -> Self {
        let (program, fifo) = (dir.join("server"), dir.join("fifo"));
        let made = Command::new("mkfifo").arg(&fifo).status().expect("the test's own parts work");
        assert!(made.success(), "mkfifo");
        let script = format!(
            "#!/bin/sh\nexec 3<>{}\ntrap 'echo stopped >&3; exit 0' TERM\n\
             echo listening on {url}\nwhile :; do sleep 0.05; done\n",
            fifo.display()
        );
        // A shell writes it: a program that this process had open for writing could not be run
        // while a child of another test, forked meanwhile, still has the descriptor.
        let write = r#"printf %s "$1" > "$0" && chmod 755 "$0""#;
        let written = Command::new("sh").args(["-c", write]).arg(&program).arg(script).status();
        assert!(written.expect("the test's own parts work").success(), "{}", program.display());
        Self { program, fifo }
    }

    /// What it writes, from another thread, so that a test that waits in vain fails.
    fn words(&self) -> Receiver<String> {
        let (say, words) = channel();
        let both_ways = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.fifo)
            .expect("the test's own parts work");
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(both_ways).read_line(&mut line).expect("the test's own parts work");
            // Nobody may be listening any more.
            let _late = say.send(line);
        });
        words
    }
}

fn ycsb(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ycsb"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status()
        .expect("the test's own parts work");
    assert!(sent.success(), "kill -{name}");
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a report was written");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn a_signal_ends_the_load_and_what_was_measured_is_reported() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let (written, writes) = channel();
        let server = FakeServer::new(dir.path(), &serve(written));
        let words = server.words();
        let report = dir.path().join("report.json");
        let (program, data) = (server.program.display().to_string(), dir.path().join("data"));
        let child = ycsb(&[
            "load",
            "--target",
            "http",
            "--server",
            &program,
            "--data",
            data.to_str().unwrap(),
            "-p",
            "recordcount=1000000000",
            "--threads",
            "2",
            "--json",
            report.to_str().unwrap(),
        ]);
        (0..100).for_each(|_| writes.recv_timeout(PATIENCE).expect("it loads"));
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let (text, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{text}{said}");
        assert_eq!(words.recv_timeout(PATIENCE).unwrap(), "stopped\n");
        assert!(text.contains("INTERRUPTED while loading"), "{text}{said}");
        let report = json(&report);
        assert_eq!(report["interrupted"], "loading", "{report}");
        assert!(report["operations"]["INSERT"]["count"].as_u64() >= Some(98), "{report}");
        assert_eq!(report["errors"], 0, "{report}");
    }
}

#[test]
fn a_server_does_not_outlive_the_program_that_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let (written, writes) = channel();
    let server = FakeServer::new(dir.path(), &serve(written));
    let words = server.words();
    let program = server.program.display().to_string();
    let mut child =
        ycsb(&["load", "--target", "http", "--server", &program, "-p", "recordcount=1000000000"]);
    writes.recv_timeout(PATIENCE).expect("it loads");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(words.recv_timeout(PATIENCE).unwrap(), "stopped\n", "the server lives on");
}

/// The comparison dies, so its run does, and with it the server of that run.
#[test]
fn nor_does_the_server_of_a_run_of_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let (written, writes) = channel();
    let server = FakeServer::new(dir.path(), &serve(written));
    let words = server.words();
    let mut child = compare(dir.path(), &server, &[]);
    writes.recv_timeout(PATIENCE).expect("it loads");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(words.recv_timeout(PATIENCE).unwrap(), "stopped\n", "the server lives on");
}

/// Loads side A in a moment, and then side B for ever.
fn compare(dir: &Path, server: &FakeServer, more: &[&str]) -> Child {
    let b_args = format!("--server {} -p recordcount=1000000000", server.program.display());
    let data = dir.join("data");
    let common = [
        "compare",
        "--a",
        "memory",
        "--b",
        "http",
        "--b-args",
        &b_args,
        "--workloads",
        "load,c",
        "-p",
        "recordcount=1000",
        "--seconds",
        "1",
        "--fill",
        "never",
        "--data",
        data.to_str().expect("a path in UTF-8"),
    ];
    ycsb(&[&common, more].concat())
}

#[test]
fn a_comparison_that_is_ended_reports_the_runs_that_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let (written, writes) = channel();
    let server = FakeServer::new(dir.path(), &serve(written));
    let words = server.words();
    let path = dir.path().join("compare.json");
    let child = compare(dir.path(), &server, &["--json", path.to_str().unwrap()]);
    (0..10).for_each(|_| writes.recv_timeout(PATIENCE).expect("it loads"));
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}{said}");
    assert_eq!(words.recv_timeout(PATIENCE).unwrap(), "stopped\n");
    assert!(text.contains("INTERRUPTED"), "{text}{said}");
    let report = json(&path);
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["a"]["runs"][0]["report"]["ops"], 1000, "{report}");
    assert_eq!(report["b"]["runs"][0]["report"]["interrupted"], "loading");
    // Half a round is no ratio.
    assert_eq!(report["workloads"]["load"], serde_json::json!({}));
    assert_eq!(std::fs::read_dir(dir.path().join("data")).unwrap().count(), 0, "{said}");
}

/// The server never answers, so the first signal alone would have to wait for a minute.
#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Listens, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let server = FakeServer::new(dir.path(), &url);
    let words = server.words();
    let program = server.program.display().to_string();
    let mut child = ycsb(&["load", "--target", "http", "--server", &program]);
    let _held = silent.accept().unwrap();
    // Two that come together are one.
    let status = loop {
        signal(&child, "TERM");
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!(status.signal(), Some(15), "{status}");
    assert_eq!(words.recv_timeout(PATIENCE).unwrap(), "stopped\n", "the server lives on");
}
