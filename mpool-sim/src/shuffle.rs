//! A door that lets concurrent callers in by seeded lot, not in the order of their arrival.
//!
//! A drive may serve concurrent appends in any order; so do the devices of the tests. A caller
//! alone passes at once, and draws nothing, so that runs with one thread stay reproducible.

use super::Seeded;
use parking_lot::{Condvar, Mutex};

/// The door.
pub struct Shuffle {
    state: Mutex<State>,
    turn: Condvar,
}

struct State {
    seeded: Seeded,
    waiting: Vec<u64>,
    tickets: u64,
    /// Who may go in, or is in.
    chosen: Option<u64>,
}

/// Being inside; leaving lets the next one in.
#[must_use = "the door closes when this is dropped"]
pub struct Inside<'a>(&'a Shuffle);

impl Default for Shuffle {
    fn default() -> Self {
        let state = State { seeded: Seeded::new(0), waiting: Vec::new(), tickets: 0, chosen: None };
        Self { state: Mutex::new(state), turn: Condvar::new() }
    }
}

impl State {
    fn choose(&mut self) {
        let bound = self.waiting.len() as u64;
        let lot = match bound {
            0 => return self.chosen = None,
            1 => 0,
            _ => usize::try_from(self.seeded.below(bound)).expect("below a length"),
        };
        self.chosen = Some(self.waiting.swap_remove(lot));
    }
}

impl Shuffle {
    /// Waits for its turn among those who wait.
    pub fn enter(&self) -> Inside<'_> {
        let mut state = self.state.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting.push(ticket);
        drop(state);
        // Gives others the chance to arrive, so that there is something to draw from.
        std::thread::yield_now();
        let mut state = self.state.lock();
        if state.chosen.is_none() {
            state.choose();
            self.turn.notify_all();
        }
        while state.chosen != Some(ticket) {
            self.turn.wait(&mut state);
        }
        Inside(self)
    }

    /// How many wait for their turn.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.lock().choose();
        self.0.turn.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_everybody_gets_in() {
        let door = Shuffle::default();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for caller in 0..8 {
                let (door, order) = (&door, &order);
                scope.spawn(move || {
                    for _ in 0..100 {
                        let _inside = door.enter();
                        order.try_lock().expect("nobody else is inside").push(caller);
                    }
                });
            }
        });
        assert_eq!(order.lock().len(), 800);
        assert_eq!(door.waiting(), 0);
    }

    #[test]
    fn the_order_is_drawn() {
        let mut state = Shuffle::default().state.into_inner();
        state.waiting = (0..32).collect();
        let mut order = Vec::new();
        for _ in 0..32 {
            state.choose();
            order.extend(state.chosen);
        }
        assert_eq!(order.len(), 32);
        assert!(!order.is_sorted(), "{order:?}");
    }
}
