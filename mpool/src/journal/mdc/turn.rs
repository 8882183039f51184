//! The append lock, which knows whether the background has it.
//!
//! An append that waits for another append waits for its turn; one that waits for the background
//! waits for a rewriting, and that is counted (`mdc_wait`), as is how long the background holds the
//! lock (`mdc_hold`).

use crate::metrics::{PoolMetrics, histogram::Start};
use parking_lot::{Mutex, MutexGuard};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

pub(crate) struct Turn<T> {
    inner: Mutex<T>,
    /// A hint for the metric; orders nothing.
    in_background: AtomicBool,
    metrics: Arc<PoolMetrics>,
}

impl<T> Turn<T> {
    pub(crate) fn new(inner: T, metrics: &Arc<PoolMetrics>) -> Self {
        let metrics = Arc::clone(metrics);
        Self { inner: Mutex::new(inner), in_background: AtomicBool::new(false), metrics }
    }

    /// For an append, or a look.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(free) = self.inner.try_lock() {
            return free;
        }
        let start = Start::now();
        let held_up = self.in_background.load(Relaxed);
        let guard = self.inner.lock();
        if held_up {
            self.metrics.mdc_wait.end(start);
        }
        guard
    }

    /// For a step of a rewriting that keeps appends out.
    pub(crate) fn background<R>(&self, step: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = self.inner.lock();
        let start = Start::now();
        self.in_background.store(true, Relaxed);
        let result = step(&mut guard);
        self.in_background.store(false, Relaxed);
        drop(guard);
        self.metrics.mdc_hold.end(start);
        result
    }
}
