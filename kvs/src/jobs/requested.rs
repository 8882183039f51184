//! The compaction that was requested last: how far it is, and its next job.
//!
//! What comes next in a tree is decided by a rule of its own (`pick::request`). Here it is
//! remembered which trees and leaves are done, and the jobs are taken: one at a time, by a thread
//! of its own, so that what is due by itself has all of its threads. Where nothing runs in the
//! background each caller of `step` takes them in turn: after one of them the errand rests
//! until another one was begun or nothing else is due. So neither starves the other.

mod errand;
pub(crate) mod info;

pub(crate) use errand::Errand;

use super::plan::Sight;
use super::{Job, Jobs, PANICKED, Running};
use crate::error::{Error, Result};
use crate::jobs::requested::info::{CompactionInfo, CompactionRequest, CompactionState};
use crate::key::KvsId;
use crate::pick::request::Next;
use crate::pick::{Limits, Plan, Why};
use errand::{About, Step};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// What the jobs remember of the errand.
#[derive(Default)]
pub(super) struct Requested {
    /// The last one.
    errand: Option<Arc<Mutex<Errand>>>,
    begun: u64,
    /// Others go first.
    pub(super) rests: bool,
    /// Nothing else may begin, so that what runs comes to its end.
    pub(super) holds: bool,
}

/// Whether there is a job to be had.
pub(super) enum Take<'a> {
    Job(Running<'a>),
    /// Nothing else may begin either, so that what runs comes to its end.
    Hold,
    Nothing,
    /// What was decided on has changed.
    Again,
}

impl Jobs {
    /// Begins an errand over these trees.
    pub(crate) fn begin_errand(
        &self,
        request: CompactionRequest,
        todo: VecDeque<(KvsId, Arc<str>)>,
    ) -> Result<Arc<Mutex<Errand>>> {
        let mut jobs = self.table.lock();
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
        self.table.lock().requested.errand.clone()
    }

    /// How far it is; what keeps the store from writing ends it.
    pub(crate) fn errand_info(&self, errand: &Mutex<Errand>) -> CompactionInfo {
        let flushing =
            |at| self.store.shape.view.load().sealed.iter().any(|sealed| sealed.last <= at);
        let mut errand = errand.lock();
        if let Err(error) = self.store.life.check_writable() {
            errand.finish(CompactionState::Failed(error.to_string()));
        }
        let is_flushing = errand.at.is_none_or(flushing);
        errand.info(is_flushing)
    }

    /// The next job of the errand, for a caller of `step`: none where the errand has its thread.
    pub(super) fn take_turn(&self, sight: &Sight) -> Take<'_> {
        if self.store.options.background_threads == 0 {
            return self.take_requested(sight, sight.limits);
        }
        if sight.holds { Take::Hold } else { Take::Nothing }
    }

    /// Does the next job of an errand, on the errand's own thread. `false`: not yet, there is none
    /// before the next ring of the bell.
    pub(crate) fn step_errand(&self) -> Result<bool> {
        let sight = self.sight();
        let limits = Limits { room_bytes: sight.room_bytes, ..sight.limits };
        let take = self.take_requested(&sight, limits);
        self.table.lock().requested.holds = matches!(take, Take::Hold);
        match take {
            Take::Job(running) => self.carry_out(&running),
            Take::Again => Ok(true),
            Take::Hold | Take::Nothing => Ok(false),
        }
    }

    /// The errand's thread does nothing more.
    pub(crate) fn leave_errand(&self) {
        self.table.lock().requested.holds = false;
        self.store.life.bell.ring();
    }

    /// The next job of the errand.
    fn take_requested(&self, sight: &Sight, limits: Limits) -> Take<'_> {
        let Some(shared) = &sight.errand else { return Take::Nothing };
        let found = {
            let mut errand = shared.lock();
            if !errand.is_ready(&sight.view) {
                return Take::Nothing;
            }
            errand.measure(&sight.view);
            next_of(&mut errand, sight, limits)
        };
        let (kvs, plan, about) = match found {
            Found::Job(found) => *found,
            Found::Nothing(take) => return take,
            Found::End => {
                self.store.life.bell.ring();
                return Take::Nothing;
            }
        };
        // In this order, as where a job is given back.
        let mut jobs = self.table.lock();
        let mut errand = shared.lock();
        if !sight.is_of(&jobs) || !errand.is_ready(&sight.view) {
            return Take::Again;
        }
        let running = self.admit(&mut jobs, kvs, plan);
        let (number, progress) = (running.number, Arc::clone(&running.progress));
        errand.step = Some(Step { number, about, progress });
        jobs.requested.rests = self.store.options.background_threads == 0;
        Take::Job(running)
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

