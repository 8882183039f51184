//! PURE. How warm a side was: whether its data was in memory while it was measured.
//!
//! A store that reads the drive is compared with the drive, not with the other store. So data that
//! fits in memory is read before a run until it is there, and a ratio of two sides of which only
//! one read the drive says so.

use crate::number::{float, ratio};

/// The least that a read of the drive brings.
const PAGE_BYTES: f64 = 4096.0;
/// Reads of the drive per operation from which a side counts as one that reads it: one operation
/// in a hundred waits for the drive, so it is in every percentile from p99 on.
const READS_MIN: f64 = 0.01;
/// Between two sides of which one is below [`READS_MIN`], the factor that makes a difference.
const APART_MIN: f64 = 2.0;
/// Reads of the drive per record below which a pass over all records found them in memory.
const RESIDENT_MAX: f64 = 0.001;
/// A pass that still reads so much of what the one before it read has gained nothing.
const STALLED_MIN: f64 = 0.9;
/// A store may admit what is asked for a second time, so the second pass may read like the first.
const PASSES_MIN: usize = 3;
const PASSES_MAX: usize = 8;
/// Where nothing is counted, as many passes as a store needs that admits at the second touch.
const PASSES_BLIND: usize = 2;
/// Of the memory, how much may be records for them to fit: indexes, headers of records, memtables
/// and the buffers of compaction need the rest.
const FITS_NUMERATOR: u64 = 3;
const FITS_DENOMINATOR: u64 = 5;

/// Reads of the drive per operation, at most: the device counts what others read, too, and the
/// process counts bytes, of which a read may bring many; what both allow is true.
pub(crate) fn reads_per_op(
    device_reads: Option<u64>,
    process_bytes: Option<u64>,
    operations: u64,
) -> Option<f64> {
    let device = device_reads.map(float);
    let process = process_bytes.map(|bytes| float(bytes) / PAGE_BYTES);
    let reads = match (device, process) {
        (Some(device), Some(process)) => device.min(process),
        (known, None) | (None, known) => known?,
    };
    (operations > 0).then(|| ratio(reads, float(operations)))
}

/// Whether so many bytes of records fit in so much memory, with all that a store needs besides.
pub(crate) fn fits(dataset_bytes: u64, memory_bytes: u64) -> bool {
    dataset_bytes <= memory_bytes / FITS_DENOMINATOR * FITS_NUMERATOR
}

/// What follows from the passes over all records that were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// Another pass may help.
    Again,
    /// The last pass found everything in memory.
    Resident,
    /// Passes do not help any more.
    NotResident,
    /// Nobody counts reads here.
    Unknown,
}

impl Filling {
    /// As reports name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Again => "not finished",
            Self::Resident => "resident",
            Self::NotResident => "not resident",
            Self::Unknown => "unknown",
        }
    }
}

/// `reads`: of each pass, reads of the drive per record.
pub(crate) fn filling(reads: &[Option<f64>]) -> Filling {
    match *reads {
        [.., Some(last)] if last < RESIDENT_MAX => Filling::Resident,
        [.., None] if reads.len() >= PASSES_BLIND => Filling::Unknown,
        [.., Some(_)] if reads.len() >= PASSES_MAX => Filling::NotResident,
        [.., Some(before), Some(last)]
            if reads.len() >= PASSES_MIN && last > before * STALLED_MIN =>
        {
            Filling::NotResident
        }
        _ => Filling::Again,
    }
}

/// Why a ratio is not one of two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    AReadTheDrive,
    BReadTheDrive,
}

impl Mark {
    /// In the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AReadTheDrive => "a_read_the_drive",
            Self::BReadTheDrive => "b_read_the_drive",
        }
    }

    /// In tables.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AReadTheDrive => "only A read the drive",
            Self::BReadTheDrive => "only B read the drive",
        }
    }
}

/// Of reads of the drive per operation on both sides; of what is unknown nothing is said.
pub(crate) fn mark(a: Option<f64>, b: Option<f64>) -> Option<Mark> {
    let (a, b) = (a?, b?);
    let only = |reader: f64, other: f64| {
        reader >= READS_MIN && other < READS_MIN && reader >= other * APART_MIN
    };
    if only(a, b) {
        Some(Mark::AReadTheDrive)
    } else if only(b, a) {
        Some(Mark::BReadTheDrive)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_two_bounds_is_taken() {
        for (device, process, operations, expect) in [
            (Some(50), Some(409_600), 100, Some(0.5)),
            // Others read the same drive.
            (Some(9000), Some(40_960), 100, Some(0.1)),
            // A compaction read a megabyte at once.
            (Some(1), Some(1 << 20), 100, Some(0.01)),
            (None, Some(409_600), 100, Some(1.0)),
            (Some(50), None, 100, Some(0.5)),
            (None, None, 100, None),
            (Some(50), Some(0), 0, None),
        ] {
            let got = reads_per_op(device, process, operations);
            let near = match (got, expect) {
                (Some(got), Some(expect)) => (got - expect).abs() < 1e-9,
                (got, expect) => got.is_none() && expect.is_none(),
            };
            assert!(near, "{device:?} {process:?} {operations}: {got:?}, not {expect:?}");
        }
    }

    #[test]
    fn what_fits_leaves_room_for_the_store() {
        let gib = 1 << 30;
        assert!(fits(gib, 2 * gib) && fits(119 * gib / 100, 2 * gib));
        assert!(!fits(13 * gib / 10, 2 * gib) && !fits(2 * gib, 2 * gib));
    }

    #[test]
    fn filling_goes_on_while_it_helps() {
        use Filling::{Again, NotResident, Resident, Unknown};
        for (reads, expect) in [
            (&[][..], Again),
            (&[1.0][..], Again),
            (&[0.0], Resident),
            // Admitted at the second touch.
            (&[1.0, 1.0], Again),
            (&[1.0, 1.0, 0.0005], Resident),
            (&[1.0, 0.5, 0.25], Again),
            (&[1.0, 1.0, 0.95], NotResident),
            (&[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], NotResident),
        ] {
            let known: Vec<Option<f64>> = reads.iter().copied().map(Some).collect();
            assert_eq!(filling(&known), expect, "{reads:?}");
        }
        assert_eq!((filling(&[None]), filling(&[None, None])), (Again, Unknown));
    }

    #[test]
    fn a_ratio_of_which_one_side_read_the_drive_is_marked() {
        use Mark::{AReadTheDrive, BReadTheDrive};
        for (a, b, expect) in [
            // In memory, both.
            (Some(0.0), Some(0.0), None),
            (Some(0.0), Some(0.009), None),
            // The figure that gave rise to this: 53 times as fast, against a cold cache.
            (Some(0.0), Some(0.8), Some(BReadTheDrive)),
            (Some(0.0), Some(0.01), Some(BReadTheDrive)),
            (Some(0.3), Some(0.0), Some(AReadTheDrive)),
            // Larger than memory, both.
            (Some(0.37), Some(0.5), None),
            // At the border, but alike.
            (Some(0.009), Some(0.011), None),
            (None, Some(0.8), None),
            (Some(0.0), None, None),
        ] {
            assert_eq!(mark(a, b), expect, "{a:?} {b:?}");
        }
    }
}
