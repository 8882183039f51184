//! Test models of sorted sources: a list that is a cursor, and a map that says what a merge shows.

use crate::entry::op::Op;
use crate::entry::version::{ValuePtr, VersionCursor};
use crate::error::{Error, Result};
use crate::key::Revision;
use bytes::Bytes;
use mpool::MblockId;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Key, revision, value; no value is a tombstone.
pub(crate) type Version = (Vec<u8>, u64, Option<Vec<u8>>);
type Place = (Vec<u8>, Reverse<u64>);

/// The same cases on every run; a failure prints the smallest input that fails.
pub(crate) fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Few distinct keys, short and long, so that sources collide and prefixes nest.
pub(crate) fn key_of(seed: u8) -> Vec<u8> {
    let alphabet = [0x00, b'a', b'b', 0xff];
    let mut rest = usize::from(seed);
    let mut key = vec![alphabet[rest % 4]];
    rest /= 4;
    while rest > 0 {
        key.push(alphabet[rest % 4]);
        rest /= 4;
    }
    key
}

/// Up to `sources` runs of up to `len` versions, each sorted as the laws demand.
pub(crate) fn runs_of(sources: usize, len: usize) -> impl Strategy<Value = Vec<Vec<Version>>> {
    let version = (any::<u8>(), 0..12u64, proptest::option::weighted(0.7, any::<u8>()));
    let run = proptest::collection::vec(version, 0..len).prop_map(|versions| {
        let place = |(key, revision, _): &(u8, u64, Option<u8>)| (key_of(*key), Reverse(*revision));
        let map: BTreeMap<Place, Option<Vec<u8>>> =
            versions.iter().map(|v| (place(v), v.2.map(|byte| vec![byte]))).collect();
        map.into_iter().map(|((key, revision), value)| (key, revision.0, value)).collect()
    });
    proptest::collection::vec(run, 0..=sources)
}

/// A sorted list as a source. Clones share the versions, so that a test can grow it under a cursor.
#[derive(Clone)]
pub(crate) struct VersionList {
    shared: Arc<Mutex<Shared>>,
    current: Option<Version>,
}

struct Shared {
    versions: BTreeMap<Place, Option<Vec<u8>>>,
    moves_left: u64,
}

impl VersionList {
    pub(crate) fn new(versions: Vec<Version>) -> Self {
        let versions = versions.into_iter().map(|(k, r, v)| ((k, Reverse(r)), v)).collect();
        let shared = Arc::new(Mutex::new(Shared { versions, moves_left: u64::MAX }));
        Self { shared, current: None }
    }

    pub(crate) fn insert(&self, (key, revision, value): Version) {
        self.shared.lock().versions.insert((key, Reverse(revision)), value);
    }

    /// Makes every move after the next `moves` fail.
    pub(crate) fn fail_after(&self, moves: u64) {
        self.shared.lock().moves_left = moves;
    }

    fn place(&self) -> Option<Place> {
        self.current.as_ref().map(|(key, revision, _)| (key.clone(), Reverse(*revision)))
    }

    fn go<'a>(
        &mut self,
        to: impl FnOnce(&BTreeMap<Place, Option<Vec<u8>>>) -> Option<(Place, Option<Vec<u8>>)> + 'a,
    ) -> Result<()> {
        let mut shared = self.shared.lock();
        let Some(left) = shared.moves_left.checked_sub(1) else {
            return Err(Error::Closed);
        };
        shared.moves_left = left;
        self.current = to(&shared.versions).map(|((key, revision), v)| (key, revision.0, v));
        Ok(())
    }
}

type Item<'a> = (&'a Place, &'a Option<Vec<u8>>);

fn owned((place, value): Item<'_>) -> (Place, Option<Vec<u8>>) {
    (place.clone(), value.clone())
}

impl VersionCursor for VersionList {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        let from = (key.to_vec(), Reverse(u64::MAX));
        self.go(|all| all.range(from..).next().map(owned))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let to = (key.to_vec(), Reverse(u64::MAX));
        self.go(|all| all.range(..to).next_back().map(owned))
    }

    fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        let from = (key.to_vec(), Reverse(at.get()));
        self.go(|all| all.range(from..).next().map(owned))
    }

    fn seek_first(&mut self) -> Result<()> {
        self.go(|all| all.iter().next().map(owned))
    }

    fn seek_last(&mut self) -> Result<()> {
        self.go(|all| all.iter().next_back().map(owned))
    }

    fn valid(&self) -> bool {
        self.current.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.current.as_ref().expect("valid").0
    }

    fn revision(&self) -> Revision {
        Revision::new(self.current.as_ref().expect("valid").1)
    }

    fn op(&self) -> Op<'_, ValuePtr> {
        let value = &self.current.as_ref().expect("valid").2;
        value.as_ref().map_or(Op::Tombstone, |value| Op::Inline(value))
    }

    fn vblock(&self, _: ValuePtr) -> MblockId {
        panic!("every value is inline")
    }

    fn next(&mut self) -> Result<()> {
        let Some(place) = self.place() else { return Ok(()) };
        self.go(|all| all.range(&place..).find(|(at, _)| **at > place).map(owned))
    }

    fn prev(&mut self) -> Result<()> {
        let Some(place) = self.place() else { return Ok(()) };
        self.go(|all| all.range(..&place).next_back().map(owned))
    }

    fn value(&self) -> Result<Bytes> {
        let (_, _, value) = self.current.as_ref().expect("valid");
        Ok(Bytes::copy_from_slice(value.as_ref().expect("not a tombstone")))
    }
}

/// What a merge of runs must show, as one map.
pub(crate) struct Model {
    all: VersionList,
}

impl Model {
    /// Runs are newest first: where two hold a version, the first one's value counts.
    pub(crate) fn of(runs: &[Vec<Version>]) -> Self {
        let all = VersionList::new(Vec::new());
        for version in runs.iter().rev().flatten() {
            all.insert(version.clone());
        }
        Self { all }
    }

    pub(crate) fn seek(&mut self, key: &[u8]) {
        self.all.seek(key).expect("lists do not fail");
    }

    pub(crate) fn seek_before(&mut self, key: &[u8]) {
        self.all.seek_before(key).expect("lists do not fail");
    }

    pub(crate) fn seek_version(&mut self, key: &[u8], at: u64) {
        self.all.seek_version(key, Revision::new(at)).expect("lists do not fail");
    }

    pub(crate) fn seek_first(&mut self) {
        self.all.seek_first().expect("lists do not fail");
    }

    pub(crate) fn seek_last(&mut self) {
        self.all.seek_last().expect("lists do not fail");
    }

    pub(crate) fn next(&mut self) {
        self.all.next().expect("lists do not fail");
    }

    pub(crate) fn prev(&mut self) {
        self.all.prev().expect("lists do not fail");
    }

    pub(crate) fn current(&self) -> Option<Version> {
        self.all.current.clone()
    }

    /// Newest version of each key at or before `at`, without tombstones, by key.
    pub(crate) fn visible(&self, at: u64) -> Vec<Version> {
        let mut newest = BTreeMap::new();
        for ((key, revision), value) in &self.all.shared.lock().versions {
            if revision.0 <= at {
                newest.entry(key.clone()).or_insert((revision.0, value.clone()));
            }
        }
        let live = newest.into_iter().filter(|(_, (_, value))| value.is_some());
        live.map(|(key, (revision, value))| (key, revision, value)).collect()
    }
}
