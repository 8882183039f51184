//! How long a writer waits, and for what.
//!
//! [`verdict`] maps the debt of the store, or of a KVS, to a delay. Four debts count: memtables
//! that wait for their flush, kvsets that wait in a root, garbage that waits for compaction, and
//! space that runs out. Each has a point where delays begin and a limit, where writers stop; in
//! between lies its *strain*, 0 to 1:
//!
//! ```text
//!  delay per byte
//!   slowest |                                        .|  stop
//!           |                                     ..  |
//!           |                               ....      |
//!         0 |________............----                 |
//!           0     begin                             limit     debt
//! ```
//!
//! The delay is `slowest * strain^3` for each byte: it starts from nothing, stays out of the way
//! while the debt is small (at half the way an eighth of the slowest), and meets the limit at a
//! rate that flush and compaction can follow. Of several debts the one that asks for the longest
//! delay decides. Garbage never stops writers: how much there is is an estimate, and what it costs
//! is space, which has a limit of its own. Waiting is the caller's; this is a pure function.

use std::time::Duration;

/// Root kvsets at which writers slow down, and at which they stop.
pub(crate) const ROOT_SLOW: u64 = 16;
pub(crate) const ROOT_STOP: u64 = 40;
/// Longest delay of one write.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(1);

/// Strain is counted in thousandths.
const FULL: u64 = 1000;
/// Slowest rates, as nanoseconds a KiB: 16 MiB/s, 16 MiB/s, 4 MiB/s and 1 MiB/s.
const MEMTABLE_NANOS_PER_KIB: u64 = 1_000_000_000 / (16 << 10);
const GARBAGE_NANOS_PER_KIB: u64 = 1_000_000_000 / (16 << 10);
const ROOT_NANOS_PER_KIB: u64 = 1_000_000_000 / (4 << 10);
const SPACE_NANOS_PER_KIB: u64 = 1_000_000_000 / (1 << 10);

/// What the store owes, and how much it may owe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Debt {
    /// Memtables that wait for a flush, and how many may: at that many, writers stop.
    pub(crate) sealed_memtables: u64,
    pub(crate) memtables_max: u64,
    /// Longest root of the KVSs that it is about, and the lengths where delays begin and writers
    /// stop.
    pub(crate) root_kvsets: u64,
    pub(crate) root_slow: u64,
    pub(crate) root_stop: u64,
    /// Garbage of a KVS, where delays begin, and where they are longest.
    pub(crate) garbage_bytes: u64,
    pub(crate) garbage_slow_bytes: u64,
    pub(crate) garbage_most_bytes: u64,
    /// Space left; where delays begin; and where writers stop, if the write would reach it.
    pub(crate) free_bytes: u64,
    pub(crate) free_slow_bytes: u64,
    pub(crate) free_reserve_bytes: u64,
    /// Bytes about to be written.
    pub(crate) write_bytes: u64,
}

/// What one KVS owes to compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KvsDebt {
    /// Length of its root.
    pub(crate) root_kvsets: u64,
    /// What its kvsets take on the drive beyond what lives in them, and what lives: estimates.
    pub(crate) garbage_bytes: u64,
    pub(crate) live_bytes: u64,
    /// A full memtable: that much comes at once.
    pub(crate) memtable_bytes: u64,
}

/// What a writer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StallReason {
    Memtables,
    RootLength,
    Garbage,
    FreeSpace,
    /// The log has no room for another segment. Not a debt: the writer that meets it waits.
    LogSpace,
}

/// What a writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// Waits this long, then writes.
    Delay(Duration, StallReason),
    /// Waits until the debt is smaller.
    Stop(StallReason),
}

/// One debt: how far it is, and how slow it makes writers at worst.
#[derive(Clone, Copy)]
struct Strain {
    /// Thousandths of the way from where delays begin to the limit; `None` at the limit.
    thousandths: Option<u64>,
    nanos_per_kib: u64,
    reason: StallReason,
}

/// The delay grows with each debt and with the bytes written; a stop comes only at a hard limit.
pub(crate) fn verdict(debt: Debt) -> Verdict {
    let strains = [space(debt), memtables(debt), root(debt), garbage(debt)];
    if let Some(stop) = strains.iter().find(|strain| strain.thousandths.is_none()) {
        return Verdict::Stop(stop.reason);
    }
    // The first of equals is the more serious one.
    let longest = strains.into_iter().rev().max_by_key(|strain| delay(*strain, debt.write_bytes));
    let longest = longest.expect("there are four debts");
    match delay(longest, debt.write_bytes) {
        Duration::ZERO => Verdict::Go,
        wait => Verdict::Delay(wait, longest.reason),
    }
}

