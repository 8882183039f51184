//! Scans, puts and deletes step by step, against what each snapshot holds.
//!
//! Steps of several scans and the parts of a commit (into the memtable; cut and published) are
//! dealt out in a seeded order, and memtables are sealed in between. Each scan must show what was
//! there at its revision, whatever the others have learned.

use super::walk::DeadWalk;
use super::{DeadRanges, Way};
use crate::iter::bounded::{Advance, Range, Visible};
use crate::iter::merge::Merge;
use crate::iter::model::VersionList;
use crate::key::Revision;
use crate::kvset::Holes;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const KEYS: u64 = 400;
/// From one batch to the next, so that a run goes through all generations of the table.
const REVISIONS_APART: u64 = 97;

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("{number:04}").into_bytes()
}

type Live = BTreeMap<Vec<u8>, u64>;

/// What a reader takes: the memtables, newest first, which of them was active, and the revision.
#[derive(Clone)]
struct Moment {
    memtables: Vec<VersionList>,
    active: usize,
    at: u64,
    live: Live,
}

struct Scan {
    visible: Visible<Merge<VersionList>>,
    expected: VecDeque<(Vec<u8>, u64)>,
}

/// A batch in the memtable that nobody sees yet.
struct Pending {
    revision: u64,
    entries: Vec<(Vec<u8>, bool)>,
}

struct World {
    seed: u64,
    rng: Rng,
    now: Moment,
    active: Arc<AtomicUsize>,
    pending: Option<Pending>,
    kept: Vec<Moment>,
    scans: Vec<Scan>,
    table: Arc<DeadRanges>,
    /// A planted bug: puts cut nothing.
    cuts: bool,
    /// Whether anything was learned.
    learned: bool,
}

impl World {
    fn new(seed: u64, cuts: bool) -> Self {
        let memtables = vec![VersionList::new(Vec::new())];
        Self {
            seed,
            rng: Rng(seed),
            now: Moment { memtables, active: 0, at: 0, live: Live::new() },
            active: Arc::default(),
            pending: None,
            kept: Vec::new(),
            scans: Vec::new(),
            table: Arc::default(),
            cuts,
            learned: false,
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..20 => self.begin_batch(),
            20..40 => self.publish(),
            40..42 => self.seal(),
            42..46 => self.keep(),
            46..60 => self.open(),
            _ => self.go_on(),
        }
        self.learned |= self.table.len() > 0;
    }

    fn begin_batch(&mut self) {
        self.publish();
        let first = self.rng.below(KEYS);
        let (count, put) = match self.rng.below(4) {
            0 => (1, true),
            1 => (self.rng.below(4), true),
            2 => (1, false),
            _ => (self.rng.below(250), false),
        };
        let keys = first..KEYS.min(first + count);
        let entries: Vec<_> = keys.map(|number| (key(number), put)).collect();
        let revision = self.now.at + REVISIONS_APART;
        for (key, put) in &entries {
            self.now.memtables[0].insert((key.clone(), revision, put.then(Vec::new)));
        }
        self.pending = Some(Pending { revision, entries });
    }

    fn publish(&mut self) {
        let Some(Pending { revision, entries }) = self.pending.take() else { return };
        super::inserted();
        for (key, put) in entries {
            if put && self.cuts {
                self.table.put(&key);
            }
            if put {
                self.now.live.insert(key, revision);
            } else {
                self.now.live.remove(&key);
            }
        }
        self.now.at = revision;
    }

    fn seal(&mut self) {
        self.publish();
        self.now.memtables.insert(0, VersionList::new(Vec::new()));
        self.now.active += 1;
        self.active.store(self.now.active, Ordering::SeqCst);
    }

    fn keep(&mut self) {
        if self.kept.len() == 3 {
            self.kept.remove(0);
        }
        self.kept.push(self.now.clone());
    }

