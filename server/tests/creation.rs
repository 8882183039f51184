//! A store is made only where nothing is, or where it is asked for: whatever else stands in its
//! place is named and left as it is.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use support::Server;
use tempfile::TempDir;

const ROOT: &str = "capacity.vol";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("MILLPOND_ALLOW_BUFFERED", "true").env_remove("MILLPOND_DATA");
    command.output().unwrap()
}

/// What `millpond serve` says where it must not start, and that it changes nothing.
fn refused(data: &Path, flags: &[&str]) -> String {
    let before = contents(data);
    let directory = data.to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--allow-volatile", "--data", directory];
    let output = run(env!("CARGO_BIN_EXE_millpond"), &[&serve, flags].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(contents(data) == before, "nothing was changed");
    let said = text(&output.stderr).lines().find(|line| line.starts_with("error: "));
    said.unwrap_or_else(|| panic!("{}", text(&output.stderr))).to_owned()
}

/// Every file of a directory, and what is in it.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap_or_default())
        })
        .collect();
    found.sort();
    found
}

fn expect(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

/// A store that has something in it, and whose server is gone.
fn filled(data: &Path) -> String {
    let server = Server::start(data, &["--capacity", "300MiB", "--memtable", "1MiB"]);
    let put = server.connect().send("PUT", "/v1/kv/default/a", b"kept").unwrap();
    assert_eq!(put.status, 200);
    server.terminate();
    assert!(server.wait().success());
    let mark = fs::read_to_string(data.join("pool.id")).unwrap();
    mark.lines().nth(1).unwrap().strip_prefix("pool ").unwrap().to_owned()
}

fn is_kept(server: &Server) {
    assert_eq!(server.connect().send("GET", "/v1/kv/default/a", b"").unwrap().text(), "kept");
}

/// 1 MiB of zeros took both superblocks with it, and `serve` made an empty store over the rest.
#[test]
fn a_root_volume_without_its_superblocks_is_not_made_over() {
    let directory = TempDir::new().unwrap();
    let pool = filled(directory.path());
    let root = directory.path().join(ROOT);
    let whole = fs::read(&root).unwrap();
    for (damage, part) in [
        (1 << 20, "but a journal of a pool, at byte"),
        (0, "empty file"),
        (whole.len(), "nor a journal"),
    ] {
        let mut bytes = whole.clone();
        bytes[..damage].fill(0);
        fs::write(&root, if damage == 0 { &[] } else { &bytes[..] }).unwrap();
        for flags in [&[][..], &["--create"], &["--create", "never"]] {
            expect(&refused(directory.path(), flags), &[ROOT, &pool, part, "backup", "--force"]);
        }
    }
    fs::write(&root, "my shopping list\n").unwrap();
    expect(&refused(directory.path(), &[]), &["text that begins with \"my shopping list\"", &pool]);
    fs::remove_file(&root).unwrap();
    expect(&refused(directory.path(), &["--create"]), &[&pool, "is missing", "mounted?"]);
    // The second copy of the superblock is enough.
    let mut bytes = whole.clone();
    bytes[..4096].fill(0);
    fs::write(&root, bytes).unwrap();
    is_kept(&Server::start(directory.path(), &[]));
}

/// Without the mark, what lies in the root volume says enough, and labels of other volumes do.
#[test]
fn what_is_left_of_a_pool_is_named() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().to_str().unwrap();
    let pool = filled(directory.path());
    let millpond = env!("CARGO_BIN_EXE_millpond");
    let add = ["pool", "add", "fast.vol", "--capacity", "64MiB", "--data", data];
    let added = run(millpond, &[&add[..], &["--allow-volatile"]].concat());
    assert!(added.status.success(), "{}", text(&added.stderr));
    fs::remove_file(directory.path().join("pool.id")).unwrap();
    let root = directory.path().join(ROOT);
    let whole = fs::read(&root).unwrap();
    let mut bytes = whole.clone();
    bytes[..128 << 10].fill(0);
    fs::write(&root, &bytes).unwrap();
    let said = refused(directory.path(), &[]);
    let label = format!("fast.vol carries the label of vol-1 of pool {pool}");
    expect(&said, &["a journal of a pool, at byte 131072", &label]);
    fs::remove_file(&root).unwrap();
    expect(&refused(directory.path(), &["--create"]), &[&label, "which is missing"]);
    fs::write(&root, &whole).unwrap();
    is_kept(&Server::start(directory.path(), &[]));
    assert!(directory.path().join("pool.id").exists(), "a pool without a mark gets one");
}

