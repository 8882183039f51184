//! Courses by their steps, what they refuse, and what they do on the memory target, against a
//! model.

use super::*;
use crate::course::{Ground, Ran, run};
use crate::driver::measure::Latencies;
use crate::driver::{Phase, Plan};
use crate::machine::Place;
use crate::target::memory::Memory;
use crate::target::{Session, Target};
use crate::workload::Operation;
use crate::workload::Way;
use crate::workload::course::steps::{Chore, Step, Task, Wishes};
use crate::workload::course::victims::Order;
use crate::workload::property::Properties;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

fn workload(file: &str, pairs: &[&str]) -> Result<Workload> {
    let pairs: Vec<String> = pairs.iter().map(|s| (*s).to_owned()).collect();
    Workload::new(&Properties::gather(&[file.to_owned()], &pairs)?)
}

fn plan(w: &Workload) -> Plan {
    Plan { phase: Phase::Run, operations: w.operations, seed: 7, ..Plan::default() }
}

fn ran(memory: &Memory, w: &Workload) -> Ran {
    let plan = plan(w);
    let wishes = Wishes::default();
    let ground = Ground { target: memory, workload: w, plan: &plan, group: None, wishes };
    run(w.course.as_ref().expect("a course"), &ground).expect("it runs")
}

/// Quiet at once, on a store that does nothing in the background.
const QUIET: [&str; 2] = ["silenceseconds=1", "quietseconds=2"];

fn keys(memory: &Memory) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    let mut see = |key: &[u8], _: &[u8]| {
        assert!(all.insert(key.to_vec()), "twice");
        ControlFlow::Continue(())
    };
    memory.session().unwrap().walk(Way::Forward, &mut see).unwrap();
    all
}

fn count(ran: &Ran, operation: Operation) -> u64 {
    ran.outcome.recorder.latencies(operation).map_or(0, Latencies::len)
}

fn stage_names(ran: &Ran) -> Vec<&str> {
    ran.stages.iter().map(|stage| stage.name.as_str()).collect()
}

#[test]
fn an_overwrite_leaves_what_was_loaded_with_new_rows() {
    for distribution in ["uniform", "zipfian"] {
        let request = format!("requestdistribution={distribution}");
        let small = ["recordcount=300", "overwrites=4", "threadcount=3", &request];
        let w = workload("overwrite", &[&small[..], &QUIET].concat()).unwrap();
        let memory = Memory::new();
        let ran = ran(&memory, &w);
        assert_eq!(stage_names(&ran), ["load", "overwrite", "quiet"]);
        assert_eq!((count(&ran, Operation::Overwrite), ran.outcome.operations), (1200, 1200));
        let recorder = &ran.outcome.recorder;
        assert_eq!((recorder.verified, recorder.mismatches, recorder.errors_total()), (300, 0, 0));
        // Each key that a number has, and nothing else.
        let mut model = BTreeSet::new();
        for number in 0..300 {
            let mut key = Vec::new();
            w.keys.write(number, &mut key);
            model.insert(key);
        }
        assert_eq!(keys(&memory), model);
        let bytes: usize = model.iter().map(|key| key.len() + w.row_bytes()).sum();
        let [load, overwrite, quiet] = &ran.stages[..] else { panic!("three stages") };
        assert_eq!(load.put_bytes, bytes as u64);
        assert_eq!(quiet.space.live_bytes, bytes as u64);
        // Keys have 20 to 23 bytes.
        let mean = overwrite.put_bytes / 1200;
        assert!((1160..=1163).contains(&mean), "{mean}");
        assert_eq!(overwrite.samples.iter().map(|sample| sample.ops).sum::<u64>(), 1200);
    }
}

