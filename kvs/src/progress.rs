//! How far an open is, for those who wait for it.
//!
//! An open takes as long as the log that it replays. It says so once a second in the log, and at
//! any time here.

use crate::metrics::Counter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the open of a database has done so far. Clone = another handle of the same.
#[derive(Clone, Debug, Default)]
pub struct OpenProgress {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    log_bytes: AtomicU64,
    log_bytes_done: AtomicU64,
    kvsets: AtomicU64,
    kvsets_open: Counter,
}

impl OpenProgress {
    /// Bytes of log to be replayed, at most, and how many are.
    pub fn log(&self) -> (u64, u64) {
        // Relaxed, as all here: figures for people.
        let all = self.shared.log_bytes.load(Ordering::Relaxed);
        (all, self.shared.log_bytes_done.load(Ordering::Relaxed).min(all))
    }

    /// Kvsets to be opened, and how many are.
    pub fn kvsets(&self) -> (u64, u64) {
        let all = self.shared.kvsets.load(Ordering::Relaxed);
        (all, self.shared.kvsets_open.get().min(all))
    }

    /// In words, of what is at work now; `None` before there is anything to tell.
    pub fn text(&self) -> Option<String> {
        let of = |(all, done): (u64, u64)| (all > 0).then(|| (done * 100 / all, all));
        if let Some((percent, all)) = of(self.log()) {
            let mib = all.div_ceil(1 << 20);
            return Some(format!("replaying the log: {percent} % of {mib} MiB"));
        }
        of(self.kvsets()).map(|(percent, all)| format!("opening kvsets: {percent} % of {all}"))
    }

    pub(crate) fn expect_kvsets(&self, count: u64) {
        self.shared.kvsets.store(count, Ordering::Relaxed);
    }

    pub(crate) fn opened_kvset(&self) {
        self.shared.kvsets_open.add(1);
    }

    pub(crate) fn expect_log(&self, bytes: u64) {
        self.shared.log_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn reached_log(&self, bytes: u64) {
        self.shared.log_bytes_done.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_words() {
        let progress = OpenProgress::default();
        assert_eq!(progress.text(), None);
        progress.expect_kvsets(4);
        progress.opened_kvset();
        assert_eq!(progress.text().unwrap(), "opening kvsets: 25 % of 4");
        progress.expect_log(300 << 20);
        progress.clone().reached_log(100 << 20);
        assert_eq!(progress.text().unwrap(), "replaying the log: 33 % of 300 MiB");
        progress.reached_log(400 << 20);
        assert_eq!(progress.log(), (300 << 20, 300 << 20));
    }
}
