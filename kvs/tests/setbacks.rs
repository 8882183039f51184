//! A flush that fails is tried again, and not for ever: what the drive goes on refusing ends
//! writing, which everybody is told, and a restart recovers from the log.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kvs::{Durability, Error, Scope};
use mpool_sim::{Faults, SimDevice};

/// Failures in a row before the database gives up.
const FAILURES_MAX: u64 = 8;

/// 861 retries of a flush that got EIO, while writers saw `overloaded` and the store said that it
/// was ready.
#[test]
fn a_flush_that_the_drive_goes_on_refusing_ends_writing() {
    let device = SimDevice::new(128 << 20);
    let options = support::options();
    let db = support::create(&device, &options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    // What an earlier failure left in flight may meet the fault in the place of the next flush,
    // which then ends well and begins the count anew.
    let (mut row, mut last) = (0, 0_u64);
    let put = |n: u64| kvs.put(&n.to_le_bytes(), b"v", Durability::Sync);
    put(last).unwrap();
    loop {
        device.set_faults(Faults { write_eio_at: Some(0), ..Faults::default() });
        match db.flush() {
            Ok(()) => {
                (row, last) = (0, last + 1);
                put(last).unwrap();
            }
            Err(Error::Poisoned { .. }) => break,
            Err(error) => {
                assert_eq!(error.scope(), Scope::Object);
                row += 1;
            }
        }
        assert!(row <= FAILURES_MAX && last < 10_000, "{row} in a row, {last} in all");
    }
    device.set_faults(Faults::default());
    assert_eq!(row, FAILURES_MAX);
    assert!(matches!(put(last + 1), Err(Error::Poisoned { .. })));
    assert_eq!(kvs.get(&0_u64.to_le_bytes()).unwrap().unwrap().value, "v");
    drop((kvs, db));
    let db = support::open(&device, &options).unwrap();
    let kvs = db.kvs("k").unwrap();
    for n in 0..=last {
        assert_eq!(kvs.get(&n.to_le_bytes()).unwrap().unwrap().value, "v");
    }
    db.flush().unwrap();
}