/// Whether space delays writers, or stops them.
pub(crate) fn is_short(debt: Debt) -> bool {
    space(debt).thousandths != Some(0)
}

fn space(debt: Debt) -> Strain {
    let left = debt.free_bytes.saturating_sub(debt.write_bytes);
    let begin = debt.free_slow_bytes;
    Strain {
        thousandths: way(begin.saturating_sub(left), begin - debt.free_reserve_bytes.min(begin)),
        nanos_per_kib: SPACE_NANOS_PER_KIB,
        reason: StallReason::FreeSpace,
    }
}

/// One sealed memtable is the normal state of a busy store: it is being flushed.
fn memtables(debt: Debt) -> Strain {
    let thousandths = if debt.sealed_memtables >= debt.memtables_max {
        None
    } else {
        way(debt.sealed_memtables.saturating_sub(1), debt.memtables_max - 1)
    };
    let reason = StallReason::Memtables;
    Strain { thousandths, nanos_per_kib: MEMTABLE_NANOS_PER_KIB, reason }
}

fn root(debt: Debt) -> Strain {
    let thousandths = if debt.root_kvsets >= debt.root_stop {
        None
    } else {
        let over = debt.root_kvsets.saturating_sub(debt.root_slow);
        way(over, debt.root_stop.saturating_sub(debt.root_slow))
    };
    let reason = StallReason::RootLength;
    Strain { thousandths, nanos_per_kib: ROOT_NANOS_PER_KIB, reason }
}

/// Writers are slowest at the limit, and do not stop beyond it.
fn garbage(debt: Debt) -> Strain {
    let slow = debt.garbage_slow_bytes;
    let over = debt.garbage_bytes.saturating_sub(slow);
    let thousandths = way(over, debt.garbage_most_bytes.saturating_sub(slow));
    Strain {
        thousandths: Some(thousandths.unwrap_or(FULL)),
        nanos_per_kib: GARBAGE_NANOS_PER_KIB,
        reason: StallReason::Garbage,
    }
}

/// Thousandths of `whole` that `part` is; none if it is all of it. Nothing owed is no strain.
fn way(part: u64, whole: u64) -> Option<u64> {
    if part == 0 {
        return Some(0);
    }
    if part >= whole {
        return None;
    }
    let thousandths = u128::from(part) * u128::from(FULL) / u128::from(whole);
    Some(u64::try_from(thousandths).expect("a part of the whole is under a thousand"))
}

fn delay(strain: Strain, write_bytes: u64) -> Duration {
    let thousandths = u128::from(strain.thousandths.unwrap_or(FULL));
    let cubed = thousandths * thousandths * thousandths;
    let slowest = u128::from(strain.nanos_per_kib) * u128::from(write_bytes) / 1024;
    let nanos = slowest.saturating_mul(cubed) / u128::from(FULL * FULL * FULL);
    u64::try_from(nanos).map_or(DELAY_MAX, Duration::from_nanos).min(DELAY_MAX)
}

impl KvsDebt {
    /// As the debt of a writer who writes so much to it. Garbage delays writers where it is more
    /// than half of what lives and a memtable, and most where it is as much as what lives and two
    /// memtables: compaction begins earlier, and takes a tree down one part at a time. So what a
    /// KVS holds stays within about twice what lives; `docs/benchmarks.md` has what less costs.
    pub(crate) const fn debt(self, write_bytes: u64) -> Debt {
        Debt {
            root_kvsets: self.root_kvsets,
            root_slow: ROOT_SLOW,
            root_stop: ROOT_STOP,
            garbage_bytes: self.garbage_bytes,
            garbage_slow_bytes: (self.live_bytes / 2).saturating_add(self.memtable_bytes),
            garbage_most_bytes: self
                .live_bytes
                .saturating_add(self.memtable_bytes.saturating_mul(2)),
            write_bytes,
            ..Debt::NONE
        }
    }

    /// What its writers wait for, if they do.
    pub(crate) fn reason(self) -> Option<StallReason> {
        [root(self.debt(0)), garbage(self.debt(0))]
            .into_iter()
            .find(|strain| strain.thousandths != Some(0))
            .map(|strain| strain.reason)
    }
}

