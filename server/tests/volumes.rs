//! Volumes as an operator meets them: outside the data directory, with limits that hold, and named
//! when they come and go.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use support::Server;
use tempfile::TempDir;

/// Runs `millpond pool ...` on a data directory.
fn pool(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("pool").args(arguments).arg("--data").arg(data);
    command.env("MILLPOND_ALLOW_BUFFERED", "true").env("MILLPOND_ALLOW_VOLATILE", "true");
    command.output().unwrap()
}

/// Everything that a command says, and its exit code.
fn said(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = pool(data, arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn info(data: &Path) -> Value {
    serde_json::from_slice(&pool(data, &["info", "--json"]).stdout).unwrap()
}

/// Serves a directory, from its start to its stop; what the pool was like, and the log.
fn served(data: &Path, flags: &[&str]) -> (Value, String) {
    let logs = TempDir::new().unwrap();
    let log = logs.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.stderr(File::create(&log).unwrap());
    let server = Server::start_command(command, data, &[&["--log", "info"], flags].concat());
    let found = server.connect().send("GET", "/v1/admin/pool", b"").unwrap().json();
    server.terminate();
    assert!(server.wait().success());
    (found, std::fs::read_to_string(log).unwrap())
}

/// The value of a series of the root volume in a scrape.
fn of_root(scrape: &str, name: &str) -> f64 {
    let begin = format!("{name}{{");
    let line = scrape.lines().find(|line| line.starts_with(&begin) && line.contains("vol-0"));
    let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in the scrape"))
}

#[test]
fn what_a_volume_takes_of_its_disk_is_told_and_what_is_free_goes_back() {
    let data = TempDir::new().unwrap();
    let server = Server::start(data.path(), &["--disk-return-after", "1s"]);
    let mut client = server.connect();
    let mut scrape = || client.send("GET", "/metrics", b"").unwrap().text().to_owned();
    let counter = |scrape: &str, name: &str| {
        let line = scrape.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap()
    };
    // The file has grown by a step, and not all of it is needed.
    let mut seen = scrape();
    while counter(&seen, "millpond_mpool_truncated_bytes_total ") == 0.0 {
        std::thread::yield_now();
        seen = scrape();
    }
    let len = std::fs::metadata(data.path().join("capacity.vol")).unwrap().len();
    let found = client.send("GET", "/v1/admin/pool", b"").unwrap().json();
    let volume = &found["volumes"][0];
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(len - number(&volume["used_bytes"]) < 4 << 20, "{volume}");
    let free = &volume["free_extents"];
    assert!(number(&free["bytes"]) >= number(&free["longest_bytes"]), "{volume}");
    assert!(number(&volume["disk_bytes"]) <= len + (1 << 20), "{volume}");
    for name in ["disk_bytes", "len_bytes", "free_extents", "free_extent_bytes"] {
        assert!(of_root(&seen, &format!("millpond_mpool_volume_{name}")) >= 0.0);
    }
    server.terminate();
    assert!(server.wait().success());
    let (_, text) = said(data.path(), &["info"]);
    for part in ["vol-0 is ", " of it on the disk; ", " free within"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(info(data.path())["volumes"][0]["disk_bytes"].is_u64());
}

#[test]
fn a_copied_directory_and_its_original_say_what_they_share() {
    let (original, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let copy = TempDir::new().unwrap();
    let fast = elsewhere.path().join("fast.vol");
    let path = fast.to_str().unwrap();
    let (code, text) = said(original.path(), &["create", "--capacity", "300MiB"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = said(original.path(), &["info"]);
    assert!(code == Some(0) && !text.contains("note:"), "{text}");
    let (code, text) = said(original.path(), &["add", path, "--capacity", "64MiB"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = said(original.path(), &["info"]);
    assert!(code == Some(0) && text.contains("note: vol-1 is not copied with the data"), "{text}");
    let (code, text) = said(original.path(), &["check"]);
    assert!(code == Some(0) && text.contains("note: vol-1: ") && text.contains(path), "{text}");
    assert!(text.contains("sound: 2 volumes"), "{text}");
    for name in ["capacity.vol", "pool.id"] {
        std::fs::copy(original.path().join(name), copy.path().join(name)).unwrap();
    }
    let (_, log) = served(copy.path(), &[]);
    let told = log.lines().find(|line| line.contains("outside the data directory"));
    assert!(told.is_some_and(|line| line.contains("vol-1") && line.contains(path)), "{log}");
    // The copy has used the volume; the way out is not a backup.
    for command in ["info", "check"] {
        let (code, text) = said(original.path(), &[command]);
        assert!(code == Some(1) && text.contains("go on with the root of that copy"), "{text}");
    }
    assert_eq!(said(copy.path(), &["check", "--full"]).0, Some(0), "nothing is lost");
}

/// The way of docs/pool.md, "Backing up and copying".
#[test]
fn a_volume_behind_a_link_can_be_the_copy_s_own() {
    let (original, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let copy = TempDir::new().unwrap();
    let [fast, fast_copy] = ["fast.vol", "fast-copy.vol"].map(|name| elsewhere.path().join(name));
    File::create(&fast).unwrap();
    std::os::unix::fs::symlink(&fast, original.path().join("fast.vol")).unwrap();
    assert_eq!(said(original.path(), &["create", "--capacity", "300MiB"]).0, Some(0));
    let (code, text) = said(original.path(), &["add", "fast.vol", "--capacity", "64MiB"]);
    assert_eq!(code, Some(0), "{text}");
    let (_, text) = said(original.path(), &["info"]);
    assert!(text.contains("note: vol-1 is not copied with the data"), "{text}");
    for name in ["capacity.vol", "pool.id"] {
        std::fs::copy(original.path().join(name), copy.path().join(name)).unwrap();
    }
    std::fs::copy(&fast, &fast_copy).unwrap();
    std::os::unix::fs::symlink(&fast_copy, copy.path().join("fast.vol")).unwrap();
    for data in [copy.path(), original.path(), copy.path()] {
        served(data, &[]);
    }
    for data in [copy.path(), original.path()] {
        let (code, text) = said(data, &["check", "--full"]);
        assert!(code == Some(0) && text.contains("sound: 2 volumes"), "{text}");
    }
}

#[test]
fn what_is_free_is_the_same_with_a_server_and_without() {
    let directory = TempDir::new().unwrap();
    let (online, _) = served(directory.path(), &["--capacity", "16TiB"]);
    let offline = info(directory.path());
    let number = |info: &Value, name: &str| info[name].as_u64().unwrap();
    for info in [&online, &offline] {
        assert_eq!(number(info, "capacity_bytes"), 16 << 40);
    }
    // Others use the disk meanwhile.
    for name in ["free_bytes", "spare_bytes", "writable_bytes"] {
        let [online, offline] = [&online, &offline].map(|info| number(info, name));
        assert!(online.abs_diff(offline) <= online / 4, "{name}: {online} {offline}");
    }
    // A second file on the disk does not bring a second disk.
    let (code, text) = said(directory.path(), &["add", "more.vol", "--capacity", "16TiB"]);
    assert_eq!(code, Some(0), "{text}");
    let both = info(directory.path());
    let [one, two] = [&offline, &both].map(|info| number(info, "free_bytes"));
    assert!(one.abs_diff(two) <= one / 4, "{one} {two}");
    let (again, _) = served(directory.path(), &[]);
    assert!(number(&again, "free_bytes").abs_diff(two) <= two / 4, "{again}");
}

#[test]
fn a_capacity_that_was_given_once_is_kept_and_only_raised() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let capacity = |info: &Value| info["volumes"][0]["capacity_bytes"].as_u64().unwrap() >> 20;
    assert_eq!(capacity(&served(data, &["--capacity", "300MiB"]).0), 300);
    assert_eq!(capacity(&info(data)), 300);
    assert_eq!(capacity(&served(data, &[]).0), 300, "without the option, too");
    let (found, log) = served(data, &["--capacity", "280MiB"]);
    assert_eq!(capacity(&found), 300);
    let warning = log.lines().find(|line| line.contains("option capacity is less"));
    let names_both = |line: &str| line.contains("280MiB") && line.contains("300MiB");
    assert!(warning.is_some_and(names_both), "{log}");
    let (code, text) = said(data, &["grow", "vol-0", "290MiB"]);
    assert!(code == Some(3) && text.contains("is 300MiB and cannot become 290MiB"), "{text}");
    assert!(text.contains("disk_reserve"), "{text}");
    assert_eq!(said(data, &["grow", "vol-0", "320MiB"]).0, Some(0));
    let (found, log) = served(data, &["--capacity", "320MiB"]);
    assert_eq!(capacity(&found), 320);
    assert!(!log.contains("option capacity"), "{log}");
}

#[test]
fn what_is_added_and_removed_is_named() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    assert_eq!(said(data, &["create", "--capacity", "300MiB"]).0, Some(0));
    for kind in ["file", "emulated-zoned"] {
        let (code, text) = said(data, &["add", "missing/z.vol", "--kind", kind]);
        assert!(code == Some(3) && text.contains("its directory "), "{text}");
        assert!(text.contains("missing does not exist") && text.contains("relative"), "{text}");
    }
    for capacity in ["1KiB", "8PiB"] {
        let (code, text) = said(data, &["add", "z.vol", "--capacity", capacity]);
        assert!(code == Some(3) && text.contains("capacity of z.vol is "), "{text}");
        assert!(text.contains("1MiB..=4096TiB") && !data.join("z.vol").exists(), "{text}");
    }
    assert_eq!(said(data, &["add", "z.vol", "--capacity", "64MiB"]).0, Some(0));
    let (code, text) = said(data, &["grow", "vol-1", "32MiB"]);
    assert!(code == Some(3) && text.contains("add a smaller one and evacuate"), "{text}");
    assert_eq!(said(data, &["evacuate", "vol-1"]).0, Some(0));
    let file = data.join("z.vol");
    let (code, text) = said(data, &["remove", "vol-1"]);
    let want = format!("removed vol-1; its file {} is left and can be deleted\n", file.display());
    assert_eq!((code, text), (Some(0), want));
    std::fs::remove_file(file).unwrap();
    assert!(said(data, &["check"]).1.starts_with("sound: 1 volume,"));
}

/// A second copy of a label that was blank was told by nobody, and commands on a data directory
/// repaired without a word.
#[test]
fn what_a_start_would_repair_is_told_by_whoever_repairs_it() {
    const SECOND_COPY: u64 = 64 << 10;
    let data = TempDir::new().unwrap();
    let (code, text) =
        said(data.path(), &["create", "--capacity", "300MiB", "--volume", "one.vol"]);
    assert_eq!(code, Some(0), "{text}");
    let volume = || File::options().write(true).open(data.path().join("one.vol")).unwrap();
    let root = || File::options().write(true).open(data.path().join("capacity.vol")).unwrap();
    let repairs: [&[&str]; 5] = [
        &["rename", "pond"],
        &["grow", "vol-0", "400MiB"],
        &["scrub", "--rate", "0"],
        &["evacuate", "vol-1", "--cancel"],
        &["add", "two.vol"],
    ];
    for arguments in repairs {
        volume().write_all_at(&[0; 4096], SECOND_COPY).unwrap();
        root().write_all_at(&[0; 4096], SECOND_COPY).unwrap();
        let (code, text) = said(data.path(), &["check"]);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        for part in ["note: label of vol-1: copy 2 is missing", "the next start writes it"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let output = pool(data.path(), arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {told}");
        for part in
            ["a copy of the superblock is damaged", "one copy of a volume's label is missing"]
        {
            assert!(told.contains(part), "{arguments:?}: {part}: {told}");
        }
        let (code, text) = said(data.path(), &["check"]);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    }
    volume().write_all_at(&[0; 4096], SECOND_COPY).unwrap();
    let (_, log) = served(data.path(), &[]);
    let line = log.lines().find(|line| line.contains("one copy of a volume's label is missing"));
    assert!(line.is_some_and(|line| line.contains("vol-1") && line.contains("copy")), "{log}");
    assert_eq!(said(data.path(), &["check"]).0, Some(0));
}
