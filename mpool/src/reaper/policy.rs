//! What the memory governor wants: targets, bytes to evict, room to grant.
//!
//! Pure: the reaper passes what it measured and applies what comes back. Which pages go is decided
//! by `victim`; this file only sees sums.
//!
//! ```text
//!   0                                        stop line       start line      budget
//!   |----- other ---- index ---- values ---- caches ----|--------|--------------|
//!                                                  high_pct free  low_pct free
//! ```
//!
//! Rules, in order:
//!
//! 1. At the start line, bytes are evicted until usage is under the stop line. "At" means nearer
//!    than one tick's turnover (rule 5): admissions end at the line and would never cross it. A
//!    pressure alarm moves the start line down to the stop line. One pass evicts at most
//!    [`PASS_BYTES_MAX`].
//! 2. Over [`EMERGENCY_PCT`] of the budget, even pinned pages may go and nothing is admitted.
//! 3. What fixed consumers, unaccounted memory and index pages leave under the stop line is shared:
//!    to mapped value pages the part that `split` gives them, the rest to weighted consumers by
//!    weight. Without weighted consumers, mapped value pages have it all.
//! 4. A target shrinks by up to 1/[`SHRINK_PART`] a tick and grows by 1/[`GROW_PART`] of the way,
//!    so
//!    that a consumer's cache does not breathe with every flush. It never falls under its part of
//!    [`FLOOR_PCT`] of the budget. A new consumer starts at [`static_target`].
//! 5. Room for admissions is what is left up to the start line. Over the stop line it is what value
//!    pages lack of their share, but at least [`TURNOVER_BYTES`], so that a page that has become
//!    frequent can take the place of one that has ceased to be; none under an alarm.
//! 6. Calm is a distance between the lines below the stop line: farther than one pass evicts.

/// Usage over this share of the budget is an emergency.
pub(crate) const EMERGENCY_PCT: u64 = 98;
/// What weighted consumers keep together in any case.
const FLOOR_PCT: u64 = 2;
const SHRINK_PART: u64 = 8;
const GROW_PART: u64 = 32;
/// A growing target moves at least this much a tick, so that it arrives.
const GROW_BYTES_MIN: u64 = 64 << 10;
/// 64 MiB of single pages take about 50 ms to evict: a pass ends soon enough to look again.
pub(crate) const PASS_BYTES_MAX: u64 = 64 << 20;
/// At a tick of 10 ms this lets 100 MiB/s of pages change places, which costs 8 % of a core.
const TURNOVER_BYTES: u64 = 1 << 20;

/// What was measured this tick.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    pub(crate) budget_bytes: u64,
    pub(crate) usage_bytes: u64,
    pub(crate) low_pct: u8,
    pub(crate) high_pct: u8,
    /// Resident pages of `Hot` and `Pinned` objects.
    pub(crate) index_bytes: u64,
    /// Resident pages of all others, dead ones too.
    pub(crate) value_bytes: u64,
    /// Value pages' part of what they share with weighted consumers, in thousandths.
    pub(crate) value_permille: u64,
    pub(crate) consumers: Vec<ConsumerLevel>,
    /// Somebody waits for memory.
    pub(crate) alarm: bool,
    /// The tick before evicted, and usage has not been under the stop line since.
    pub(crate) reaping: bool,
}

/// A consumer, as measured. `target_bytes` is what it was granted last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerLevel {
    pub(crate) used_bytes: u64,
    pub(crate) target_bytes: u64,
    pub(crate) weight: u32,
}

/// How tight memory is: the reason for what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// Under the stop line.
    None,
    /// Between the lines, not evicting.
    Near,
    /// At the start line, or on the way down from it.
    Reaping,
    /// Tasks wait for memory.
    Alarm,
    /// Over [`EMERGENCY_PCT`].
    Emergency,
}

