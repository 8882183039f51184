//! Runs on the memory target, broken off, timed and paced.

use super::*;
use crate::target::memory::Memory;
use crate::workload::Operation;
use crate::workload::property::Properties;

fn workload(file: &str, pairs: &[&str]) -> Workload {
    let pairs: Vec<String> = pairs.iter().map(|s| (*s).to_owned()).collect();
    Workload::new(&Properties::gather(&[file.to_owned()], &pairs).unwrap()).unwrap()
}

fn plan(phase: Phase, operations: u64) -> Plan {
    Plan { phase, operations, seed: 1, ..Plan::default() }
}

fn run(memory: &Memory, w: &Workload, plan: &Plan) -> Outcome {
    drive(memory, w, plan, None, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn every_workload_runs_and_verifies() {
    for file in ["a", "b", "c", "d", "e", "f"] {
        let w = workload(
            file,
            &["recordcount=2000", "operationcount=6000", "threadcount=3", "dataintegrity=true"],
        );
        let memory = Memory::new();
        let load = run(&memory, &w, &plan(Phase::Load, 0));
        assert_eq!(load.operations, 2000, "{file}");
        let outcome = run(&memory, &w, &plan(Phase::Run, 6000));
        let recorder = outcome.recorder;
        assert_eq!(outcome.operations, 6000, "{file}");
        assert_eq!((recorder.errors_total(), recorder.mismatches), (0, 0), "{file}");
        assert!(recorder.verified > 2500, "{file}: {} verified", recorder.verified);
        let verify = run(&memory, &w, &plan(Phase::Verify, 0));
        assert_eq!((verify.recorder.verified, verify.recorder.mismatches), (2000, 0), "{file}");
    }
}

#[test]
fn time_ends_a_run_and_warm_up_is_not_counted() {
    let w = workload("c", &["recordcount=100", "threadcount=2"]);
    let memory = Memory::new();
    run(&memory, &w, &plan(Phase::Load, 0));
    let mut timed = plan(Phase::Run, 0);
    timed.time = Some(Duration::from_millis(300));
    timed.warmup = Duration::from_millis(300);
    let mut warm = 0;
    let outcome = drive(&memory, &w, &timed, None, &mut |pulse| {
        warm += u64::from(pulse.warming);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(warm > 0, "no pulse while warming up");
    let reads = outcome.recorder.latencies(Operation::Read).unwrap().len();
    assert_eq!(reads, outcome.operations);
}

#[test]
fn seconds_are_kept_apart_and_add_up() {
    let w = workload("a", &["recordcount=100", "threadcount=2"]);
    let memory = Memory::new();
    run(&memory, &w, &plan(Phase::Load, 0));
    let mut timed = plan(Phase::Run, 0);
    timed.time = Some(Duration::from_millis(2200));
    timed.warmup = Duration::from_millis(100);
    timed.by_second = true;
    let outcome = run(&memory, &w, &timed);
    // The last 200 ms belong to the second second.
    assert_eq!(outcome.seconds.len(), 2);
    for operation in [Operation::Read, Operation::Update] {
        let count = |recorder: &Recorder| recorder.latencies(operation).unwrap().len();
        let sum: u64 = outcome.seconds.iter().map(count).sum();
        assert_eq!(sum, count(&outcome.recorder), "{operation:?}");
    }
    assert_eq!(outcome.operations, outcome.seconds.iter().map(all).sum::<u64>());
}

fn all(recorder: &Recorder) -> u64 {
    let of = |op: &Operation| recorder.latencies(*op).map_or(0, hdrhistogram::Histogram::len);
    Operation::ALL.iter().map(of).sum()
}

#[test]
fn epochs_are_seconds_and_the_last_takes_the_rest() {
    let mut p = plan(Phase::Run, 0);
    let at = |p: &Plan, ms| p.epoch_at(Duration::from_millis(ms));
    assert_eq!((at(&p, 0), at(&p, 999), at(&p, 1000), at(&p, 61_500)), (1, 1, 2, 62));
    p.time = Some(Duration::from_millis(2500));
    assert_eq!((at(&p, 1999), at(&p, 2000), at(&p, 2499)), (2, 2, 2));
    p.time = Some(Duration::from_millis(300));
    assert_eq!(at(&p, 299), 1);
}

#[test]
fn an_endless_plan_is_refused() {
    let w = workload("c", &[]);
    let go = &mut |_| ControlFlow::Continue(());
    let error = drive(&Memory::new(), &w, &plan(Phase::Run, 0), None, go).unwrap_err();
    assert!(error.to_string().contains("--seconds"), "{error}");
}

#[test]
fn a_store_that_was_not_loaded_ends_the_run() {
    let w = workload("c", &["recordcount=100"]);
    let outcome = run(&Memory::new(), &w, &plan(Phase::Run, 1_000_000));
    assert!(outcome.aborted);
    assert_eq!(outcome.recorder.errors_total(), u64::from(FAILURES_MAX));
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let w = workload("c", &["recordcount=10", "target=10000", "threadcount=2"]);
    let memory = Memory::new();
    run(&memory, &w, &plan(Phase::Load, 0));
    let outcome = run(&memory, &w, &plan(Phase::Run, 1000));
    // 1000 operations at 10000 a second are due over 0.1 s; they cannot be faster.
    assert!(outcome.elapsed >= Duration::from_millis(99), "{:?}", outcome.elapsed);
    assert_eq!(outcome.operations, 1000);
}

/// Breaks off at the first pulse for which `when` holds.
fn broken_off(w: &Workload, asked: &Plan, mut when: impl FnMut(Pulse) -> bool) -> Outcome {
    let memory = Memory::new();
    run(&memory, w, &plan(Phase::Load, 0));
    let pulse = &mut |pulse| {
        if when(pulse) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    drive(&memory, w, asked, None, pulse).unwrap()
}

#[test]
fn what_was_measured_when_it_was_broken_off_is_the_outcome() {
    let w = workload("c", &["recordcount=100", "threadcount=2"]);
    let mut endless = plan(Phase::Run, u64::MAX / 2);
    let outcome = broken_off(&w, &endless, |pulse| pulse.done > 1000);
    assert_eq!(outcome.interrupted, Some(Part::Measuring));
    let reads = outcome.recorder.latencies(Operation::Read).unwrap().len();
    assert!(reads > 1000 && reads == outcome.operations, "{reads}");
    // Nothing of the warm-up is passed off as measured.
    endless.warmup = Duration::from_hours(1);
    let outcome = broken_off(&w, &endless, |pulse| pulse.done > 1000);
    assert_eq!(outcome.interrupted, Some(Part::WarmUp));
    assert_eq!((outcome.operations, outcome.elapsed), (0, Duration::ZERO));
    assert!(outcome.recorder.latencies(Operation::Read).is_none());
}

#[test]
fn an_operation_that_is_due_in_an_hour_holds_nothing_up() {
    let w = workload("c", &["recordcount=100", "threadcount=2", "target=0.001"]);
    let outcome =
        broken_off(&workload("c", &["recordcount=100"]), &plan(Phase::Fill, 0), |_| false);
    assert_eq!(outcome.operations, 100, "filling keeps no pace");
    let memory = Memory::new();
    run(&memory, &workload("c", &["recordcount=100"]), &plan(Phase::Load, 0));
    let outcome = drive(&memory, &w, &plan(Phase::Run, 9), None, &mut |_| ControlFlow::Break(()));
    assert_eq!(outcome.unwrap().interrupted, Some(Part::Measuring));
}

#[test]
fn shares_add_up() {
    let w = workload("c", &["recordcount=10", "threadcount=7"]);
    let memory = Memory::new();
    run(&memory, &w, &plan(Phase::Load, 0));
    assert_eq!(run(&memory, &w, &plan(Phase::Run, 1003)).operations, 1003);
}