#[test]
fn overwritten_rows_are_other_rows_and_the_seed_repeats_them() {
    let rows = |overwrites: &str| {
        let pairs = ["recordcount=50", overwrites];
        let w = workload("overwrite", &[&pairs[..], &QUIET].concat()).unwrap();
        let memory = Memory::new();
        ran(&memory, &w);
        let mut all = Vec::new();
        let mut see = |_: &[u8], row: &[u8]| {
            all.push(row.to_vec());
            ControlFlow::Continue(())
        };
        memory.session().unwrap().walk(Way::Forward, &mut see).unwrap();
        all
    };
    let (loaded, overwritten) = (rows("overwrites=0"), rows("overwrites=20"));
    let same = loaded.iter().zip(&overwritten).filter(|(a, b)| a == b).count();
    assert_eq!((loaded.len(), same), (50, 0), "after 20 rounds none is as it was loaded");
    assert_eq!(rows("overwrites=20"), overwritten);
}

#[test]
fn a_queue_keeps_its_length_and_its_newest() {
    for threads in [1, 3] {
        let threads_pair = format!("threadcount={threads}");
        let small = ["recordcount=50", "operationcount=4001", "headscanms=1", &threads_pair];
        let w = workload("queue", &[&small[..], &QUIET].concat()).unwrap();
        let memory = Memory::new();
        let ran = ran(&memory, &w);
        assert_eq!(stage_names(&ran), ["queue", "quiet"]);
        let (inserts, deletes) = (count(&ran, Operation::Insert), count(&ran, Operation::Delete));
        assert_eq!(inserts + deletes, 4001);
        let found = keys(&memory);
        let live = u64::try_from(found.len()).unwrap();
        assert_eq!(live, inserts - deletes);
        assert!(live.abs_diff(50) <= threads, "{live} live with {threads} threads");
        // Numbers are deleted in the order in which they were inserted: the newest are left.
        let name = |number: u64| format!("user{number:012}").into_bytes();
        let model: BTreeSet<Vec<u8>> = (deletes..inserts).map(name).collect();
        assert_eq!(found, model);
        assert_eq!(ran.outcome.recorder.mismatches, 0);
        assert_eq!(ran.outcome.recorder.verified, live);
    }
}

#[test]
fn nine_of_ten_are_deleted_and_the_first_of_the_rest_is_found() {
    for order in ["contiguous", "striped", "random"] {
        let order_pair = format!("deleteorder={order}");
        let small = ["recordcount=400", "headscans=5", "threadcount=3", &order_pair];
        let w = workload("delete-most", &[&small[..], &QUIET].concat()).unwrap();
        let memory = Memory::new();
        let ran = ran(&memory, &w);
        let stages =
            ["load", "delete", "flush", "head scans", "compact", "quiet", "head scans, quiet"];
        assert_eq!(stage_names(&ran), stages);
        assert_eq!(count(&ran, Operation::Delete), 360, "{order}");
        let mut model = BTreeSet::new();
        let chosen = victims::choose(&w, 0.9, order_of(order), 7).numbers;
        for number in (0..400).filter(|number| !chosen.contains(number)) {
            let mut key = Vec::new();
            w.keys.write(number, &mut key);
            model.insert(key);
        }
        assert_eq!(keys(&memory), model, "{order}");
        let bytes: usize = model.iter().map(|key| key.len() + w.row_bytes()).sum();
        assert_eq!(ran.stages[5].space.live_bytes, bytes as u64);
        let recorder = &ran.outcome.recorder;
        // What is left, and ten head scans, which used to pass for records.
        assert_eq!((recorder.verified, recorder.heads_checked), (40, 10), "{order}");
        assert_eq!(recorder.mismatches, 0, "{order}");
        assert_eq!((ran.stages[3].ops, ran.stages[6].operations["HEAD-SCAN"].count), (5, 5));
        let [all, awake] = ["HEAD-SCAN", "HEAD-SCAN-AWAKE"]
            .map(|name| ran.stages[6].operations.get(name).map(|op| (op.count, op.max_us)));
        let told = awake.is_none_or(|awake| awake.0 == 5 && awake.1 <= all.unwrap().1);
        assert!(told, "{all:?}, {awake:?}");
    }
}

/// A map that is asked in vain, as a server is.
struct Deaf(Memory);

impl Target for Deaf {
    fn session(&self) -> Result<Box<dyn Session>> {
        self.0.session()
    }

    fn data_dir(&self) -> Option<&Path> {
        None
    }

    fn place(&self) -> Place {
        Place::Elsewhere
    }