    fn open(&mut self) {
        if self.scans.len() == 4 {
            let index = self.rng.index(4);
            drop(self.scans.swap_remove(index));
        }
        let old = self.rng.below(3) == 0 && !self.kept.is_empty();
        let moment =
            if old { self.kept[self.rng.index(self.kept.len())].clone() } else { self.now.clone() };
        let bound = |rng: &mut Rng| (rng.below(3) == 0).then(|| key(rng.below(KEYS)).into());
        let (start, end) = (bound(&mut self.rng), bound(&mut self.rng));
        let reverse = self.rng.below(2) == 0;
        let range = Range { start, end, reverse, ..Range::default() };
        let inside = |key: &[u8]| {
            range.start.as_ref().is_none_or(|start| **start <= *key)
                && range.end.as_ref().is_none_or(|end| *key < **end)
        };
        let live = moment.live.iter().filter(|(key, _)| inside(key));
        let mut expected: VecDeque<_> = live.map(|(key, at)| (key.clone(), *at)).collect();
        let way = if reverse { Way::Backward } else { Way::Forward };
        if reverse {
            expected = expected.into_iter().rev().collect();
        }
        let (active, of_view) = (Arc::clone(&self.active), moment.active);
        let is_current = Box::new(move || active.load(Ordering::SeqCst) == of_view);
        let at = Revision::new(moment.at);
        let dead = DeadWalk::new(&self.table, (at, way), &Arc::new(Holes::default()), is_current);
        let merge = Merge::new(moment.memtables);
        let visible = Visible::new(merge, at, range).with_dead(Some(dead));
        self.scans.push(Scan { visible, expected });
    }

    /// A few steps of a scan.
    fn go_on(&mut self) {
        if self.scans.is_empty() {
            return;
        }
        let (seed, index) = (self.seed, self.rng.index(self.scans.len()));
        for _ in 0..=self.rng.below(20) {
            let steps = 1 + u32::try_from(self.rng.below(30)).unwrap();
            let Scan { visible, expected } = &mut self.scans[index];
            match visible.advance(steps).unwrap() {
                Advance::Key => {
                    let shown = (visible.key().to_vec(), visible.revision().get());
                    assert_eq!(Some(shown), expected.pop_front(), "seed {seed}");
                }
                Advance::Paused => {}
                Advance::End => {
                    assert_eq!(expected.pop_front(), None, "seed {seed}: the scan has ended");
                    drop(self.scans.swap_remove(index));
                    return;
                }
            }
        }
    }
}

/// Whether ranges were learned.
fn run(seed: u64, cuts: bool) -> bool {
    let mut world = World::new(seed, cuts);
    for _ in 0..1000 {
        world.step();
    }
    drop(world.scans);
    world.table.put(b"");
    for number in 0..KEYS {
        world.table.put(&key(number));
    }
    world.learned
}

/// Each scan from the start of a queue sought there first, in pages of what is dead, before it
/// asked where that ends.
#[test]
fn a_scan_that_begins_in_a_dead_range_looks_at_nothing_in_it() {
    let dead = (100..200).map(|number| (key(number), 1, None));
    let list = VersionList::new(dead.chain([(key(300), 1, Some(Vec::new()))]).collect());
    let table = Arc::<DeadRanges>::default();
    let scan = |start: u64, end: u64| {
        let (at, holes) = (Revision::new(1), Arc::new(Holes::default()));
        let dead = DeadWalk::new(&table, (at, Way::Forward), &holes, Box::new(|| true));
        let bound = |number| Some(key(number).into());
        let range = Range { start: bound(start), end: bound(end), ..Range::default() };
        Visible::new(Merge::new(vec![list.clone()]), at, range).with_dead(Some(dead))
    };
    let mut first = scan(50, 400);
    assert_eq!(first.advance(1000).unwrap(), Advance::Key);
    drop(first);
    let known = table.skip(&key(50), Revision::new(1), Way::Forward, false).expect("it is known");
    assert_eq!(known.beyond.as_deref(), Some(&key(300)[..]));
    for (start, end, shown) in [(50, 400, true), (150, 400, true), (50, 300, false)] {
        list.fail_after(u64::from(shown));
        let mut again = scan(start, end);
        let led = if shown { Advance::Key } else { Advance::End };
        assert_eq!(again.advance(1).unwrap(), led, "from {start}");
    }
}

#[test]
fn scans_show_what_their_snapshots_hold_whatever_others_learn() {
    let learned = (0..16).filter(|seed| run(*seed, true));
    assert!(learned.count() > 12, "most runs learn something");
}

#[test]
fn puts_that_cut_nothing_are_caught() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught =
        (0..20).filter(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed, false))).is_err());
    let caught = caught.count();
    std::panic::set_hook(hook);
    assert!(caught > 10, "{caught} of 20");
}
