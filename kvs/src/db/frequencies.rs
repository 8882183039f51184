//! How often keys were asked for, kept over a restart.
//!
//! The value cache needs tens of millions of requests to learn which records are worth their memory
//! (docs/reaper.md). A clean close writes what it has learned into mblocks that no kvset names; a
//! property of the pool lists their ids, 8 bytes each, little-endian. The next open reads them
//! before the first lookup. They stay, also over a crash, until a later close has written newer
//! ones:
//!
//! ```text
//!   commit the new mblocks      a crash: no property names them, so the next open deletes them
//!   set the property            from here on the new ones count
//!   delete the old mblocks      a crash: as above
//! ```
//!
//! Nothing depends on them but speed: whatever is wrong with them is logged, and the cache learns
//! anew. A program that does not know of them deletes them as orphans.
//!
//! An mblock holds sections, one for each shard of the cache, to its end. Version 1:
//!
//! ```text
//! offset  size  field
//!      0     4  magic     "MPFQ"
//!      4     2  version   1
//!      6     2  shard     0 to 63
//!      8     4  words     a power of two, 8 to 524,288
//!     12     4  crc       CRC-32C of bytes 0..12, then of the words
//!     16     -  words, 8 bytes each: counters as `cache/sketch.rs` arranges them
//! ```
//!
//! Integers are little-endian. Which keys a counter stands for follows from the hash of keys, the
//! number of shards and the sketch's arrangement: who changes one of them changes the version.

use crate::cache::{SHARDS, Sketch};
use crate::error::{Error, Result};
use crate::shape::delete;
use crate::store::Store;
use mpool::{IO_ALIGN, IoBuf, Mblock, MblockId, MblockWriter, Pool, Priority};
use std::collections::BTreeSet;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Property of the pool that names the mblocks.
const PROPERTY: &str = "kvs.frequencies";
const MAGIC: [u8; 4] = *b"MPFQ";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 16;
/// Words of a section at most: 4 MiB, so 256 MiB in all, for the close to write. A larger sketch is
/// folded; up to 16 M cached records have none.
const WORDS_MAX: usize = 512 << 10;
/// Room of an mblock: a section always fits, and the ids of all fit a property.
const MBLOCK_BYTES: u64 = 8 << 20;
/// Of the memory there is, counts from another time take at most this part: there may have been
/// more. With records of 200 bytes or more they always take less.
const MEMORY_PART: u64 = 8;
/// A close after fewer lookups writes nothing: the counts are those of the last close, more or
/// less.
const LOOKUPS_MIN: u64 = 1 << 16;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: U16,
    shard: U16,
    words: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);
const _: () = assert!((HEAD_BYTES + WORDS_MAX * 8) as u64 <= MBLOCK_BYTES);

/// The mblocks that the property names, whether there are any such or not.
pub(crate) fn mblocks(pool: &Pool) -> BTreeSet<MblockId> {
    let raw = pool.property(PROPERTY).unwrap_or_default();
    let (ids, _) = raw.as_chunks::<8>();
    ids.iter().filter_map(|id| MblockId::new(u64::from_le_bytes(*id))).collect()
}

/// Gives the value cache what the last close has kept.
pub(crate) fn restore(store: &Store) {
    let memory = store.options.value_cache_bytes;
    let memory = memory.unwrap_or_else(|| store.pool.reaper().stats().budget_bytes);
    let mut take = |shard, mut sketch: Sketch| {
        fold_to(&mut sketch, usize::try_from(memory / MEMORY_PART).unwrap_or(usize::MAX));
        store.cache.restore(shard, sketch);
    };
    let mut bytes = 0;
    for id in mblocks(&store.pool) {
        // A program that does not know of them has deleted them.
        let Ok(mblock) = store.pool.mblock(id) else { continue };
        match restore_from(&mblock, &mut take) {
            Ok(()) => bytes += mblock.len_bytes(),
            Err(error) => {
                tracing::warn!(mblock = %id, %error, "some request counts are lost; the value cache learns anew");
            }
        }
    }
    store.cache.note_restored(bytes);
    if bytes > 0 {
        tracing::info!(bytes, "the value cache knows what was asked for before");
    }
}

/// Keeps what the value cache knows for the next open.
pub(crate) fn keep(store: &Store) {
    if !store.cache.has_learned(LOOKUPS_MIN) {
        return;
    }
    match replace(&store.pool, MBLOCK_BYTES, &|shard| store.cache.frequencies(shard)) {
        Ok(bytes) => tracing::info!(bytes, "what the value cache has learned is kept"),
        Err(error) => {
            tracing::warn!(%error, "what the value cache has learned is not kept");
        }
    }
}