impl Debt {
    /// Nothing is owed, and nothing has a limit.
    pub(crate) const NONE: Self = Self {
        sealed_memtables: 0,
        memtables_max: 1,
        root_kvsets: 0,
        root_slow: u64::MAX,
        root_stop: u64::MAX,
        garbage_bytes: 0,
        garbage_slow_bytes: u64::MAX,
        garbage_most_bytes: u64::MAX,
        free_bytes: u64::MAX,
        free_slow_bytes: 0,
        free_reserve_bytes: 0,
        write_bytes: 0,
    };
}

impl StallReason {
    /// All of them, in the order of [`StallReason::index`].
    pub(crate) const ALL: [Self; 5] =
        [Self::Memtables, Self::RootLength, Self::Garbage, Self::FreeSpace, Self::LogSpace];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Memtables => 0,
            Self::RootLength => 1,
            Self::Garbage => 2,
            Self::FreeSpace => 3,
            Self::LogSpace => 4,
        }
    }

    /// Its name in metrics, logs and error bodies.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memtables => "memtables",
            Self::RootLength => "root_length",
            Self::Garbage => "garbage",
            Self::FreeSpace => "free_space",
            Self::LogSpace => "log_space",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const CALM: Debt = Debt {
        sealed_memtables: 0,
        memtables_max: 3,
        root_kvsets: 0,
        root_slow: 8,
        root_stop: 24,
        garbage_bytes: 0,
        garbage_slow_bytes: 40 * MIB,
        garbage_most_bytes: 60 * MIB,
        free_bytes: 100 * MIB,
        free_slow_bytes: 20 * MIB,
        free_reserve_bytes: 10 * MIB,
        write_bytes: MIB,
    };

    fn wait(verdict: Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Go => Some(Duration::ZERO),
            Verdict::Delay(wait, _) => Some(wait),
            Verdict::Stop(_) => None,
        }
    }

    fn reason(verdict: Verdict) -> Option<StallReason> {
        match verdict {
            Verdict::Go => None,
            Verdict::Delay(_, reason) | Verdict::Stop(reason) => Some(reason),
        }
    }

    #[test]
    fn writers_wait_and_stop_by_the_table() {
        use StallReason::{FreeSpace, Garbage, Memtables, RootLength};
        let memtables = |n| Debt { sealed_memtables: n, ..CALM };
        let root = |n| Debt { root_kvsets: n, ..CALM };
        let free = |mib| Debt { free_bytes: mib * MIB, ..CALM };
        let garbage = |mib| Debt { garbage_bytes: mib * MIB, ..CALM };
        // Debt, milliseconds that 1 MiB waits (none: stop), what for.
        let table = [
            (CALM, Some(0), None),
            (memtables(1), Some(0), None),
            (memtables(2), Some(7), Some(Memtables)),
            (memtables(3), None, Some(Memtables)),
            (memtables(9), None, Some(Memtables)),
            (Debt { memtables_max: 1, ..CALM }, Some(0), None),
            (Debt { memtables_max: 1, ..memtables(1) }, None, Some(Memtables)),
            (root(8), Some(0), None),
            (root(16), Some(31), Some(RootLength)),
            (root(23), Some(205), Some(RootLength)),
            (root(24), None, Some(RootLength)),
            (garbage(40), Some(0), None),
            (garbage(50), Some(7), Some(Garbage)),
            (garbage(59), Some(53), Some(Garbage)),
            (garbage(60), Some(62), Some(Garbage)),
            (garbage(1 << 30), Some(62), Some(Garbage)),
            (Debt { garbage_most_bytes: 40 * MIB, ..garbage(41) }, Some(62), Some(Garbage)),
            (Debt { root_kvsets: 16, ..garbage(50) }, Some(31), Some(RootLength)),
            (Debt { root_kvsets: 24, ..garbage(99) }, None, Some(RootLength)),
            (free(21), Some(0), None),
            (free(16), Some(124), Some(FreeSpace)),
            (free(12), Some(728), Some(FreeSpace)),
            (free(11), None, Some(FreeSpace)),
            (free(0), None, Some(FreeSpace)),
            (Debt { free_slow_bytes: 0, free_reserve_bytes: 0, ..free(0) }, Some(0), None),
            (Debt { sealed_memtables: 2, ..root(16) }, Some(31), Some(RootLength)),
            (Debt { sealed_memtables: 2, ..root(24) }, None, Some(RootLength)),
            (Debt { write_bytes: 0, ..root(16) }, Some(0), None),
        ];
        for (debt, millis, why) in table {
            let verdict = verdict(debt);
            assert_eq!(wait(verdict).map(|wait| wait.as_millis()), millis, "{debt:?}");
            assert_eq!(reason(verdict), why, "{debt:?}");
        }
    }

    #[test]
    fn a_kvs_is_behind_by_its_root_or_by_garbage_beyond_half_of_what_lives() {
        use StallReason::{Garbage, RootLength};
        let kvs = |root_kvsets, garbage, live| KvsDebt {
            root_kvsets,
            garbage_bytes: garbage * MIB,
            live_bytes: live * MIB,
            memtable_bytes: 64 * MIB,
        };
        let table = [
            (kvs(0, 0, 0), None),
            (kvs(16, 0, 0), None),
            (kvs(17, 0, 0), Some(RootLength)),
            (kvs(0, 64, 0), None),
            (kvs(0, 65, 0), Some(Garbage)),
            (kvs(0, 564, 1000), None),
            (kvs(0, 565, 1000), Some(Garbage)),
            (kvs(17, 565, 1000), Some(RootLength)),
        ];
        for (kvs, reason) in table {
            assert_eq!(kvs.reason(), reason, "{kvs:?}");
        }
        let at = |garbage| wait(verdict(kvs(0, garbage, 1000).debt(MIB))).unwrap().as_millis();
        assert_eq!([564, 846, 1128, 9999].map(at), [0, 7, 62, 62]);
    }

    #[test]
    fn space_is_short_where_it_delays_or_stops_writers_and_no_other_debt_makes_it_so() {
        let table = [
            (CALM, false),
            (Debt { free_bytes: 21 * MIB, ..CALM }, false),
            (Debt { free_bytes: 20 * MIB, ..CALM }, true),
            (Debt { free_bytes: CALM.free_reserve_bytes, ..CALM }, true),
            (Debt { sealed_memtables: CALM.memtables_max, ..CALM }, false),
            (Debt { root_kvsets: CALM.root_stop, ..CALM }, false),
            (Debt { garbage_bytes: CALM.garbage_most_bytes, ..CALM }, false),
        ];
        for (debt, short) in table {
            assert_eq!(is_short(debt), short, "{debt:?}");
        }
    }

    #[test]
    fn delays_never_shrink_as_debt_grows() {
        let check = |name: &str, debts: &mut dyn Iterator<Item = Debt>| {
            let mut last = Some(Duration::ZERO);
            for debt in debts {
                let next = wait(verdict(debt));
                let grows = next.is_none() || last.is_some_and(|last| next >= Some(last));
                assert!(grows, "{name}: {last:?} then {next:?} at {debt:?}");
                last = next;
            }
        };
        let busy = Debt { memtables_max: 16, ..CALM };
        check("memtables", &mut (0..20).map(|n| Debt { sealed_memtables: n, ..busy }));
        check("root", &mut (0..40).map(|n| Debt { root_kvsets: n, ..CALM }));
        check("garbage", &mut (0..100).map(|n| Debt { garbage_bytes: n * MIB, ..CALM }));
        check("space", &mut (0..10_000).map(|n| Debt { free_bytes: (10_000 - n) << 14, ..CALM }));
        check(
            "bytes",
            &mut (0..64).map(|n| Debt { write_bytes: n << 20, root_kvsets: 12, ..CALM }),
        );
    }

    #[test]
    fn the_way_to_a_full_store_has_no_jumps() {
        let mut last = Duration::ZERO;
        for kib in (11 * 1024..40 * 1024).rev() {
            let verdict = verdict(Debt { free_bytes: kib << 10, write_bytes: 1024, ..CALM });
            let Some(next) = wait(verdict) else { break };
            assert!(next < last + Duration::from_micros(5), "{last:?} to {next:?} at {kib} KiB");
            last = next;
        }
        assert!(last > Duration::from_micros(600), "slowest was {last:?}");
    }

    #[test]
    fn a_delay_has_a_longest() {
        let debt =
            Debt { root_kvsets: 23, write_bytes: u64::MAX >> 1, free_bytes: u64::MAX, ..CALM };
        assert_eq!(verdict(debt), Verdict::Delay(DELAY_MAX, StallReason::RootLength));
    }

    #[test]
    fn any_numbers_have_a_verdict() {
        for n in [0, 1, u64::MAX] {
            let debt = Debt {
                sealed_memtables: n,
                memtables_max: n,
                root_kvsets: n,
                root_slow: n,
                root_stop: n,
                garbage_bytes: n,
                garbage_slow_bytes: n,
                garbage_most_bytes: n,
                free_bytes: n,
                free_slow_bytes: n,
                free_reserve_bytes: n,
                write_bytes: n,
            };
            assert!(matches!(verdict(debt), Verdict::Stop(_)), "{n}");
        }
    }
}
