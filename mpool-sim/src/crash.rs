//! Crash testing by enumeration.
//!
//! [`check_every_crash`] runs a workload once to count the device's calls, then once per call with
//! the power cut there; of the sectors not yet flushed a seeded coin decides which survive. Then it
//! recovers and asks what is there: every acknowledged step, perhaps the one in flight, nothing
//! else. It recovers a second time (same answer), goes on working (the recovered system must accept
//! and keep more steps), cuts the power during recovery itself at every call of it, and kills the
//! process instead of cutting the power, so that unflushed writes are seen by recovery and lost
//! later.
//!
//! Exhaustive over *when*, seeded over *which sectors survive*: a failure prints both, and
//! `CRASH=<call>:<seed>` in the environment replays that one alone.

use super::SimDevice;
use std::fmt::Debug;

/// A system under test: takes numbered steps, and can say how many of them are there.
pub trait Workload {
    /// The running system.
    type System;
    /// What its calls fail with.
    type Error: Debug;

    /// Opens the system on this medium: a blank one at first, any remains of a crash later.
    fn open(&self, device: &SimDevice) -> Result<Self::System, Self::Error>;

    /// Performs step number `n`, durable once this returns `Ok`. Called with rising `n` from 0, and
    /// again with the number of an unacknowledged step after a crash.
    fn step(&self, system: &mut Self::System, n: u32) -> Result<(), Self::Error>;

    /// How many steps are there. Panics on a gap or a mangled value.
    fn steps_found(&self, system: &mut Self::System) -> u32;

    /// The blank medium. For one with zones, return a [`SimDevice::zoned`] here.
    fn medium(&self, plan: CrashPlan) -> SimDevice {
        SimDevice::new(plan.device_bytes)
    }
}

/// How much to enumerate.
#[derive(Clone, Copy, Debug)]
pub struct CrashPlan {
    /// Steps of the workload.
    pub steps: u32,
    /// Seeds per crash point.
    pub seeds: u64,
    /// Also cut the power at every call of the recovery, for this many of the seeds.
    pub recovery_seeds: u64,
    /// The size of the device, where the workload does not choose another medium.
    pub device_bytes: u64,
}

/// One crash: which call, which seed, how many steps had been acknowledged.
#[derive(Clone, Copy, Debug)]
struct Crash {
    call: u64,
    seed: u64,
    acked: u32,
}

/// Cuts the power at every device call of `workload`, recovers, and checks what is there.
///
/// Returns the number of crashes tried.
///
/// # Panics
///
/// If an acknowledged step is lost, a step appears that was never taken, recovery fails, or two
/// recoveries differ. The message says how to replay it.
pub fn check_every_crash<W: Workload>(workload: &W, plan: CrashPlan) -> u64 {
    let calls = count_calls(workload, plan);
    if let Some((call, seed)) = replay_request() {
        check_crash(workload, plan, call, seed);
        return 1;
    }
    for call in 0..calls {
        for seed in 0..plan.seeds {
            check_crash(workload, plan, call, seed);
        }
    }
    calls * plan.seeds
}

/// The crash asked for in the environment.
fn replay_request() -> Option<(u64, u64)> {
    let text = std::env::var("CRASH").ok()?;
    let parsed = text.split_once(':').map(|(call, seed)| (call.parse(), seed.parse()));
    match parsed {
        Some((Ok(call), Ok(seed))) => Some((call, seed)),
        _ => panic!("CRASH is {text:?}, must be <call>:<seed>"),
    }
}

fn count_calls<W: Workload>(workload: &W, plan: CrashPlan) -> u64 {
    let device = workload.medium(plan);
    let mut system = workload.open(&device).expect("no cut was asked for");
    for n in 0..plan.steps {
        workload.step(&mut system, n).expect("no cut was asked for");
    }
    assert_eq!(workload.steps_found(&mut system), plan.steps, "the workload works without a crash");
    device.calls()
}

fn check_crash<W: Workload>(workload: &W, plan: CrashPlan, call: u64, seed: u64) {
    let device = workload.medium(plan);
    device.cut_at(call);
    let mut acked = 0;
    if let Ok(mut system) = workload.open(&device) {
        while acked < plan.steps && workload.step(&mut system, acked).is_ok() {
            acked += 1;
        }
    }
    let crash = Crash { call, seed, acked };
    let remains = device.after_crash(seed);
    let found = recover(workload, &remains, crash, "first recovery");
    // The one in flight may have made it; an acknowledged one must have.
    assert!(
        found == acked || found == acked + 1,
        "CRASH={call}:{seed}: {acked} acknowledged, {found} found"
    );
    let again = recover(workload, &remains, crash, "second recovery");
    assert_eq!(again, found, "CRASH={call}:{seed}: second recovery differs");
    go_on(workload, &remains, crash, found);
    check_kill(workload, &device, crash);
    if seed < plan.recovery_seeds {
        check_crashes_of_recovery(workload, &device, crash);
    }
}

fn recover<W: Workload>(workload: &W, device: &SimDevice, crash: Crash, when: &str) -> u32 {
    let Crash { call, seed, .. } = crash;
    match workload.open(device) {
        Ok(mut system) => workload.steps_found(&mut system),
        Err(error) => panic!("CRASH={call}:{seed}: {when} failed: {error:?}"),
    }
}