/// Reads all sections of an mblock. Those before a bad one have been taken.
fn restore_from(mblock: &Mblock, take: &mut dyn FnMut(usize, Sketch)) -> Result<()> {
    let len = usize::try_from(mblock.len_bytes()).expect("objects fit memory");
    let mut raw = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at_priority(0, &mut raw, Priority::Flush)?;
    let mut rest = &raw[..len];
    while !rest.is_empty() {
        let (shard, sketch, after) = decode(rest)?;
        take(shard, sketch);
        rest = after;
    }
    Ok(())
}

/// Writes the shards' counts, so many bytes an mblock, in the place of what was kept before.
/// Returns how many bytes that is.
fn replace(pool: &Arc<Pool>, mblock_bytes: u64, of: &dyn Fn(usize) -> Sketch) -> Result<u64> {
    let old = mblocks(pool);
    let (mut writers, mut bytes, mut sections) = (Vec::new(), 0, Vec::new());
    for shard in 0..SHARDS {
        let mut sketch = of(shard);
        fold_to(&mut sketch, SHARDS * WORDS_MAX * size_of::<u64>());
        let section = encode(shard, &sketch);
        if (sections.len() + section.len()) as u64 > mblock_bytes {
            writers.push(write(pool, &std::mem::take(&mut sections))?);
        }
        bytes += section.len() as u64;
        sections.extend(section);
    }
    writers.push(write(pool, &sections)?);
    let ids: Vec<u8> = writers.iter().flat_map(|writer| writer.id().get().to_le_bytes()).collect();
    pool.commit(writers, &[])?;
    pool.set_property(PROPERTY, &ids)?;
    let known: BTreeSet<MblockId> = pool.mblock_ids().into_iter().collect();
    delete(pool, &old.intersection(&known).copied().collect::<Vec<_>>())?;
    Ok(bytes)
}

/// Halves a shard's sketch until all of them, of this size, take `bytes` at most. There is a least
/// size.
fn fold_to(sketch: &mut Sketch, bytes: usize) {
    while sketch.bytes() > bytes / SHARDS && sketch.fold() {}
}

fn write(pool: &Arc<Pool>, sections: &[u8]) -> Result<MblockWriter> {
    // The values' class, and not the spare part: this frees nothing.
    let mut writer = pool.allocate(sections.len() as u64, Priority::Flush)?;
    writer.append(sections)?;
    writer.seal()?;
    Ok(writer)
}

fn encode(shard: usize, sketch: &Sketch) -> Vec<u8> {
    let words = sketch.words();
    let mut head = RawHead {
        magic: MAGIC,
        version: VERSION.into(),
        shard: u16::try_from(shard).expect("there are 64").into(),
        words: u32::try_from(words.len()).expect("folded").into(),
        crc: U32::ZERO,
    };
    let mut section = head.as_bytes().to_vec();
    section.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    head.crc = crc(&section).into();
    section[..HEAD_BYTES].copy_from_slice(head.as_bytes());
    section
}

/// The first section, and what follows it.
fn decode(bytes: &[u8]) -> Result<(usize, Sketch, &[u8])> {
    let (head, _) = RawHead::read_from_prefix(bytes).map_err(|_| bad("a head is cut short"))?;
    if head.magic != MAGIC {
        return Err(bad("the magic number is wrong"));
    }
    if head.version.get() != VERSION {
        return Err(bad("the version is not known"));
    }
    let words = usize::try_from(head.words.get()).expect("addresses have 64 bits");
    if words > WORDS_MAX {
        return Err(bad("a section is too long"));
    }
    let (section, rest) = bytes
        .split_at_checked(HEAD_BYTES + words * size_of::<u64>())
        .ok_or_else(|| bad("a section is cut short"))?;
    if head.crc.get() != crc(section) {
        return Err(bad("a checksum is wrong"));
    }
    let shard = usize::from(head.shard.get());
    let (words, _) = section[HEAD_BYTES..].as_chunks::<8>();
    let sketch = Sketch::from_words(words.iter().map(|word| u64::from_le_bytes(*word)).collect());
    match sketch {
        Some(sketch) if shard < SHARDS => Ok((shard, sketch, rest)),
        _ => Err(bad("a shard or a length is out of its range")),
    }
}

fn crc(section: &[u8]) -> u32 {
    let (head, words) = section.split_at(HEAD_BYTES);
    crc32c::crc32c_append(crc32c::crc32c(&head[..HEAD_BYTES - size_of::<u32>()]), words)
}

