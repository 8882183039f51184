//! Where the compaction that somebody has asked for is: which trees and leaves are done, what could
//! not be, and how it ended.

use super::super::ledger::Progress;
use crate::error::{Error, Result, Scope};
use crate::jobs::requested::info::{
    CompactionInfo, CompactionProblem, CompactionRequest, CompactionState, ProblemReason,
};
use crate::key::{KeyText, KvsId, KvsetId, Revision};
use crate::kvset::Kvset;
use crate::pick::request::{self, Asked, Next, Obstacle};
use crate::pick::{Limits, Plan, TreeShape};
use crate::shape::tree::{Leaf, Tree};
use crate::shape::view::View;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Problems that are told; the others are counted.
const PROBLEMS_TOLD: usize = 30;

/// See the module.
pub(crate) struct Errand {
    pub(super) number: u64,
    pub(super) request: CompactionRequest,
    began: Instant,
    /// What is newer is left alone; `None` until that is known.
    pub(super) at: Option<Revision>,
    /// The trees that are not done; the first one is under way.
    pub(super) todo: VecDeque<(KvsId, Arc<str>)>,
    /// Where the next leaf of that begins; `None`: its range is done.
    next: Option<Bytes>,
    root_given_up: bool,
    /// The job that runs.
    pub(super) step: Option<Step>,
    is_cancelled: bool,
    bytes_total: Option<u64>,
    bytes_done: u64,
    /// Bytes of what could not be done.
    bytes_left: u64,
    jobs: u64,
    read_bytes: u64,
    written_bytes: u64,
    problems: Vec<CompactionProblem>,
    problems_total: u64,
    pub(super) end: Option<(CompactionState, Duration)>,
}

/// A job of an errand.
pub(super) struct Step {
    pub(super) number: u64,
    pub(super) about: About,
    pub(super) progress: Arc<Progress>,
}

/// What a job of an errand is about.
pub(super) struct About {
    part: Part,
    /// Bytes that the job goes over.
    bytes: u64,
}

/// A part of a tree.
pub(super) enum Part {
    Root,
    Leaf {
        /// The first key after it.
        end: Option<Bytes>,
    },
    /// A leaf whose parts come next. If it cannot be split it is passed by.
    Split {
        end: Option<Bytes>,
    },
}

impl About {
    pub(super) fn of(tree: &Tree, plan: &Plan) -> Self {
        let at = tree.leaves.iter().position(|leaf| leaf.id == plan.node);
        let (kvsets, part) = match at.map(|at| (&tree.leaves[at].kvsets, end_of(tree, at))) {
            None => (&tree.root, Part::Root),
            Some((kvsets, end)) if plan.action.reshapes() => (kvsets, Part::Split { end }),
            Some((kvsets, end)) => (kvsets, Part::Leaf { end }),
        };
        let is_input = |kvset: &&Arc<Kvset>| plan.inputs.contains(&kvset.meta().id);
        Self { part, bytes: kvsets.iter().filter(is_input).map(bytes_of).sum() }
    }
}

impl Step {
    /// Of the bytes that it goes over, those that it is past.
    fn bytes_done(&self) -> u64 {
        let About { part: Part::Leaf { .. }, bytes } = self.about else { return 0 };
        let total = self.progress.entries_total.get().max(1);
        let entries = self.progress.entries.get().min(total);
        let done = u128::from(bytes) * u128::from(entries) / u128::from(total);
        u64::try_from(done).unwrap_or(bytes)
    }
}

