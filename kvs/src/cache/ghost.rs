//! Names of records that were evicted of late: what a slightly larger cache would still hold.
//!
//! A request for one of them is a hit that memory would have bought, and the memory governor weighs
//! those against what others report. Four bytes a name, one for every [`ENTRIES_PER_GHOST`]
//! entries, in a table in which a tag has one place: a newer name takes the place of an older one.
//! An eviction and a miss cost one cache line each.

/// Entries of the cache for each name remembered.
const ENTRIES_PER_GHOST: usize = 8;
const LEN_MIN: usize = 64;

/// Tags of evicted records; 0 is none.
#[derive(Default)]
pub(crate) struct Ghosts {
    tags: Vec<u32>,
    used: usize,
    hits: u64,
}

impl Ghosts {
    /// A record leaves a cache of `entries`.
    pub(crate) fn evicted(&mut self, tag: u32, entries: usize) {
        let wanted = (entries / ENTRIES_PER_GHOST).next_power_of_two().max(LEN_MIN);
        if wanted > self.tags.len() || wanted * 4 < self.tags.len() {
            // The names are forgotten: a cache that changes its size so much says nothing for now.
            *self = Self { tags: vec![0; wanted], used: 0, hits: self.hits };
        }
        let place = self.place(tag).expect("there is a table");
        let before = std::mem::replace(place, tag.max(1));
        self.used += usize::from(before == 0);
    }

    /// A name that is not in the cache is asked for.
    pub(crate) fn missed(&mut self, tag: u32) {
        let Some(place) = self.place(tag) else { return };
        if *place == tag.max(1) {
            *place = 0;
            self.used -= 1;
            self.hits += 1;
        }
    }

    /// Requests for names that were remembered, ever.
    pub(crate) fn hits(&self) -> u64 {
        self.hits
    }

    /// Names remembered.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.tags.capacity() * size_of::<u32>()
    }

    fn place(&mut self, tag: u32) -> Option<&mut u32> {
        let mask = self.tags.len().checked_sub(1)?;
        // Not the bits by which the shard's table finds its buckets, which are the low ones.
        let place = usize::try_from(tag.rotate_left(16)).expect("32 bits fit an address") & mask;
        Some(&mut self.tags[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(n: u32) -> u32 {
        n.wrapping_mul(0x9e37_79b9) | 1
    }

    #[test]
    fn a_name_is_met_once_and_counted() {
        let mut ghosts = Ghosts::default();
        ghosts.missed(tag(1));
        assert_eq!((ghosts.hits(), ghosts.len(), ghosts.bytes()), (0, 0, 0));
        ghosts.evicted(tag(1), 100);
        ghosts.evicted(tag(1), 100);
        assert_eq!(ghosts.len(), 1);
        ghosts.missed(tag(2));
        ghosts.missed(tag(1));
        ghosts.missed(tag(1));
        assert_eq!((ghosts.hits(), ghosts.len()), (1, 0));
    }

    #[test]
    fn it_remembers_a_part_of_the_cache_s_size_and_no_more() {
        let mut ghosts = Ghosts::default();
        for n in 0..100_000 {
            ghosts.evicted(tag(n), 8192);
        }
        assert!((900..=1024).contains(&ghosts.len()), "{}", ghosts.len());
        assert_eq!(ghosts.bytes(), 4096);
        let known = (0..100_000).filter(|n| {
            let before = ghosts.hits();
            ghosts.missed(tag(*n));
            ghosts.hits() > before
        });
        let known: Vec<u32> = known.collect();
        assert!(known.iter().all(|n| *n > 80_000), "the newest: {:?}", &known[..5]);
        assert_eq!(ghosts.len(), 0);
    }

    #[test]
    fn it_follows_the_cache_s_size_and_keeps_its_count() {
        let mut ghosts = Ghosts::default();
        ghosts.evicted(tag(1), 1 << 20);
        ghosts.missed(tag(1));
        let large = ghosts.bytes();
        ghosts.evicted(tag(2), 10);
        assert!(ghosts.bytes() < large / 100);
        assert_eq!((ghosts.hits(), ghosts.len()), (1, 1));
    }
}
