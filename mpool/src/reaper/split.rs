//! How memory is split between mapped value pages and the consumers' caches.
//!
//! Pure. A megabyte should be where it saves more drive reads. What the next one would save is told
//! by *ghosts*: entries that are not in memory, but would be if there were a little more of it. A
//! request that meets a ghost went to the drive for want of that memory.
//!
//! | holder | its ghosts | a hit |
//! |---|---|---|
//! | value pages | absent ones with the count for admission | one is touched |
//! | a consumer | what it has evicted of late, by name | one is asked for |
//!
//! So hits for each byte of ghosts is what a holder's next byte is worth. Where one side's is more
//! than [`LEAD_PCT`] over the other's, the split moves by [`STEP_PERMILLE`] towards it, not more
//! often than every [`HITS_MIN`] hits and [`PERIOD`], and never past its bounds: a holder that has
//! nothing would have no ghosts either, and could never come back.

use std::time::Duration;

/// Value pages' part at the start, in thousandths. Records earn more for each byte than the pages
/// around them as long as what is hot lies scattered.
pub(crate) const START_PERMILLE: u64 = 100;
const PERMILLE_MIN: u64 = 20;
const PERMILLE_MAX: u64 = 700;
const STEP_PERMILLE: u64 = 10;
/// A worth within this of the other's is the same.
const LEAD_PCT: u64 = 130;
/// Fewer hits than this on both sides together are chance.
pub(crate) const HITS_MIN: u64 = 512;
/// The shortest time between two looks.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// One side in the time since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ghosts {
    pub(crate) hits: u64,
    /// What the ghosts would take if they were in memory.
    pub(crate) bytes: u64,
}

/// The value pages' part from here on; `permille` is what it was.
pub(crate) fn shift(permille: u64, pages: Ghosts, caches: Ghosts) -> u64 {
    if pages.hits + caches.hits < HITS_MIN || pages.bytes == 0 || caches.bytes == 0 {
        return permille;
    }
    // hits / bytes compared crosswise.
    let worth = |one: Ghosts, other: Ghosts| u128::from(one.hits) * u128::from(other.bytes);
    let (of_pages, of_caches) = (worth(pages, caches), worth(caches, pages));
    let leads =
        |one: u128, other: u128| one.saturating_mul(100) > other.saturating_mul(LEAD_PCT.into());
    if leads(of_pages, of_caches) {
        (permille + STEP_PERMILLE).min(PERMILLE_MAX)
    } else if leads(of_caches, of_pages) {
        permille.saturating_sub(STEP_PERMILLE).max(PERMILLE_MIN)
    } else {
        permille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ghosts(hits: u64, bytes: u64) -> Ghosts {
        Ghosts { hits, bytes }
    }

    #[test]
    fn memory_moves_to_where_it_saves_more_reads() {
        #[rustfmt::skip]
        let table = [
            // name                   before  pages                 caches                after
            ("pages are worth more",     100, ghosts(1000, 1000),   ghosts(500, 1000),      110),
            ("caches are worth more",    100, ghosts(500, 1000),    ghosts(1000, 1000),      90),
            ("by the byte",              100, ghosts(1000, 10_000), ghosts(500, 1000),       90),
            ("about the same",           100, ghosts(1000, 1000),   ghosts(800, 1000),      100),
            ("and the other way round",  100, ghosts(800, 1000),    ghosts(1000, 1000),     100),
            ("chance",                   100, ghosts(500, 1000),    ghosts(1, 1000),        100),
            ("nobody reports pages",     100, ghosts(0, 0),         ghosts(9000, 1000),     100),
            ("nobody reports records",   100, ghosts(9000, 1000),   ghosts(0, 0),           100),
            ("one without a hit",        100, ghosts(0, 1000),      ghosts(9000, 1000),      90),
            ("the lower bound",           20, ghosts(0, 1000),      ghosts(9000, 1000),      20),
            ("the upper bound",          700, ghosts(9000, 1000),   ghosts(0, 1000),        700),
            ("no overflow",              100, ghosts(1 << 60, 1),   ghosts(1, 1 << 60),     110),
        ];
        for (name, before, pages, caches, after) in table {
            assert_eq!(shift(before, pages, caches), after, "{name}");
        }
    }

    /// Worth falls as a side gets more: the split comes to rest where both are equal, and stays.
    #[test]
    fn the_split_comes_to_rest() {
        for (pages_pull, caches_pull, low, high) in
            [(1, 9, 60, 130), (5, 5, 440, 560), (9, 1, 690, 700), (1, 200, 20, 20)]
        {
            let mut permille = START_PERMILLE;
            let mut after_100 = 0;
            for step in 0..200 {
                let pages = ghosts(1_000_000 * pages_pull / permille, 1000);
                let caches = ghosts(1_000_000 * caches_pull / (1000 - permille), 1000);
                permille = shift(permille, pages, caches);
                if step == 100 {
                    after_100 = permille;
                }
            }
            assert!((low..=high).contains(&permille), "{pages_pull}:{caches_pull} {permille}");
            assert_eq!(permille, after_100, "{pages_pull}:{caches_pull} swings");
        }
    }
}