/// The process dies at the same place, but the power stays: nothing is lost yet. What the recovered
/// system then builds upon must be durable by the time the power does go.
fn check_kill<W: Workload>(workload: &W, device: &SimDevice, crash: Crash) {
    let Crash { call, seed, acked } = crash;
    let remains = device.after_kill(seed);
    let found = recover(workload, &remains, crash, "recovery after a kill");
    assert!(
        found == acked || found == acked + 1,
        "CRASH={call}:{seed}: {acked} acknowledged, {found} found after a kill"
    );
    go_on(workload, &remains, crash, found);
}

/// The recovered system takes more steps, and they are there after another restart.
fn go_on<W: Workload>(workload: &W, device: &SimDevice, crash: Crash, found: u32) {
    const MORE: u32 = 2;
    let Crash { call, seed, .. } = crash;
    {
        let mut system = workload.open(device).expect("it has been opened twice");
        for n in found..found + MORE {
            if let Err(error) = workload.step(&mut system, n) {
                panic!("CRASH={call}:{seed}: step {n} after recovery failed: {error:?}");
            }
        }
    }
    // Whatever was acknowledged is flushed, so the harshest crash changes nothing.
    let found_then =
        recover(workload, &device.after_crash(seed), crash, "recovery after more steps");
    assert_eq!(
        found_then,
        found + MORE,
        "CRASH={call}:{seed}: acknowledged steps after recovery are lost"
    );
}

/// Cuts the power at every call of the recovery.
fn check_crashes_of_recovery<W: Workload>(workload: &W, crashed: &SimDevice, crash: Crash) {
    let Crash { call, seed, acked } = crash;
    for recovery_call in 0.. {
        let device = crashed.after_crash(seed);
        device.cut_at(recovery_call);
        drop(workload.open(&device));
        if !device.is_cut() {
            return;
        }
        let remains = device.after_crash(seed ^ recovery_call);
        let found = recover(workload, &remains, crash, "recovery after a crash in recovery");
        assert!(
            found == acked || found == acked + 1,
            "CRASH={call}:{seed}: {acked} acknowledged, {found} found after a crash at call \
             {recovery_call} of the recovery"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpool_device::{Device, IO_ALIGN, IoBuf};
    use std::io;

    const PAGE: u64 = IO_ALIGN as u64;

    /// A log of one self-checking page per step, with a flush that may be forgotten.
    struct Log {
        flushes: bool,
        /// Checks what it reads in both ends of the page, which a torn write spoils.
        torn: bool,
    }

    impl Workload for Log {
        type System = SimDevice;
        type Error = io::Error;

        fn open(&self, device: &SimDevice) -> io::Result<SimDevice> {
            device.grow(64 * PAGE)?;
            // What is read from here on must be on the medium.
            device.flush()?;
            Ok(device.clone())
        }

        fn step(&self, system: &mut SimDevice, n: u32) -> io::Result<()> {
            let mut page = IoBuf::zeroed(IO_ALIGN);
            page[..4].copy_from_slice(&(n + 1).to_le_bytes());
            if self.torn {
                // Spread over two sectors, and only the second is looked at.
                page[4092..].copy_from_slice(&(n + 1).to_le_bytes());
            }
            system.write_at(u64::from(n) * PAGE, &page)?;
            if self.flushes { system.flush() } else { Ok(()) }
        }

        fn steps_found(&self, system: &mut SimDevice) -> u32 {
            let mut page = IoBuf::zeroed(IO_ALIGN);
            for n in 0.. {
                system.read_at(u64::from(n) * PAGE, &mut page).unwrap();
                let number = |at: usize| u32::from_le_bytes(*page[at..].first_chunk().unwrap());
                if number(0) != n + 1 {
                    return n;
                }
                assert!(!self.torn || number(4092) == n + 1, "step {n} is mangled");
            }
            unreachable!("the device is not full")
        }
    }

    const PLAN: CrashPlan =
        CrashPlan { steps: 8, seeds: 16, recovery_seeds: 4, device_bytes: 64 * PAGE };

    #[test]
    fn a_sound_log_passes() {
        let tried = check_every_crash(&Log { flushes: true, torn: false }, PLAN);
        assert_eq!(tried, (1 + 1 + 8 * 2) * 16);
    }

    #[test]
    #[should_panic(expected = "acknowledged")]
    fn a_missing_flush_is_caught() {
        check_every_crash(&Log { flushes: false, torn: false }, PLAN);
    }

    /// One seed gave the first write after a flush one fate, wherever the power was cut.
    #[test]
    fn one_seed_tosses_anew_at_each_crash_point() {
        let survives = |flushes: u32| {
            let device = SimDevice::new(PAGE);
            device.grow(PAGE).unwrap();
            (0..=flushes).try_for_each(|_| device.flush()).unwrap();
            let mut page = IoBuf::zeroed(IO_ALIGN);
            page.fill(1);
            device.write_at(0, &page).unwrap();
            device.after_crash(0).read_at(0, &mut page).unwrap();
            page[0] == 1
        };
        let fates: std::collections::BTreeSet<bool> = (0..16).map(survives).collect();
        assert_eq!(fates.len(), 2, "{fates:?}");
    }

    #[test]
    #[should_panic(expected = "mangled")]
    fn a_torn_write_taken_for_whole_is_caught() {
        check_every_crash(&Log { flushes: true, torn: true }, PLAN);
    }
}
