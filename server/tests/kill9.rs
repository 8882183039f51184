//! `kill -9` of the real server under load, over HTTP, again and again.
//!
//! Several connections put, delete and batch keys of their own with `durability=sync`. After a
//! random number of acknowledgements the process is killed, started again, and every key is
//! compared with the [`Oracle`]: what was acknowledged is there, what was deleted is not, and what
//! was under way happened either whole or not at all. `MILLPOND_SEED` replays the choices; the
//! interleaving of threads stays the machine's. `MILLPOND_ROUNDS` is how often a test kills.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc;
use support::{Client, Server};
use tempfile::TempDir;

const ROUNDS: u64 = 20;
const WRITERS: u64 = 6;
const KEYS_EACH: u64 = 60;
/// Most acknowledgements before the kill.
const ACKNOWLEDGEMENTS_MAX: u64 = 400;

/// splitmix64: small, seeded, good enough to choose with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a key holds: the number of the write that made its value, or nothing.
type State = Option<u64>;

/// Writes sent together: one, or a batch.
type Writes = Vec<(String, State)>;

/// What one writer knows of its keys.
#[derive(Debug, Default)]
struct Oracle {
    acknowledged: BTreeMap<String, State>,
    under_way: Writes,
}

impl Oracle {
    fn begin(&mut self, writes: Writes) {
        assert!(self.under_way.is_empty(), "a writer does one thing at a time");
        self.under_way = writes;
    }

    fn acknowledge(&mut self) {
        let writes = std::mem::take(&mut self.under_way);
        self.acknowledged.extend(writes);
    }

    /// The server said that it did not write.
    fn refuse(&mut self) {
        self.under_way.clear();
    }

    fn expected(&self, key: &str) -> State {
        self.acknowledged.get(key).copied().flatten()
    }

    /// Compares what is there after a crash with what was acknowledged, then takes it as the new
    /// truth. The error names the first key that is wrong.
    fn settle(&mut self, observed: &BTreeMap<String, u64>) -> Result<(), String> {
        let see = |key: &str| observed.get(key).copied();
        let under_way = std::mem::take(&mut self.under_way);
        let uncertain: BTreeSet<&str> = under_way.iter().map(|(key, _)| &**key).collect();
        for (key, expected) in &self.acknowledged {
            if !uncertain.contains(&**key) && see(key) != *expected {
                return Err(format!("{key}: acknowledged {expected:?}, found {:?}", see(key)));
            }
        }
        let known = |key: &str| self.acknowledged.contains_key(key) || uncertain.contains(key);
        if let Some(stranger) = observed.keys().find(|key| !known(key)) {
            return Err(format!("{stranger} was never written"));
        }
        let all_old = under_way.iter().all(|(key, _)| see(key) == self.expected(key));
        let all_new = under_way.iter().all(|(key, state)| see(key) == *state);
        if !all_old && !all_new {
            let found: Vec<State> = under_way.iter().map(|(key, _)| see(key)).collect();
            return Err(format!("{under_way:?} happened in part: {found:?}"));
        }
        if all_new {
            self.acknowledged.extend(under_way);
        }
        Ok(())
    }
}

/// The value of a write: its number, and a filler that any damage shows in. Lengths span values
/// kept in the index, values of one page and values of many.
fn value(number: u64) -> Vec<u8> {
    let mut random = Random(number);
    let length = match random.below(10) {
        0..=5 => random.below(200),
        6..=8 => random.below(5000),
        _ => random.below(100_000),
    };
    let mut value = number.to_le_bytes().to_vec();
    value.extend((0..length).map(|_| random.next().to_le_bytes()[0]));
    value
}

/// The number of the write that made a value, if every byte of it is right.
fn number_of(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (value(number) == bytes).then_some(number)
}

/// One connection that writes until the server is gone.
struct Writer {
    id: u64,
    /// Puts at the tail of its keys and deletes at their head, rather than anywhere.
    queues: bool,
    random: Random,
    next_number: u64,
    oracle: Oracle,
}

