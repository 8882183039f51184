//! PURE: volumes that grow on one disk.
//!
//! Each of them alone could have what the disk has left, and together they have it once.

/// How a volume could grow now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// The disk that it grows on.
    pub(super) disk: u64,
    /// By how much it could grow.
    pub(super) bytes: u64,
    /// What the disk has left, by this volume's word.
    pub(super) left: u64,
}

/// Bytes of these growths that their disks do not have.
pub(super) fn excess(mut growths: Vec<Growth>) -> u64 {
    growths.sort_unstable_by_key(|growth| growth.disk);
    let of_one = |on_disk: &[Growth]| {
        let sum = on_disk.iter().fold(0_u64, |sum, growth| sum.saturating_add(growth.bytes));
        let left = on_disk.iter().map(|growth| growth.left).max().unwrap_or(0);
        sum.saturating_sub(left)
    };
    growths.chunk_by(|a, b| a.disk == b.disk).map(of_one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(disk: u64, bytes: u64, left: u64) -> Growth {
        Growth { disk, bytes, left }
    }

    #[test]
    fn what_a_disk_has_left_is_counted_once() {
        for (growths, want) in [
            (vec![], 0),
            (vec![growth(1, 50, 50)], 0),
            // Both would take all of it.
            (vec![growth(1, 50, 50), growth(1, 50, 50)], 50),
            (vec![growth(1, 50, 50), growth(2, 50, 50)], 0),
            (vec![growth(1, 50, 50), growth(2, 30, 40), growth(1, 10, 50), growth(2, 30, 40)], 30),
            // Their limits come first.
            (vec![growth(1, 10, 50), growth(1, 20, 50)], 0),
            (vec![growth(1, u64::MAX, u64::MAX), growth(1, 9, u64::MAX)], 0),
        ] {
            assert_eq!(excess(growths.clone()), want, "{growths:?}");
        }
    }
}
