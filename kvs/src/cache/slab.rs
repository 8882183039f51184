//! Memory for the records of one shard: places of equal size in chunks that go back to the kernel.
//!
//! The memory governor moves the cache's target with every memtable that fills and is flushed. With
//! records in the allocator's hands, a smaller cache leaves holes of a kilobyte and returns hardly
//! a page: usage stays, the governor takes more, and in the end the cache is empty and nothing is
//! free. Here a cache that shrinks empties whole chunks.
//!
//! ```text
//!  chunk, 16 KiB    [record 3][record 8][ free ][record 5] ..   all places of one size
//!  owners                3        8        -        5      ..   slots of the shard
//!  free places, by size: 1,170 bytes: chunk 7 place 2, chunk 9 place 0; ..
//! ```
//!
//! A chunk is divided into a whole number of places, and a record takes the smallest that fits; of
//! those numbers, only those with five significant bits are used, so that records of similar length
//! share chunks: at most a sixteenth of a place is unused. Which records leave is decided by the
//! shard. This file knows places and slot numbers, neither keys nor counts.

use mpool::{CHUNK_LEN, Chunk};
use std::collections::BTreeMap;

/// Longest record that has a place in a chunk. Others have pages enough to be the allocator's.
pub(crate) const RECORD_BYTES_MAX: usize = CHUNK_LEN / 4;
/// Significant bits of the numbers of places in a chunk.
const CLASS_BITS: u32 = 5;
/// Shortest place: even the shortest record costs its slot more than that.
const PLACE_BYTES_MIN: usize = 32;
const NOBODY: u32 = u32::MAX;

/// How many places a chunk has: what records must have in common to share one.
type Class = u16;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    chunk: u32,
    at: u16,
}

/// A chunk in use.
struct Divided {
    memory: Chunk,
    class: Class,
    live: u16,
    /// The slot of each place's record.
    owners: Box<[u32]>,
}

/// All chunks of a shard.
#[derive(Default)]
pub(crate) struct Slab {
    chunks: Vec<Option<Divided>>,
    /// Numbers without a chunk.
    vacant: Vec<u32>,
    free: BTreeMap<Class, Vec<Place>>,
    /// The chunk that is being emptied.
    withdrawn: Option<u32>,
    /// What chunks and owners take.
    bytes: u64,
}

fn index(chunk: u32) -> usize {
    usize::try_from(chunk).expect("32 bits fit an address")
}

fn class_of(len: usize) -> Class {
    let places = CHUNK_LEN / len.max(PLACE_BYTES_MIN);
    let excess = usize::BITS.saturating_sub(places.leading_zeros() + CLASS_BITS);
    u16::try_from(places >> excess << excess).expect("at most 512")
}

fn place_len(class: Class) -> usize {
    CHUNK_LEN / usize::from(class)
}

/// Memory that a chunk takes, by the class of a record.
pub(crate) fn chunk_charge(len: usize) -> u64 {
    charge(class_of(len))
}

fn charge(class: Class) -> u64 {
    let owners = usize::from(class) * size_of::<u32>();
    u64::try_from(CHUNK_LEN + owners + size_of::<Divided>() + 16).expect("small")
}

/// Memory that a record of `len` bytes takes.
pub(crate) fn record_charge(len: usize) -> u64 {
    let class = class_of(len);
    charge(class).div_ceil(class.into())
}

