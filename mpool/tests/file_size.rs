//! A pool in a process whose files may have some length only. Alone in its file: the limit is that
//! of the process.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{Error, Options, Pool, Priority};
use rustix::process::{Resource, Rlimit, setrlimit};

const FILE_BYTES_MAX: u64 = (40 << 20) + 7;

/// Growth beyond `ulimit -f` ended the process by SIGXFSZ, and a file longer than that was opened.
#[test]
fn a_file_that_may_grow_no_more_is_a_full_pool() {
    let directory = tempfile::tempdir().unwrap();
    let limit = |current| setrlimit(Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    limit(Some(FILE_BYTES_MAX));
    assert_eq!(mpool::file_bytes_max(), Some(FILE_BYTES_MAX));
    let options = Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 64 << 20,
        grow_step_bytes: 16 << 20,
        reserve_bytes: Some(0),
        ..Options::default()
    };
    let pool = Pool::open_or_create(directory.path(), &options).unwrap();
    let value = vec![7; 1 << 20];
    let mut kept = Vec::new();
    let refused = loop {
        let mut writer = match pool.allocate(value.len() as u64, Priority::Flush) {
            Ok(writer) => writer,
            Err(error) => break error,
        };
        writer.append(&value).unwrap();
        kept.extend(pool.commit(vec![writer], &[]).unwrap());
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(kept.len() > 20, "most of 40 MiB is used: {}", kept.len());
    let path = directory.path().join("capacity.vol");
    let len = std::fs::metadata(&path).unwrap().len();
    assert!(len <= FILE_BYTES_MAX && len > 32 << 20, "{len}");
    pool.commit(vec![], &[kept[0].id()]).unwrap();
    drop((kept, pool));

    limit(Some(20 << 20));
    let refused = Pool::open_or_create(directory.path(), &options).err().unwrap().to_string();
    assert!(refused.contains("ulimit -f") && refused.contains("20971520"), "{refused}");
    limit(None);
    assert!(Pool::open_or_create(directory.path(), &options).is_ok());
}
