//! What a scan has passed over because it cannot be read: ranges of keys of some kvset.
//!
//! A cursor that goes past damage notes each range here, and the scan asks two things: what to tell
//! its user, and whether a key that it has found elsewhere lies in a hole. Such a key may have a
//! newer version in the hole, so it is shown only if a lookup, which asks the filter, says so.
//!
//! A hole is bounded by the nearest keys that can be read before and after it. So a walk forward
//! and a walk back make the same hole of the same damage, and a cursor reports it once.

use crate::error::Error;
use crate::key::KvsetId;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Holes kept apart; more are joined with others of their kvset. Keys between them are then looked
/// up one by one, which is slow and right.
const HOLES_MAX: usize = 256;

/// Keys from `from` on and before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: Box<[u8]>,
    pub(crate) to: Box<[u8]>,
}

struct Hole {
    kvset: KvsetId,
    range: KeyRange,
    /// Why; `None` once it was told.
    error: Option<Error>,
}

/// The holes of one scan. Its sources write it, the scan reads it, one after the other.
#[derive(Default)]
pub(crate) struct Holes {
    /// Whether there are any: asked at each key.
    any: AtomicBool,
    list: Mutex<Vec<Hole>>,
}

impl KeyRange {
    fn holds(&self, key: &[u8]) -> bool {
        *self.from <= *key && *key < *self.to
    }

    fn covers(&self, other: &Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    fn join(&mut self, other: Self) {
        self.from = std::mem::take(&mut self.from).min(other.from);
        self.to = std::mem::take(&mut self.to).max(other.to);
    }
}

impl Holes {
    /// Notes that these keys of a kvset cannot be read.
    pub(crate) fn note(&self, kvset: KvsetId, range: KeyRange, error: Error) {
        let mut list = self.list.lock();
        let mut of_kvset = list.iter_mut().filter(|hole| hole.kvset == kvset);
        if of_kvset.any(|hole| hole.range.covers(&range)) {
            return;
        }
        let full = list.len() >= HOLES_MAX;
        match list.iter_mut().find(|hole| full && hole.kvset == kvset) {
            Some(hole) => {
                hole.range.join(range);
                hole.error = Some(error);
            }
            None => list.push(Hole { kvset, range, error: Some(error) }),
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether there are none. Relaxed, as all use is on one thread at a time.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Whether `key` lies in a hole.
    pub(crate) fn hold(&self, key: &[u8]) -> bool {
        !self.is_empty() && self.list.lock().iter().any(|hole| hole.range.holds(key))
    }

    /// A hole that has not been told yet.
    pub(crate) fn tell(&self) -> Option<(KeyRange, Error)> {
        if self.is_empty() {
            return None;
        }
        let mut list = self.list.lock();
        let untold = list.iter_mut().find(|hole| hole.error.is_some())?;
        Some((untold.range.clone(), untold.error.take()?))
    }

    /// Forgets all: the scan begins anew elsewhere.
    pub(crate) fn clear(&self) {
        self.list.lock().clear();
        self.any.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str) -> KeyRange {
        KeyRange { from: from.as_bytes().into(), to: to.as_bytes().into() }
    }

    fn error() -> Error {
        Error::Corrupt { what: "a page".into(), reason: "rot".into() }
    }

    #[test]
    fn a_hole_is_told_once_and_covers_its_keys() {
        let (holes, one, two) = (Holes::default(), KvsetId::new(1), KvsetId::new(2));
        assert!(holes.is_empty() && !holes.hold(b"b") && holes.tell().is_none());
        holes.note(one, range("b", "d"), error());
        holes.note(one, range("b", "d"), error());
        holes.note(two, range("b", "d"), error());
        assert_eq!(holes.tell().unwrap().0, range("b", "d"));
        assert_eq!(holes.tell().unwrap().0, range("b", "d"), "of the other kvset");
        assert!(holes.tell().is_none());
        for (key, inside) in [("a", false), ("b", true), ("czzz", true), ("d", false)] {
            assert_eq!(holes.hold(key.as_bytes()), inside, "{key}");
        }
        holes.clear();
        assert!(holes.is_empty() && !holes.hold(b"b"));
    }

    #[test]
    fn too_many_holes_become_wide_ones() {
        let holes = Holes::default();
        for n in 0..2 * HOLES_MAX {
            let (from, to) = (format!("{:04}", 2 * n), format!("{:04}", 2 * n + 1));
            holes.note(KvsetId::new(7), range(&from, &to), error());
        }
        assert_eq!(holes.list.lock().len(), HOLES_MAX);
        for n in 0..2 * HOLES_MAX {
            assert!(holes.hold(format!("{:04}", 2 * n).as_bytes()), "{n}");
        }
    }
}
