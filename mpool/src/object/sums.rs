//! PURE: the page checksums of an mblock.
//!
//! ```text
//!   |  data, padded to pages  |  table: CRC-32C of each page, 4 bytes, little-endian  |
//! ```
//!
//! The table follows the data, padded with zeros to whole pages; the CRC-32C of the table is in the
//! pool's journal. So every bit of an object is covered by something stored elsewhere, and a scrub
//! names the page that rotted. Costs a thousandth of the space, and the checksum of each byte once
//! when it is written.

use mpool_device::IO_ALIGN;

const PAGE: u64 = IO_ALIGN as u64;
/// Checksums in one page of the table.
pub(crate) const SUMS_PER_PAGE: usize = IO_ALIGN / 4;

/// Bytes of data, padded to pages.
pub(crate) fn padded_len(len_bytes: u64) -> u64 {
    len_bytes.next_multiple_of(PAGE)
}

/// Bytes of the table over `len_bytes` of data.
pub(crate) fn table_len(len_bytes: u64) -> u64 {
    (len_bytes.div_ceil(PAGE) * 4).next_multiple_of(PAGE)
}

/// Bytes that an object takes with its table; at least a page.
pub(crate) fn total_len(len_bytes: u64) -> u64 {
    (padded_len(len_bytes) + table_len(len_bytes)).max(PAGE)
}

/// The most bytes of data that fit `total` bytes with their table.
pub(crate) fn data_len_max(total: u64) -> u64 {
    let mut pages = total / (PAGE + 4);
    // The table is padded, so one page less may be the answer.
    while pages > 0 && total_len(pages * PAGE) > total {
        pages -= 1;
    }
    pages * PAGE
}

/// The checksums of `pages`, a whole number of pages.
pub(crate) fn push(pages: &[u8], sums: &mut Vec<u32>) {
    assert!(pages.len().is_multiple_of(IO_ALIGN), "whole pages");
    sums.extend(pages.chunks(IO_ALIGN).map(crc32c::crc32c));
}

/// Writes `sums` into `table`, which is zeros and long enough.
pub(crate) fn encode(sums: &[u32], table: &mut [u8]) {
    for (sum, place) in sums.iter().zip(table.chunks_mut(4)) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

/// The checksums in a piece of a table.
pub(crate) fn decode(table: &[u8]) -> Vec<u32> {
    table.as_chunks::<4>().0.iter().map(|sum| u32::from_le_bytes(*sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (len, table, total) in [
            (0, 0, PAGE),
            (1, PAGE, 2 * PAGE),
            (PAGE, PAGE, 2 * PAGE),
            (1024 * PAGE, PAGE, 1025 * PAGE),
            (1024 * PAGE + 1, 2 * PAGE, 1027 * PAGE),
        ] {
            assert_eq!((table_len(len), total_len(len)), (table, total), "{len}");
            let fits = data_len_max(total);
            assert!(fits >= len && total_len(fits) <= total, "{len}: {fits}");
            assert!(total_len(fits + 1) > total, "{len}: {fits} is not the most");
        }
    }

    #[test]
    fn a_table_reads_as_it_was_written() {
        let mut sums = Vec::new();
        push(&[7; 3 * IO_ALIGN], &mut sums);
        assert_eq!(sums, [crc32c::crc32c(&[7; IO_ALIGN]); 3]);
        let mut table = vec![0; IO_ALIGN];
        encode(&sums, &mut table);
        assert_eq!(decode(&table)[..4], [sums[0], sums[1], sums[2], 0]);
        assert_eq!(decode(&table).len(), SUMS_PER_PAGE);
    }
}
