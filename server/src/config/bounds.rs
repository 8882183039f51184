//! What single options may be, where the engine's own refusal would name another thing.

use anyhow::bail;
use std::time::Duration;
use units::{Size, Span};

/// The least that a server can work with, and the most that a volume can have.
const CAPACITY: [Size; 2] = [Size(256 << 20), Size(4 << 50)];

/// The least and the most of the option memtable.
const MEMTABLE: [Size; 2] = [Size(1 << 20), Size(4 << 30)];

/// The least and the most of the option interval.
const INTERVAL: [Span; 2] = [Span(Duration::from_millis(1)), Span(Duration::from_mins(1))];

/// The least and the most of the option `snapshot_age_max`.
const SNAPSHOT_AGE: [Span; 2] = [Span(Duration::from_secs(1)), Span(Duration::from_hours(720))];

/// The most of the option `disk_return_after`; the least but 0.
const RETURN_AFTER: [Span; 2] = [Span(Duration::from_secs(1)), Span(Duration::from_hours(24))];

/// The least and the most of the option `disk_return_rate`.
const RETURN_RATE: [Size; 2] = [Size(1 << 20), Size(1 << 40)];

/// What the pool is told of the options `disk_return_after` and `disk_return_rate`.
pub(super) fn returning(after: Span, rate: Size) -> anyhow::Result<Option<mpool::ReturnOptions>> {
    let [min, max] = RETURN_RATE;
    if !(min..=max).contains(&rate) {
        bail!("option disk_return_rate is {rate}, must be in {min}..={max}");
    }
    let [min, max] = RETURN_AFTER;
    let seconds = after.0.as_secs();
    if !after.0.is_zero() && (!(min..=max).contains(&after) || after.0.subsec_nanos() > 0) {
        bail!(
            "option disk_return_after is {after}, must be 0s (never) or whole seconds in {min}..={max}"
        );
    }
    let after_s = u32::try_from(seconds).expect("a day at most");
    Ok((after_s > 0).then_some(mpool::ReturnOptions { after_s, bytes_per_second: rate.0 }))
}

/// The least and the most of the option `recovery_time`.
const RECOVERY: [Span; 2] = [Span(Duration::from_secs(1)), Span(Duration::from_hours(1))];

/// Refuses a capacity of the root volume that is too small or too large; 0 is the pool's own limit.
pub(crate) fn check_capacity(capacity: Size) -> anyhow::Result<()> {
    let [min, max] = CAPACITY;
    if capacity.0 > 0 && !(min..=max).contains(&capacity) {
        bail!("option capacity is {capacity}, must be 0 or in {min}..={max}");
    }
    Ok(())
}

/// Refuses to leave more of a disk to others than disks have.
pub(super) fn check_disk_reserve(reserve: Option<Size>) -> anyhow::Result<()> {
    let [_, most] = CAPACITY;
    if let Some(reserve) = reserve.filter(|reserve| *reserve > most) {
        bail!("option disk_reserve is {reserve}, must be at most {most}");
    }
    Ok(())
}

/// What the engine is told of the option `snapshot_age_max`; 0 is no limit. Refuses one that would
/// end every scan.
pub(super) fn snapshot_age_ms(age: Span) -> anyhow::Result<Option<u64>> {
    let [min, max] = SNAPSHOT_AGE;
    if age.0.is_zero() {
        return Ok(None);
    }
    if !(min..=max).contains(&age) {
        bail!("option snapshot_age_max is {age}, must be 0s or in {min}..={max}");
    }
    Ok(Some(u64::try_from(age.0.as_millis()).expect("thirty days at most")))
}

/// Refuses a memtable, and an interval between syncs, that the engine would.
pub(super) fn check_writes(memtable: Size, interval: Span) -> anyhow::Result<()> {
    let [min, max] = MEMTABLE;
    if !(min..=max).contains(&memtable) {
        bail!("option memtable is {memtable}, must be in {min}..={max}");
    }
    let [min, max] = INTERVAL;
    if !(min..=max).contains(&interval) {
        bail!("option interval is {interval}, must be in {min}..={max}");
    }
    Ok(())
}

/// What the engine is told of the option `recovery_time`.
pub(super) fn recovery_ms(time: Span) -> anyhow::Result<u64> {
    let [min, max] = RECOVERY;
    if !(min..=max).contains(&time) {
        bail!("option recovery_time is {time}, must be in {min}..={max}");
    }
    Ok(u64::try_from(time.0.as_millis()).expect("an hour at most"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine's refusal named `memtable_bytes`, in bytes.
    #[test]
    fn a_refusal_names_the_option_in_its_units() {
        let interval = Span(Duration::from_millis(100));
        let error = check_writes(Size(1 << 10), interval).unwrap_err().to_string();
        assert_eq!(error, "option memtable is 1KiB, must be in 1MiB..=4GiB");
        let error = check_writes(Size(8 << 30), interval).unwrap_err().to_string();
        assert!(error.contains("8GiB"), "{error}");
        for interval in [Duration::from_secs(61), Duration::from_micros(500)] {
            let error = check_writes(Size(64 << 20), Span(interval)).unwrap_err().to_string();
            assert!(error.contains("option interval is "), "{error}");
        }
        assert!(check_writes(Size(1 << 20), Span(Duration::from_mins(1))).is_ok());
        for time in [Duration::from_millis(999), Duration::from_secs(3601)] {
            let error = recovery_ms(Span(time)).unwrap_err().to_string();
            assert!(error.contains("option recovery_time is "), "{error}");
        }
        assert_eq!(recovery_ms(Span(Duration::from_hours(1))).unwrap(), 3_600_000);
    }

    #[test]
    fn space_goes_back_after_whole_seconds_or_never() {
        let after = |after| returning(Span(after), Size(128 << 20));
        let default = after(Duration::from_mins(1)).unwrap();
        assert_eq!(default, mpool::Options::default().returning);
        assert_eq!(after(Duration::ZERO).unwrap(), None);
        for wrong in [Duration::from_millis(1500), Duration::from_hours(25)] {
            let error = after(wrong).unwrap_err().to_string();
            assert!(
                error.contains("disk_return_after") && error.contains("whole seconds"),
                "{error}"
            );
        }
        let error = returning(Span(Duration::ZERO), Size(5)).unwrap_err().to_string();
        assert_eq!(error, "option disk_return_rate is 5B, must be in 1MiB..=1TiB");
    }
}
