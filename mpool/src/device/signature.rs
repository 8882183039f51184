//! PURE: what is on a device, told by the marks that file systems and volume managers leave.
//!
//! Only what is well known and at a fixed place is looked for, so a device without a find may still
//! hold data; what counts as blank is for `contents` to say. Reads nothing: the caller
//! brings the first [`HEAD_BYTES`] and the last [`TAIL_BYTES`] of the device.
//!
//! ```text
//! head   0 label, superblock, LUKS, XFS, zonefs, MBR, FAT, NTFS    512 GPT, LVM2 (0 to 1,536)
//!     1024 ext2/3/4, F2FS, EROFS    4 KiB mdraid 1.2, bcache, swap    32 KiB ISO 9660
//!   64 KiB btrfs, the second superblock or label    128 to 256 KiB ZFS uberblocks
//! tail   mdraid 0.90 (64 to 128 KiB before the end) and 1.0 (8 to 12 KiB), GPT backup
//! ```

/// What must be read from the start: a ZFS label whole.
pub(crate) const HEAD_BYTES: u64 = 256 << 10;
/// What must be read from the end: as far back as the superblock of mdraid 0.90 can be.
pub(crate) const TAIL_BYTES: u64 = 128 << 10;

/// A find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// With its article: "an ext4 file system".
    pub(crate) what: &'static str,
    /// Of the mark, in bytes from the start of the device.
    pub(crate) offset: u64,
}

impl Signature {
    /// Why a device that carries it is refused, and the way out.
    pub(crate) fn refusal(self) -> String {
        let Self { what, offset } = self;
        format!(
            "carries {what} (its signature is at byte {offset}); choose another place, or --force \
             it and lose what is there"
        )
    }
}

/// The two ends of a device; they may overlap where it is short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) head: &'a [u8],
    /// Ends at `len_bytes`.
    pub(crate) tail: &'a [u8],
    pub(crate) len_bytes: u64,
}

/// A mark of fixed bytes at a fixed place near the start.
struct Mark(&'static str, usize, &'static [u8]);

/// Our own, at the start.
const OWN: &[Mark] =
    &[Mark("a Millpond pool", 0, b"MILLPOND"), Mark("a volume of a Millpond pool", 0, b"MILLPVOL")];

/// The second copies, which may outlive what was made over the first ones.
const OWN_COPIES: &[Mark] = &[
    Mark("a Millpond pool (second superblock)", 64 << 10, b"MILLPOND"),
    Mark("a volume of a Millpond pool (second label)", 64 << 10, b"MILLPVOL"),
];

/// Those of others.
const MARKS: &[Mark] = &[
    Mark("an encrypted LUKS volume", 0, b"LUKS\xba\xbe"),
    Mark("an encrypted LUKS volume (second header)", 16 << 10, b"SKUL\xba\xbe"),
    Mark("an encrypted LUKS volume (second header)", 32 << 10, b"SKUL\xba\xbe"),
    Mark("an XFS file system", 0, b"XFSB"),
    Mark("a zonefs file system", 0, b"SFOZ"),
    Mark("a Ceph OSD", 0, b"bluestore block device"),
    Mark("a squashfs file system", 0, b"hsqs"),
    Mark("dm-verity hashes", 0, b"verity\0\0"),
    Mark("a dm-integrity volume", 0, b"integrt\0"),
    Mark("an NTFS file system", 3, b"NTFS    "),
    Mark("an exFAT file system", 3, b"EXFAT   "),
    Mark("a FAT file system", 54, b"FAT12   "),
    Mark("a FAT file system", 54, b"FAT16   "),
    Mark("a FAT file system", 82, b"FAT32   "),
    Mark("an LVM2 physical volume", 0, b"LABELONE"),
    Mark("an LVM2 physical volume", 512, b"LABELONE"),
    Mark("an LVM2 physical volume", 1024, b"LABELONE"),
    Mark("an LVM2 physical volume", 1536, b"LABELONE"),
    Mark("a partition table (GPT)", 512, b"EFI PART"),
    Mark("a partition table (GPT)", 4096, b"EFI PART"),
    Mark("an F2FS file system", 1024, &0xF2F5_2010_u32.to_le_bytes()),
    Mark("an EROFS file system", 1024, &0xE0F5_E1E2_u32.to_le_bytes()),
    Mark("a member of an mdraid array (1.1)", 0, &MD_MAGIC),
    Mark("a member of an mdraid array (1.2)", 4096, &MD_MAGIC),
    Mark("a bcache or bcachefs device", 4096 + 24, &BCACHE),
    Mark("a swap area", 4096 - 10, b"SWAPSPACE2"),
    Mark("a swap area", 4096 - 10, b"SWAP-SPACE"),
    Mark("a swap area with a hibernated system", 4096 - 10, b"S1SUSPEND"),
    Mark("a swap area", (16 << 10) - 10, b"SWAPSPACE2"),
    Mark("a swap area", (64 << 10) - 10, b"SWAPSPACE2"),
    Mark("an ISO 9660 image", (32 << 10) + 1, b"CD001"),
    Mark("a btrfs file system", (64 << 10) + 64, b"_BHRfS_M"),
];

