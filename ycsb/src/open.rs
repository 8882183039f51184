//! `ycsb open`: how long a store takes to open, after a clean close and after kill -9.
//!
//! ```text
//!   load, close | open, first answer, close (--opens times)
//!               | a child overwrites all, and kills itself
//!               | open, first answer, verify, close
//!               | open, first answer, close
//! ```
//!
//! What a process that is killed leaves to do is what was in its memtables: `--engine
//! memtable_bytes=SIZE` makes that much or little, `-p overwrites=N` how much is written. The
//! child is a process of its own, as nothing else dies by SIGKILL.

use crate::cli::{OpenArgs, RunArgs, TargetKind};
use crate::course::check::check;
use crate::driver::Phase;
use crate::driver::measure::Recorder;
use crate::interrupt;
use crate::machine::Place;
use crate::machine::bound;
use crate::machine::page_cache;
use crate::machine::resources::Usage;
use crate::number::bytes;
use crate::number::floor;
use crate::output::say;
use crate::output::{self, Output};
use crate::report::Setting;
use crate::session::{self, Checked};
use crate::target::Target;
use crate::workload::course::ledger::Ledger;
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Instant;

const SCHEMA: &str = "millpond-ycsb-open/1";
const SIGKILL: i32 = 9;

/// The result of all opens.
#[derive(Debug, Serialize)]
struct OpenReport {
    schema: &'static str,
    setting: Setting,
    opens: Vec<Opened>,
    /// Records looked at after the kill, and what was wrong with them.
    verified: u64,
    mismatches: u64,
    mismatch_examples: Vec<String>,
}

/// One open.
#[derive(Clone, Debug, Default, Serialize)]
struct Opened {
    /// `a clean close`, or `kill -9`.
    after: &'static str,
    open_seconds: f64,
    /// Since the open began: the first record was asked for and there.
    first_answer_seconds: f64,
    close_seconds: f64,
    /// What the process read and wrote until the first answer.
    read_bytes: Option<u64>,
    written_bytes: Option<u64>,
    /// Of the log; null where the store does not say.
    replayed_bytes: Option<u64>,
}

/// False if records were lost.
pub(crate) fn open(args: &OpenArgs) -> Result<bool> {
    let mut run = args.run.clone();
    if !run.workload.files.is_empty() {
        bail!("-P: ycsb open has a workload of its own, overwrite; its properties are -p's");
    }
    if !matches!(run.target, TargetKind::Embedded | TargetKind::Rocksdb) {
        bail!("ycsb open is for --target embedded and rocksdb");
    }
    if run.workload.memory.is_some() || run.workload.seconds.is_some() || run.hold_snapshot {
        bail!("ycsb open has no use for --memory, --seconds and --hold-snapshot; leave them away");
    }
    run.workload.files = vec!["overwrite".into()];
    let checked = session::check(Phase::Run, &run)?;
    let json = Output::reserve_given("--json", run.workload.json.as_deref())?;
    let course = checked.workload.course.as_ref().expect("overwrite is one");
    if !course.loaded {
        load(&run, &checked)?;
    }
    let mut report = OpenReport::new(&run, &checked);
    for _ in 0..args.opens {
        report.open("a clean close", &run, &checked)?;
    }
    write_and_die(&run)?;
    report.open("kill -9", &run, &checked)?;
    report.open("a clean close", &run, &checked)?;
    report.publish(json)?;
    Ok(report.mismatches == 0)
}

fn load(run: &RunArgs, checked: &Checked) -> Result<()> {
    say("load ...");
    let dir = run.data.as_deref().context("ycsb open needs --data DIR, where its data is")?;
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: give another --data, or -p loaded=true", dir.display());
    }
    let target = session::open(Phase::Load, run, &checked.workload, None)?;
    session::load(&*target, checked)?;
    target.close()
}

/// A child overwrites everything and ends by SIGKILL.
fn write_and_die(run: &RunArgs) -> Result<()> {
    say("overwrite, and kill -9 ...");
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let child = bound::command(&program, &program)
        .args(child_args(run))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the child that is to be killed")?;
    let output = child.wait_with_output()?;
    interrupt::check()?;
    if output.status.signal() == Some(SIGKILL) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("the child that was to be killed ended with {}: {}", output.status, said.trim())
}