#[test]
fn a_directory_with_other_files_has_a_store_made_in_it_when_asked() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    expect(&refused(&data, &["--create", "never"]), &["neither does anything else of a pool"]);
    assert!(!data.exists());
    // What every ext file system has is nothing.
    fs::create_dir_all(data.join("lost+found")).unwrap();
    drop(Server::start(&data, &[]));
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("README"), "about something else").unwrap();
    expect(&refused(&other, &[]), &["README", "empty directory", "--create"]);
    expect(&refused(&other, &["--create", "auto"]), &["README"]);
    drop(Server::start(&other, &["--create"]));
    drop(Server::start(&other, &["--create", "never"]));
    // An empty file may be what is left of one.
    let emptied = directory.path().join("emptied");
    fs::create_dir(&emptied).unwrap();
    fs::write(emptied.join(ROOT), "").unwrap();
    expect(&refused(&emptied, &[]), &["empty file", "delete it", "--create"]);
    drop(Server::start(&emptied, &["--create"]));
}

#[test]
fn a_forgotten_mount_is_told_by_the_note_below_it() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("pool.unmounted"), "").unwrap();
    for flags in [&[][..], &["--create"]] {
        expect(&refused(directory.path(), flags), &["pool.unmounted", "mount what belongs here"]);
    }
    fs::remove_file(directory.path().join("pool.unmounted")).unwrap();
    drop(Server::start(directory.path(), &[]));
}

/// Runs a script as root of a mount namespace of its own; `None` where that is not permitted.
fn in_a_mount_namespace(script: &str) -> Option<Output> {
    let probe = "mount -t tmpfs probe /mnt";
    let permitted = Command::new("unshare").args(["--mount", "sh", "-c", probe]).output();
    if !permitted.is_ok_and(|output| output.status.success()) {
        say("skipped: no mounts can be made here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script]).env("MILLPOND_ALLOW_BUFFERED", "true");
    Some(command.env("MILLPOND", env!("CARGO_BIN_EXE_millpond")).output().unwrap())
}

#[expect(clippy::print_stderr, reason = "a test that cannot run here says why")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[test]
fn a_forgotten_mount_is_told_by_fstab() {
    let directory = TempDir::new().unwrap();
    let at = directory.path().canonicalize().unwrap();
    let at = at.to_str().unwrap();
    let script = format!(
        "mkdir {at}/srv; echo '/dev/sdz1 {at}/srv ext4 defaults 0 0' >{at}/fstab
        mount --bind {at}/fstab /etc/fstab
        exec timeout 60 $MILLPOND serve --listen 127.0.0.1:0 --data {at}/srv/pond --allow-volatile"
    );
    let Some(output) = in_a_mount_namespace(&script) else { return };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    expect(said, &["/etc/fstab names", &format!("{at}/srv as a mount point"), "mount it"]);
    assert!(!directory.path().join("srv/pond").exists(), "nothing was made");
}

#[test]
fn a_file_system_that_forgets_is_refused() {
    let script = |mount: &str| {
        format!(
            "{mount}
            exec timeout 60 $MILLPOND serve --listen 127.0.0.1:0 --data /mnt/data $FLAGS"
        )
    };
    let tmpfs = "mount -t tmpfs scratch /mnt";
    let overlay = "mount -t tmpfs scratch /mnt; mkdir /mnt/a /mnt/b /mnt/c /mnt/data
        mount -t overlay overlay -o lowerdir=/mnt/a,upperdir=/mnt/b,workdir=/mnt/c /mnt/data";
    for (mount, parts) in [
        (tmpfs, ["is on tmpfs", "restart of the machine", "--allow-volatile"]),
        (overlay, ["is on overlayfs", "mount a volume", "--allow-volatile"]),
    ] {
        let Some(output) = in_a_mount_namespace(&script(mount)) else { return };
        let said = text(&output.stderr);
        if said.contains("mount:") {
            say(&format!("skipped: {said}"));
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{said}");
        expect(said, &parts);
        // Accepted, it gets to where the next mistake is.
        let accepted = format!("FLAGS='--allow-volatile --capacity 256MiB'; {}", script(mount));
        let accepted = accepted.replace("timeout 60", "timeout 5");
        let output = in_a_mount_namespace(&accepted).unwrap();
        expect(text(&output.stdout), &["listening on http://"]);
    }
}

/// The administrative route and the command took files shorter than a page, and files of zeros.
#[test]
fn a_file_that_holds_something_is_not_added_to_a_pool() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data, &["--capacity", "300MiB", "--memtable", "1MiB"]);
    let victim = directory.path().join("letter");
    let body = format!("{{\"path\": {victim:?}, \"capacity\": \"64MiB\"}}");
    let json = "content-type: application/json\r\n";
    let contents = [b"dear all".to_vec(), vec![0; 5000]];
    for content in &contents {
        fs::write(&victim, content).unwrap();
        let mut client = server.connect();
        let path = "/v1/admin/pool/volumes";
        let answer = client.send_with("POST", path, json, body.as_bytes()).unwrap();
        assert!((400..500).contains(&answer.status), "{}", answer.text());
        expect(answer.text(), &["is not empty", "--force"]);
        assert!(fs::read(&victim).unwrap() == *content);
    }
    server.terminate();
    assert!(server.wait().success());
    let (victim, data) = (victim.to_str().unwrap(), data.to_str().unwrap());
    let add = ["pool", "add", victim, "--data", data, "--allow-volatile"];
    let output = run(env!("CARGO_BIN_EXE_millpond"), &add);
    assert_eq!(output.status.code(), Some(3));
    expect(text(&output.stderr), &["is not empty", "--force"]);
    assert!(fs::read(victim).unwrap() == contents[1]);
}

/// `pool info` and `pool check` opened the volume for writing.
#[test]
fn info_and_check_work_on_a_read_only_mount() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let pool = filled(&data);
    let data = data.to_str().unwrap();
    let script = format!(
        "mount --bind {data} {data}; mount -o remount,bind,ro {data}
        if touch {data}/x 2>/dev/null; then exit 9; fi
        $MILLPOND pool info --data {data}; $MILLPOND pool check --full --data {data}"
    );
    let before = contents(Path::new(data));
    let Some(output) = in_a_mount_namespace(&script) else { return };
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    expect(said, &[&pool, "capacity.vol", "sound: 1 volume,"]);
    assert!(contents(Path::new(data)) == before);
}