const MD_MAGIC: [u8; 4] = 0xA92B_4EFC_u32.to_le_bytes();
const BCACHE: [u8; 16] = *b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const EXT_SUPERBLOCK: usize = 1024;
const ZFS_UBERBLOCKS: std::ops::Range<usize> = 128 << 10..256 << 10;
const ZFS_MAGIC: u64 = 0x00BA_B10C;

/// The first known signature, the most telling first: a second copy of ours tells less than what
/// others have made beside it.
pub(crate) fn find(ends: Ends<'_>) -> Option<Signature> {
    let own = |marks| fixed(marks, ends.head);
    own(OWN).or_else(|| find_foreign(ends)).or_else(|| own(OWN_COPIES))
}

/// The first known signature that is not one of ours. What stands in a partition table's place is
/// only looked at where nothing else is found.
pub(crate) fn find_foreign(ends: Ends<'_>) -> Option<Signature> {
    let Ends { head, tail, len_bytes } = ends;
    fixed(MARKS, head)
        .or_else(|| ext(head))
        .or_else(|| zfs(head))
        .or_else(|| at_the_end(tail, len_bytes))
        .or_else(|| mbr(head))
}

fn fixed(marks: &[Mark], head: &[u8]) -> Option<Signature> {
    let found = marks.iter().find(|Mark(_, at, bytes)| has(head, *at, bytes));
    found.map(|Mark(what, at, _)| Signature { what, offset: *at as u64 })
}

fn has(bytes: &[u8], at: usize, mark: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(mark))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The mark of ext2, 3 and 4 has two bytes only, so the fields around it must make sense too.
fn ext(head: &[u8]) -> Option<Signature> {
    const JOURNAL: u32 = 0x4;
    /// Extents, 64 bit, flexible block groups.
    const OF_EXT4: u32 = 0x40 | 0x80 | 0x200;
    let superblock = head.get(EXT_SUPERBLOCK..)?;
    let sound = has(superblock, 0x38, &[0x53, 0xEF])
        && u32_at(superblock, 0x18)? <= 6
        && u32_at(superblock, 0x4C)? <= 1;
    let (compatible, incompatible) = (u32_at(superblock, 0x5C)?, u32_at(superblock, 0x60)?);
    let what = if incompatible & OF_EXT4 != 0 {
        "an ext4 file system"
    } else if compatible & JOURNAL != 0 {
        "an ext3 file system"
    } else {
        "an ext2 file system"
    };
    sound.then_some(Signature { what, offset: EXT_SUPERBLOCK as u64 + 0x38 })
}

/// Any uberblock of the first label, of either byte order.
fn zfs(head: &[u8]) -> Option<Signature> {
    let marks = [ZFS_MAGIC.to_le_bytes(), ZFS_MAGIC.swap_bytes().to_le_bytes()];
    let at = ZFS_UBERBLOCKS.step_by(1024).find(|at| marks.iter().any(|m| has(head, *at, m)))?;
    Some(Signature { what: "a member of a ZFS pool", offset: at as u64 })
}

