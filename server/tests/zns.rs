//! The whole server on a zoned drive: `cargo xtask zns server` runs this in a virtual machine.
//!
//! A pool is made as [docs/pool.md](../../docs/pool.md) says, with its root on a conventional
//! drive and everything else in zones (on a drive with conventional zones: all of it there).
//! Records are loaded over and over, so that compaction kills what lies in zones. Then, with ycsb's
//! workload B and a writer of our own under way, and zones being reset:
//!
//! ```text
//!   machine 1   load, B, verify | B: kill -9 | verify | B: the machine crashes
//!   machine 2   check | verify | B: the machine crashes again
//!   machine 3   check | verify | load, B, verify, scrub | check of every page, scrub
//! ```
//!
//! A drive in the machine's memory dies with it, so there all of this happens without the crashes.
//!
//! ycsb knows that every record is there and whole, not whether it is the latest. That is what the
//! writer is for ([`Steps`]): each of its writes is acknowledged as durable before it is counted on
//! a file system that survives. Kill and crash follow its last write at once: a few milliseconds
//! later another's write would have made it durable, too.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use serde_json::Value;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{Client, Server};

/// Where the virtual machine has the programs.
const PROGRAMS: &str = "/program";
const RECORDS: u64 = 6000;
const OPERATIONS: u64 = 4000;
/// Each makes garbage of all that the one before has written.
const LOADS: u64 = 4;
/// The machine crashes so often.
const CRASHES: u32 = 2;

/// Keys that the writer writes. Not a multiple of 4, so that each key is written and deleted.
const KEYS: u64 = 61;
const VALUE_BYTES_MAX: u64 = 48 << 10;
/// The writer goes on until it has written so much, and zones were reset beside it so often.
const STEPS_MIN: u64 = 200;
const RESETS_MIN: u64 = 2;
/// By then zones have been reset, or never will be.
const STEPS_MAX: u64 = 10_000;
/// The writer looks at the server's metrics after so many steps, and ends halfway to the next look.
const STEPS_TO_LOOK: u64 = 20;

/// What the virtual machine offers.
struct Machine {
    drive: PathBuf,
    conventional: PathBuf,
    keep: PathBuf,
    phase: u32,
}

#[expect(clippy::print_stderr, reason = "whoever reads the machine's output sees how far it came")]
fn say(what: &str) {
    eprintln!("{what}");
}

impl Machine {
    fn find() -> Option<Self> {
        let path = |name| env::var_os(name).map(PathBuf::from);
        Some(Self {
            drive: path("MILLPOND_ZNS_DEV")?,
            conventional: path("MILLPOND_ZNS_CONV")?,
            keep: path("MILLPOND_ZNS_KEEP")?,
            phase: env::var("MILLPOND_ZNS_PHASE").ok()?.parse().ok()?,
        })
    }

    /// A drive in the machine's memory loses everything with it.
    fn survives_a_crash(&self) -> bool {
        !self.drive.to_string_lossy().contains("nullb")
    }

    fn data(&self) -> PathBuf {
        self.keep.join("pond")
    }

    /// `millpond pool ... --data DIR`, which must succeed.
    fn pool(&self, arguments: &[&str]) -> String {
        let mut command = program("millpond");
        command.arg("pool").args(arguments).arg("--data").arg(self.data());
        done(&mut command)
    }

    fn create(&self) {
        if self.survives_a_crash() {
            let root = self.conventional.to_str().unwrap();
            self.pool(&["create", "--root", root, "--name", "zoned"]);
            let drive = self.drive.to_str().unwrap();
            say(&self.pool(&["add", drive, "--kind", "zoned", "--class", "capacity"]));
        } else {
            let root = self.drive.to_str().unwrap();
            self.pool(&["create", "--root", root, "--name", "zoned"]);
        }
        say(&self.pool(&["info"]));
    }

    fn serve(&self) -> Served {
        let flags = ["--memtable", "1MiB", "--memory", "256MiB"];
        let millpond = Path::new(PROGRAMS).join("millpond");
        Served { server: Server::start_program(&millpond, &self.data(), &flags) }
    }
}

fn program(name: &str) -> Command {
    Command::new(Path::new(PROGRAMS).join(name))
}

/// What a command prints that must succeed.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// A running server and what is asked of it.
struct Served {
    server: Server,
}

impl Served {
    fn address(&self) -> SocketAddr {
        self.server.address
    }

    fn ycsb(&self, phase: &str, more: &[&str]) -> Command {
        let mut command = program("ycsb");
        let records = format!("recordcount={RECORDS}");
        command.args([phase, "--target", "http", "--threads", "4", "-p", &records, "--url"]);
        command.arg(format!("http://{}", self.address())).args(more);
        command
    }

