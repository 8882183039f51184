//! Every interleaving of an object's end: its last handles, the reaper, the reuse of its extent.
//!
//! ```text
//!   deleter   durable deletion: retired := true; its handle drops
//!   reader    reads through a map; the map's handle drops
//!   reaper    knows the object without holding it: finds a stray page, and adopts or evicts it
//!   last handle: retired? --> registry forgets the object --> bury --> the lease frees the extent
//! ```
//!
//! The page states are the real ones. Handles, registry and extent are modelled, in the order of
//! `Mblock`'s and `Mcache`'s code: loom has no model of `std`'s reference counts.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p millpond-mpool --lib --release interleavings`.

use super::pages::{Leave, PageStates, Take};
use loom::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    thread,
};

/// How the last handle lets go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// As `Mcache::retire` does.
    Buries,
    /// Planted: drops the pages that it can get, and does not wait for the others.
    SkipsOwnedPages,
    /// Planted: the pages have no owner afterwards.
    LeavesThePagesOpen,
}

/// A volume of one page and what is known of it.
struct Volume {
    /// Whether the page is in the page cache.
    cached: AtomicBool,
    /// Whether the allocator may give the extent to somebody else.
    free: AtomicBool,
    /// The object, as the reaper finds it.
    registry: Mutex<Option<Arc<PageStates>>>,
    end: End,
}

/// What `mblock::Shared` is.
struct Shared {
    volume: Arc<Volume>,
    retired: AtomicBool,
}

impl Volume {
    fn new(end: End) -> Arc<Self> {
        Arc::new(Self {
            cached: AtomicBool::new(false),
            free: AtomicBool::new(false),
            registry: Mutex::new(Some(Arc::new(PageStates::new(1)))),
            end,
        })
    }

    fn object(&self) -> Option<Arc<PageStates>> {
        self.registry.lock().unwrap().clone()
    }

    fn retire(&self) {
        let Some(object) = self.registry.lock().unwrap().take() else { return };
        match self.end {
            End::Buries => {
                object.close();
                self.drop_page();
            }
            End::SkipsOwnedPages => {
                if let Some(owner) = object.own(0, Take::Any) {
                    self.drop_page();
                    drop(owner);
                }
            }
            End::LeavesThePagesOpen => loop {
                if let Some(owner) = object.own(0, Take::Any) {
                    self.drop_page();
                    break drop(owner);
                }
                thread::yield_now();
            },
        }
    }

    fn drop_page(&self) {
        self.cached.store(false, Relaxed);
    }

    /// Brings the page in, as `populate` does: whatever is on the drive by then.
    fn populate(&self) {
        self.cached.store(true, Relaxed);
    }

    /// What must hold whenever somebody writes a new object to a free extent, past the page cache:
    /// nothing old is cached, and nothing will be.
    fn assert_reusable(&self) {
        assert!(self.free.load(Acquire), "the last handle has freed the extent");
        assert!(!self.cached.load(Relaxed), "an old page is cached over a free extent");
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.retired.load(Acquire) {
            self.volume.retire();
            // The lease.
            assert!(!self.volume.free.swap(true, AcqRel), "an extent is freed once");
        }
    }
}

/// A reader of a map: the page it uses is that of its object, because its handle is held.
fn read(handle: &Shared) {
    let volume = &handle.volume;
    let Some(object) = volume.object() else { panic!("a held object is known") };
    if let Some(owner) = object.own(0, Take::Absent) {
        volume.populate();
        owner.release(Leave::Resident);
    }
    assert!(!volume.free.load(Relaxed), "the extent is used again under a live map");
}

/// The reaper's comparison with the page cache: adopts a page it finds there (or, with the coin,
/// another reader's fault brings it), else evicts what is resident.
fn reap(volume: &Volume) {
    let Some(object) = volume.object() else { return };
    if let Some(owner) = object.own(0, Take::Absent) {
        volume.populate();
        owner.release(Leave::Resident);
    } else if let Some(owner) = object.own(0, Take::Resident) {
        volume.drop_page();
        drop(owner);
    }
}

/// A map's handle and the pool's, a deletion, and the reaper, all at once.
fn world(end: End) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let volume = Volume::new(end);
        let table =
            Arc::new(Shared { volume: Arc::clone(&volume), retired: AtomicBool::new(false) });
        let map = Arc::clone(&table);
        let reader = thread::spawn(move || {
            read(&map);
            drop(map);
        });
        let reaped = Arc::clone(&volume);
        let reaper = thread::spawn(move || reap(&reaped));
        // The commit that deletes: durable by now.
        table.retired.store(true, Release);
        drop(table);
        reader.join().unwrap();
        reaper.join().unwrap();
        volume.assert_reusable();
        assert!(volume.object().is_none());
    });
}

#[test]
fn an_extent_is_free_only_when_no_handle_and_no_page_is_left() {
    world(End::Buries);
}

#[test]
#[should_panic(expected = "an old page is cached over a free extent")]
fn a_burial_that_does_not_wait_for_the_reaper_is_caught() {
    world(End::SkipsOwnedPages);
}

#[test]
#[should_panic(expected = "an old page is cached over a free extent")]
fn a_burial_after_which_the_reaper_may_go_on_is_caught() {
    world(End::LeavesThePagesOpen);
}

/// The reference count planted wrong: the map holds nothing, so the deletion frees its extent.
#[test]
#[should_panic(expected = "under a live map")]
fn a_map_without_a_handle_is_caught() {
    loom::model(|| {
        let volume = Volume::new(End::Buries);
        let table =
            Arc::new(Shared { volume: Arc::clone(&volume), retired: AtomicBool::new(false) });
        let reader = thread::spawn(move || {
            assert!(!volume.free.load(Acquire), "the extent is used again under a live map");
        });
        table.retired.store(true, Release);
        drop(table);
        reader.join().unwrap();
    });
}