impl Slab {
    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let arrays = self.chunks.capacity() * size_of::<Option<Divided>>()
            + self.vacant.capacity() * size_of::<u32>()
            + self.free.values().map(|free| free.capacity() * size_of::<Place>()).sum::<usize>();
        self.bytes + u64::try_from(arrays).expect("memory fits 64 bits")
    }

    /// Whether a record of `len` bytes needs no further chunk.
    pub(crate) fn has_place(&self, len: usize) -> bool {
        self.free.get(&class_of(len)).is_some_and(|free| !free.is_empty())
    }

    /// Stores a record in two parts for `owner`; takes a further chunk where it must. None where
    /// there is no memory.
    pub(crate) fn put(&mut self, parts: [&[u8]; 2], owner: u32) -> Option<Place> {
        let len = parts[0].len() + parts[1].len();
        assert!(len <= RECORD_BYTES_MAX, "{len} bytes in a chunk");
        let class = class_of(len);
        let place = match self.free.get_mut(&class).and_then(Vec::pop) {
            Some(place) => place,
            None => self.divide(class)?,
        };
        self.occupy(place, owner);
        let bytes = &mut self.chunk_mut(place.chunk).memory[start(class, place)..];
        bytes[..parts[0].len()].copy_from_slice(parts[0]);
        bytes[parts[0].len()..len].copy_from_slice(parts[1]);
        Some(place)
    }

    /// The place, from its beginning: the first bytes are the record's.
    pub(crate) fn bytes_at(&self, place: Place, len: usize) -> &[u8] {
        let chunk = self.chunk(place.chunk);
        let start = start(chunk.class, place);
        &chunk.memory[start..start + len]
    }

    /// Overwrites a record with another that fits the same place; false if it does not.
    pub(crate) fn overwrite(&mut self, place: Place, parts: [&[u8]; 2]) -> bool {
        let len = parts[0].len() + parts[1].len();
        let chunk = self.chunk_mut(place.chunk);
        if class_of(len) != chunk.class {
            return false;
        }
        let bytes = &mut chunk.memory[start(chunk.class, place)..];
        bytes[..parts[0].len()].copy_from_slice(parts[0]);
        bytes[parts[0].len()..len].copy_from_slice(parts[1]);
        true
    }

    /// Frees a place. A chunk without a record goes.
    pub(crate) fn free(&mut self, place: Place) {
        let chunk = self.chunk_mut(place.chunk);
        let owner = &mut chunk.owners[usize::from(place.at)];
        assert!(*owner != NOBODY, "{place:?} is in use");
        *owner = NOBODY;
        chunk.live -= 1;
        let (class, live) = (chunk.class, chunk.live);
        if self.withdrawn == Some(place.chunk) {
            return;
        }
        self.free.entry(class).or_default().push(place);
        // While another is emptied, its records may still want these places.
        if live == 0 && self.withdrawn.is_none() {
            self.withdraw(place.chunk);
            self.release();
        }
    }

    /// The chunk that costs least to give up: of a size that has more free places than a chunk has,
    /// the emptiest. None if no size has.
    pub(crate) fn sparse_chunk(&self) -> Option<u32> {
        let loose = |(class, free): &(&Class, &Vec<Place>)| free.len() >= usize::from(**class);
        let (class, _) = self.free.iter().find(loose)?;
        let of_class = (0..).zip(&self.chunks).filter_map(|(number, chunk)| {
            let chunk = chunk.as_ref().filter(|chunk| chunk.class == *class)?;
            Some((chunk.live, number))
        });
        of_class.min().map(|(_, number)| number)
    }

    /// The chunk in which a place is.
    pub(crate) fn chunk_of(place: Place) -> u32 {
        place.chunk
    }

    /// Whether a record of `len` bytes fits places like this one.
    pub(crate) fn is_alike(&self, place: Place, len: usize) -> bool {
        self.chunk(place.chunk).class == class_of(len)
    }

    /// The record at `place` has moved to another slot.
    pub(crate) fn set_owner(&mut self, place: Place, owner: u32) {
        self.chunk_mut(place.chunk).owners[usize::from(place.at)] = owner;
    }

    /// Begins to empty a chunk: its free places are not handed out any more. Returns the owners of
    /// the others, which move out or are freed before [`Slab::release`].
    pub(crate) fn withdraw(&mut self, number: u32) -> Vec<u32> {
        assert!(self.withdrawn.is_none(), "one chunk is emptied at a time");
        self.withdrawn = Some(number);
        let chunk = self.chunk(number);
        let class = chunk.class;
        let owners = chunk.owners.iter().copied().filter(|owner| *owner != NOBODY).collect();
        if let Some(free) = self.free.get_mut(&class) {
            free.retain(|place| place.chunk != number);
            if free.is_empty() {
                self.free.remove(&class);
            }
        }
        owners
    }

    /// Moves a record out of the withdrawn chunk into a free place of its size; None if there is
    /// none.
    pub(crate) fn move_out(&mut self, from: Place) -> Option<Place> {
        assert!(self.withdrawn == Some(from.chunk), "records leave chunks that are emptied");
        let class = self.chunk(from.chunk).class;
        let to = self.free.get_mut(&class).and_then(Vec::pop)?;
        let mut source = self.chunks[index(from.chunk)].take().expect("the chunk is in use");
        let target = self.chunk_mut(to.chunk);
        let (a, b, len) = (start(class, from), start(class, to), place_len(class));
        target.memory[b..b + len].copy_from_slice(&source.memory[a..a + len]);
        let owner = std::mem::replace(&mut source.owners[usize::from(from.at)], NOBODY);
        source.live -= 1;
        self.chunks[index(from.chunk)] = Some(source);
        self.occupy(to, owner);
        Some(to)
    }

    /// Gives the withdrawn chunk back, in which no record is any more.
    pub(crate) fn release(&mut self) {
        let number = self.withdrawn.take().expect("a chunk is being emptied");
        let chunk = self.chunks[index(number)].take().expect("the chunk is in use");
        assert!(chunk.live == 0, "{} records are in a chunk that goes", chunk.live);
        self.bytes -= charge(chunk.class);
        self.vacant.push(number);
        if self.vacant.len() == self.chunks.len() {
            *self = Self::default();
        }
    }

    fn divide(&mut self, class: Class) -> Option<Place> {
        let memory = Chunk::new()?;
        let owners = vec![NOBODY; class.into()].into_boxed_slice();
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.chunks.push(None);
            u32::try_from(self.chunks.len() - 1).expect("a shard has under 64 TiB")
        });
        self.chunks[index(number)] = Some(Divided { memory, class, live: 0, owners });
        self.bytes += charge(class);
        let free = self.free.entry(class).or_default();
        free.extend((1..class).rev().map(|at| Place { chunk: number, at }));
        Some(Place { chunk: number, at: 0 })
    }

    fn occupy(&mut self, place: Place, owner: u32) {
        let chunk = self.chunk_mut(place.chunk);
        chunk.owners[usize::from(place.at)] = owner;
        chunk.live += 1;
    }

    fn chunk(&self, number: u32) -> &Divided {
        self.chunks[index(number)].as_ref().expect("the chunk is in use")
    }

    fn chunk_mut(&mut self, number: u32) -> &mut Divided {
        self.chunks[index(number)].as_mut().expect("the chunk is in use")
    }
}