    /// Runs ycsb to its end; it must find nothing wrong.
    fn benchmark(&self, phase: &str, more: &[&str]) -> Value {
        let report = env::temp_dir().join("report.json");
        done(self.ycsb(phase, more).arg("--json").arg(&report));
        let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        assert_eq!(report["errors"], 0, "{report}");
        assert_eq!(report["mismatches"], 0, "{report}");
        report
    }

    fn load(&self) {
        let report = self.benchmark("load", &[]);
        assert_eq!(report["ops"], RECORDS);
    }

    fn run_b(&self) {
        let operations = format!("operationcount={OPERATIONS}");
        let report = self.benchmark("run", &["-P", "b", "--verify", "-p", &operations]);
        say(&format!("B: {} operations, {} records verified", report["ops"], report["verified"]));
    }

    /// Every record by its key and by a scan.
    fn verify(&self) {
        let report = self.benchmark("verify", &[]);
        let verified = report["verified"].as_u64().unwrap();
        assert!(verified >= 2 * RECORDS, "by key and by a scan: {report}");
        say(&format!("verified: {verified} records"));
    }

    /// A metric, added up over its labels.
    fn metric(&self, name: &str) -> u64 {
        let mut client = self.server.connect();
        let text = client.send("GET", "/metrics", b"").unwrap().text().to_owned();
        let of_name = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let values = of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        values.reduce(|sum, value| sum + value).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    fn resets(&self) -> u64 {
        self.metric("millpond_mpool_zones_reset_total")
    }

    /// Starts B without an end, and returns when the writer has made enough steps beside it.
    fn run_b_and_step(&self, steps: &mut Steps) -> Child {
        let reads = || self.metric("millpond_gets_total");
        let (reads_before, resets_before) = (reads(), self.resets());
        let mut b = self.ycsb("run", &["-P", "b", "--verify", "--seconds", "3600"]);
        let b = b.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while reads() < reads_before + 500 {
            std::thread::yield_now();
        }
        let first = steps.acknowledged;
        loop {
            steps.step(self.address());
            let made = steps.acknowledged - first;
            if made >= STEPS_MIN && made.is_multiple_of(STEPS_TO_LOOK) {
                let resets = self.resets() - resets_before;
                if resets >= RESETS_MIN {
                    say(&format!(
                        "under B: {made} durable writes, {resets} zones reset, {} reads",
                        reads() - reads_before
                    ));
                    break;
                }
            }
            assert!(made < STEPS_MAX, "no zone has been reset in {made} steps");
        }
        let last = steps.acknowledged + STEPS_TO_LOOK / 2;
        while steps.acknowledged < last {
            steps.step(self.address());
        }
        b
    }
}

/// A writer of one durable write after the other. Each is numbered; the file holds the number of
/// the last that was acknowledged.
struct Steps {
    file: File,
    acknowledged: u64,
    client: Option<Client>,
}

impl Steps {
    fn open(machine: &Machine) -> Self {
        let path = machine.keep.join("acknowledged");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).unwrap();
        let mut acknowledged = [0; 8];
        if machine.phase > 1 {
            file.read_exact_at(&mut acknowledged, 0).unwrap();
        } else {
            file.write_all_at(&acknowledged, 0).unwrap();
            file.sync_all().unwrap();
            File::open(&machine.keep).unwrap().sync_all().unwrap();
        }
        Self { file, acknowledged: u64::from_le_bytes(acknowledged), client: None }
    }

    /// The next write. Whatever became of it the last time, it is made again.
    fn step(&mut self, address: SocketAddr) {
        let number = self.acknowledged + 1;
        let target = target_of(number % KEYS);
        let mut client = self.client.take().unwrap_or_else(|| Client::connect(address).unwrap());
        let reply = match value_of(number) {
            Some(value) => client.send("PUT", &target, &value),
            None => client.send("DELETE", &target, b""),
        };
        let reply = reply.unwrap();
        self.client = Some(client);
        if reply.status == 503 && reply.header("x-millpond-stall").is_some() {
            return;
        }
        assert_eq!(reply.status, 200, "write {number}: {}", reply.text());
        self.acknowledged = number;
        self.file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        self.file.sync_data().unwrap();
    }

    /// What was acknowledged last of each key is there. The write after the last one may have
    /// happened or not.
    fn check(&mut self, served: &Served) {
        self.client = None;
        let mut client = served.server.connect();
        for key in 0..KEYS {
            let reply = client.send("GET", &target_of(key), b"").unwrap();
            let found = match reply.status {
                200 => Some(reply.body),
                status => {
                    assert_eq!(status, 404, "{key}");
                    None
                }
            };
            let expected = expected(self.acknowledged, key);
            assert!(expected.contains(&found), "key {key} after {} steps", self.acknowledged);
        }
        say(&format!("checked: the last of {} durable writes to each key", self.acknowledged));
    }
}

fn target_of(key: u64) -> String {
    format!("/v1/kv/default/step-{key}")
}