fn at_the_end(tail: &[u8], len_bytes: u64) -> Option<Signature> {
    let start = len_bytes.checked_sub(tail.len() as u64)?;
    let is_at = |offset: u64, mark: &[u8]| {
        let at = offset.checked_sub(start).and_then(|at| usize::try_from(at).ok());
        at.is_some_and(|at| has(tail, at, mark))
    };
    let md_reversed: [u8; 4] = [MD_MAGIC[3], MD_MAGIC[2], MD_MAGIC[1], MD_MAGIC[0]];
    let old = (len_bytes / (64 << 10)).checked_sub(1)? * (64 << 10);
    if is_at(old, &MD_MAGIC) || is_at(old, &md_reversed) {
        return Some(Signature { what: "a member of an mdraid array (0.90)", offset: old });
    }
    let new = (len_bytes / 512).checked_sub(16)? / 8 * 8 * 512;
    if is_at(new, &MD_MAGIC) {
        return Some(Signature { what: "a member of an mdraid array (1.0)", offset: new });
    }
    let backups = [512, 4096].map(|sector| len_bytes.saturating_sub(sector));
    let backup = backups.into_iter().find(|offset| is_at(*offset, b"EFI PART"))?;
    Some(Signature { what: "a partition table (GPT, its backup)", offset: backup })
}

