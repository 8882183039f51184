//! The table of the verdict, line by line, and what a refusal must say.

use super::*;
use crate::device::contents::Taken;

const POOL: [u8; 16] = [1; 16];
const OTHER_POOL: [u8; 16] = [2; 16];
const ALL: [Create; 4] = [Create::Auto, Create::Always, Create::Never, Create::Force];

fn nothing() -> Site {
    Site {
        root: Root::Absent,
        mark: Mark::Absent,
        is_mount_point: false,
        not_mounted: None,
        volumes: Vec::new(),
        roots: Vec::new(),
        others: Vec::new(),
    }
}

fn other(journal_at: Option<u64>) -> Root {
    Root::Other(Other { taken: Taken::of_bytes(&[0; 4096]), journal_at })
}

fn labelled() -> Vec<Labelled> {
    vec![Labelled { name: "fast.vol".into(), id: VolumeId::new(1).unwrap(), pool: POOL }]
}

fn renamed() -> Vec<(String, [u8; 16])> {
    vec![("capacity.vol.bak".to_owned(), POOL)]
}

/// The verdict for each policy, in a letter: open, create, refuse.
fn letters(site: &Site) -> String {
    let letter = |create| match decide(site, create) {
        Verdict::Open => 'o',
        Verdict::Create => 'c',
        Verdict::Refuse(_) => 'r',
    };
    ALL.into_iter().map(letter).collect()
}

#[test]
fn the_table_holds() {
    let others = || vec!["README".to_owned()];
    let here = Some(PathBuf::from("/srv"));
    for (letters_wanted, site) in [
        ("oooo", Site { root: Root::Pool(Some(POOL)), ..nothing() }),
        ("oooo", Site { root: Root::Pool(None), mark: Mark::Of(POOL), ..nothing() }),
        ("oooo", Site { root: Root::Pool(Some(POOL)), mark: Mark::Of(POOL), ..nothing() }),
        ("oooo", Site { root: Root::Pool(Some(POOL)), mark: Mark::Unreadable, ..nothing() }),
        ("oooo", Site { root: Root::Pool(Some(POOL)), others: others(), ..nothing() }),
        ("oooo", Site { root: Root::Pool(Some(POOL)), not_mounted: here.clone(), ..nothing() }),
        ("rrrr", Site { root: Root::Pool(Some(POOL)), mark: Mark::Of(OTHER_POOL), ..nothing() }),
        ("rrrc", Site { root: other(None), ..nothing() }),
        ("rrrc", Site { root: other(Some(9)), mark: Mark::Of(POOL), ..nothing() }),
        ("rrrc", Site { mark: Mark::Of(POOL), ..nothing() }),
        ("rrrc", Site { mark: Mark::Unreadable, ..nothing() }),
        ("rrrc", Site { mark: Mark::Of(POOL), root: Root::Empty, ..nothing() }),
        ("rrrc", Site { volumes: labelled(), ..nothing() }),
        ("rrrc", Site { volumes: labelled(), root: Root::Empty, ..nothing() }),
        ("rrrc", Site { roots: renamed(), ..nothing() }),
        ("rrrc", Site { roots: renamed(), root: Root::Empty, ..nothing() }),
        ("rrrc", Site { root: Root::Dangling("/dev/gone".into()), ..nothing() }),
        ("rrrc", Site { is_mount_point: true, ..nothing() }),
        ("rrrc", Site { not_mounted: here, ..nothing() }),
        ("rcrc", Site { root: Root::Empty, ..nothing() }),
        ("rcrc", Site { others: others(), ..nothing() }),
        ("ccrc", Site { root: Root::Begun, ..nothing() }),
        ("ccrc", Site { root: Root::Begun, others: others(), ..nothing() }),
        ("ccrc", nothing()),
    ] {
        assert_eq!(letters(&site), letters_wanted, "{site:?}");
    }
}

#[test]
fn a_refusal_says_what_was_found_and_the_way_out() {
    let pool = uuid_text(POOL);
    let others = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    let zeroed =
        Site { root: other(Some(1 << 20)), mark: Mark::Of(POOL), volumes: labelled(), ..nothing() };
    let table: [(Site, &[&str]); 9] = [
        (zeroed, &["4096 bytes, zeros", "at byte 1048576", &pool, "fast.vol", "vol-1", "backup"]),
        (Site { mark: Mark::Of(POOL), ..nothing() }, &[&pool, "missing", "mounted?", "--force"]),
        (
            Site { volumes: labelled(), ..nothing() },
            &[&pool, "fast.vol carries the label of vol-1"],
        ),
        (
            Site { roots: renamed(), ..nothing() },
            &[&pool, "rename capacity.vol.bak", "capacity.vol.bak is the root volume of pool"],
        ),
        (Site { root: Root::Empty, ..nothing() }, &["empty file", "--create", "backup"]),
        (Site { others, ..nothing() }, &["a, b, c and 2 more", "--create"]),
        (Site { is_mount_point: true, ..nothing() }, &["pool.unmounted", "mount"]),
        (
            Site { not_mounted: Some("/srv".into()), ..nothing() },
            &["/etc/fstab names /srv as a mount point", "mount it"],
        ),
        (Site { root: Root::Dangling("/dev/gone".into()), ..nothing() }, &["/dev/gone", "link"]),
    ];
    for (site, parts) in table {
        let Verdict::Refuse(why) = decide(&site, Create::Auto) else { panic!("{site:?}") };
        let text = site.refusal(&why);
        for part in parts {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
    let swapped = Site { root: Root::Pool(Some(OTHER_POOL)), mark: Mark::Of(POOL), ..nothing() };
    let Verdict::Refuse(why) = decide(&swapped, Create::Always) else { panic!("it was taken") };
    let text = swapped.refusal(&why);
    assert!(text.contains(&pool) && text.contains(&uuid_text(OTHER_POOL)), "{text}");
}