/// Its command line.
fn child_args(run: &RunArgs) -> Vec<String> {
    let (w, store) = (&run.workload, &run.store);
    let mut words: Vec<String> =
        ["run", "--end", "kill", "-P", "overwrite"].map(String::from).into();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add("--target", run.target.name().into());
    add("--data", run.data.as_deref().map_or_else(String::new, |dir| dir.display().to_string()));
    add("--durability", w.durability.name().into());
    add("--seed", w.seed.to_string());
    add("--io", store.io.name().into());
    w.properties.iter().for_each(|property| add("-p", property.clone()));
    add("-p", "loaded=true".into());
    w.threads.iter().for_each(|threads| add("--threads", threads.to_string()));
    w.rate.iter().for_each(|rate| add("--rate", rate.to_string()));
    store.engine.iter().for_each(|pair| add("--engine", pair.clone()));
    words.extend(store.allow_buffered.then(|| "--allow-buffered".to_owned()));
    words
}

impl OpenReport {
    fn new(run: &RunArgs, checked: &Checked) -> Self {
        Self {
            schema: SCHEMA,
            setting: session::setting_of(Phase::Run, run, checked),
            opens: Vec::new(),
            verified: 0,
            mismatches: 0,
            mismatch_examples: Vec::new(),
        }
    }

    fn open(&mut self, after: &'static str, run: &RunArgs, checked: &Checked) -> Result<()> {
        say(&format!("open after {after} ..."));
        interrupt::check()?;
        if let Some(dir) = run.data.as_deref().filter(|_| run.cold) {
            page_cache::drop_files(dir);
        }
        let before = Usage::read(Place::Here, None);
        let began = Instant::now();
        let target = session::open(Phase::Verify, run, &checked.workload, None)?;
        let opened = began.elapsed();
        ask_first(&*target, checked)?;
        let answered = began.elapsed();
        let used = Usage::read(Place::Here, None).since(&before).total();
        let counters = target.counters();
        let replayed = counters.iter().find(|counted| counted.name == "wal_replay_bytes_total");
        if after == "kill -9" {
            self.verify(&*target, checked)?;
        }
        self.setting.target_facts = target.facts().into_iter().collect();
        let closing = Instant::now();
        target.close()?;
        self.opens.push(Opened {
            after,
            open_seconds: opened.as_secs_f64(),
            first_answer_seconds: answered.as_secs_f64(),
            close_seconds: closing.elapsed().as_secs_f64(),
            read_bytes: used.read_bytes,
            written_bytes: used.write_bytes,
            replayed_bytes: replayed.map(|counted| floor(counted.value)),
        });
        Ok(())
    }

    /// All that was loaded must be there: as it was, or overwritten.
    fn verify(&mut self, target: &dyn Target, checked: &Checked) -> Result<()> {
        let (w, ledger) = (&checked.workload, Ledger::new());
        let mut key = Vec::new();
        for number in 0..w.records {
            w.keys.write(number, &mut key);
            ledger.found(&key, w.row_bytes());
        }
        let mut recorder = Recorder::default();
        check(target, w, &ledger, &mut recorder)?;
        self.verified += recorder.verified;
        self.mismatches += recorder.mismatches;
        self.mismatch_examples = recorder.mismatch_examples;
        Ok(())
    }

    /// The file comes first: nobody may be reading standard output.
    fn publish(&self, json: Option<Output>) -> Result<()> {
        let instead = json.as_ref().is_some_and(Output::is_stdout);
        if let Some(json) = json {
            json.write_json(self)?;
        }
        if instead { Ok(()) } else { output::print(&self.table()) }
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "after",
            "open s",
            "first answer s",
            "replayed",
            "read",
            "written",
            "close s",
        ]);
        let size = |n: Option<u64>| n.map_or("-".into(), bytes);
        for o in &self.opens {
            table.add_row([
                o.after.to_owned(),
                format!("{:.3}", o.open_seconds),
                format!("{:.3}", o.first_answer_seconds),
                size(o.replayed_bytes),
                size(o.read_bytes),
                size(o.written_bytes),
                format!("{:.3}", o.close_seconds),
            ]);
        }
        table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        let s = &self.setting;
        let mut text = format!("open on {}: {} records\n{table}\n", s.target, s.records);
        let (verified, wrong) = (self.verified, self.mismatches);
        let _infallible = writeln!(
            text,
            "after the kill {verified} records verified, {wrong} wrong\n\
             the first answer counts from when the open began; read and written go up to it\n\
             {}",
            s.conditions()
        );
        for example in &self.mismatch_examples {
            let _infallible = writeln!(text, "  for example {example}");
        }
        text
    }
}

/// Asks for the first record that was loaded.
fn ask_first(target: &dyn Target, checked: &Checked) -> Result<()> {
    let (mut key, mut row) = (Vec::new(), Vec::new());
    checked.workload.keys.write(0, &mut key);
    match target.session()?.read(&key, &mut row) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("{} is not there; was it loaded?", String::from_utf8_lossy(&key)),
        Err(failure) => bail!("the first record cannot be read: {failure}"),
    }
}