impl Writer {
    fn new(id: u64, seed: u64) -> Self {
        let random = Random(seed ^ (id << 32));
        Self { id, queues: false, random, next_number: 0, oracle: Oracle::default() }
    }

    fn key(&self, number: u64) -> String {
        format!("writer-{}/key-{:02}", self.id, number % KEYS_EACH)
    }

    fn choose(&mut self) -> Writes {
        let many = if self.random.below(5) == 0 { 1 + self.random.below(6) } else { 1 };
        let mut writes = BTreeMap::new();
        if self.queues {
            for _ in 0..many {
                self.next_number += 1;
                let tail = self.next_number;
                writes.insert(self.key(tail), Some(self.id << 48 | tail));
                writes.insert(self.key(tail + KEYS_EACH / 2), None);
            }
            return writes.into_iter().collect();
        }
        for _ in 0..many {
            let key = self.random.below(KEYS_EACH);
            let key = self.key(key);
            self.next_number += 1;
            let number = self.id << 48 | self.next_number;
            writes.insert(key, (self.random.below(4) > 0).then_some(number));
        }
        writes.into_iter().collect()
    }

    /// Writes until the connection breaks; each acknowledgement is told to `acknowledged`.
    fn run(&mut self, address: SocketAddr, acknowledged: &mpsc::Sender<()>) {
        let Ok(mut client) = Client::connect(address) else { return };
        loop {
            let writes = self.choose();
            self.oracle.begin(writes.clone());
            let sent = match &writes[..] {
                [(key, Some(number))] => {
                    client.send("PUT", &format!("/v1/kv/default/{key}"), &value(*number))
                }
                [(key, None)] => client.send("DELETE", &format!("/v1/kv/default/{key}"), b""),
                many => client.send("POST", "/v1/batch", &batch(many)),
            };
            let Ok(reply) = sent else { return };
            if reply.status == 503 && reply.header("x-millpond-stall").is_some() {
                self.oracle.refuse();
                continue;
            }
            assert_eq!(reply.status, 200, "{:?}: {}", writes, reply.text());
            self.oracle.acknowledge();
            // The main thread stops listening once it has enough.
            let _ = acknowledged.send(());
        }
    }
}

fn batch(writes: &[(String, State)]) -> Vec<u8> {
    use base64::Engine as _;
    let encode =
        |number: u64| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value(number));
    let operations: Vec<serde_json::Value> = writes
        .iter()
        .map(|(key, state)| match state {
            Some(number) => serde_json::json!({"op": "put", "k": key, "v64": encode(*number)}),
            None => serde_json::json!({"op": "delete", "k": key}),
        })
        .collect();
    serde_json::to_vec(&operations).unwrap()
}

/// All keys of one writer with the number of their value: by a scan for the keys, by a read for
/// each value, so that both ways must agree.
fn observe(client: &mut Client, writer: u64) -> BTreeMap<String, u64> {
    let target = format!("/v1/kv/default?prefix=writer-{writer}/&keys_only=true&limit=10000");
    let page = client.send("GET", &target, b"").unwrap();
    assert_eq!(page.status, 200, "{}", page.text());
    let page = page.json();
    assert!(page.get("cursor").is_none(), "one page holds all keys of a writer");
    let scanned: BTreeSet<String> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["k"].as_str().unwrap().to_owned())
        .collect();
    let mut observed = BTreeMap::new();
    for key in (0..KEYS_EACH).map(|key| format!("writer-{writer}/key-{key:02}")) {
        let reply = client.send("GET", &format!("/v1/kv/default/{key}"), b"").unwrap();
        assert_eq!(scanned.contains(&key), reply.status == 200, "scan and read differ on {key}");
        match reply.status {
            200 => {
                let number = number_of(&reply.body);
                let number = number.unwrap_or_else(|| panic!("{key} holds a damaged value"));
                observed.insert(key, number);
            }
            status => assert_eq!(status, 404, "{key}"),
        }
    }
    assert!(scanned.iter().all(|key| observed.contains_key(key)), "strangers in {scanned:?}");
    observed
}

