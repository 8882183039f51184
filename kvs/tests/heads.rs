//! Heads of vblocks, which an open does not read.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Database, Durability, Options};
use mpool::{Pool, Severity};
use mpool_sim::SimDevice;
use std::sync::Arc;

fn options() -> Options {
    Options { value_cache_bytes: Some(0), ..support::options() }
}

/// Leaves that refer to the vblocks of many flushes.
fn store(rounds: u64) -> SimDevice {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    let kvs = db.create_kvs("a").unwrap();
    for round in 0..rounds {
        for n in 0..40 {
            let key = format!("key{:04}", n * rounds + round);
            kvs.put(key.as_bytes(), &[7; 2000], Durability::Off).unwrap();
        }
        db.flush().unwrap();
    }
    db.compact().unwrap();
    db.close().unwrap();
    device
}

/// Nobody reads heads at an open, so who looks for damage must.
#[test]
fn a_damaged_head_of_a_vblock_is_told_by_check_and_scrub_and_the_rest_is_served() {
    let device = store(4);
    let head = (0..1 << 30).step_by(4096).find(|at| {
        let mut page = mpool::IoBuf::zeroed(4096);
        mpool::Device::read_at(&device, *at, &mut page).is_ok() && page.starts_with(b"MPVB")
    });
    device.flip_bit(head.unwrap() + 17, 2);
    let read_only = mpool::Options { read_only: true, ..options().pool };
    let pool = Pool::open(Arc::new(device.clone()), &read_only).unwrap();
    let checked = Database::check_on(&pool);
    drop(pool);
    let told = |issue: &mpool::Issue| issue.text.contains("vblock") && issue.text.contains("head");
    let issue = checked.issues.iter().find(|issue| told(issue)).unwrap();
    assert_eq!(issue.severity, Severity::Warning);
    let db = support::open(&device, &options()).unwrap();
    let scrub = mpool::ScrubOptions { bytes_per_s: 0, ..mpool::ScrubOptions::default() };
    let findings = db.scrub(&scrub).unwrap().findings;
    assert!(
        findings.iter().any(|finding| {
            finding.owner.as_ref().is_some_and(|owner| owner.contains("vblock"))
        })
    );
    let kvs = db.open_kvs("a").unwrap();
    for n in 0..160 {
        assert_eq!(kvs.get(format!("key{n:04}").as_bytes()).unwrap().unwrap().value, [7; 2000][..]);
    }
}
