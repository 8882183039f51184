//! Conformance of a device: the numbered contract of [`Device`], checked.
//!
//! One function for every implementation. What only a power cut or a failing flush shows (1, 2, 3,
//! 5) is checked for the simulated device in tests of its own.

use mpool_device::{Device, IO_ALIGN, IoBuf};
use std::io;

const PAGE: u64 = IO_ALIGN as u64;

/// Checks what can be seen without a crash, on an empty device that may grow to at least 1 MiB.
///
/// # Panics
///
/// If the device breaks its contract; the message names the rule.
pub fn check_device(device: &dyn Device) {
    growth(device);
    giving_back(device);
    reads_and_writes(device);
    bounds(device);
    unaligned_memory(device);
    device.flush().expect("rule 2: a healthy device flushes");
}

/// Pages of one byte.
pub fn page_of(byte: u8, pages: usize) -> IoBuf {
    let mut buf = IoBuf::zeroed(pages * IO_ALIGN);
    buf.fill(byte);
    buf
}

fn growth(device: &dyn Device) {
    let max = device.geometry().len_bytes_max;
    assert!(max >= 1 << 20, "the suite needs 1 MiB");
    device.grow(64 * PAGE).expect("rule 6: grows within its limit");
    let len = device.geometry().len_bytes;
    assert!(len >= 64 * PAGE, "rule 6: at least as long as asked");
    device.grow(PAGE).expect("rule 6: asking for less is no error");
    assert_eq!(device.geometry().len_bytes, len, "rule 6: does not shrink by itself");
    let error = device.grow(max + PAGE).expect_err("rule 6: not beyond its limit");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "rule 6");
    assert_eq!(device.geometry().len_bytes, len, "rule 6: nothing changes");
}

/// What is cut off and grown again, and what is punched, reads as zeros or as before.
fn giving_back(device: &dyn Device) {
    let unsupported = |error: &io::Error| error.kind() == io::ErrorKind::Unsupported;
    device.write_at(32 * PAGE, &page_of(5, 32)).expect("a write within the device");
    let len = device.geometry().len_bytes;
    assert!(
        device.shrink(len + PAGE, len).map_or_else(|e| unsupported(&e), |done| !done),
        "rule 6: only a device of the length that was meant becomes shorter"
    );
    match device.shrink(len, 48 * PAGE) {
        Ok(done) => {
            assert!(done && device.geometry().len_bytes == 48 * PAGE, "rule 6: it is shorter");
            device.grow(len).expect("rule 6: it can grow again");
        }
        Err(error) => assert!(unsupported(&error), "rule 6: {error}"),
    }
    match device.punch(32 * PAGE, 16 * PAGE) {
        Ok(()) => device.refill(32 * PAGE, 16 * PAGE).expect("rule 8: a hole is refilled"),
        Err(error) => assert!(unsupported(&error), "rule 8: {error}"),
    }
    let mut seen = page_of(1, 32);
    device.read_at(32 * PAGE, &mut seen).expect("a read within the device");
    assert!(seen.iter().all(|byte| [0, 5].contains(byte)), "rule 8: zeros, or what was there");
    device.write_at(32 * PAGE, &page_of(0, 32)).expect("a refilled hole is written to");
}

pub(crate) fn reads_and_writes(device: &dyn Device) {
    let mut seen = page_of(1, 2);
    device.read_at(10 * PAGE, &mut seen).expect("a read within the device");
    assert!(seen.iter().all(|b| *b == 0), "rule 4: unwritten ranges are zeros");
    device.write_at(10 * PAGE, &page_of(7, 2)).expect("a write within the device");
    device.write_durable_at(11 * PAGE, &page_of(8, 1)).expect("a durable write");
    let mut seen = page_of(1, 4);
    device.read_at(9 * PAGE, &mut seen).expect("a read within the device");
    let firsts: Vec<u8> = seen.chunks(IO_ALIGN).map(|page| page[0]).collect();
    assert_eq!(firsts, [0, 7, 8, 0], "a read sees the newest write");
    for page in seen.chunks(IO_ALIGN) {
        assert!(page.iter().all(|b| *b == page[0]), "pages are written whole");
    }
}