/// `serve`, `pool info` and `pool remove` said "create the pool first".
#[test]
fn a_volume_that_is_missing_is_named_by_every_command() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let data = path.to_str().unwrap();
    let millpond = |arguments: &[&str]| {
        let flags = ["--data", data, "--allow-volatile"];
        run(env!("CARGO_BIN_EXE_millpond"), &[&["pool"], arguments, &flags].concat())
    };
    let create = millpond(&["create", "--capacity", "300MiB"]);
    assert!(create.status.success(), "{}", text(&create.stderr));
    let add = ["add", "fast.vol", "--class", "staging", "--capacity", "256MiB"];
    assert!(millpond(&add).status.success());
    // The log goes there, and a clean close would empty it.
    let server = Server::start(path, &["--capacity", "300MiB", "--memtable", "1MiB"]);
    let put = server.connect().send("PUT", "/v1/kv/default/a", b"kept").unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    server.kill();
    let (fast, aside) = (path.join("fast.vol"), path.join("aside"));
    fs::rename(&fast, &aside).unwrap();
    let parts = ["vol-1 (staging, kind file)", "last at fast.vol", "of the write-ahead log"];
    expect(&refused(path, &[]), &parts);
    let info = millpond(&["info"]);
    assert_eq!(info.status.code(), Some(1), "{}", text(&info.stderr));
    expect(text(&info.stdout), &[&parts[..], &["missing"]].concat());
    for command in
        [&["remove", "vol-1"][..], &["evacuate", "vol-1"], &["remove", "vol-1", "--lost"]]
    {
        let output = millpond(command);
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        expect(text(&output.stderr), &["vol-1", "of the write-ahead log"]);
    }
    fs::rename(&aside, &fast).unwrap();
    is_kept(&Server::start(path, &[]));
}

/// A root volume under another name was one more file in a strange directory.
#[test]
fn a_renamed_root_volume_is_named() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let uuid = filled(data);
    fs::rename(data.join(ROOT), data.join("capacity.vol.bak")).unwrap();
    fs::remove_file(data.join("pool.id")).unwrap();
    let said = refused(data, &[]);
    expect(&said, &["rename capacity.vol.bak", &uuid, "backup"]);
    fs::rename(data.join("capacity.vol.bak"), data.join(ROOT)).unwrap();
    is_kept(&Server::start(data, &[]));
}

/// Garbage in `pool.id` was written over without a word.
#[test]
fn a_mark_that_cannot_be_read_is_warned_of() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("pond");
    filled(&data);
    fs::write(data.join("pool.id"), "scribble").unwrap();
    let log = directory.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.stderr(fs::File::create(&log).unwrap());
    let server = Server::start_command(command, &data, &[]);
    is_kept(&server);
    server.terminate();
    assert!(server.wait().success());
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("pool.id cannot be read, and is written again"), "{said}");
    assert!(fs::read_to_string(data.join("pool.id")).unwrap().contains("pool mark"));
}