    fn deaf(&self) -> Option<&'static str> {
        Some("it has no ear for it")
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A flush that a server was never asked for had a row of its own, and a quiet that nobody could
/// see was reported after 0 s.
#[test]
fn what_a_store_cannot_be_asked_for_or_does_not_tell_is_said() {
    let small = ["recordcount=100", "headscans=5", "deletethen=quiet"];
    let w = workload("delete-most", &[&small[..], &QUIET].concat()).unwrap();
    let (target, plan, wishes) = (Deaf(Memory::new()), plan(&w), Wishes::default());
    let ground = Ground { target: &target, workload: &w, plan: &plan, group: None, wishes };
    let ran = run(w.course.as_ref().expect("a course"), &ground).expect("it runs");
    let stages = ["load", "delete", "head scans", "quiet", "head scans, quiet"];
    assert_eq!(stage_names(&ran), stages);
    let left_out: Vec<_> = ran.left_out.iter().map(|left| (&*left.name, &*left.why)).collect();
    assert_eq!(left_out, [("flush", "it has no ear for it")]);
    let quiet = ran.stages[3].quiet.clone().expect("of this stage");
    assert_eq!((quiet.after_seconds, quiet.known_by), (None, None));
}

/// `queue`, `settle` and `quiet, held` stood in no table.
#[test]
fn every_stage_is_explained() {
    let docs = include_str!("../../../docs/benchmarks.md");
    let (_, rest) = docs.split_once("**Stages**").expect("their table");
    let (table, _) = rest.split_once("**What is printed**").expect("its end");
    let courses = [
        ("overwrite", &[][..]),
        ("queue", &[]),
        ("window", &[]),
        ("scans", &[]),
        ("many-kvs", &[]),
        ("delete-most", &[]),
        ("delete-most", &["deletethen=settle"]),
        ("delete-most", &["deletethen=quiet"]),
    ];
    for (file, pairs) in courses {
        let w = workload(file, pairs).unwrap();
        let course = w.course.as_ref().expect("a course");
        let wishes = Wishes { settle: true, hold_snapshot: true, kill: false };
        for step in course.steps(&w, wishes) {
            let name = match step {
                Step::Load => "load",
                Step::Ask(chore) => chore.name(),
                Step::Drive(shift) => shift.name,
                Step::Quiet(name) => name,
                Step::Hold | Step::Release | Step::Check | Step::Kill => continue,
            };
            assert!(table.contains(&format!("`{name}`")), "{file}: {name}");
        }
        assert!(table.contains(&format!("`{}`", course.main_stage())), "{file}");
    }
}

fn order_of(name: &str) -> Order {
    match name {
        "contiguous" => Order::Contiguous,
        "striped" => Order::Striped,
        _ => Order::Random,
    }
}

#[test]
fn scans_see_everything_alone_and_beside_a_writer() {
    let small = ["recordcount=300", "passes=2", "writerseconds=1", "threadcount=2"];
    let verified = ["dataintegrity=true"];
    let w = workload("scans", &[&small[..], &QUIET, &verified].concat()).unwrap();
    let memory = Memory::new();
    let ran = ran(&memory, &w);
    let alone = ["load", "first scan", "forward", "reverse", "writer alone"];
    let beside = ["forward, beside it", "reverse, beside it", "quiet"];
    assert_eq!(stage_names(&ran), [&alone[..], &beside].concat());
    let records: Vec<u64> = ran.stages.iter().map(|stage| stage.ops).collect();
    assert_eq!((&records[1..4], &records[5..]), (&[300, 600, 600][..], &[600, 600, 0][..]));
    assert_eq!(ran.stages[5].operations["WALK"].count, 2);
    assert!(ran.stages[4].ops > 0 && ran.stages[4].seconds >= 1.0, "{}", ran.stages[4].ops);
    let recorder = &ran.outcome.recorder;
    // Nine scans, and the last look.
    assert_eq!((recorder.verified, recorder.mismatches, keys(&memory).len()), (3000, 0, 300));
}

#[test]
fn a_scan_that_misses_records_is_found_out() {
    let small = ["recordcount=300", "passes=1", "writerseconds=0"];
    let w = workload("scans", &[&small[..], &QUIET, &["loaded=true"]].concat()).unwrap();
    // Nothing was loaded.
    let ran = ran(&Memory::new(), &w);
    let examples = ran.outcome.recorder.mismatch_examples.join("\n");
    assert!(examples.contains("found 0 records, must be 300"), "{examples}");
}

/// Deletes nothing.
struct Undead(Memory);

impl Target for Undead {
    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Self(self.0.clone())))
    }

    fn data_dir(&self) -> Option<&Path> {
        None
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Session for Undead {
    fn read(&mut self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, crate::target::Failure> {
        self.0.read(key, row)
    }

    fn write(&mut self, key: &[u8], row: &[u8]) -> Result<(), crate::target::Failure> {
        self.0.write(key, row)
    }

    fn delete(&mut self, _: &[u8]) -> Result<(), crate::target::Failure> {
        Ok(())
    }

    fn scan(
        &mut self,
        start: &[u8],
        limit: usize,
        rows: &mut crate::target::Rows,
    ) -> Result<(), crate::target::Failure> {
        self.0.scan(start, limit, rows)
    }

    fn walk(
        &mut self,
        way: Way,
        see: &mut crate::target::See<'_>,
    ) -> Result<(), crate::target::Failure> {
        self.0.walk(way, see)
    }
}

#[test]
fn a_store_that_deletes_nothing_is_found_out() {
    let small = ["recordcount=50", "operationcount=4000", "headscanms=0"];
    let w = workload("queue", &[&small[..], &QUIET].concat()).unwrap();
    let plan = plan(&w);
    let target = Undead(Memory::new());
    let wishes = Wishes::default();
    let ground = Ground { target: &target, workload: &w, plan: &plan, group: None, wishes };
    let ran = run(w.course.as_ref().unwrap(), &ground).unwrap();
    let examples = ran.outcome.recorder.mismatch_examples.join("\n");
    assert!(examples.contains("2025 records of"), "{examples}");
    let w = workload("delete-most", &[&["recordcount=100", "headscans=1"][..], &QUIET].concat());
    let (w, target) = (w.unwrap(), Undead(Memory::new()));
    let ground = Ground { target: &target, workload: &w, ..ground };
    let ran = run(w.course.as_ref().unwrap(), &ground).unwrap();
    let examples = ran.outcome.recorder.mismatch_examples.join("\n");
    assert!(examples.contains("the first record must be Some(\"user"), "{examples}");
    assert!(examples.contains("100 records of"), "{examples}");
}

#[test]
fn a_table_with_records_is_refused_unless_it_is_said_to_be_loaded() {
    let small = ["recordcount=100", "overwrites=1"];
    let w = workload("overwrite", &[&small[..], &QUIET].concat()).unwrap();
    let memory = Memory::new();
    ran(&memory, &w);
    let plan = plan(&w);
    let wishes = Wishes::default();
    let ground = Ground { target: &memory, workload: &w, plan: &plan, group: None, wishes };
    let error = run(w.course.as_ref().unwrap(), &ground).unwrap_err().to_string();
    assert!(error.contains("usertable has records") && error.contains("loaded=true"), "{error}");
    let w = workload("overwrite", &[&small[..], &QUIET, &["loaded=true"]].concat()).unwrap();
    let ran = ran(&memory, &w);
    assert_eq!(stage_names(&ran), ["overwrite", "quiet"]);
    assert_eq!((ran.outcome.recorder.mismatches, ran.stages[1].space.live_bytes > 0), (0, true));
}

#[test]
fn a_held_snapshot_is_released_before_the_last_quiet() {
    let w = workload("overwrite", &[]).unwrap();
    let wishes = Wishes { settle: true, hold_snapshot: true, kill: false };
    let steps = w.course.as_ref().unwrap().steps(&w, wishes);
    let Step::Drive(shift) = steps[3] else { panic!("{steps:?}") };
    assert_eq!((shift.task, shift.turns), (Task::Overwrite, 5_000_000));
    assert_eq!(steps[..3], [Step::Load, Step::Ask(Chore::Settle), Step::Hold]);
    let end = [Step::Quiet("quiet, held"), Step::Release, Step::Quiet("quiet"), Step::Check];
    assert_eq!(steps[4..], end);
}

#[test]
fn deletes_are_followed_by_what_was_asked_for() {
    for (then, chore) in
        [("compact", Some(Chore::Compact)), ("settle", Some(Chore::Settle)), ("quiet", None)]
    {
        let w = workload("delete-most", &[&format!("deletethen={then}")]).unwrap();
        let steps = w.course.as_ref().unwrap().steps(&w, Wishes::default());
        let asked: Vec<Chore> = steps
            .iter()
            .filter_map(|step| if let Step::Ask(chore) = step { Some(*chore) } else { None })
            .collect();
        let expect: Vec<Chore> = [Chore::Flush].into_iter().chain(chore).collect();
        assert_eq!(asked, expect, "{then}");
    }
}

#[test]
fn ready_made_courses_have_their_sizes() {
    let window = workload("window", &[]).unwrap();
    let bytes = window.record_bytes_max();
    // A key of 16 bytes.
    assert_eq!((window.records, window.row_bytes() + 16, bytes > 116), (200_000, 116, true));
    // As many inserts as deletes, and what stays.
    assert_eq!(u64::midpoint(window.operations, window.records), 6_000_000);
    let queue = workload("queue", &[]).unwrap();
    assert_eq!((queue.records, queue.operations), (1000, 1_000_000));
}

#[test]
fn errors_name_the_property_and_its_limit() {
    for (file, pair, say) in [
        ("overwrite", "overwrites=-1", "overwrites=-1: must be a whole number from 0 to 1000000"),
        ("overwrite", "operationcount=5", "(loaded, overwrites, tables); leave operationcount"),
        (
            "overwrite",
            "headscanms=5",
            "headscanms means nothing to course=overwrite, only to queue",
        ),
        ("overwrite", "readproportion=1", "readproportion means nothing to course=overwrite"),
        ("overwrite", "fieldlengthdistribution=uniform", "must be constant"),
        ("overwrite", "loaded=maybe", "loaded=maybe: must be true or false"),
        (
            "overwrite",
            "silenceseconds=0",
            "silenceseconds=0: must be a whole number from 1 to 86400",
        ),
        ("overwrite", "quietseconds=86401", "from 1 to 86400"),
        ("c", "overwrites=3", "overwrites means something only with course=overwrite"),
        ("c", "course=churn", "course=churn: must be overwrite or queue or delete-most or scans"),
        ("queue", "insertorder=hashed", "insertorder must be ordered"),
        ("queue", "zeropadding=3", "zeropadding=7 or more"),
        ("queue", "threadcount=1001", "a live record for each of its 1001 threads"),
        (
            "queue",
            "headscanms=3600001",
            "headscanms=3600001: must be a whole number from 0 to 3600000",
        ),
        ("window", "overwrites=1", "overwrites means nothing to course=queue"),
        (
            "delete-most",
            "deleteproportion=1.1",
            "deleteproportion=1.1: must be a number from 0 to 1",
        ),
        ("delete-most", "deleteproportion=0", "deleteproportion=0 of it is no record"),
        ("delete-most", "deleteorder=any", "must be contiguous, striped or random"),
        ("delete-most", "deletethen=wait", "deletethen=wait: must be compact, settle or quiet"),
        ("delete-most", "headscans=0", "headscans=0: must be a whole number from 1 to 1000000000"),
        ("delete-most", "recordcount=20000001", "in memory, 20000000 at most"),
        (
            "delete-most",
            "operationcount=9",
            "(deleteorder, deleteproportion, deletethen, headscans",
        ),
        ("scans", "passes=0", "passes=0: must be a whole number from 1 to 1000000"),
        (
            "scans",
            "writerseconds=86401",
            "writerseconds=86401: must be a whole number from 0 to 86400",
        ),
        ("scans", "loaded=1", "loaded=1: must be true or false"),
    ] {
        let error = format!("{:#}", workload(file, &[pair]).unwrap_err());
        assert!(error.contains(say), "{file} {pair}: {error}");
    }
}