impl Pressure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Near => "near",
            Self::Reaping => "reaping",
            Self::Alarm => "alarm",
            Self::Emergency => "emergency",
        }
    }

    /// Live pages have to go.
    pub(crate) fn evicts(self) -> bool {
        self >= Self::Reaping
    }

    /// Pages of dead objects have to go.
    pub(crate) fn is_tight(self) -> bool {
        self >= Self::Near
    }

    /// 0 for none, up to 4.
    pub(crate) fn index(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_index(index: u8) -> Self {
        let all = [Self::None, Self::Near, Self::Reaping, Self::Alarm, Self::Emergency];
        all[usize::from(index)]
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) pressure: Pressure,
    /// One for each consumer, in their order. Fixed consumers get what they use.
    pub(crate) target_bytes: Vec<u64>,
    pub(crate) evict_bytes: u64,
    /// Part of `evict_bytes` that consumers will give back by coming down to their targets.
    pub(crate) pending_bytes: u64,
    pub(crate) room_bytes: u64,
    /// Usage is so far under the lines that any page asked for twice is welcome.
    pub(crate) calm: bool,
}

/// Applies the rules.
pub(crate) fn decide(levels: &Levels) -> Decision {
    let stop = line(levels, levels.high_pct);
    let start = line(levels, levels.low_pct);
    let pressure = pressure(levels, start, stop);
    let shares = Shares::of(levels, stop);
    let target_bytes: Vec<u64> = levels.consumers.iter().map(|c| shares.target(c)).collect();
    let excess = levels.usage_bytes.saturating_sub(stop).min(PASS_BYTES_MAX);
    let evict_bytes = if pressure.evicts() { excess } else { 0 };
    let over = |(c, target): (&ConsumerLevel, &u64)| match c.weight {
        0 => 0,
        _ => c.used_bytes.saturating_sub(*target),
    };
    let pending: u64 = levels.consumers.iter().zip(&target_bytes).map(over).sum();
    Decision {
        pressure,
        evict_bytes,
        pending_bytes: pending.min(evict_bytes),
        room_bytes: room(levels, pressure, &shares, start, stop),
        calm: levels.usage_bytes <= stop.saturating_sub(start.saturating_sub(stop)),
        target_bytes,
    }
}

/// What a weighted consumer gets where nobody measures: half the budget, by weight.
pub(crate) fn static_target(budget_bytes: u64, weight: u32, weights: u64) -> u64 {
    part(budget_bytes / 2, u64::from(weight), weights.max(1))
}

/// Usage at which `free_pct` of the budget is free.
fn line(levels: &Levels, free_pct: u8) -> u64 {
    part(levels.budget_bytes, 100_u64.saturating_sub(free_pct.into()), 100)
}

fn pressure(levels: &Levels, start: u64, stop: u64) -> Pressure {
    let usage = levels.usage_bytes;
    if usage > part(levels.budget_bytes, EMERGENCY_PCT, 100).max(start) {
        Pressure::Emergency
    } else if usage <= stop {
        Pressure::None
    } else if levels.alarm {
        Pressure::Alarm
    } else if usage + turnover(start, stop) > start || levels.reaping {
        Pressure::Reaping
    } else {
        Pressure::Near
    }
}

/// Who may have how much of what is to be shared.
#[derive(Debug)]
struct Shares {
    value_bytes: u64,
    consumer_bytes: u64,
    floor_bytes: u64,
    weights: u64,
}

impl Shares {
    fn of(levels: &Levels, stop: u64) -> Self {
        let used: u64 = levels.consumers.iter().map(|c| c.used_bytes).sum();
        let fixed: u64 =
            levels.consumers.iter().filter(|c| c.weight == 0).map(|c| c.used_bytes).sum();
        let weights = levels.consumers.iter().map(|c| u64::from(c.weight)).sum();
        let mapped = levels.index_bytes + levels.value_bytes;
        // Code, stacks, the allocator's slack, page tables: whatever nobody accounts for.
        let other = levels.usage_bytes.saturating_sub(used + mapped);
        let shared = stop.saturating_sub(other + fixed + levels.index_bytes);
        let value_bytes =
            if weights == 0 { shared } else { part(shared, levels.value_permille, 1000) };
        Self {
            value_bytes,
            consumer_bytes: shared - value_bytes,
            floor_bytes: part(levels.budget_bytes, FLOOR_PCT, 100),
            weights,
        }
    }

