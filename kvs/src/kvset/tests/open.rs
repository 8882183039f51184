//! What an open reads of the drive.

use super::*;
use crate::kvset::page::PAGE_BYTES;

fn reads(pool: &Pool) -> u64 {
    let mut reads = 0;
    pool.metrics().visit(&mut |name, _, _, value| {
        if name == "mpool_foreground_reads_total" {
            reads = value;
        }
    });
    reads
}

/// There was one read for each vblock, too: a hundred thousand and more for a terabyte, as many
/// kvsets refer to each.
#[test]
fn an_open_reads_the_hblock_and_the_footers() {
    let (_, pool) = new_pool();
    let built = build(&pool, &Random(31).model(4000), SMALL).unwrap();
    let (hblock, kblocks, vblocks) =
        (built.meta.hblock, built.meta.kblocks.len(), built.meta.vblocks.len());
    assert!(kblocks > 1 && vblocks > 3, "{kblocks} {vblocks}");
    pool.commit(built.writers, &[]).unwrap();
    let before = reads(&pool);
    let kvset = Kvset::open(&pool, hblock, Class::Hot, Class::Warm).unwrap();
    assert_eq!(reads(&pool) - before, 1 + kblocks as u64);
    let before = reads(&pool);
    assert!(kvset.damaged_heads().is_empty());
    assert_eq!(reads(&pool) - before, vblocks as u64);
}

#[test]
fn an_index_has_two_parts_that_are_read_ahead_apart() {
    let (_, pool) = new_pool();
    let kvset = build_and_open(&pool, &Random(32).model(4000));
    let parts = [IndexPart::Upper, IndexPart::Leaves].map(|part| kvset.index_bytes(part));
    let footers = (kvset.kblocks.len() * PAGE_BYTES) as u64;
    assert_eq!(parts.iter().sum::<u64>() + footers, kvset.meta().kblock_bytes);
    assert!(parts[0] > 0 && parts[0] < parts[1] / 4, "{parts:?}");
}
