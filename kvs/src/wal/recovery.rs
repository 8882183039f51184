//! FORMAT: how fast the log was replayed last, version 1. Property `kvs.replay` of the pool's
//! journal.
//!
//! ```text
//! offset  size  field
//!      0     1  version  1
//!      1     8  rate     bytes of log a second
//! ```
//!
//! Integers are little-endian. An open that replays enough to tell writes it. It bounds how long
//! the log may become ([`log_bytes_max`]), so that the next recovery takes no longer than was
//! asked. A hint: one that is missing or cannot be read sets no bound.

use crate::error::Error;
use mpool::Pool;
use std::time::Duration;

const PROPERTY: &str = "kvs.replay";
const VERSION: u8 = 1;
const LEN: usize = 9;
/// So much log tells how fast it is; less is noise.
const TELLING_BYTES: u64 = 16 << 20;
/// However slow: the least that `wal_bytes_max` may be.
const LOG_BYTES_MIN: u64 = 16 << 20;
/// A rate that differs by less than this part of it is the same.
const SAME_PART: u64 = 8;

/// Bytes of log that are replayed within `time` at `rate` bytes a second, if that is known; at most
/// `most`.
pub(crate) fn log_bytes_max(most: u64, time: Duration, rate: Option<u64>) -> u64 {
    let Some(rate) = rate else { return most };
    let bytes = u128::from(rate) * time.as_millis() / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX).max(LOG_BYTES_MIN).min(most)
}

/// Bytes a second, if there were enough to tell.
fn measured(log_bytes: u64, elapsed: Duration) -> Option<u64> {
    let micros = elapsed.as_micros().max(1);
    let rate = u128::from(log_bytes) * 1_000_000 / micros;
    (log_bytes >= TELLING_BYTES).then(|| u64::try_from(rate).unwrap_or(u64::MAX).max(1))
}

/// The rate from here on, after an open has replayed so much; kept for the next one.
pub(crate) fn note(pool: &Pool, log_bytes: u64, elapsed: Duration) -> Option<u64> {
    let known = pool.property(PROPERTY).and_then(|raw| decode(&raw));
    let Some(rate) = measured(log_bytes, elapsed) else { return known };
    let is_new = known.is_none_or(|known| known.abs_diff(rate) > known / SAME_PART);
    if is_new
        && !pool.is_read_only()
        && let Err(error) = pool.set_property(PROPERTY, &encode(rate)).map_err(Error::Pool)
    {
        tracing::warn!(%error, "how fast the log was replayed is not kept");
    }
    Some(rate)
}

fn encode(rate: u64) -> [u8; LEN] {
    let mut raw = [VERSION; LEN];
    raw[1..].copy_from_slice(&rate.to_le_bytes());
    raw
}

fn decode(raw: &[u8]) -> Option<u64> {
    let raw: &[u8; LEN] = raw.try_into().ok()?;
    let rate = u64::from_le_bytes(*raw[1..].first_chunk().expect("eight bytes"));
    (raw[0] == VERSION && rate > 0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_log_is_as_long_as_is_replayed_in_time() {
        let seconds = Duration::from_secs;
        #[rustfmt::skip]
        let table = [
            // most,     time,        rate,             expected
            (512 * MIB,  seconds(10), None,             512 * MIB),
            (512 * MIB,  seconds(10), Some(100 * MIB),  512 * MIB),
            (512 * MIB,  seconds(10), Some(13 * MIB),   130 * MIB),
            (512 * MIB,  seconds(10), Some(1),          16 * MIB),
            (16 * MIB,   seconds(1),  Some(1),          16 * MIB),
            (512 * MIB,  seconds(10), Some(u64::MAX),   512 * MIB),
            (512 * MIB,  Duration::from_millis(1500), Some(20 * MIB), 30 * MIB),
        ];
        for (most, time, rate, expected) in table {
            assert_eq!(log_bytes_max(most, time, rate), expected, "{most} {time:?} {rate:?}");
        }
    }

    #[test]
    fn a_little_log_tells_nothing() {
        assert_eq!(measured(16 * MIB - 1, Duration::from_secs(1)), None);
        assert_eq!(measured(32 * MIB, Duration::from_secs(2)), Some(16 * MIB));
        assert_eq!(measured(32 * MIB, Duration::ZERO), Some(32 * MIB * 1_000_000));
        assert_eq!(measured(32 * MIB, Duration::from_secs(1 << 40)), Some(1));
    }

    #[test]
    fn layout_is_frozen_and_other_bytes_are_no_rate() {
        assert_eq!(encode(0x0102), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode(&encode(0x0102)), Some(0x0102));
        for raw in [&[][..], &[1; 8], &[1; 10], &[2; 9], &[1, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decode(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn a_rate_is_kept_until_another_is_measured() {
        let device = std::sync::Arc::new(mpool_sim::SimDevice::new(256 << 20));
        let pool = Pool::create(device, &mpool::Options::default()).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(note(&pool, 0, second), None);
        assert_eq!(note(&pool, 64 * MIB, second), Some(64 * MIB));
        assert_eq!(note(&pool, MIB, second), Some(64 * MIB), "too little to tell");
        assert_eq!(note(&pool, 65 * MIB, second), Some(65 * MIB));
        assert_eq!(note(&pool, 0, second), Some(64 * MIB), "about the same was not written");
        assert_eq!(note(&pool, 32 * MIB, second), Some(32 * MIB));
        assert_eq!(note(&pool, 0, second), Some(32 * MIB));
    }
}
