//! The gate where the clients wait for each other: all of them begin at once, or none does.

use std::sync::{Condvar, Mutex, MutexGuard};

/// Why a lock is never poisoned.
const SOUND: &str = "no holder of this lock can panic";

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    verdict: Option<Verdict>,
}

/// What those who wait are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Begin,
    /// Not all of them could be started.
    GiveUp,
}

impl Gate {
    /// A client's part: waits for the verdict.
    pub(crate) fn pass(&self) -> Verdict {
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        loop {
            if let Some(verdict) = state.verdict {
                return verdict;
            }
            state = self.changed.wait(state).expect(SOUND);
        }
    }

    /// Waits until so many clients are here.
    pub(crate) fn wait_for(&self, clients: usize) {
        let waiting = self.changed.wait_while(self.lock(), |state| state.waiting < clients);
        drop(waiting.expect(SOUND));
    }

    pub(crate) fn open(&self, verdict: Verdict) {
        self.lock().verdict = Some(verdict);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(SOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_told_the_same() {
        for verdict in [Verdict::Begin, Verdict::GiveUp] {
            let gate = Gate::default();
            std::thread::scope(|scope| {
                let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| gate.pass())).collect();
                gate.wait_for(3);
                assert!(clients.iter().all(|client| !client.is_finished()));
                gate.open(verdict);
                for client in clients {
                    assert_eq!(client.join().unwrap(), verdict);
                }
            });
        }
    }
}