/// The states that a key may be in after `acknowledged` writes.
fn expected(acknowledged: u64, key: u64) -> Vec<Option<Vec<u8>>> {
    let back = (acknowledged + KEYS - key) % KEYS;
    let last = acknowledged.checked_sub(back).filter(|number| *number > 0);
    let mut states = vec![last.and_then(value_of)];
    if (acknowledged + 1) % KEYS == key {
        states.push(value_of(acknowledged + 1));
    }
    states
}

/// What write `number` leaves behind: its number and a filler that any damage shows in, or nothing.
fn value_of(number: u64) -> Option<Vec<u8>> {
    if number % 4 == 3 {
        return None;
    }
    let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = usize::try_from(8 + (word >> 16) % VALUE_BYTES_MAX).unwrap();
    let bytes = number.to_le_bytes().into_iter().chain(word.to_le_bytes().into_iter().cycle());
    Some(bytes.take(len).collect())
}

fn first_machine(machine: &Machine) {
    machine.create();
    let mut steps = Steps::open(machine);
    let served = machine.serve();
    for _ in 0..LOADS {
        served.load();
    }
    served.verify();
    served.run_b();
    say(&format!("{LOADS} loads of {RECORDS} records and B: {} zones reset", served.resets()));
    let mut b = served.run_b_and_step(&mut steps);
    served.server.kill();
    say("killed the server");
    // What it does without a server is its own business.
    b.kill().unwrap();
    b.wait().unwrap();
    let served = machine.serve();
    steps.check(&served);
    served.verify();
    if machine.survives_a_crash() {
        crash(&served, &mut steps);
    }
    finish(machine, served, &mut steps);
}

/// Does not return: the machine goes down with server, ycsb and writer in it.
fn crash(served: &Served, steps: &mut Steps) {
    let trigger = env::var_os("MILLPOND_ZNS_CRASH").expect("the virtual machine sets it");
    let trigger = OpenOptions::new().write(true).open(trigger).unwrap();
    let mut b = served.run_b_and_step(steps);
    trigger.write_all_at(b"b", 0).unwrap();
    let ended = b.wait();
    unreachable!("the machine has crashed, and B has ended with {ended:?}");
}

fn machine_after_a_crash(machine: &Machine) {
    let mut steps = Steps::open(machine);
    assert!(steps.acknowledged >= STEPS_MIN, "the machine came to its crash");
    machine.pool(&["check"]);
    let served = machine.serve();
    steps.check(&served);
    served.verify();
    if machine.phase <= CRASHES {
        crash(&served, &mut steps);
    }
    finish(machine, served, &mut steps);
}

/// Goes on as if nothing had happened, and looks at every byte in the end.
fn finish(machine: &Machine, served: Served, steps: &mut Steps) {
    served.load();
    served.run_b();
    for _ in 0..STEPS_MIN {
        steps.step(served.address());
    }
    steps.check(&served);
    served.verify();
    let url = format!("http://{}", served.address());
    say(&done(program("millpond").args(["pool", "scrub", "--rate", "0", "--url", &url])));
    served.server.terminate();
    assert!(served.server.wait().success(), "the server ends in order");
    say(&machine.pool(&["check", "--full"]));
    say(&machine.pool(&["scrub", "--rate", "0"]));
    say(&machine.pool(&["info"]));
    let info: Value = serde_json::from_str(&machine.pool(&["info", "--json"])).unwrap();
    for volume in info["volumes"].as_array().unwrap() {
        let (zoned, objects) = (volume["kind"] == "zoned", volume["mblocks"].as_u64().unwrap());
        assert_eq!(zoned, objects > 0, "objects are in zones and nowhere else: {info}");
    }
}

#[test]
fn the_server_on_a_zoned_drive_keeps_what_it_acknowledged() {
    let Some(machine) = Machine::find() else {
        say("skipped: needs a zoned drive (cargo xtask zns server)");
        return;
    };
    if machine.phase == 1 {
        first_machine(&machine);
    } else {
        machine_after_a_crash(&machine);
    }
}

#[test]
fn a_lost_write_and_a_stale_value_are_told() {
    for acknowledged in 0..4 * KEYS {
        let next = (acknowledged + 1) % KEYS;
        for key in 0..KEYS {
            let states = expected(acknowledged, key);
            let last = (1..=acknowledged).rev().find(|number| number % KEYS == key);
            assert_eq!(states[0], last.and_then(value_of), "{acknowledged}, {key}");
            assert_eq!(states.len(), if key == next { 2 } else { 1 });
            let stale = last.and_then(|last| last.checked_sub(KEYS)).filter(|n| *n > 0);
            let Some(stale) = stale.filter(|_| key != next) else { continue };
            assert!(!states.contains(&value_of(stale)), "{key} is stale");
        }
    }
}