    fn target(&self, consumer: &ConsumerLevel) -> u64 {
        if consumer.weight == 0 {
            return consumer.used_bytes;
        }
        let mine = |bytes| part(bytes, consumer.weight.into(), self.weights);
        let share = mine(self.consumer_bytes).max(mine(self.floor_bytes));
        let target = consumer.target_bytes;
        if share < target {
            share.max(target - target / SHRINK_PART)
        } else {
            share.min(target + ((share - target) / GROW_PART).max(GROW_BYTES_MIN))
        }
    }
}

fn room(levels: &Levels, pressure: Pressure, shares: &Shares, start: u64, stop: u64) -> u64 {
    if matches!(pressure, Pressure::Alarm | Pressure::Emergency) {
        return 0;
    }
    let free = start.saturating_sub(levels.usage_bytes);
    if levels.usage_bytes <= stop {
        return free;
    }
    let lacking = shares.value_bytes.saturating_sub(levels.value_bytes);
    free.min(lacking.max(turnover(start, stop)))
}

/// [`TURNOVER_BYTES`], or a quarter of the way between the lines where that is less.
fn turnover(start: u64, stop: u64) -> u64 {
    TURNOVER_BYTES.min(start.saturating_sub(stop) / 4)
}

/// `bytes * numerator / denominator`, without overflow.
fn part(bytes: u64, numerator: u64, denominator: u64) -> u64 {
    let whole = u128::from(bytes) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(whole).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    /// A budget of 1,000 MiB, lines at 950 (stop) and 970 (start).
    fn levels(usage: u64) -> Levels {
        Levels {
            budget_bytes: 1000 * M,
            usage_bytes: usage * M,
            low_pct: 3,
            high_pct: 5,
            value_permille: 100,
            ..Levels::default()
        }
    }

    fn consumer(used: u64, target: u64, weight: u32) -> ConsumerLevel {
        ConsumerLevel { used_bytes: used * M, target_bytes: target * M, weight }
    }

    #[test]
    fn rule_1_and_2_pressure_and_eviction() {
        type Row = (&'static str, u64, bool, bool, Pressure, u64);
        #[rustfmt::skip]
        let table: [Row; 10] = [
            // name                     usage alarm  reaping  pressure              evict
            ("plenty",                   500, false, false,   Pressure::None,         0),
            ("between, from below",      960, false, false,   Pressure::Near,         0),
            ("between, from above",      960, false, true,    Pressure::Reaping,     10),
            ("at the start line",        970, false, false,   Pressure::Reaping,     20),
            ("over the start line",      975, false, false,   Pressure::Reaping,     25),
            ("under the stop line",      950, false, true,    Pressure::None,         0),
            ("alarm pulls the line",     960, true,  false,   Pressure::Alarm,       10),
            ("alarm under the stop line", 900, true, false,   Pressure::None,         0),
            ("emergency",                985, true,  true,    Pressure::Emergency,   35),
            ("a pass is bounded",       3000, false, false,   Pressure::Emergency,   64),
        ];
        for (name, usage, alarm, reaping, pressure, evict) in table {
            let decision = decide(&Levels { alarm, reaping, ..levels(usage) });
            assert_eq!(decision.pressure, pressure, "{name}");
            assert_eq!(decision.evict_bytes, evict * M, "{name}");
        }
    }

    #[test]
    fn rule_3_shares_by_weight() {
        let consumers = vec![consumer(50, 0, 0), consumer(0, 135, 1), consumer(0, 405, 3)];
        // 100 other + 50 fixed + 200 index leave 600 of 950: 60 to value pages, 540 by weight.
        let shared = Levels { index_bytes: 200 * M, consumers: consumers.clone(), ..levels(350) };
        assert_eq!(decide(&shared).target_bytes, [50 * M, 135 * M, 405 * M]);
        // The index fills the budget: the floor is left, 20 by weight.
        let mut tight = Levels { index_bytes: 900 * M, consumers, ..levels(1050) };
        for _ in 0..40 {
            let targets = decide(&tight).target_bytes;
            tight.consumers.iter_mut().zip(targets).for_each(|(c, t)| c.target_bytes = t);
        }
        assert_eq!(decide(&tight).target_bytes, [50 * M, 5 * M, 15 * M]);
    }

    #[test]
    fn rule_3_the_split_moves_both_shares() {
        for (value_permille, cache, pages) in [(20, 931, 19), (100, 855, 95), (500, 475, 475)] {
            let alone =
                Levels { value_permille, consumers: vec![consumer(0, cache, 1)], ..levels(0) };
            assert_eq!(decide(&alone).target_bytes, [cache * M], "{value_permille}");
            // Tight, the cache has its share, and pages are 10 MiB short of theirs.
            let tight = Levels {
                value_bytes: (pages - 10) * M,
                consumers: vec![consumer(961 - pages, cache, 1)],
                ..alone
            };
            let room = decide(&Levels { usage_bytes: 951 * M, ..tight }).room_bytes;
            assert_eq!(room, 10 * M, "{value_permille}");
        }
    }

    #[test]
    fn rule_4_targets_shrink_fast_and_grow_slowly() {
        let target = |used, target, index| {
            let consumers = vec![consumer(used, target, 1)];
            let index_bytes = index * M;
            let usage = used + index;
            decide(&Levels { index_bytes, consumers, ..levels(usage) }).target_bytes[0]
        };
        // All of 950 less 10 % is 855.
        assert_eq!(target(855, 855, 0), 855 * M);
        assert_eq!(target(800, 800, 300), 700 * M, "an eighth a tick");
        assert_eq!(target(600, 600, 300), 585 * M, "down to the share");
        assert_eq!(target(100, 215, 0), 235 * M, "a 32nd of the way");
        let mut now = 100 * M;
        for _ in 0..400 {
            let grown = decide(&Levels {
                consumers: vec![ConsumerLevel {
                    used_bytes: 100 * M,
                    target_bytes: now,
                    weight: 1,
                }],
                ..levels(100)
            });
            assert!(grown.target_bytes[0] >= now);
            now = grown.target_bytes[0];
        }
        assert_eq!(now, 855 * M, "it arrives");
    }

    #[test]
    fn rule_5_room() {
        #[rustfmt::skip]
        let table = [
            // name                                      usage  value  weight alarm  room
            ("plenty: up to the start line",               500,  400,    1,   false,  470),
            ("tight: what the share lacks",                955,   80,    1,   false,   15),
            ("tight: value pages have their share",        955,  200,    1,   false,    1),
            ("tight, no cache: all is theirs",             955,  900,    0,   false,    1),
            ("over the start line",                        975,  900,    0,   false,    0),
            ("alarm",                                      960,  100,    1,   true,     0),
        ];
        for (name, usage, value, weight, alarm, room) in table {
            // Whatever is not value pages is a consumer's.
            let consumers = vec![consumer(usage - value, usage - value, weight)];
            let value_bytes = value * M;
            let decision = decide(&Levels { value_bytes, consumers, alarm, ..levels(usage) });
            assert_eq!(decision.room_bytes, room * M, "{name}");
        }
    }

    #[test]
    fn rule_6_calm() {
        let calm = |usage| decide(&levels(usage)).calm;
        assert!(calm(500) && calm(930));
        assert!(!calm(931) && !calm(1200));
    }

    #[test]
    fn what_consumers_will_give_back_is_pending() {
        let consumers = vec![consumer(800, 800, 1), consumer(200, 0, 0)];
        let decision = decide(&Levels { consumers, ..levels(1000) });
        assert_eq!(decision.target_bytes, [700 * M, 200 * M]);
        assert_eq!((decision.evict_bytes, decision.pending_bytes), (50 * M, 50 * M));
    }

    #[test]
    fn no_levels_overflow() {
        for budget in [0, 1, u64::MAX] {
            for usage in [0, u64::MAX / 2] {
                let consumers = vec![consumer(1, 0, u32::MAX), consumer(0, 7, 1)];
                let mut levels = Levels { consumers, ..levels(0) };
                (levels.budget_bytes, levels.usage_bytes) = (budget, usage);
                let decision = decide(&levels);
                assert!(decision.room_bytes <= budget, "{levels:?}");
            }
        }
    }
}
