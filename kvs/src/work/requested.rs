//! The compaction that somebody has asked for: where it is, and its next job.
//!
//! What comes next in a tree is decided by a rule of its own (`compact::pick::request`). Here it is
//! remembered which trees and leaves are done, and the jobs are taken: one at a time, by a thread
//! of its own, so that what is due by itself has all of its threads. Where nothing runs in the
//! background the jobs are taken by whoever works, in turn: after one of them the errand rests
//! until another one was begun or nothing else is due. So neither starves the other.

use super::ledger::Progress;
use super::{Job, Jobs, PANICKED, Running};
use crate::compact::pick::request::{self, Asked, Next, Obstacle};
use crate::compact::pick::{Limits, Plan, TreeShape, Why};
use crate::compaction::{CompactionInfo, CompactionRequest, CompactionState};
use crate::error::{Error, Result, Scope};
use crate::key::{KeyText, KvsId, KvsetId, Revision};
use crate::kvset::Kvset;
use crate::store::Store;
use crate::tree::{Leaf, Tree};
use crate::view::View;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Problems that are told; the others are counted.
const PROBLEMS_TOLD: usize = 30;
/// How often those look again who wait for work that others do.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct Errand {
    number: u64,
    request: CompactionRequest,
    began: Instant,
    /// What is newer is left alone; `None` until that is known.
    at: Option<Revision>,
    /// The trees that are not done; the first one is under way.
    todo: VecDeque<(KvsId, Arc<str>)>,
    /// Where the next leaf of that begins; `None`: its range is done.
    next: Option<Bytes>,
    root_given_up: bool,
    /// The job that runs.
    step: Option<Step>,
    is_cancelled: bool,
    bytes_total: Option<u64>,
    bytes_done: u64,
    jobs: u64,
    read_bytes: u64,
    written_bytes: u64,
    problems: Vec<String>,
    problems_total: u64,
    end: Option<(CompactionState, Duration)>,
}

/// A job of an errand.
struct Step {
    number: u64,
    about: About,
    progress: Arc<Progress>,
}

/// What a job of an errand is about.
enum About {
    Root,
    Leaf {
        /// The first key after it.
        end: Option<Bytes>,
        /// Bytes that the job goes over.
        bytes: u64,
    },
}

/// What the jobs remember of the errand.
#[derive(Default)]
pub(super) struct Requested {
    /// The last one.
    errand: Option<Arc<Mutex<Errand>>>,
    begun: u64,
    /// Others go first.
    pub(super) rests: bool,
    /// Nothing else may begin, so that what runs comes to its end.
    holds: bool,
    thread: Option<JoinHandle<()>>,
}

/// Whether there is a job to be had.
pub(super) enum Take<'a> {
    Job(Running<'a>),
    /// Nothing else may begin either, so that what runs comes to its end.
    Hold,
    Nothing,
}

impl Store {
    /// Begins an errand over these trees.
    pub(crate) fn begin_errand(
        &self,
        request: CompactionRequest,
        todo: VecDeque<(KvsId, Arc<str>)>,
    ) -> Result<Arc<Mutex<Errand>>> {
        let mut jobs = self.jobs.lock();
        if let Some(running) = &jobs.requested.errand {
            let running = running.lock();
            if running.end.is_none() {
                let what = running.request.to_string().into();
                return Err(Error::CompactionRuns { number: running.number, what });
            }
        }
        jobs.requested.begun += 1;
        let number = jobs.requested.begun;
        tracing::info!(number, what = %request, "a compaction was asked for");
        let errand = Arc::new(Mutex::new(Errand::new(number, request, todo)));
        jobs.requested.errand = Some(Arc::clone(&errand));
        Ok(errand)
    }

    /// The one that was asked for last.
    pub(crate) fn errand(&self) -> Option<Arc<Mutex<Errand>>> {
        self.jobs.lock().requested.errand.clone()
    }