fn bounds(device: &dyn Device) {
    let len = device.geometry().len_bytes;
    let mut page = page_of(3, 1);
    assert!(device.read_at(len, &mut page).is_err(), "rule 7: no read beyond the end");
    assert!(device.write_at(len, &page).is_err(), "rule 7: no write beyond the end");
    assert!(device.write_durable_at(len, &page).is_err(), "rule 7");
    assert_eq!(device.geometry().len_bytes, len, "rule 7: a write does not grow the device");
    assert!(device.read_at(5, &mut page).is_err(), "offsets are aligned");
    assert!(device.write_at(0, &page[..100]).is_err(), "lengths are aligned");
    assert!(device.write_at(0, &[]).is_err(), "an access moves bytes");
    assert!(device.read_at(u64::MAX / PAGE * PAGE, &mut page).is_err(), "ends do not wrap");
    device.write_at(len - PAGE, &page).expect("the last page belongs to the device");
}

/// Offsets and lengths are aligned by contract; memory is the device's business.
pub(crate) fn unaligned_memory(device: &dyn Device) {
    let mut bytes = vec![9_u8; IO_ALIGN + 1];
    device.write_at(20 * PAGE, &bytes[1..]).expect("plain memory can be written from");
    bytes.fill(0);
    device.read_at(20 * PAGE, &mut bytes[1..]).expect("plain memory can be read into");
    assert!(bytes[1..].iter().all(|b| *b == 9), "what was written is read");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Faults, SimDevice};

    #[test]
    fn the_simulated_device_keeps_the_contract() {
        check_device(&SimDevice::new(1 << 20));
    }

    #[test]
    fn after_a_failed_flush_nothing_is_written_and_reads_go_on() {
        let device = SimDevice::new(1 << 20);
        device.grow(8 * PAGE).unwrap();
        device.write_at(0, &page_of(1, 1)).unwrap();
        device.set_faults(Faults { flush_eio_at: Some(0), ..Faults::default() });
        assert!(device.flush().is_err());
        assert!(device.flush().is_err(), "rule 3: a second flush is no cure");
        assert!(device.write_at(0, &page_of(2, 1)).is_err());
        let mut page = page_of(0, 1);
        device.read_at(0, &mut page).unwrap();
        assert_eq!(page[0], 1);
    }

    #[test]
    fn a_crash_keeps_the_flushed_and_any_subset_of_the_rest() {
        let device = SimDevice::new(1 << 20);
        device.grow(8 * PAGE).unwrap();
        device.write_at(0, &page_of(1, 1)).unwrap();
        device.flush().unwrap();
        device.write_at(0, &page_of(2, 1)).unwrap();
        device.write_at(PAGE, &page_of(3, 1)).unwrap();
        device.write_durable_at(PAGE, &page_of(4, 1)).unwrap();
        let (mut old, mut new) = (false, false);
        for seed in 0..8 {
            let after = device.after_crash(seed);
            let mut seen = page_of(0, 2);
            after.read_at(0, &mut seen).unwrap();
            for sector in seen[..IO_ALIGN].chunks(512) {
                assert!(sector.iter().all(|b| *b == sector[0]), "rule 1: sectors are whole");
                old |= sector[0] == 1;
                new |= sector[0] == 2;
                assert!(sector[0] == 1 || sector[0] == 2, "rule 2: flushed or newer");
            }
            let durable = &seen[IO_ALIGN..];
            assert!(durable.iter().all(|b| *b == 4), "rule 5: durable, and not overtaken");
        }
        assert!(old && new, "both outcomes are drawn");
    }

    #[test]
    fn faults_strike_once_and_where_they_are_told_to() {
        let device = SimDevice::new(1 << 20);
        device.grow(8 * PAGE).unwrap();
        device.set_faults(Faults {
            read_eio_at: Some(1),
            write_eio_at: Some(0),
            enospc_after_bytes: Some(10 * PAGE),
            ..Faults::default()
        });
        let mut page = page_of(5, 1);
        assert!(device.write_at(0, &page).is_err());
        device.write_at(0, &page).unwrap();
        device.read_at(0, &mut page).unwrap();
        assert!(device.read_at(0, &mut page).is_err());
        device.read_at(0, &mut page).unwrap();
        device.grow(10 * PAGE).unwrap();
        assert_eq!(device.grow(11 * PAGE).unwrap_err().kind(), io::ErrorKind::StorageFull);
        device.flip_bit(3, 0);
        device.read_at(0, &mut page).unwrap();
        assert_eq!(page[2..4], [5, 4]);
    }
}
