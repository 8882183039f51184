//! The thread of a compaction that was asked for, and who waits for its end.

use super::Work;
use crate::error::{Error, Result, Scope};
use crate::jobs::requested::Errand;
use crate::jobs::requested::info::CompactionState;
use crate::jobs::{LOOK_AGAIN, PANICKED};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

impl Work {
    /// Works, or waits for the workers, until an errand is over.
    pub(crate) fn wait_for_errand(&self, errand: &Mutex<Errand>) -> Result<()> {
        loop {
            let rings = self.store.life.bell.rings();
            if errand.lock().is_over() {
                return Ok(());
            }
            self.store.life.check_writable()?;
            let worked = self.is_alone()
                && match self.step(1) {
                    Err(error) if error.scope() == Scope::Store => return Err(error),
                    // What could not be done is among its problems, or is tried again.
                    Err(_) => true,
                    Ok(worked) => worked,
                };
            if !worked {
                self.store.life.bell.wait(rings, LOOK_AGAIN);
            }
        }
    }

    /// Does all of an errand's jobs, one after the other.
    fn run_errand(&self, errand: &Mutex<Errand>) {
        while !errand.lock().is_over() && self.store.life.check_writable().is_ok() {
            let rings = self.store.life.bell.rings();
            let step = || {
                let done = self.jobs.step_errand();
                self.pass_on(self.jobs.take_news())?;
                done
            };
            let done = catch_unwind(AssertUnwindSafe(step));
            match done.unwrap_or_else(|_| Err(Error::Poisoned { cause: PANICKED.to_owned() })) {
                Ok(false) => self.store.life.bell.wait(rings, LOOK_AGAIN),
                Err(error) if error.scope() == Scope::Store => self.store.life.fail_shape(&error),
                // What could not be done is among its problems.
                Ok(true) | Err(_) => {}
            }
        }
        self.jobs.leave_errand();
    }

    /// Starts the thread of an errand, where threads work in the background.
    pub(crate) fn start_errand(self: &Arc<Self>, errand: &Arc<Mutex<Errand>>) {
        if self.is_alone() {
            return;
        }
        // Of one that is over.
        self.join_errand();
        let (worker, task) = (Arc::clone(self), Arc::clone(errand));
        let builder = std::thread::Builder::new().name("db-requested".to_owned());
        match builder.spawn(move || worker.run_errand(&task)) {
            Ok(thread) => *self.requested.lock() = Some(thread),
            Err(error) => {
                let cause = format!("no thread can be started for it: {error}");
                errand.lock().finish(CompactionState::Failed(cause));
            }
        }
    }

    /// Waits for the thread of the last errand: the database is closed, or the errand over.
    pub(crate) fn join_errand(&self) {
        let thread = self.requested.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a compaction panicked");
        }
    }
}