fn start(class: Class, place: Place) -> usize {
    usize::from(place.at) * place_len(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u32, len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from((n as usize * 31 + at) % 251).unwrap()).collect()
    }

    #[test]
    fn a_place_fits_its_record_and_little_more() {
        for len in 1..=RECORD_BYTES_MAX {
            let place = place_len(class_of(len));
            assert!(place >= len, "{len} bytes in {place}");
            let waste = place - len.max(PLACE_BYTES_MIN);
            // A chunk of few places has few sizes: 4,096, 3,276, 2,730, ...
            let allowed = (len / 16 + 2).max(len / usize::from(class_of(len)) + 1);
            assert!(waste <= allowed, "{len} bytes in {place}");
        }
        assert_eq!(place_len(class_of(1163)), 1170, "a record of YCSB");
        assert!(record_charge(1163) < 1190, "{}", record_charge(1163));
    }

    #[test]
    fn records_are_what_was_put_wherever_they_go() {
        let mut slab = Slab::default();
        let mut all: Vec<Option<(Place, usize)>> = Vec::new();
        let mut random = 7_u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        for step in 0..60_000 {
            let n = u32::try_from(below(3000)).unwrap();
            all.resize_with(3000, || None);
            let known = &mut all[n as usize];
            if let Some((place, len)) = known.take() {
                assert_eq!(slab.bytes_at(place, len), record(n, len), "step {step}");
                slab.free(place);
            } else {
                let len = usize::try_from(1 + below(1200)).unwrap();
                let bytes = record(n, len);
                let (a, b) = bytes.split_at(len / 3);
                *known = Some((slab.put([a, b], n).unwrap(), len));
            }
            if step % 50 == 0
                && let Some(chunk) = slab.sparse_chunk()
            {
                let before = slab.bytes();
                for owner in slab.withdraw(chunk) {
                    let (place, _) = all[owner as usize].as_mut().unwrap();
                    *place = slab.move_out(*place).expect("there are free places enough");
                }
                slab.release();
                assert!(slab.bytes() < before);
            }
        }
        let live: usize = all.iter().flatten().map(|(_, len)| len).sum();
        let taken = usize::try_from(slab.bytes()).unwrap();
        // Each of some 60 sizes has up to two chunks that are not full.
        assert!(taken < live * 5 / 4 + 120 * CHUNK_LEN, "{taken} bytes for {live}");
        for (n, known) in (0..).zip(&all) {
            let Some((place, len)) = known else { continue };
            assert_eq!(slab.bytes_at(*place, *len), record(n, *len));
            slab.free(*place);
        }
        assert_eq!(slab.bytes(), 0, "nothing is in it");
    }

    #[test]
    fn a_record_of_similar_length_takes_the_place_of_another() {
        let mut slab = Slab::default();
        let place = slab.put([b"key", &[1; 1000]], 0).unwrap();
        assert!(slab.overwrite(place, [b"key", &[2; 990]]));
        assert_eq!(slab.bytes_at(place, 5), [b'k', b'e', b'y', 2, 2]);
        assert!(!slab.overwrite(place, [b"key", &[3; 2000]]));
        assert!(!slab.overwrite(place, [b"key", &[3; 100]]), "it would waste the place");
    }
}
