//! A handle is good for the open pool that made it, and for no other: objects and volumes of two
//! pools have the same numbers, so a handle taken for one of the other's would write, read or empty
//! there.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    Class, Device, Error, Mblock, MblockWriter, MediaClass, Options, Pool, Priority, Scope,
    VolumeId,
};
use mpool_sim::SimDevice;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn options() -> Options {
    Options { grow_step_bytes: MIB, background: false, ..Options::default() }
}

fn pool() -> Arc<Pool> {
    Pool::create(Arc::new(SimDevice::new(64 * MIB)), &options()).unwrap()
}

fn writer(pool: &Arc<Pool>) -> MblockWriter {
    let mut writer = pool.allocate(4096, Priority::Flush).unwrap();
    writer.append(&[7; 4096]).unwrap();
    writer
}

fn object(pool: &Arc<Pool>) -> Mblock {
    pool.commit(vec![writer(pool)], &[]).unwrap().remove(0)
}

/// A second volume, and the device it is on.
fn add(pool: &Arc<Pool>) -> (VolumeId, SimDevice) {
    let device = SimDevice::new(16 * MIB);
    (pool.add_volume_on(Arc::new(device.clone()), MediaClass::Capacity).unwrap(), device)
}

/// The error names the handle and both pools.
fn assert_foreign<T>(outcome: mpool::Result<T>, what: &str) {
    let Err(error) = outcome else { panic!("{what} is accepted") };
    assert_eq!(error.scope(), Scope::Call, "{error}");
    let text = error.to_string();
    assert!(text.starts_with(what), "{text}");
    let Error::ForeignHandle { owner, given_to, .. } = error else { panic!("{error}") };
    assert_ne!(owner, given_to);
    assert!(text.contains(&*owner) && text.contains(&*given_to), "{text}");
    assert!(given_to.contains("of this process"), "{given_to}");
}

#[test]
fn a_commit_takes_writers_of_its_own_pool_only() {
    let (ours, theirs) = (pool(), pool());
    let free = (ours.info().free_bytes, theirs.info().free_bytes);
    let (own, foreign) = (writer(&ours), writer(&theirs));
    assert_eq!(own.id(), foreign.id(), "or the test tests nothing");
    assert_foreign(ours.commit(vec![own, foreign], &[]), "a writer of mb-");
    assert!(ours.mblock_ids().is_empty() && theirs.mblock_ids().is_empty());
    assert_eq!((ours.info().free_bytes, theirs.info().free_bytes), free, "all was dropped");
    assert_eq!(object(&ours).len_bytes(), 4096);
    assert_eq!(object(&theirs).len_bytes(), 4096);
}

#[test]
fn a_map_is_over_objects_of_its_own_pool_only() {
    let (ours, theirs) = (pool(), pool());
    let objects = [object(&ours), object(&theirs)];
    assert_foreign(ours.map(&objects, Class::Warm), "a handle of mb-");
    assert_foreign(theirs.map_named(&objects, Class::Warm, "mixed"), "a handle of mb-");
    assert!(ours.maps().is_empty() && theirs.maps().is_empty());
    assert_eq!(ours.map(&objects[..1], Class::Warm).unwrap().len(), 1);
}

/// What an earlier opening knows of a place need not hold any more.
#[test]
fn a_handle_does_not_outlive_its_opening() {
    let device = SimDevice::new(64 * MIB);
    let first = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let old = object(&first);
    drop(first);
    let second = Pool::open(Arc::new(device), &options()).unwrap();
    assert_foreign(second.map(std::slice::from_ref(&old), Class::Warm), "a handle of mb-");
    let new = second.mblock(old.id()).unwrap();
    assert_eq!(second.map(&[new], Class::Warm).unwrap().len(), 1);
}

#[test]
fn a_volume_is_named_to_its_own_pool_only() {
    let (ours, theirs) = (pool(), pool());
    let ((own, _), (foreign, _)) = (add(&ours), add(&theirs));
    assert_eq!(own, foreign, "or the test tests nothing");
    // From wherever a pool gives one out.
    let listed = theirs.volumes()[1].id;
    let lies_on = object(&theirs).volume();
    let journal = theirs.create_mdc(64 << 10).unwrap();
    let [log, _] = theirs.mdc_volumes(journal).unwrap();
    let segment = theirs.create_segment(64 << 10).unwrap().volume();
    for id in [foreign, listed, lies_on, log, segment] {
        let name = id.to_string();
        assert_foreign(ours.grow_volume(id, 32 * MIB), &name);
        assert_foreign(ours.evacuate_volume(id, &mut |_| ()), &name);
        assert_foreign(ours.cancel_evacuation(id), &name);
        assert_foreign(ours.remove_volume(id), &name);
        assert_eq!((ours.media_class(id), ours.is_evacuating(id)), (None, false), "{name}");
    }
    assert!(!ours.is_evacuating(own), "ours is as it was");
    ours.evacuate_volume(own, &mut |_| ()).unwrap();
    ours.remove_volume(own).unwrap();
    assert_eq!(theirs.media_class(foreign), Some(MediaClass::Capacity));
}

/// Volumes outlive an opening, and people name them by number.
#[test]
fn a_volume_keeps_its_id_and_a_number_names_one_of_whichever_pool() {
    let (device, stranger) = (SimDevice::new(64 * MIB), pool());
    let first = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let (id, second_device) = add(&first);
    drop(first);
    let second = || Arc::new(second_device.clone()) as Arc<dyn Device>;
    let (foreign, _) = add(&stranger);
    let root = || Arc::new(device.clone()) as Arc<dyn Device>;
    let open = |id| Pool::open_with(root(), &[(id, second())], &options());
    assert_foreign(open(foreign), "vol-1");
    let pool = open(id).unwrap();
    assert_eq!(pool.media_class(id), Some(MediaClass::Capacity));
    let number = VolumeId::new(id.get()).unwrap();
    pool.evacuate_volume(number, &mut |_| ()).unwrap();
    pool.remove_volume(id).unwrap();
    assert_eq!(stranger.media_class(number), Some(MediaClass::Capacity));
}