/// The mark of a boot sector is common to many; a partition table has sensible entries as well.
fn mbr(head: &[u8]) -> Option<Signature> {
    let entries = head.get(446..510)?.chunks(16);
    let sound = entries.clone().all(|entry| matches!(entry[0], 0 | 0x80));
    let used = entries.clone().any(|entry| entry[4] != 0 && entry[12..] != [0; 4]);
    let found = has(head, 510, &[0x55, 0xAA]) && sound && used;
    found.then_some(Signature { what: "a partition table (MBR)", offset: 510 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 30;

    fn look(head: &[u8], tail: &[u8]) -> Option<Signature> {
        find(Ends { head, tail, len_bytes: LEN })
    }

    fn blank() -> Vec<u8> {
        vec![0; usize::try_from(HEAD_BYTES).unwrap()]
    }

    fn put(bytes: &mut [u8], at: usize, mark: &[u8]) {
        bytes[at..at + mark.len()].copy_from_slice(mark);
    }

    #[test]
    fn every_mark_is_found_where_it_stands_and_nothing_on_a_blank_device() {
        assert_eq!(look(&blank(), &blank()), None);
        assert_eq!(look(&[], &[]), None);
        for Mark(what, at, bytes) in OWN.iter().chain(MARKS).chain(OWN_COPIES) {
            let mut head = blank();
            put(&mut head, *at, bytes);
            assert_eq!(look(&head, &[]), Some(Signature { what, offset: *at as u64 }));
            // Cut short, moved by a byte, or off by a bit it is none.
            assert_eq!(look(&head[..*at + bytes.len() - 1], &[]), None, "{what} cut short");
            head[*at] ^= 0x10;
            assert_eq!(look(&head, &[]), None, "{what} with a flipped bit");
        }
    }

    /// What is made over the start of a volume of ours leaves its second copy standing.
    #[test]
    fn a_second_copy_of_ours_hides_nobody() {
        for (at, mark, what) in [
            (1080, &[0x53, 0xEF][..], "an ext2 file system"),
            (128 << 10, &ZFS_MAGIC.to_le_bytes(), "a member of a ZFS pool"),
            (510, &[0x55, 0xAA], "a partition table (MBR)"),
            (0, b"XFSB", "an XFS file system"),
        ] {
            for own in OWN_COPIES {
                let mut head = blank();
                put(&mut head, own.1, own.2);
                assert_eq!(look(&head, &[]).unwrap().what, own.0);
                let ends = Ends { head: &head, tail: &[], len_bytes: LEN };
                assert_eq!(find_foreign(ends), None);
                if at == 510 {
                    put(&mut head, 450, &[0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]);
                }
                put(&mut head, at, mark);
                assert_eq!(look(&head, &[]).unwrap().what, what);
                let ends = Ends { head: &head, tail: &[], len_bytes: LEN };
                assert_eq!(find_foreign(ends).unwrap().what, what);
            }
        }
    }

    #[test]
    fn the_three_ext_file_systems_are_told_apart() {
        for (compatible, incompatible, what) in
            [(0, 2, "ext2"), (4, 2, "ext3"), (4, 0x2c2, "ext4"), (0, 0x40, "ext4")]
        {
            let mut head = blank();
            put(&mut head, 1080, &[0x53, 0xEF]);
            put(&mut head, 1024 + 0x18, &[2]);
            put(&mut head, 1024 + 0x4C, &[1]);
            put(&mut head, 1024 + 0x5C, &u32::to_le_bytes(compatible));
            put(&mut head, 1024 + 0x60, &u32::to_le_bytes(incompatible));
            let found = look(&head, &[]).unwrap();
            assert!(found.what.contains(what) && found.offset == 1080, "{found:?}");
            put(&mut head, 1024 + 0x18, &[77]);
            assert_eq!(look(&head, &[]), None, "no file system has blocks of 2^87 bytes");
        }
    }

    #[test]
    fn zfs_is_found_by_any_uberblock_of_either_byte_order() {
        for (slot, mark) in
            [(0, ZFS_MAGIC.to_le_bytes()), (100, ZFS_MAGIC.swap_bytes().to_le_bytes())]
        {
            let mut head = blank();
            put(&mut head, (128 << 10) + slot * 1024, &mark);
            assert_eq!(look(&head, &[]).unwrap().what, "a member of a ZFS pool");
        }
    }

    #[test]
    fn what_stands_at_the_end_is_found_for_any_length() {
        for len_bytes in [LEN, LEN + 512, LEN + 7 * 4096, LEN + (64 << 10) - 512] {
            let start = len_bytes - TAIL_BYTES;
            let old = len_bytes / (64 << 10) * (64 << 10) - (64 << 10);
            let new = (len_bytes / 512 - 16) / 8 * 8 * 512;
            for (offset, mark, what) in [
                (old, &MD_MAGIC[..], "0.90"),
                (old, &[0xA9, 0x2B, 0x4E, 0xFC], "0.90"),
                (new, &MD_MAGIC[..], "1.0"),
                (len_bytes - 512, b"EFI PART", "GPT"),
                (len_bytes - 4096, b"EFI PART", "GPT"),
            ] {
                let mut tail = vec![0; usize::try_from(TAIL_BYTES).unwrap()];
                put(&mut tail, usize::try_from(offset - start).unwrap(), mark);
                let found = find(Ends { head: &blank(), tail: &tail, len_bytes }).unwrap();
                assert!(found.what.contains(what), "{found:?}");
                assert_eq!(found.offset, offset);
            }
        }
    }

    #[test]
    fn a_boot_sector_without_partitions_is_no_partition_table() {
        let mut head = blank();
        put(&mut head, 510, &[0x55, 0xAA]);
        assert_eq!(look(&head, &[]), None);
        put(&mut head, 446, &[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]);
        assert_eq!(look(&head, &[]).unwrap().what, "a partition table (MBR)");
        head[446] = 0x7F;
        assert_eq!(look(&head, &[]), None, "no such status");
    }

    #[test]
    fn no_bytes_are_too_strange() {
        let mut seed = 7_u64;
        for len in (0..3000).chain([4096, 65_600, 131_080]) {
            let noise: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    seed.to_le_bytes()[6]
                })
                .collect();
            for len_bytes in [0, 1, len, LEN] {
                // Ends that contradict each other must not panic either.
                let _any = find(Ends { head: &noise, tail: &noise, len_bytes });
            }
        }
    }
}