    /// How far it is; what keeps the store from writing ends it.
    pub(crate) fn errand_info(&self, errand: &Mutex<Errand>) -> CompactionInfo {
        let flushing = |at| self.view.load().sealed.iter().any(|sealed| sealed.last <= at);
        let mut errand = errand.lock();
        if let Err(error) = self.check_writable() {
            errand.finish(CompactionState::Failed(error.to_string()));
        }
        let is_flushing = errand.at.is_none_or(flushing);
        errand.info(is_flushing)
    }

    /// Works, or waits for the workers, until it is over.
    pub(crate) fn wait_for_errand(&self, errand: &Mutex<Errand>) -> Result<()> {
        while errand.lock().end.is_none() {
            self.check_writable()?;
            let worked = self.options.background_threads == 0
                && match self.step(1) {
                    Err(error) if error.scope() == Scope::Store => return Err(error),
                    // What could not be done is among its problems, or is tried again.
                    Err(_) => true,
                    Ok(worked) => worked,
                };
            if !worked {
                let mut jobs = self.jobs.lock();
                self.bell.wait_for(&mut jobs, LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// The next job of the errand, for whoever works: with threads it has one of its own.
    pub(super) fn take_turn(&self, jobs: &mut Jobs, view: &View, limits: Limits) -> Take<'_> {
        if self.options.background_threads == 0 {
            return self.take_requested(jobs, view, limits);
        }
        if jobs.requested.holds { Take::Hold } else { Take::Nothing }
    }

    /// Does all of an errand's jobs, one after the other.
    fn run_errand(&self, errand: &Mutex<Errand>) {
        while errand.lock().end.is_none() && self.check_writable().is_ok() {
            let free = self.pool.free_space();
            let mut jobs = self.jobs.lock();
            let is_quiet = jobs.is_quiet(self);
            let limits = self.limits(self.job_room(free, jobs.admitted_bytes), is_quiet);
            let take = self.take_requested(&mut jobs, &self.view.load(), limits);
            jobs.requested.holds = matches!(take, Take::Hold);
            let Take::Job(running) = take else {
                self.bell.wait_for(&mut jobs, LOOK_AGAIN);
                continue;
            };
            drop(jobs);
            let done = catch_unwind(AssertUnwindSafe(|| self.carry_out(&running)));
            match done.unwrap_or_else(|_| Err(Error::Poisoned { cause: PANICKED.to_owned() })) {
                Err(error) if error.scope() == Scope::Store => self.fail(&error),
                // What could not be done is among its problems.
                Ok(_) | Err(_) => {}
            }
        }
        self.jobs.lock().requested.holds = false;
        self.ring();
    }

    /// Waits for the thread of the last errand: the database is closed, or the errand over.
    pub(crate) fn join_errand(&self) {
        let thread = self.jobs.lock().requested.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a compaction panicked");
        }
    }

    /// The next job of the errand.
    fn take_requested(&self, jobs: &mut Jobs, view: &View, limits: Limits) -> Take<'_> {
        let Some(errand) = jobs.requested.errand.clone() else { return Take::Nothing };
        let mut errand = errand.lock();
        if !errand.is_ready(view) {
            return Take::Nothing;
        }
        errand.measure(view);
        while let Some((kvs, _)) = errand.todo.front().cloned() {
            // One that was dropped is done.
            if let Some(tree) = view.trees.get(&kvs) {
                let aside = jobs.aside(kvs);
                match errand.next_in(tree, &tree.shape(&aside), limits, &aside.unreadable) {
                    Next::Job(plan) => {
                        let about = About::of(tree, &plan);
                        let running = self.admit(jobs, kvs, plan);
                        let (number, progress) = (running.number, Arc::clone(&running.progress));
                        errand.step = Some(Step { number, about, progress });
                        jobs.requested.rests = self.options.background_threads == 0;
                        return Take::Job(running);
                    }
                    Next::WaitForAll => return Take::Hold,
                    Next::WaitForLeaf => return Take::Nothing,
                    _ => {}
                }
            }
            errand.end_tree();
        }
        errand.finish(CompactionState::Done);
        self.bell.notify_all();
        Take::Nothing
    }

    /// Tells the errand how its job has ended.
    pub(super) fn note_requested(&self, running: &Running<'_>, done: &Result<()>) {
        let Job::Compact(_, plan) = &running.job else { return };
        if plan.why == Why::Requested
            && let Some(errand) = self.errand()
        {
            errand.lock().end_step(running.number, done);
        }
    }
}

/// Starts the thread of an errand, where threads work in the background.
pub(crate) fn start(store: &Arc<Store>, errand: &Arc<Mutex<Errand>>) {
    if store.options.background_threads == 0 {
        return;
    }
    // Of one that is over.
    store.join_errand();
    let (worker, task) = (Arc::clone(store), Arc::clone(errand));
    let builder = std::thread::Builder::new().name("db-requested".to_owned());
    match builder.spawn(move || worker.run_errand(&task)) {
        Ok(thread) => store.jobs.lock().requested.thread = Some(thread),
        Err(error) => {
            let cause = format!("no thread can be started for it: {error}");
            errand.lock().finish(CompactionState::Failed(cause));
        }
    }
}

impl Requested {
    /// A job is given back; one whose end nobody told has panicked.
    pub(super) fn give_back(&self, number: u64) {
        let Some(errand) = &self.errand else { return };
        let mut errand = errand.lock();
        if errand.step.take_if(|step| step.number == number).is_some() {
            errand.finish(CompactionState::Failed(PANICKED.to_owned()));
        }
    }
}

impl About {
    fn of(tree: &Tree, plan: &Plan) -> Self {
        let Some(at) = tree.leaves.iter().position(|leaf| leaf.id == plan.node) else {
            return Self::Root;
        };
        let is_input = |kvset: &&Arc<Kvset>| plan.inputs.contains(&kvset.meta().id);
        let bytes = tree.leaves[at].kvsets.iter().filter(is_input).map(bytes_of).sum();
        Self::Leaf { end: end_of(tree, at), bytes }
    }
}

impl Step {
    /// Of the bytes that it goes over, those that it is past.
    fn bytes_done(&self) -> u64 {
        let About::Leaf { bytes, .. } = self.about else { return 0 };
        let total = self.progress.entries_total.get().max(1);
        let entries = self.progress.entries.get().min(total);
        let done = u128::from(bytes) * u128::from(entries) / u128::from(total);
        u64::try_from(done).unwrap_or(bytes)
    }
}

impl Errand {
    fn new(number: u64, request: CompactionRequest, todo: VecDeque<(KvsId, Arc<str>)>) -> Self {
        let next = Some(request.from.clone().unwrap_or_default());
        Self {
            number,
            request,
            began: Instant::now(),
            at: None,
            todo,
            next,
            root_given_up: false,
            step: None,
            is_cancelled: false,
            bytes_total: None,
            bytes_done: 0,
            jobs: 0,
            read_bytes: 0,
            written_bytes: 0,
            problems: Vec::new(),
            problems_total: 0,
            end: None,
        }
    }

