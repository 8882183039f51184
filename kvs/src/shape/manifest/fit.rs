//! PURE: whether a kvset is what the manifest says it is.
//!
//! Manifest and hblock are both covered by checksums, and may contradict each other all the same:
//! a manifest that lost edits, a file that was put back from another day. What reads and
//! compactions rely on is looked at before they do: whose the kvset is, that its keys lie in its
//! leaf, that the floor of the log is not below it, and that no two kvsets of a node have revisions
//! of the same range.

use super::live::{Ends, Live, LiveKvset};
use crate::key::{KeyText, KvsId, KvsetId, NodeId, Revision};
use crate::kvset::KvsetMeta;
use std::collections::BTreeMap;

/// Why a kvset that can be read is not the one that the manifest puts there.
pub(crate) fn misfit(
    id: KvsetId,
    place: &LiveKvset,
    meta: &KvsetMeta,
    (live, ends): (&Live, &Ends),
) -> Option<String> {
    if (meta.id, meta.kvs) != (id, place.kvs) {
        return Some(format!("its hblock is that of kvset {} of {}", meta.id.get(), meta.kvs));
    }
    if meta.max_revision > live.floor {
        let (last, floor) = (meta.max_revision, live.floor);
        return Some(format!("it has revisions up to {last}, and kvsets end at {floor}"));
    }
    let first = live.kvs.get(&place.kvs)?.leaves.get(&place.node)?;
    if meta.min_key < *first {
        let (key, first) = (KeyText(&meta.min_key), KeyText(first));
        return Some(format!("it has key {key}, and its leaf begins at {first}"));
    }
    let end = ends.of(place.kvs, place.node).filter(|end| meta.max_key >= **end)?;
    let (key, end) = (KeyText(&meta.max_key), KeyText(end));
    Some(format!("it has key {key}, and its leaf ends before {end}"))
}

/// The revisions of a kvset, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) id: KvsetId,
    pub(crate) at: (KvsId, NodeId),
    pub(crate) first: Revision,
    pub(crate) last: Revision,
}

/// Kvsets that have to go so that no two of a node overlap, each with one that stays. Of two the
/// wider stays: where a compaction's inputs are still named beside its output, it has all of them.
pub(crate) fn overlaps(spans: &[Span]) -> Vec<(KvsetId, KvsetId)> {
    let width = |span: &Span| span.last.get() - span.first.get();
    let mut widest_first = spans.to_vec();
    widest_first.sort_by_key(|span| std::cmp::Reverse((width(span), span.id)));
    let mut kept: BTreeMap<(KvsId, NodeId), BTreeMap<Revision, Span>> = BTreeMap::new();
    let mut go = Vec::new();
    for span in widest_first {
        let node = kept.entry(span.at).or_default();
        // Those that stay are apart: the last that begins before its end is the one to meet.
        let met = node.range(..=span.last).next_back().filter(|(_, met)| met.last >= span.first);
        if let Some((_, met)) = met {
            go.push((span.id, met.id));
        } else {
            node.insert(span.first, span);
        }
    }
    go
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::manifest::record::Item;
    use bytes::Bytes;
    use mpool::MblockId;
    use proptest::prelude::*;

    const KVS: KvsId = KvsId::new(3);

    fn mblock(raw: u64) -> MblockId {
        MblockId::new(raw).unwrap()
    }

    fn meta() -> KvsetMeta {
        KvsetMeta {
            id: KvsetId::new(9),
            kvs: KVS,
            hblock: mblock(1),
            kblocks: vec![mblock(2)],
            vblocks: std::sync::Arc::default(),
            keys: 2,
            tombstones: 0,
            min_key: Bytes::from("h"),
            max_key: Bytes::from("k"),
            min_revision: Revision::new(3),
            max_revision: Revision::new(5),
            kblock_bytes: 4096,
            sketch: None,
            value_bytes: 0,
        }
    }

    fn live(floor: u64) -> Live {
        let mut live = Live::default();
        let mut apply = |item| live.apply(&item).unwrap();
        apply(Item::KvsCreate { kvs: KVS, name: "birds".into() });
        for (n, key) in [(1, ""), (2, "h"), (3, "m")] {
            let (node, first_key) = (NodeId::new(n), Bytes::from(key));
            apply(Item::LeafAdd { kvs: KVS, node, first_key });
        }
        apply(Item::Floor { revision: Revision::new(floor) });
        live
    }

    #[test]
    fn whatever_does_not_fit_is_named() {
        let place = |node| LiveKvset { kvs: KVS, node: NodeId::new(node), hblock: mblock(1) };
        let id = KvsetId::new(9);
        let fit_in = |live: Live, node, meta: &KvsetMeta| {
            misfit(id, &place(node), meta, (&live, &live.ends()))
        };
        let fit = |node, meta: &KvsetMeta| fit_in(live(5), node, meta);
        assert_eq!(fit(0, &meta()), None);
        assert_eq!(fit(2, &meta()), None);
        assert!(fit(1, &meta()).unwrap().contains("\"k\", and its leaf ends before \"h\""));
        assert!(fit(3, &meta()).unwrap().contains("\"h\", and its leaf begins at \"m\""));
        let other = KvsetMeta { id: KvsetId::new(8), ..meta() };
        assert!(fit(2, &other).unwrap().contains("kvset 8 of kvs-3"));
        let other = KvsetMeta { kvs: KvsId::new(4), ..meta() };
        assert!(fit(2, &other).unwrap().contains("kvset 9 of kvs-4"));
        let below = fit_in(live(4), 2, &meta()).unwrap();
        assert!(below.contains("up to 5") && below.contains("end at 4"), "{below}");
    }

    fn span(id: u64, first: u64, last: u64) -> Span {
        let (first, last) = (Revision::new(first), Revision::new(last));
        Span { id: KvsetId::new(id), at: (KVS, NodeId::ROOT), first, last }
    }

    #[test]
    fn inputs_go_and_the_output_of_their_compaction_stays() {
        let spans = [span(1, 1, 4), span(2, 5, 8), span(3, 1, 8), span(4, 9, 9)];
        let ids = |(go, stays): (KvsetId, KvsetId)| (go.get(), stays.get());
        let go: Vec<_> = overlaps(&spans).into_iter().map(ids).collect();
        assert_eq!(go, [(2, 3), (1, 3)]);
        assert_eq!(overlaps(&[span(1, 1, 4), span(2, 5, 8)]), []);
        let elsewhere = Span { at: (KVS, NodeId::new(1)), ..span(2, 1, 4) };
        assert_eq!(overlaps(&[span(1, 1, 4), elsewhere]), [], "in another node");
    }

    proptest! {
        #[test]
        fn what_stays_is_apart_and_what_goes_is_not(
            ranges in prop::collection::vec((0..40u64, 0..10u64), 0..12),
        ) {
            let spans = (1..).zip(&ranges).map(|(id, (at, len))| span(id, *at, at + len));
            let all: Vec<Span> = spans.collect();
            let go = overlaps(&all);
            let meets = |a: &Span, b: &Span| a.first <= b.last && b.first <= a.last;
            let gone = |span: &Span| go.iter().any(|(id, _)| *id == span.id);
            for a in &all {
                for b in all.iter().filter(|b| b.id > a.id && !gone(a) && !gone(b)) {
                    prop_assert!(!meets(a, b), "{a:?} {b:?}");
                }
            }
            for (id, stays) in &go {
                let of = |id: &KvsetId| all.iter().find(|span| span.id == *id).unwrap();
                prop_assert!(meets(of(id), of(stays)) && !gone(of(stays)));
            }
        }
    }
}