/// Asks for compactions, and ends some of them, until the server is gone.
fn compact(address: SocketAddr, mut random: Random) {
    const COMPACT: &str = "/v1/admin/compact";
    let Ok(mut client) = Client::connect(address) else { return };
    loop {
        let (method, body) =
            if random.below(4) == 0 { ("DELETE", &b""[..]) } else { ("POST", &b"{}"[..]) };
        let Ok(reply) = client.send(method, COMPACT, body) else { return };
        assert!([200, 202, 404, 409].contains(&reply.status), "{method}: {}", reply.text());
        for _ in 0..random.below(40) {
            let Ok(reply) = client.send("GET", COMPACT, b"") else { return };
            if reply.status == 200 && reply.json()["running"] == false {
                break;
            }
        }
    }
}

/// Loads a server until `acknowledgements` have come, then kills it.
fn load_and_kill(
    server: Server,
    writers: &mut [Writer],
    acknowledgements: u64,
    compacts: Option<Random>,
) {
    let (tell, acknowledged) = mpsc::channel();
    let address = server.address;
    std::thread::scope(|scope| {
        if let Some(random) = compacts {
            scope.spawn(move || compact(address, random));
        }
        for writer in writers {
            let tell = tell.clone();
            scope.spawn(move || writer.run(address, &tell));
        }
        drop(tell);
        for _ in 0..acknowledgements {
            acknowledged.recv().expect("writers go on until the kill");
        }
        server.kill();
    });
}

/// What goes on beside the writers, and how the server is started.
#[derive(Clone, Copy)]
struct Course {
    rounds: u64,
    compacts: bool,
    arguments: &'static [&'static str],
}