    /// Nothing newer was there when it was asked for.
    pub(crate) fn take_up_to(&mut self, at: Revision) {
        self.at = Some(at);
    }

    /// Ends it as soon as no job of it runs.
    pub(crate) fn cancel(&mut self) {
        self.is_cancelled = true;
        match &self.step {
            Some(step) => step.progress.cancel(),
            None => self.finish(CompactionState::Cancelled),
        }
    }

    /// Whether it may have a job: what it takes is in kvsets, and none of its jobs runs.
    fn is_ready(&self, view: &View) -> bool {
        let is_idle = self.end.is_none() && self.step.is_none();
        let flushed = |at: Revision| view.sealed.iter().all(|sealed| sealed.last > at);
        is_idle && self.at.is_some_and(flushed)
    }

    /// The next job, or what it waits for, in a tree; anything else: the tree is done.
    fn next_in(
        &mut self,
        tree: &Tree,
        shape: &TreeShape,
        limits: Limits,
        damaged: &BTreeSet<KvsetId>,
    ) -> Next {
        loop {
            let asked = self.asked(tree, damaged);
            let leaf = asked.leaf.map(|at| &tree.leaves[at]);
            match request::next(shape, limits, asked) {
                Next::PassLeaf => self.end_leaf(tree, leaf),
                Next::GiveUpRoot(obstacle) => {
                    self.tell(tree, None, obstacle);
                    self.root_given_up = true;
                }
                Next::GiveUpLeaf(obstacle) => {
                    self.tell(tree, leaf, obstacle);
                    self.end_leaf(tree, leaf);
                }
                other => return other,
            }
        }
    }