/// What comes next in an errand.
enum Found<'a> {
    Job(Box<(KvsId, Plan, About)>),
    Nothing(Take<'a>),
    End,
}

/// Goes on to the next job of an errand, from tree to tree.
fn next_of<'a>(errand: &mut Errand, sight: &Sight, limits: Limits) -> Found<'a> {
    while let Some((kvs, _)) = errand.todo.front().cloned() {
        if let Some(tree) = sight.view.trees.get(&kvs) {
            let aside = sight.aside(kvs);
            match errand.next_in(tree, &tree.shape(&aside), limits, &aside.unreadable) {
                Next::Job(plan) => {
                    let about = About::of(tree, &plan);
                    return Found::Job(Box::new((kvs, plan, about)));
                }
                Next::WaitForAll => return Found::Nothing(Take::Hold),
                Next::WaitForLeaf => return Found::Nothing(Take::Nothing),
                _ => {}
            }
        } else {
            errand.lose_tree();
        }
        errand.end_tree();
    }
    errand.finish_round();
    Found::End
}

impl Requested {
    /// The last one.
    pub(super) fn errand(&self) -> Option<Arc<Mutex<Errand>>> {
        self.errand.clone()
    }

    /// A job is given back. Its errand still has the step only if the job has panicked.
    pub(super) fn give_back(&self, number: u64) {
        let Some(errand) = &self.errand else { return };
        let mut errand = errand.lock();
        if errand.step.take_if(|step| step.number == number).is_some() {
            errand.finish(CompactionState::Failed(PANICKED.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::jobs::requested::info::ProblemReason;
    use crate::options::{Durability, Options};
    use mpool::Pool;
    use mpool_sim::SimDevice;

    /// "Done" was all that was said, though there was no room to do anything.
    #[test]
    fn what_has_no_room_is_not_done_and_says_what_helps() {
        let options = Options { background_threads: 0, ..Options::default() };
        let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
        let db = Database::open_pool(pool, options).unwrap();
        let kvs = db.create_kvs("k").unwrap();
        let write = |byte| {
            for n in 0..100_u8 {
                kvs.put(&[n], &[byte; 1000], Durability::Off).unwrap();
            }
            db.flush().unwrap();
        };
        let ask = || db.start_compaction(CompactionRequest::default()).unwrap();
        let jobs = &db.work().jobs;
        let cramped = || {
            let sight = jobs.sight();
            let limits = Limits { room_bytes: 1, ..sight.limits };
            assert!(matches!(jobs.take_requested(&sight, limits), Take::Nothing));
        };
        let check = |info: &CompactionInfo, places: &[&str]| {
            assert_eq!((&info.state, info.jobs), (&CompactionState::Incomplete, 0), "{info:?}");
            assert!(!info.had_nothing_to_do());
            assert_eq!(info.problems_total, places.len() as u64, "{info:?}");
            for (problem, place) in info.problems.iter().zip(places) {
                assert_eq!(problem.reason, ProblemReason::NoRoom);
                for part in [place, "there is room for", "millpond snapshots", "pool grow"] {
                    assert!(problem.detail.contains(part), "{part}: {}", problem.detail);
                }
            }
        };
        for byte in 0..2 {
            write(byte);
        }
        let of_root = ask();
        cramped();
        check(&of_root.info(), &["the root of KVS k"]);
        let info = of_root.info();
        assert_eq!(info.bytes_done, 0, "nothing was gone over: {info:?}");
        assert!(info.bytes_total > 200_000, "{info:?}");
        // With room it is done, and then there is nothing left to do.
        assert_eq!(ask().wait().unwrap().state, CompactionState::Done);
        let again = ask();
        cramped();
        assert!(again.info().had_nothing_to_do(), "{:?}", again.info());
        // The root goes to the leaf, and then there is no room to rewrite that: all was told to
        // be gone over.
        write(2);
        let of_leaf = ask();
        let Take::Job(spill) = jobs.take_requested(&jobs.sight(), jobs.sight().limits) else {
            unreachable!("the root is spilled");
        };
        jobs.carry_out(&spill).unwrap();
        drop(spill);
        cramped();
        let info = of_leaf.info();
        assert_eq!((&info.state, info.jobs), (&CompactionState::Incomplete, 1), "{info:?}");
        assert_eq!(info.bytes_done, 0, "the leaf was left as it is: {info:?}");
        assert!(info.bytes_total > 200_000, "{info:?}");
    }
}
