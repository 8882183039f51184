//! PURE: which KVSs take writes now, and when the others do.
//!
//! A KVS whose root is long is *behind*: it is shut, for a while or until its root is shorter. A
//! batch for a KVS that is shut waits; those for others go past it. What comes later for any KVS of
//! a batch that waits does not overtake it.
//!
//! ```text
//!   queue   a1   b1   ab2   b3   c4        a is shut
//!   goes         b1               c4
//!   waits   a1        ab2   b3             b3, because ab2 writes to b before it
//! ```
//!
//! A KVS that is behind, and open, takes a whole group, and pays after it: it is shut for the delay
//! that [`stall`] asks for its bytes. So it is written to at the rate at which its root can follow,
//! in groups. Time is given by the caller, as what has passed since some moment of its own.

use super::sink::{ROOT_SLOW, ROOT_STOP};
use super::stall::{self, Debt, Verdict};
use crate::key::KvsId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The KVSs with more than [`ROOT_SLOW`] kvsets in their roots, and how many those are.
pub(crate) type Lagging = BTreeMap<KvsId, u64>;

/// What KVSs that are behind still pay for.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut_until: BTreeMap<KvsId, Duration>,
}

/// One look at the queue, from its front to its end.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    gate: &'a mut Gate,
    lagging: &'a Lagging,
    now: Duration,
    shut: BTreeSet<KvsId>,
}

impl Gate {
    /// Begins a look at the queue, with these KVSs behind.
    pub(crate) fn pass<'a>(&'a mut self, lagging: &'a Lagging, now: Duration) -> Pass<'a> {
        self.shut_until.retain(|kvs, until| lagging.contains_key(kvs) && *until > now);
        let stopped = lagging.iter().filter(|(_, root_kvsets)| delay(**root_kvsets, 0).is_none());
        let shut = self.shut_until.keys().chain(stopped.map(|(kvs, _)| kvs)).copied().collect();
        Pass { gate: self, lagging, now, shut }
    }
}

impl Pass<'_> {
    /// Whether a batch goes that writes to these. One that does not shuts them all for what comes
    /// behind it.
    pub(crate) fn lets(&mut self, kvss: impl Iterator<Item = KvsId> + Clone) -> bool {
        if self.shut.is_empty() || !kvss.clone().any(|kvs| self.shut.contains(&kvs)) {
            return true;
        }
        self.shut(kvss);
        false
    }

    /// Nothing more goes to these.
    pub(crate) fn shut(&mut self, kvss: impl Iterator<Item = KvsId>) {
        self.shut.extend(kvss);
    }

    /// A batch goes: those of its KVSs that are behind pay for it.
    pub(crate) fn charge(&mut self, kvss: impl Iterator<Item = KvsId>, bytes: u64) {
        if self.lagging.is_empty() {
            return;
        }
        for kvs in kvss {
            let Some(root_kvsets) = self.lagging.get(&kvs) else { continue };
            if let Some(delay) = delay(*root_kvsets, bytes).filter(|delay| !delay.is_zero()) {
                *self.gate.shut_until.entry(kvs).or_insert(self.now) += delay;
            }
        }
    }

    /// When the next KVS has paid; `None` if those that are shut wait for their roots.
    pub(crate) fn opens_at(&self) -> Option<Duration> {
        self.gate.shut_until.values().min().copied()
    }
}

/// What a KVS with so long a root pays for so many bytes; `None`: it is shut until that is shorter.
fn delay(root_kvsets: u64, write_bytes: u64) -> Option<Duration> {
    let debt = Debt {
        sealed_memtables: 0,
        memtables_max: 1,
        root_kvsets,
        root_slow: ROOT_SLOW,
        root_stop: ROOT_STOP,
        free_bytes: u64::MAX,
        free_slow_bytes: 0,
        free_reserve_bytes: 0,
        write_bytes,
    };
    match stall::verdict(debt) {
        Verdict::Go => Some(Duration::ZERO),
        Verdict::Delay(delay, _) => Some(delay),
        Verdict::Stop(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn kvss(names: &str) -> impl Iterator<Item = KvsId> + Clone + '_ {
        names.bytes().map(|name| KvsId::new(name.into()))
    }

    fn lagging(roots: &[(&str, u64)]) -> Lagging {
        let one = |(name, root): &(&str, u64)| (kvss(name).next().unwrap(), *root);
        roots.iter().map(one).collect()
    }

    /// The batches that go, of a queue, each named by its KVSs.
    fn goes(gate: &mut Gate, lagging: &Lagging, now: Duration, queue: &str) -> String {
        let mut pass = gate.pass(lagging, now);
        let mut gone = Vec::new();
        for batch in queue.split(' ') {
            if pass.lets(kvss(batch)) {
                pass.charge(kvss(batch), MIB / 16);
                gone.push(batch);
            }
        }
        gone.join(" ")
    }

    #[test]
    fn what_is_shut_waits_and_others_pass_it_but_not_on_their_own_kvs() {
        let table = [
            (&[][..], "a b ab b c", "a b ab b c"),
            (&[("a", 40)], "a b ab b c", "b c"),
            (&[("a", 40)], "b ab b c a", "b c"),
            (&[("a", 39)], "a b ab b c", "a b ab b c"),
            (&[("a", 40), ("b", 41)], "a b ab b c", "c"),
            (&[("c", 40)], "a abc bd d e", "a e"),
            (&[("x", 40)], "a b", "a b"),
        ];
        for (behind, queue, expected) in table {
            let behind = lagging(behind);
            let gone = goes(&mut Gate::default(), &behind, Duration::ZERO, queue);
            assert_eq!(gone, expected, "{behind:?}: {queue}");
        }
    }

    #[test]
    fn who_is_behind_pays_for_each_group_and_others_do_not() {
        let mut gate = Gate::default();
        let behind = lagging(&[("a", 30)]);
        let at = Duration::from_millis;
        // 64 KiB at 14 of 24: 3.1 ms each.
        assert_eq!(goes(&mut gate, &behind, at(0), "a a b ab"), "a a b ab");
        let opens_at = gate.pass(&behind, at(0)).opens_at().unwrap();
        assert!((at(8)..at(11)).contains(&opens_at), "{opens_at:?}");
        assert_eq!(goes(&mut gate, &behind, at(5), "a b"), "b");
        assert_eq!(goes(&mut gate, &behind, opens_at, "a b a"), "a b a");
        let next = gate.pass(&behind, opens_at).opens_at().unwrap();
        assert!(next > opens_at + at(5), "it pays again");
        // Its root is shorter: nothing is left to pay.
        assert_eq!(goes(&mut gate, &Lagging::new(), opens_at, "a"), "a");
        assert_eq!(gate.pass(&behind, opens_at).opens_at(), None);
        // Its root is longer.
        let stopped = lagging(&[("a", 40)]);
        assert_eq!(goes(&mut gate, &stopped, at(60_000), "a b"), "b");
    }
}
