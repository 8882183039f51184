//! PURE: how long to wait before the next read.
//!
//! A bucket of tokens: it fills at the rate, holds a tenth of a second's worth (at least one read),
//! and may go into debt by one read. So the rate holds over any longer time, a pause is not made up
//! for, and no burst is longer than the bucket.

/// A bucket of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// 0 = no limit.
    bytes_per_s: u64,
    /// Bytes that may be read now, times a million; negative = debt.
    tokens: i128,
    at_us: u64,
}

const MICRO: i128 = 1_000_000;

impl Pace {
    pub(crate) fn new(bytes_per_s: u64, now_us: u64) -> Self {
        Self { bytes_per_s, tokens: 0, at_us: now_us }
    }

    /// Microseconds to wait before `bytes` may be read; they count as read after that.
    pub(crate) fn wait_us(&mut self, bytes: u64, now_us: u64) -> u64 {
        if self.bytes_per_s == 0 {
            return 0;
        }
        let rate = i128::from(self.bytes_per_s);
        let held = (rate * MICRO / 10).max(i128::from(bytes) * MICRO);
        let passed = now_us.saturating_sub(self.at_us);
        self.tokens = (self.tokens + i128::from(passed) * rate).min(held);
        self.at_us = now_us.max(self.at_us);
        let short = (-self.tokens).max(0);
        self.tokens -= i128::from(bytes) * MICRO;
        u64::try_from((short + rate - 1) / rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads without end, each taking `read_us`; returns the bytes of ten seconds.
    fn run(pace: &mut Pace, bytes: u64, read_us: u64) -> u64 {
        let (mut now, mut total) = (0, 0);
        while now < 10_000_000 {
            now += pace.wait_us(bytes, now) + read_us;
            total += bytes;
        }
        total
    }

    #[test]
    fn the_rate_holds_whatever_a_read_takes() {
        for read_us in [10, 1_000, 8_000] {
            let total = run(&mut Pace::new(10_000_000, 0), 65_536, read_us);
            let ten = 100_000_000;
            let slow = 10_000_000 / read_us * 65_536;
            let want = slow.min(ten);
            assert!(total <= want + 1_200_000 && total * 100 >= want * 95, "{read_us}: {total}");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(1_000_000, 0);
        pace.wait_us(100_000, 0);
        let waits: Vec<u64> = (0..5).map(|_| pace.wait_us(100_000, 60_000_000)).collect();
        assert_eq!(waits, [0, 0, 100_000, 200_000, 300_000], "one bucket, then the rate");
    }

    #[test]
    fn no_limit_is_no_wait() {
        let mut pace = Pace::new(0, 0);
        assert!((0..1000).all(|_| pace.wait_us(1 << 20, 0) == 0));
    }
}
