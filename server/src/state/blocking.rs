//! Where blocking calls of the engine run: lanes beside the async workers.
//!
//! Scans, administrative calls, large batches and scrapes may wait for the drive or take long, and
//! none of them shall wait for another kind: each has a lane of its own. A lane runs at most
//! `threads` calls at a time on the runtime's blocking threads; at most `queue_max` more wait for
//! one, and whoever comes after is told so at once, as is who has waited for `wait_max`. Work that
//! has begun is finished even if its client has gone: its permit travels with it, so that the bound
//! holds all the same.

use crate::api::problem::Problem;
use crate::api::rejected::Rejected;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Administrative calls at a time, the list of KVSs among them.
const ADMINISTRATION_THREADS: usize = 4;

/// Batches decoded at a time: it is work for a processor, and others need some, too.
const BATCH_THREADS: usize = 2;

/// Scrapes at a time.
const SCRAPE_THREADS: usize = 2;

/// All lanes.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Pages and streams.
    pub scans: Blocking,
    /// KVSs and the pool.
    pub administration: Blocking,
    /// Large batches, while they are decoded.
    pub batches: Blocking,
    /// `/metrics`.
    pub scrapes: Blocking,
}

impl Lanes {
    /// Lanes with so many threads for scans; each has `queue_max` places to wait.
    pub fn new(scan_threads: usize, queue_max: usize, wait_max: Duration) -> Self {
        let lane = |what, threads| Blocking::new(what, (threads, queue_max), wait_max);
        Self {
            scans: lane("scans", scan_threads),
            administration: lane("administrative calls", ADMINISTRATION_THREADS),
            batches: lane("batches", BATCH_THREADS),
            scrapes: lane("scrapes", SCRAPE_THREADS),
        }
    }

    /// Threads of all lanes together.
    pub fn threads(scan_threads: usize) -> usize {
        scan_threads + ADMINISTRATION_THREADS + BATCH_THREADS + SCRAPE_THREADS
    }
}

/// One lane. Clone = another handle.
#[derive(Clone, Debug)]
pub struct Blocking {
    what: &'static str,
    threads: usize,
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    queue_max: usize,
    wait_max: Duration,
}

/// Why work was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue of the lane is full.
    QueueFull {
        /// What runs there.
        what: &'static str,
        /// Places of the queue.
        queue_max: usize,
    },
    /// Its turn did not come in time.
    Waited {
        /// What runs there.
        what: &'static str,
        /// How long it waited.
        wait_max: Duration,
    },
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = match refused {
            Refused::QueueFull { what, queue_max } => {
                format!("{queue_max} {what} wait already; try again")
            }
            Refused::Waited { what, wait_max } => format!(
                "{what} before this one took {} s (option request_timeout); nothing was begun; \
                 try again",
                wait_max.as_secs()
            ),
        };
        Self::overloaded(Rejected::BlockingQueue.as_str(), detail)
    }
}

/// Who may be turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A new request: refused when the queue is full.
    Refusable,
    /// The next step of something already begun, such as a stream: waits its turn.
    Begun,
}

impl Blocking {
    /// A lane for `what`, of so many threads and places to wait, each for at most `wait_max`.
    pub fn new(
        what: &'static str,
        (threads, queue_max): (usize, usize),
        wait_max: Duration,
    ) -> Self {
        assert!(threads > 0, "a lane without threads never runs anything");
        Self {
            what,
            wait_max,
            threads,
            running: Arc::new(Semaphore::new(threads)),
            waiting: Arc::new(AtomicUsize::new(0)),
            queue_max,
        }
    }

    /// Runs `work` on a blocking thread, when its turn has come.
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Patience,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        Ok(self.turn(patience).await?.run(work).await)
    }

    /// Waits for a turn.
    pub async fn turn(&self, patience: Patience) -> Result<Turn, Refused> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(Turn { permit });
        }
        let _place = self.wait_place(patience)?;
        let turn = Arc::clone(&self.running).acquire_owned();
        let permit = match patience {
            Patience::Begun => turn.await,
            Patience::Refusable => {
                let Self { what, wait_max, .. } = *self;
                let waited = tokio::time::timeout(wait_max, turn).await;
                waited.map_err(|_elapsed| Refused::Waited { what, wait_max })?
            }
        };
        Ok(Turn { permit: permit.expect("the semaphore is never closed") })
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.threads - self.running.available_permits()
    }

    fn wait_place(&self, patience: Patience) -> Result<Place<'_>, Refused> {
        // Relaxed: the count bounds a queue and publishes nothing.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place { waiting: &self.waiting };
        if patience == Patience::Refusable && before >= self.queue_max {
            let Self { what, queue_max, .. } = *self;
            return Err(Refused::QueueFull { what, queue_max });
        }
        Ok(place)
    }
}

/// The right to a thread of a lane.
#[must_use = "dropping this gives the turn to the next"]
pub struct Turn {
    permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Runs `work` on a blocking thread.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let outcome = tokio::task::spawn_blocking(move || {
            let _permit = self.permit;
            work()
        });
        match outcome.await {
            Ok(value) => value,
            // The panic goes on in the request that asked for the work, which answers 500.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

struct Place<'a> {
    waiting: &'a AtomicUsize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const WAIT_MAX: Duration = Duration::from_secs(30);

    fn lane(threads: usize, queue_max: usize) -> Blocking {
        Blocking::new("tests", (threads, queue_max), WAIT_MAX)
    }

    #[tokio::test]
    async fn work_beyond_the_queue_is_refused_and_begun_work_waits() {
        let pool = lane(1, 1);
        let (release, gate) = mpsc::channel::<()>();
        let (entered, inside) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(Patience::Refusable, move || {
                    entered.send(()).unwrap();
                    gate.recv().unwrap();
                    1
                })
                .await
            }
        });
        inside.await.unwrap();
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Patience::Refusable, || 2).await }
        });
        while pool.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let full = Refused::QueueFull { what: "tests", queue_max: 1 };
        assert_eq!(pool.run(Patience::Refusable, || 3).await, Err(full));
        let begun = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Patience::Begun, || 4).await }
        });
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(1));
        assert_eq!(second.await.unwrap(), Ok(2));
        assert_eq!(begun.await.unwrap(), Ok(4));
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller_and_frees_its_thread() {
        let pool = lane(1, 0);
        let doomed = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Patience::Refusable, || panic!("as planned")).await }
        });
        assert!(doomed.await.unwrap_err().is_panic());
        assert_eq!(pool.run(Patience::Begun, || 5).await, Ok(5));
    }

    /// A batch behind slow scans used to wait without an end and without an error.
    #[tokio::test]
    async fn who_waits_too_long_is_told() {
        let wait_max = Duration::from_millis(1);
        let pool = Blocking::new("tests", (1, 1), wait_max);
        let (release, gate) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Patience::Begun, move || gate.blocking_recv().is_ok()).await }
        });
        while pool.running.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waited = Refused::Waited { what: "tests", wait_max };
        assert_eq!(pool.run(Patience::Refusable, || true).await, Err(waited));
        let problem = Problem::from(waited);
        assert_eq!(problem.stall, Some("blocking_queue"));
        assert!(problem.detail.contains("tests before this one took"), "{}", problem.detail);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }
}