impl Errand {
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn new(
        number: u64,
        request: CompactionRequest,
        todo: VecDeque<(KvsId, Arc<str>)>,
    ) -> Self {
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
            bytes_left: 0,
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
    pub(super) fn is_ready(&self, view: &View) -> bool {
        let is_idle = self.end.is_none() && self.step.is_none();
        let flushed = |at: Revision| view.sealed.iter().all(|sealed| sealed.last > at);
        is_idle && self.at.is_some_and(flushed)
    }

    /// The next job, or what it waits for, in a tree; anything else: the tree is done.
    pub(super) fn next_in(
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
                Next::PassLeaf => self.bytes_done += self.end_leaf(tree, leaf),
                Next::GiveUpRoot(obstacle) => {
                    self.tell(tree, None, obstacle);
                    self.root_given_up = true;
                    let wanted = tree.root.iter().filter(|kvset| self.wants(kvset));
                    self.bytes_left += wanted.map(bytes_of).sum::<u64>();
                }
                Next::GiveUpLeaf(obstacle) => {
                    self.tell(tree, leaf, obstacle);
                    self.bytes_left += self.end_leaf(tree, leaf);
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

    /// A leaf is as it should be, or cannot be made so. Returns its bytes.
    fn end_leaf(&mut self, tree: &Tree, leaf: Option<&Leaf>) -> u64 {
        let Some(at) = leaf.and_then(|leaf| place_of(tree, &leaf.first_key)) else { return 0 };
        self.move_to(end_of(tree, at));
        tree.leaves[at].kvsets.iter().map(bytes_of).sum()
    }

    fn move_to(&mut self, end: Option<Bytes>) {
        let is_inside = |key: &Bytes| self.request.to.as_ref().is_none_or(|to| key < to);
        self.next = end.filter(is_inside);
    }

    /// The first tree is done.
    pub(super) fn end_tree(&mut self) {
        self.todo.pop_front();
        self.next = Some(self.request.from.clone().unwrap_or_default());
        self.root_given_up = false;
    }

    /// A job of it has ended.
    pub(super) fn end_step(&mut self, number: u64, done: &Result<()>) {
        let Some(step) = self.step.take_if(|step| step.number == number) else { return };
        self.read_bytes += step.progress.read_bytes.get();
        self.written_bytes += step.progress.written_bytes.get();
        if self.is_cancelled {
            self.finish(CompactionState::Cancelled);
            return;
        }
        let kvs = self.todo.front().map_or_else(String::new, |(_, name)| name.to_string());
        let values_left = step.progress.values_left.get();
        if values_left > 0 {
            let detail = format!(
                "of KVS {kvs}: values that cannot be read, and stay where they are: {values_left}; \
                 put their keys again or delete them (millpond pool scrub names them), then ask again"
            );
            self.add_problem(ProblemReason::Unreadable, detail);
        }
        match done {
            Ok(()) => self.jobs += 1,
            Err(Error::KvsDropped | Error::Closed) => {}
            Err(error) => {
                let detail = format!("of KVS {kvs}: {}", error.with_sources());
                self.add_problem(reason_of(error), detail);
                self.bytes_left += step.about.bytes;
                self.root_given_up |= matches!(step.about.part, Part::Root);
            }
        }
        match step.about.part {
            Part::Leaf { end } => {
                self.bytes_done += if done.is_ok() { step.about.bytes } else { 0 };
                self.move_to(end);
            }
            Part::Split { end } if done.is_err() => self.move_to(end),
            Part::Split { .. } | Part::Root => {}
        }
    }

    /// Counts what there is to do, once.
    pub(super) fn measure(&mut self, view: &View) {
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
        let (reason, detail) = match obstacle {
            Obstacle::Damaged(kvset) => (
                ProblemReason::Unreadable,
                format!(
                    "{place} is left alone: kvset {} cannot be read (millpond pool scrub names \
                     what is damaged)",
                    kvset.get()
                ),
            ),
            Obstacle::NoRoom { need_bytes, room_bytes } => (
                ProblemReason::NoRoom,
                format!(
                    "{place} is left as it is: to rewrite it takes {need_bytes} bytes, and there \
                     is room for {room_bytes}; delete data, end what holds space (millpond \
                     snapshots), or grow a volume (millpond pool grow), and ask again"
                ),
            ),
        };
        self.add_problem(reason, detail);
    }

    /// The first tree is gone. Of everything that is there nothing is left undone by that; one that
    /// was named is not what it was asked to be.
    pub(super) fn lose_tree(&mut self) {
        let Some(kvs) = &self.request.kvs else { return };
        let detail = format!("KVS {kvs} was dropped meanwhile, and all it held with it");
        self.add_problem(ProblemReason::KvsDropped, detail);
    }

    fn add_problem(&mut self, reason: ProblemReason, detail: String) {
        let (number, kind) = (self.number, reason.as_str());
        tracing::warn!(number, reason = kind, detail, "a part is not compacted as asked for");
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_TOLD {
            self.problems.push(CompactionProblem { reason, detail });
        }
    }

    /// Every tree has been gone over.
    pub(super) fn finish_round(&mut self) {
        let is_whole = self.problems_total == 0;
        let done = if is_whole { CompactionState::Done } else { CompactionState::Incomplete };
        self.finish(done);
    }

    pub(crate) fn finish(&mut self, state: CompactionState) {
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

    pub(super) fn info(&self, is_flushing: bool) -> CompactionInfo {
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
            bytes_total: self.bytes_total.unwrap_or(0).max(bytes_done + self.bytes_left),
            bytes_done,
            jobs: self.jobs,
            read_bytes: self.read_bytes + of_step(|progress| progress.read_bytes.get()),
            written_bytes: self.written_bytes + of_step(|progress| progress.written_bytes.get()),
            problems: self.problems.clone(),
            problems_total: self.problems_total,
        }
    }
}

/// Of which kind a job's failure is.
fn reason_of(error: &Error) -> ProblemReason {
    match error {
        Error::Full { .. } | Error::LogFull { .. } | Error::Pool(mpool::Error::Full { .. }) => {
            ProblemReason::NoRoom
        }
        error if error.scope() == Scope::Object => ProblemReason::Unreadable,
        _ => ProblemReason::Failed,
    }
}

/// The place of the leaf that holds a key.
fn place_of(tree: &Tree, key: &[u8]) -> Option<usize> {
    tree.leaves.place_of(key)
}

/// The first key after a leaf.
fn end_of(tree: &Tree, at: usize) -> Option<Bytes> {
    tree.leaves.get(at + 1).map(|next| next.first_key.clone())
}

/// Bytes that a rewriting of it goes over.
fn bytes_of(kvset: &Arc<Kvset>) -> u64 {
    kvset.meta().kblock_bytes + kvset.meta().value_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a leaf that is split come next; one that cannot be split is passed by.
    #[test]
    fn after_a_split_the_parts_of_the_leaf_are_next() {
        let todo = VecDeque::from([(KvsId::new(1), "k".into())]);
        let mut errand = Errand::new(1, CompactionRequest::default(), todo);
        let mut split = |done: &Result<()>| {
            let about = About { part: Part::Split { end: Some("m".into()) }, bytes: 5 };
            errand.step = Some(Step { number: 7, about, progress: Arc::default() });
            errand.end_step(7, done);
            (errand.next.clone(), errand.jobs, errand.problems_total)
        };
        assert_eq!(split(&Ok(())), (Some(Bytes::new()), 1, 0));
        let refused = Error::Poisoned { cause: "a test".to_owned() };
        assert_eq!(split(&Err(refused)), (Some("m".into()), 1, 1));
    }
}
