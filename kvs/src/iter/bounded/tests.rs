//! What a cursor shows, against the model of its sources.

use super::*;
use crate::iter::merge::Merge;
use crate::iter::model::{Model, Version, VersionList, key_of, runs_of};
use proptest::prelude::*;

fn range() -> impl Strategy<Value = Range> {
    let key = || any::<u8>().prop_map(|seed| Bytes::from(key_of(seed)));
    let prefix = (0..3usize, key()).prop_map(|(len, key)| key.slice(..len.min(key.len())));
    let bound = || proptest::option::weighted(0.4, key());
    (prefix, bound(), bound(), any::<bool>()).prop_map(|(prefix, start, end, reverse)| Range {
        prefix,
        start,
        end,
        reverse,
    })
}

fn expected(model: &Model, at: u64, range: &Range, from: Option<&[u8]>) -> Vec<Version> {
    let mut all = model.visible(at);
    all.retain(|(key, _, _)| {
        key.starts_with(&range.prefix)
            && range.start.as_ref().is_none_or(|start| key >= start)
            && range.end.as_ref().is_none_or(|end| key < end)
    });
    if range.reverse {
        all.reverse();
    }
    all.retain(|(key, _, _)| {
        from.is_none_or(|from| if range.reverse { &key[..] <= from } else { &key[..] >= from })
    });
    all
}

/// To the next key, a few steps at a time.
fn on<C: VersionCursor>(visible: &mut Visible<C>, steps_max: u32) -> bool {
    loop {
        match visible.advance(steps_max).unwrap() {
            Advance::Key => return true,
            Advance::End => return false,
            Advance::Paused => assert!(!visible.key().is_empty()),
        }
    }
}

fn shown<C: VersionCursor>(visible: &Visible<C>) -> Version {
    let value = visible.value().unwrap().to_vec();
    assert_eq!(visible.value_len(), value.len());
    (visible.key().to_vec(), visible.revision().get(), Some(value))
}

proptest! {
    #![proptest_config(crate::iter::model::config())]
    #[test]
    fn a_cursor_shows_the_newest_visible_version_of_each_key_in_bounds(
        runs in runs_of(5, 40),
        range in range(),
        at in 0..13u64,
        steps_max in 1..5u32,
        seeks in proptest::collection::vec((any::<u8>(), 0..6usize), 0..4),
    ) {
        let sources = runs.iter().map(|run| VersionList::new(run.clone())).collect();
        let model = Model::of(&runs);
        let at_revision = Revision::new(at);
        let mut visible = Visible::new(Merge::new(sources), at_revision, range.clone());
        let mut from = None;
        for (seek, steps) in seeks {
            let all = expected(&model, at, &range, from.as_deref());
            for expect in all.into_iter().take(steps) {
                prop_assert!(on(&mut visible, steps_max));
                prop_assert_eq!(shown(&visible), expect);
            }
            from = Some(key_of(seek));
            visible.seek(&key_of(seek)).unwrap();
        }
        for expect in expected(&model, at, &range, from.as_deref()) {
            prop_assert!(on(&mut visible, steps_max));
            prop_assert_eq!(shown(&visible), expect);
        }
        prop_assert!(!on(&mut visible, steps_max));
        prop_assert!(!on(&mut visible, steps_max), "the end is stable");
    }
}

#[test]
fn prefix_end_is_the_smallest_string_above_the_prefix() {
    let table: [(&[u8], Option<&[u8]>); 6] = [
        (b"", None),
        (b"a", Some(b"b")),
        (b"a\xff", Some(b"b")),
        (b"a\xff\xff", Some(b"b")),
        (b"\xff\xff", None),
        (b"\xfe\xff", Some(b"\xff")),
    ];
    for (prefix, end) in table {
        assert_eq!(prefix_end(prefix).as_deref(), end, "{prefix:?}");
    }
}

#[test]
fn a_prefix_of_ff_bytes_is_walked_in_both_directions() {
    let keys: [&[u8]; 4] = [b"\xfe", b"\xff", b"\xff\xff", b"\xff\xff\x00"];
    let run = keys.map(|key| (key.to_vec(), 1, Some(vec![]))).to_vec();
    for reverse in [false, true] {
        let range = Range { prefix: b"\xff\xff"[..].into(), reverse, ..Range::default() };
        let mut visible = Visible::new(VersionList::new(run.clone()), Revision::MAX, range);
        let mut seen = Vec::new();
        while on(&mut visible, u32::MAX) {
            seen.push(visible.key().to_vec());
        }
        seen.sort();
        assert_eq!(seen, [b"\xff\xff".to_vec(), b"\xff\xff\x00".to_vec()]);
    }
}

#[test]
fn a_key_with_many_versions_is_left_by_a_seek() {
    let mut run: Vec<Version> = (0..1000).map(|r| (b"hot".to_vec(), r, Some(vec![1]))).collect();
    run.push((b"a".to_vec(), 1, Some(vec![2])));
    run.push((b"z".to_vec(), 1, Some(vec![3])));
    // Few versions that are old enough, some, and few that are too new.
    for (at, reverse) in [3, 20, 500, 995].into_iter().flat_map(|at| [(at, false), (at, true)]) {
        let list = VersionList::new(run.clone());
        list.fail_after(50);
        let range = Range { reverse, ..Range::default() };
        let mut visible = Visible::new(list, Revision::new(at), range);
        for revision in [1, at, 1] {
            assert!(on(&mut visible, u32::MAX));
            assert_eq!(visible.revision().get(), revision);
        }
        assert!(!on(&mut visible, u32::MAX));
    }
}

#[test]
fn a_walk_over_deleted_keys_pauses_and_goes_on_from_its_key() {
    let mut run: Vec<Version> =
        (0..1000u32).map(|n| (format!("{n:04}").into_bytes(), 1, None)).collect();
    run[0].2 = Some(vec![1]);
    run[999].2 = Some(vec![2]);
    for reverse in [false, true] {
        let range = Range { reverse, ..Range::default() };
        let list = || VersionList::new(run.clone());
        let mut visible = Visible::new(list(), Revision::MAX, range.clone());
        assert_eq!(visible.advance(1).unwrap(), Advance::Key);
        assert_eq!(visible.advance(400).unwrap(), Advance::Paused);
        let place = visible.key().to_vec();
        assert_eq!(place, if reverse { b"0598" } else { b"0401" });
        assert_eq!(visible.advance(400).unwrap(), Advance::Paused);
        assert_eq!(visible.advance(400).unwrap(), Advance::Key);
        assert_eq!(visible.advance(400).unwrap(), Advance::End);
        // The place can be gone on from by another cursor.
        let mut other = Visible::new(list(), Revision::MAX, range);
        other.seek(&place).unwrap();
        assert_eq!(other.advance(599).unwrap(), Advance::Key);
    }
}