fn kill_again_and_again(course: Course, make: impl Fn(u64, u64) -> Writer) {
    let seed = std::env::var("MILLPOND_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let rounds = std::env::var("MILLPOND_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let directory = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut writers: Vec<Writer> = (0..WRITERS).map(|id| make(id, seed)).collect();
    for round in 0..rounds.unwrap_or(course.rounds) {
        let acknowledgements = 1 + random.below(ACKNOWLEDGEMENTS_MAX);
        let server = Server::start(directory.path(), course.arguments);
        let compacts = course.compacts.then(|| Random(random.next()));
        load_and_kill(server, &mut writers, acknowledgements, compacts);
        let server = Server::start(directory.path(), course.arguments);
        let mut client = server.connect();
        for writer in &mut writers {
            let settled = writer.oracle.settle(&observe(&mut client, writer.id));
            settled.unwrap_or_else(|wrong| {
                panic!(
                    "round {round}, killed after {acknowledgements} acknowledgements: {wrong}\n\
                     replay: MILLPOND_SEED={seed} cargo test -p millpond --test kill9"
                )
            });
        }
        // Half of the restarts are killed, too, right after recovery.
        if random.below(2) == 0 {
            server.kill();
        } else {
            server.terminate();
            assert!(server.wait().success());
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_deleted_comes_back() {
    // A small memtable, so that kills also meet flushes and compactions.
    let arguments = &["--memtable", "1MiB"];
    let course = Course { rounds: ROUNDS, compacts: false, arguments };
    kill_again_and_again(course, Writer::new);
}

/// Kills meet jobs that end, that are cancelled, and free space on its way to the disk.
#[test]
fn nor_beside_compactions_and_space_that_goes_back() {
    let arguments = &["--memtable", "1MiB", "--disk-return-after", "1s"];
    let course = Course { rounds: ROUNDS / 2, compacts: true, arguments };
    kill_again_and_again(course, |id, seed| Writer {
        queues: id % 2 == 0,
        ..Writer::new(id, seed)
    });
}

/// `a=first` was acknowledged, read by a client, and lost by the kill; `a=SECOND` then had the same
/// entity tag, and the client was told that nothing had changed.
#[test]
fn an_etag_that_a_kill_has_lost_is_not_given_again() {
    const KEY: &str = "/v1/kv/default/a";
    let directory = TempDir::new().unwrap();
    let mut seen = BTreeSet::new();
    for (round, durability) in ["interval", "off", "sync", "interval"].into_iter().enumerate() {
        // Nothing but a kill ends an interval this long.
        let server = Server::start(directory.path(), &["--interval", "60s"]);
        let mut client = server.connect();
        let put = format!("{KEY}?durability={durability}");
        let written = client.send("PUT", &put, format!("value {round}").as_bytes()).unwrap();
        assert_eq!(written.status, 200, "{}", written.text());
        for old in &seen {
            let header = format!("if-none-match: {old}\r\n");
            let read = client.send_with("GET", KEY, &header, b"").unwrap();
            assert_eq!((read.status, read.text()), (200, &*format!("value {round}")), "{old}");
        }
        let read = client.send("GET", KEY, b"").unwrap();
        let etag = read.header("etag").unwrap().to_owned();
        assert!(seen.insert(etag.clone()), "{etag} named another value in an earlier round");
        server.kill();
    }
    // A clean stop loses nothing, and skips nothing.
    let revision = |server: &Server| {
        let written = server.connect().send("PUT", KEY, b"v").unwrap();
        let revision: u64 = written.header("x-millpond-revision").unwrap().parse().unwrap();
        server.terminate();
        revision
    };
    let server = Server::start(directory.path(), &[]);
    let before = revision(&server);
    assert!(server.wait().success());
    assert_eq!(revision(&Server::start(directory.path(), &[])), before + 1);
}

fn oracle(acknowledged: &[(&str, State)], under_way: &[(&str, State)]) -> Oracle {
    let mut oracle = Oracle::default();
    let owned = |writes: &[(&str, State)]| -> Writes {
        writes.iter().map(|(key, state)| ((*key).to_owned(), *state)).collect()
    };
    oracle.begin(owned(acknowledged));
    oracle.acknowledge();
    oracle.begin(owned(under_way));
    oracle
}

fn found(observed: &[(&str, u64)]) -> BTreeMap<String, u64> {
    observed.iter().map(|(key, number)| ((*key).to_owned(), *number)).collect()
}

#[test]
fn the_oracle_flags_what_must_not_happen() {
    let acknowledged = [("a", Some(1)), ("b", None)];
    for (observed, under_way, wrong) in [
        (&[][..], &[][..], "lost write"),
        (&[("a", 1), ("b", 9)], &[], "deleted key back"),
        (&[("a", 7)], &[], "another value"),
        (&[("a", 1), ("z", 3)], &[], "stranger"),
        (&[("a", 1), ("c", 2)], &[("c", Some(2)), ("d", Some(3))], "half a batch"),
        (&[], &[("a", Some(2))], "neither old nor new"),
        (&[("c", 2)], &[("c", Some(2))], "lost write beside one under way"),
    ] {
        let settled = oracle(&acknowledged, under_way).settle(&found(observed));
        assert!(settled.is_err(), "{wrong} is not flagged");
    }
}

#[test]
fn the_oracle_takes_writes_under_way_either_way() {
    let acknowledged = [("a", Some(1)), ("b", Some(2))];
    for under_way in [&[("a", Some(3))][..], &[("a", None), ("b", Some(4)), ("c", Some(5))]] {
        let old = found(&[("a", 1), ("b", 2)]);
        assert_eq!(oracle(&acknowledged, under_way).settle(&old), Ok(()), "not happened");
        let mut happened = old.clone();
        for (key, state) in under_way {
            match state {
                Some(number) => happened.insert((*key).to_owned(), *number),
                None => happened.remove(*key),
            };
        }
        let mut oracle = oracle(&acknowledged, under_way);
        assert_eq!(oracle.settle(&happened), Ok(()), "happened");
        assert_eq!(oracle.settle(&happened), Ok(()), "and stays so");
        assert!(oracle.settle(&old).is_err(), "but may not be undone after it was seen");
    }
}

#[test]
fn damage_to_a_value_shows() {
    for number in 0..50 {
        let mut bytes = value(number);
        assert_eq!(number_of(&bytes), Some(number));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(number_of(&bytes), None, "{number}");
        assert_eq!(number_of(&bytes[..last]), None, "{number}");
    }
}
