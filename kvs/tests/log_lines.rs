//! What the log says while nothing can be written: one line when it begins and one when it ends,
//! however often it is tried. 391,519 lines of one volume that could not grow were 124 MB.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Error, Kvs};
use mpool_sim::{Faults, SimDevice};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines of this thread at INFO and above.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The lines that say this.
fn with<'a>(lines: &'a [String], what: &str) -> Vec<&'a String> {
    lines.iter().filter(|line| line.contains(what)).collect()
}

fn key(n: u64) -> Vec<u8> {
    format!("{n:08}").into_bytes()
}

/// Puts so often, from `first` on; returns how many were refused, and the last refusal.
fn put_often(kvs: &Kvs, first: u64, times: u64) -> (u64, Option<Error>) {
    let value = vec![b'l'; 20_000];
    let (mut refused, mut last) = (0, None);
    for n in first..first + times {
        if let Err(error) = kvs.put(&key(n), &value, Durability::Interval) {
            refused += 1;
            last = Some(error);
        }
    }
    (refused, last)
}

fn database(device: &SimDevice) -> (Database, Kvs) {
    let db = support::create(device, &support::options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    (db, kvs)
}

/// The disk has less room than it says, so the volume meets its end where it should still grow.
#[test]
fn a_volume_that_cannot_grow_is_told_when_it_begins_and_when_it_ends() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let device = SimDevice::new(1 << 40);
    let (db, kvs) = database(&device);
    let enospc_after_bytes = Some(64 << 20);
    device.set_faults(Faults { enospc_after_bytes, ..Faults::default() });
    let mut put = 0;
    while put_often(&kvs, put, 1).0 == 0 {
        put += 1;
    }
    lines.take();
    let (refused, last) = put_often(&kvs, put, 3_000);
    assert!(refused > 2_900, "{refused}: {last:?}");
    let told = lines.take();
    assert!(told.len() <= 2, "{refused} refused, {} lines: {told:#?}", told.len());

    device.set_faults(Faults::default());
    assert_eq!(put_often(&kvs, put, 100).0, 0, "there is room again");
    db.flush().unwrap();
    let told = lines.take();
    assert_eq!(with(&told, "volume grows again").len(), 1, "{told:#?}");
    let goes_on = with(&told, "background work goes on");
    assert!(!goes_on.is_empty() && goes_on.len() <= 3, "{told:#?}");
    let failed = |line: &String| line.contains("failed=0") || line.contains("failures=0");
    assert!(!told.iter().any(failed), "each says how often: {told:#?}");
}

/// The volume has reached its limit, as an operator gave it.
#[test]
fn a_full_volume_is_told_once() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let device = SimDevice::new(96 << 20);
    let (db, kvs) = database(&device);
    let (refused, last) = put_often(&kvs, 0, 10_000);
    assert!(refused > 5_000, "{refused}");
    assert!(matches!(last, Some(Error::Full { .. })), "{last:?}");
    let told = lines.take();
    let full = with(&told, "the volumes are full");
    assert_eq!(full.len(), 1, "{told:#?}");
    for part in ["WARN", "free_bytes=", "reserve_bytes=", "missing_bytes="] {
        assert!(full[0].contains(part), "{part}: {}", full[0]);
    }
    assert!(with(&told, "cannot grow").is_empty(), "a limit is not tried: {told:#?}");
    assert!(told.len() < 12, "{told:#?}");
    for n in 0..10_000_u64 {
        kvs.delete(&key(n), Durability::Interval).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    assert_eq!(put_often(&kvs, 0, 100).0, 0);
    let told = lines.take();
    let over = with(&told, "there is room for puts again");
    assert_eq!(over.len(), 1, "{told:#?}");
    assert!(over[0].contains(&format!("refused={refused}")), "{}", over[0]);
}

/// The line came when a twentieth of the volume was free beyond the reserve, long after puts were
/// accepted.
#[test]
fn that_there_is_room_is_told_before_the_first_put_is_accepted() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let device = SimDevice::new(96 << 20);
    let (db, kvs) = database(&device);
    let (refused, _) = put_often(&kvs, 0, 10_000);
    assert!(refused > 5_000, "{refused}");
    lines.take();
    let mut keys = 0..10_000_u64;
    while put_often(&kvs, 20_000, 1).0 == 1 {
        for n in keys.by_ref().take(20) {
            kvs.delete(&key(n), Durability::Interval).unwrap();
        }
        db.flush().unwrap();
        db.compact().unwrap();
    }
    let told = lines.take();
    assert_eq!(with(&told, "there is room for puts again").len(), 1, "{told:#?}");
    // It says that this may not be for good, and what that takes.
    let missing = with(&told, "there is room")[0].split_once("missing_bytes=").unwrap().1;
    assert!(!missing.starts_with("0 "), "{told:#?}");
    // A store at the edge does not fill the log.
    while put_often(&kvs, 20_001, 3_000).0 == 0 {}
    let told = lines.take();
    assert!(with(&told, "the volumes are full").is_empty(), "{told:#?}");
}
