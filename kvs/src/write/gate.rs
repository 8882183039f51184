//! PURE: which KVSs take writes now, and when the others do.
//!
//! A KVS with a long root, or with much garbage, is *behind*: it is shut, for a while or until its
//! root is shorter. A batch for a KVS that is shut waits; those for others go past it. What comes
//! later for any KVS of a batch that waits does not overtake it.
//!
//! ```text
//!   queue   a1   b1   ab2   b3   c4        a is shut
//!   goes         b1               c4
//!   waits   a1        ab2   b3             b3, because ab2 writes to b before it
//! ```
//!
//! A KVS that is behind, and open, takes whole groups, and owes for them the delay that [`stall`]
//! asks for their bytes. When it owes more than [`CREDIT`] it is shut until it owes nothing. So it
//! is written to at the rate at which compaction can follow, and a pause is long enough to be
//! worth its wakeups. Time is given by the caller, as what has passed since some moment of its own.

use crate::debt::stall::{self, KvsDebt, StallReason, Verdict};
use crate::key::KvsId;
use crate::shape::view::Lagging;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a KVS may owe and be open: delays of a write are a few microseconds mostly, and a thread
/// that sleeps for those sleeps for longer.
const CREDIT: Duration = Duration::from_millis(1);

/// What KVSs that are behind still pay for.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    bills: BTreeMap<KvsId, Bill>,
}

/// What a KVS owes for what was written.
#[derive(Debug)]
struct Bill {
    /// When it owes nothing.
    paid_at: Duration,
    is_shut: bool,
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
        self.bills.retain(|kvs, bill| lagging.contains_key(kvs) && bill.paid_at > now);
        for bill in self.bills.values_mut() {
            bill.is_shut |= bill.paid_at > now + CREDIT;
        }
        let stopped = lagging.iter().filter(|(_, debt)| delay(**debt, 0).is_none());
        let in_debt = self.bills.iter().filter(|(_, bill)| bill.is_shut).map(|(kvs, _)| kvs);
        let shut = in_debt.chain(stopped.map(|(kvs, _)| kvs)).copied().collect();
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
            let Some(debt) = self.lagging.get(&kvs) else { continue };
            if let Some(delay) = delay(*debt, bytes).filter(|delay| !delay.is_zero()) {
                let nothing = Bill { paid_at: self.now, is_shut: false };
                self.gate.bills.entry(kvs).or_insert(nothing).paid_at += delay;
            }
        }
    }

    /// When the next KVS has paid; `None` if those that are shut wait for their roots.
    pub(crate) fn opens_at(&self) -> Option<Duration> {
        let is_shut = |bill: &&Bill| bill.is_shut || bill.paid_at > self.now + CREDIT;
        self.gate.bills.values().filter(is_shut).map(|bill| bill.paid_at).min()
    }
}

/// What batches wait for that write to these, as far as they write to a KVS that is behind.
pub(crate) fn reason(lagging: &Lagging, kvss: impl Iterator<Item = KvsId>) -> Option<StallReason> {
    // A root may stop writers; garbage only delays them.
    let reasons = kvss.filter_map(|kvs| lagging.get(&kvs)?.reason());
    reasons.max_by_key(|reason| *reason == StallReason::RootLength)
}

/// What a KVS with such a debt pays for so many bytes; `None`: it is shut until its root is
/// shorter.
fn delay(debt: KvsDebt, write_bytes: u64) -> Option<Duration> {
    match stall::verdict(debt.debt(write_bytes)) {
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
        let debt = |root_kvsets| KvsDebt { root_kvsets, ..KvsDebt::default() };
        let one = |(name, root): &(&str, u64)| (kvss(name).next().unwrap(), debt(*root));
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

    #[test]
    fn a_kvs_is_open_until_it_owes_a_millisecond_and_then_pays_it_all() {
        let mut gate = Gate::default();
        let garbage =
            KvsDebt { garbage_bytes: 64 * MIB, live_bytes: 64 * MIB, ..KvsDebt::default() };
        let behind: Lagging = kvss("a").map(|kvs| (kvs, garbage)).collect();
        let (mut now, mut open, mut pauses) = (Duration::ZERO, 0, Vec::new());
        // 1 KiB at the most that there is: 61 us each, and a writer who needs 10 for it.
        while pauses.len() < 3 {
            let mut pass = gate.pass(&behind, now);
            if pass.lets(kvss("a")) {
                pass.charge(kvss("a"), 1024);
                open += 1;
                now += Duration::from_micros(10);
            } else {
                let opens_at = pass.opens_at().unwrap();
                pauses.push((open, opens_at.checked_sub(now).unwrap()));
                (now, open) = (opens_at, 0);
            }
        }
        for (open, pause) in &pauses {
            assert!((19..22).contains(open), "{pauses:?}");
            assert!((1000..1070).contains(&pause.as_micros()), "{pauses:?}");
        }
        // One that is slower than that is never shut.
        for _ in 0..100 {
            now += Duration::from_micros(70);
            let mut pass = gate.pass(&behind, now);
            assert!(pass.lets(kvss("a")));
            pass.charge(kvss("a"), 1024);
        }
    }

    #[test]
    fn what_is_waited_for_is_the_root_if_it_is_both() {
        let garbage = KvsDebt { garbage_bytes: MIB, ..KvsDebt::default() };
        let mut behind = lagging(&[("a", 17)]);
        behind.extend(kvss("b").map(|kvs| (kvs, garbage)));
        let of = |names| reason(&behind, kvss(names));
        let (root, garbage) = (Some(StallReason::RootLength), Some(StallReason::Garbage));
        assert_eq!(
            [of("a"), of("b"), of("ab"), of("ba"), of("c")],
            [root, garbage, root, root, None]
        );
    }
}