fn bad(reason: &str) -> Error {
    Error::Corrupt { what: "a set of request counts".into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpool_sim::SimDevice;
    use mpool_sim::crash::{CrashPlan, Workload, check_every_crash};
    use proptest::prelude::*;

    fn sketch(seed: u64, log_words: u32) -> Sketch {
        let words = (0..1u64 << log_words).map(|n| seed.wrapping_mul(n | 1).rotate_left(17));
        Sketch::from_words(words.collect()).expect("a power of two")
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            seed: u64, log_words in 3u32..12, shard in 0..SHARDS, after: Vec<u8>,
        ) {
            let sketch = sketch(seed, log_words);
            let mut bytes = encode(shard, &sketch);
            bytes.extend(&after);
            let (found, decoded, rest) = decode(&bytes).expect("just encoded");
            prop_assert_eq!((found, decoded.words(), rest), (shard, sketch.words(), &after[..]));
        }

        #[test]
        fn a_flipped_bit_is_refused(
            seed: u64, shard in 0..SHARDS, at: prop::sample::Index, bit in 0..8u8,
        ) {
            let mut bytes = encode(shard, &sketch(seed, 4));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err(), "byte {}", at);
        }

        #[test]
        fn any_bytes_are_taken_or_refused(mut bytes: Vec<u8>, with_magic: bool) {
            if with_magic && bytes.len() > 6 {
                bytes[..6].copy_from_slice(b"MPFQ\x01\x00");
            }
            if let Ok((shard, sketch, rest)) = decode(&bytes) {
                let section = &bytes[..bytes.len() - rest.len()];
                prop_assert_eq!(encode(shard, &sketch), section);
            }
        }
    }

    #[test]
    fn a_section_is_laid_out_as_documented() {
        let bytes =
            encode(5, &Sketch::from_words(vec![0x0102_0304_0506_0708; 8]).expect("one block"));
        assert_eq!(bytes[..12], *b"MPFQ\x01\0\x05\0\x08\0\0\0");
        assert_eq!(bytes[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
        let covered = [&bytes[..12], &bytes[16..]].concat();
        assert_eq!(bytes[12..16], crc32c::crc32c(&covered).to_le_bytes());
        assert_eq!(bytes.len(), 16 + 64);
    }

    #[test]
    fn lengths_and_shards_out_of_range_are_refused() {
        for (shard, words) in [(64, 8), (0, 4), (0, 24), (0, WORDS_MAX * 2)] {
            let mut bytes = vec![0; HEAD_BYTES + words * 8];
            let head = RawHead {
                magic: MAGIC,
                version: VERSION.into(),
                shard: shard.into(),
                words: u32::try_from(words).expect("small").into(),
                crc: U32::ZERO,
            };
            bytes[..HEAD_BYTES].copy_from_slice(head.as_bytes());
            let sum = crc(&bytes).to_le_bytes();
            bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&sum);
            assert!(decode(&bytes).is_err(), "shard {shard}, {words} words");
        }
    }

    #[test]
    fn counts_of_a_larger_memory_are_folded() {
        let mut folded = sketch(1, 12);
        fold_to(&mut folded, 4096 * SHARDS);
        assert_eq!(folded.bytes(), 4096);
        fold_to(&mut folded, 0);
        assert_eq!(folded.bytes(), 64, "the least");
    }

    /// Keeps generation after generation, of three mblocks each.
    struct Generations;

    struct System {
        pool: Arc<Pool>,
        found: u32,
    }

    /// The generation that is kept: of all shards the same, and nothing lies about beside it.
    fn found(pool: &Arc<Pool>) -> Result<u32> {
        let named = mblocks(pool);
        let orphans: Vec<_> =
            pool.mblock_ids().into_iter().filter(|id| !named.contains(id)).collect();
        delete(pool, &orphans)?;
        let mut generations = Vec::new();
        for id in &named {
            restore_from(&pool.mblock(*id)?, &mut |shard, sketch| {
                assert_eq!(shard, generations.len(), "shards are in order");
                generations.push(sketch.words()[0]);
            })?;
        }
        assert!(generations.is_empty() || generations.len() == SHARDS, "all or nothing");
        let first = generations.first().copied().unwrap_or_default();
        assert!(generations.iter().all(|generation| *generation == first), "{generations:?}");
        Ok(u32::try_from(first).expect("a number of steps"))
    }

    impl Workload for Generations {
        type System = System;
        type Error = Error;

        fn open(&self, device: &SimDevice) -> Result<System> {
            let (device, options) = (Arc::new(device.clone()), mpool::Options::default());
            let pool = match Pool::open(device.clone(), &options) {
                Err(mpool::Error::Unusable { .. }) => Pool::create(device, &options)?,
                other => other?,
            };
            let found = found(&pool)?;
            Ok(System { pool, found })
        }

        fn step(&self, system: &mut System, n: u32) -> Result<()> {
            let of = |_| Sketch::from_words(vec![u64::from(n + 1); 8]).expect("one block");
            let written = replace(&system.pool, 2000, &of)?;
            assert_eq!(written, 64 * 80);
            system.found = found(&system.pool)?;
            Ok(())
        }

        fn steps_found(&self, system: &mut System) -> u32 {
            system.found
        }
    }

    #[test]
    fn a_crash_leaves_the_old_counts_or_the_new() {
        let plan = CrashPlan { steps: 4, seeds: 3, recovery_seeds: 1, device_bytes: 64 << 20 };
        check_every_crash(&Generations, plan);
    }
}
