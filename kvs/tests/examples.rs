//! What a newcomer runs works, and works again: the first thing that a second run met was an error.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

#[expect(dead_code, reason = "its main is for people")]
#[path = "../examples/starter.rs"]
mod starter;

use kvs::Options;

fn options() -> Options {
    let mut options = Options::default();
    options.pool.allow_buffered = true;
    options.pool.allow_volatile = true;
    options.pool.reserve_bytes = Some(0);
    options
}

#[test]
fn the_starter_runs_as_often_as_one_likes() {
    let dir = tempfile::tempdir().unwrap();
    for run in 1..=3 {
        let said = starter::run(dir.path(), options()).unwrap();
        assert_eq!(said[0], format!("run {run}"));
        assert!(said.contains(&r#"heron is b"white", was Some(b"grey")"#.to_owned()), "{said:?}");
        assert!(said.contains(&"ostrich is not there".to_owned()), "{said:?}");
        let scanned = [r#"b"kingfisher" = b"blue""#, r#"b"teal" = b"small""#];
        assert_eq!(said[said.len() - 2..], scanned, "{said:?}");
    }
}