    /// What it asks of a tree now.
    fn asked<'a>(&self, tree: &Tree, damaged: &'a BTreeSet<KvsetId>) -> Asked<'a> {
        let is_old = |kvset: &Arc<Kvset>| Some(kvset.meta().min_revision) <= self.at;
        let newest = tree.root.iter().position(|kvset| is_old(kvset) && self.wants(kvset));
        let root = newest.map_or(0, |newest| tree.root.len() - newest);
        let at = self.next.as_ref().and_then(|next| place_of(tree, next));
        let leaf = at.map(|at| &tree.leaves[at]);
        let vblock_bytes = match leaf.map(|leaf| &*leaf.kvsets) {
            Some([only]) => only.vblock_lens().map(|(_, len)| len).sum(),
            _ => 0,
        };
        Asked {
            root: if self.root_given_up { 0 } else { root },
            leaf: at,
            is_old: leaf.is_some_and(|leaf| leaf.kvsets.iter().any(is_old)),
            vblock_bytes,
            damaged,
        }
    }

    /// Whether a kvset may hold keys of the range.
    fn wants(&self, kvset: &Arc<Kvset>) -> bool {
        let (meta, CompactionRequest { from, to, .. }) = (kvset.meta(), &self.request);
        from.as_ref().is_none_or(|from| *from <= meta.max_key)
            && to.as_ref().is_none_or(|to| meta.min_key < *to)
    }

    /// A leaf is as it should be, or cannot be made so.
    fn end_leaf(&mut self, tree: &Tree, leaf: Option<&Leaf>) {
        let Some(at) = leaf.and_then(|leaf| place_of(tree, &leaf.first_key)) else { return };
        self.bytes_done += tree.leaves[at].kvsets.iter().map(bytes_of).sum::<u64>();
        self.move_to(end_of(tree, at));
    }

    fn move_to(&mut self, end: Option<Bytes>) {
        let is_inside = |key: &Bytes| self.request.to.as_ref().is_none_or(|to| key < to);
        self.next = end.filter(is_inside);
    }

    /// The first tree is done.
    fn end_tree(&mut self) {
        self.todo.pop_front();
        self.next = Some(self.request.from.clone().unwrap_or_default());
        self.root_given_up = false;
    }

    fn end_step(&mut self, number: u64, done: &Result<()>) {
        let Some(step) = self.step.take_if(|step| step.number == number) else { return };
        self.read_bytes += step.progress.read_bytes.get();
        self.written_bytes += step.progress.written_bytes.get();
        if self.is_cancelled {
            self.finish(CompactionState::Cancelled);
            return;
        }
        match done {
            Ok(()) => self.jobs += 1,
            Err(Error::KvsDropped | Error::Closed) => {}
            Err(error) => {
                let kvs = self.todo.front().map_or("", |(_, name)| name);
                self.add_problem(format!("of KVS {kvs}: {}", error.with_sources()));
                self.root_given_up |= matches!(step.about, About::Root);
            }
        }
        if let About::Leaf { end, bytes } = step.about {
            self.bytes_done += bytes;
            self.move_to(end);
        }
    }

    /// Counts what there is to do, once.
    fn measure(&mut self, view: &View) {
        if self.bytes_total.is_some() {
            return;
        }
        let trees = self.todo.iter().filter_map(|(kvs, _)| view.trees.get(kvs));
        let wanted = trees.flat_map(|tree| tree.kvsets()).filter(|kvset| self.wants(kvset));
        self.bytes_total = Some(wanted.map(bytes_of).sum());
    }

    fn tell(&mut self, tree: &Tree, leaf: Option<&Leaf>, obstacle: Obstacle) {
        let place = leaf.map_or_else(
            || format!("the root of KVS {}", tree.name),
            |leaf| format!("the leaf of KVS {} from {} on", tree.name, KeyText(&leaf.first_key)),
        );
        self.add_problem(match obstacle {
            Obstacle::Damaged(kvset) => format!(
                "{place} is left alone: kvset {} cannot be read (millpond pool scrub names what is \
                 damaged)",
                kvset.get()
            ),
            Obstacle::NoRoom { need_bytes, room_bytes } => format!(
                "{place} is left as it is: to rewrite it takes {need_bytes} bytes, and there is room \
                 for {room_bytes}; delete data, or grow a volume"
            ),
        });
    }

    fn add_problem(&mut self, problem: String) {
        tracing::warn!(number = self.number, problem, "a part is not compacted as asked for");
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_TOLD {
            self.problems.push(problem);
        }
    }

    fn finish(&mut self, state: CompactionState) {
        if self.end.is_none() {
            let elapsed = self.began.elapsed();
            tracing::info!(
                number = self.number,
                state = state.as_str(),
                jobs = self.jobs,
                ?elapsed,
                problems = self.problems_total,
                "the compaction that was asked for is over"
            );
            self.end = Some((state, elapsed));
        }
    }

    fn info(&self, is_flushing: bool) -> CompactionInfo {
        let (state, elapsed) = self.end.clone().unwrap_or_else(|| {
            let state =
                if is_flushing { CompactionState::Flushing } else { CompactionState::Running };
            (state, self.began.elapsed())
        });
        let step = self.step.as_ref();
        let of_step = |of: fn(&Progress) -> u64| step.map_or(0, |step| of(&step.progress));
        let under_way = step.map_or(0, Step::bytes_done);
        // What was shadowed is gone, and need not be gone over.
        let gone = if state == CompactionState::Done { self.bytes_total } else { None };
        let bytes_done = (self.bytes_done + under_way).max(gone.unwrap_or(0));
        CompactionInfo {
            number: self.number,
            request: self.request.clone(),
            kvs: self.todo.front().map(|(_, name)| Arc::clone(name)).filter(|_| !state.is_over()),
            state,
            elapsed,
            // Others write meanwhile.
            bytes_total: self.bytes_total.unwrap_or(0).max(bytes_done),
            bytes_done,
            jobs: self.jobs,
            read_bytes: self.read_bytes + of_step(|progress| progress.read_bytes.get()),
            written_bytes: self.written_bytes + of_step(|progress| progress.written_bytes.get()),
            problems: self.problems.clone(),
            problems_total: self.problems_total,
        }
    }
}

/// The place of the leaf that holds a key.
fn place_of(tree: &Tree, key: &[u8]) -> Option<usize> {
    tree.leaves.partition_point(|leaf| *leaf.first_key <= *key).checked_sub(1)
}

/// The first key after a leaf.
fn end_of(tree: &Tree, at: usize) -> Option<Bytes> {
    tree.leaves.get(at + 1).map(|next| next.first_key.clone())
}

/// Bytes that a rewriting of it goes over.
fn bytes_of(kvset: &Arc<Kvset>) -> u64 {
    kvset.meta().kblock_bytes + kvset.meta().value_bytes
}
