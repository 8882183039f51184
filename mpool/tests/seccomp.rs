//! A pool where `io_uring` is denied, as the default profiles of containers do.
//!
//! Each case starts this test again as a child, which puts a seccomp filter on itself and works
//! under it: `EPERM` is what a profile answers, `ENOSYS` what an old kernel does.

#![expect(clippy::unwrap_used, reason = "a test: unwrapping is its way to fail")]

use mpool::{Class, IO_ALIGN, IoBackend, IoBuf, Options, Pool, Priority};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
};

const CHILD: &str = "MILLPOND_TEST_DENIED";

#[expect(clippy::print_stderr, reason = "a test that cannot run here says why")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Denies `io_uring_setup` to this thread and all that it starts.
fn deny(errno: i32) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let denied = SeccompAction::Errno(u32::try_from(errno).unwrap());
    let rules = [(libc::SYS_io_uring_setup, vec![])].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

fn options(io: IoBackend) -> Options {
    let small = Options { reserve_bytes: Some(0), grow_step_bytes: 1 << 20, ..Options::default() };
    Options { io, allow_buffered: true, allow_volatile: true, ..small }
}

/// Runs the test `name` as a child in which `io_uring` is denied with `errno`.
fn in_child(name: &str, errno: i32) {
    if std::env::var_os(CHILD).is_some() {
        return works_without(errno);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        // What Auto finds out by itself is what is tested.
        .env_remove("MILLPOND_TEST_IO")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stderr).into_owned();
    assert!(child.status.success(), "{}{text}", String::from_utf8_lossy(&child.stdout));
    if text.contains("skipped") { say(&text) } else { assert!(text.contains("worked"), "{text}") }
}

fn works_without(errno: i32) {
    if let Err(why) = deny(errno) {
        return say(&format!("skipped: no seccomp filter can be set here ({why})"));
    }
    let dir = tempfile::tempdir().unwrap();
    let refused = Pool::open_or_create(dir.path(), &options(IoBackend::Uring));
    let text = refused.map(|_| ()).unwrap_err().to_string();
    let reason = std::io::Error::from_raw_os_error(errno).to_string();
    assert!(text.contains(&reason) && text.contains("use auto or threads"), "{text}");
    for round in 0..2 {
        let pool = Pool::open_or_create(dir.path(), &options(IoBackend::Auto)).unwrap();
        assert_eq!(pool.info().io_backend, "threads");
        work(&pool, round);
    }
    check(dir.path());
    say("worked");
}

/// Writes through the queue, reads in all ways, deletes.
fn work(pool: &Arc<Pool>, round: u8) {
    let byte = round + 1;
    let mut writers = Vec::new();
    for _ in 0..4 {
        let mut writer = pool.allocate(3 << 20, Priority::Flush).unwrap();
        writer.append(&vec![byte; 3 << 20]).unwrap();
        writers.push(writer);
    }
    let mblocks = pool.commit(writers, &[]).unwrap();
    let map = Arc::new(pool.map(&mblocks, Class::Cold).unwrap());
    let (tx, rx) = mpsc::channel();
    for object in 0..4 {
        for page in 0..16 {
            let (tx, at) = (tx.clone(), page * IO_ALIGN as u64);
            let done = Box::new(move |bytes: mpool::Result<&[u8]>| {
                tx.send(bytes.map(|bytes| bytes.iter().all(|b| *b == byte))).unwrap();
            });
            map.read_async(object, at..at + 100, done);
        }
    }
    drop(tx);
    let ends: Vec<bool> = rx.iter().collect::<Result<_, _>>().unwrap();
    assert_eq!((ends.len(), ends.iter().all(|whole| *whole)), (64, true));
    pool.commit(vec![], &[mblocks[0].id()]).unwrap();
}

fn check(dir: &Path) {
    let pool = Pool::open_dir(dir, &options(IoBackend::Threads)).unwrap();
    let ids = pool.mblock_ids();
    assert_eq!(ids.len(), 6);
    let mut page = IoBuf::zeroed(IO_ALIGN);
    for (n, id) in ids.into_iter().enumerate() {
        pool.mblock(id).unwrap().read_at(2 << 20, &mut page).unwrap();
        assert_eq!(usize::from(page[0]), n / 3 + 1);
    }
}

#[test]
fn a_sandbox_that_forbids_io_uring_gets_threads() {
    in_child("a_sandbox_that_forbids_io_uring_gets_threads", libc::EPERM);
}

#[test]
fn a_kernel_without_io_uring_gets_threads() {
    in_child("a_kernel_without_io_uring_gets_threads", libc::ENOSYS);
}
