//! Where blocking calls of the engine run: a bounded pool beside the async workers.
//!
//! Cursors, creating and dropping KVSs and opening the store may wait for the drive. They run on
//! the runtime's blocking threads, at most `threads` at a time; at most `queue_max` more wait for
//! one, and whoever comes after is told so at once rather than after a timeout. Work that has
//! begun is finished even if its client has gone: its permit travels with it, so that the bound
//! holds all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// See the module. Clone = another handle.
#[derive(Clone, Debug)]
pub struct Blocking {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    queue_max: usize,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Who may be turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A new request: refused when the queue is full.
    Refusable,
    /// The next step of something already begun, such as a stream: waits its turn.
    Begun,
}

impl Blocking {
    /// A pool of `threads`, with `queue_max` places to wait.
    pub fn new(threads: usize, queue_max: usize) -> Self {
        assert!(threads > 0, "a pool without threads never runs anything");
        Self {
            running: Arc::new(Semaphore::new(threads)),
            waiting: Arc::new(AtomicUsize::new(0)),
            queue_max,
        }
    }

    /// Runs `work` on a blocking thread.
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Patience,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueueFull> {
        let running = Arc::clone(&self.running);
        let permit = if let Ok(permit) = Arc::clone(&running).try_acquire_owned() {
            permit
        } else {
            let _place = self.wait_place(patience)?;
            running.acquire_owned().await.expect("the semaphore is never closed")
        };
        let outcome = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await;
        match outcome {
            Ok(value) => Ok(value),
            // The panic goes on in the request that asked for the work, which answers 500.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn wait_place(&self, patience: Patience) -> Result<Place<'_>, QueueFull> {
        // Relaxed: the count bounds a queue and publishes nothing.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place { waiting: &self.waiting };
        if patience == Patience::Refusable && before >= self.queue_max {
            return Err(QueueFull);
        }
        Ok(place)
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

    #[tokio::test]
    async fn work_beyond_the_queue_is_refused_and_begun_work_waits() {
        let pool = Blocking::new(1, 1);
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
        assert_eq!(pool.run(Patience::Refusable, || 3).await, Err(QueueFull));
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
        let pool = Blocking::new(1, 0);
        let doomed = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Patience::Refusable, || panic!("as planned")).await }
        });
        assert!(doomed.await.unwrap_err().is_panic());
        assert_eq!(pool.run(Patience::Begun, || 5).await, Ok(5));
    }
}
