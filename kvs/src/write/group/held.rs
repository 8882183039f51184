//! What the leader takes from the queue, and what is held there: batches of KVSs that are behind.
//!
//! Which batch goes is decided by [`Gate`]. Those that do not go leave the queue's line for a list
//! of their own, so that nobody walks over them, and the commit thread looks after them: it leads
//! when they are due and nobody else does. They are due when a KVS has paid, when somebody says
//! that a root may be shorter, and every [`LOOK_AGAIN`] in any case. One that has waited for
//! [`HELD_MAX`] is refused, and so is one for which the list has no room: half of the queue is for
//! those that go.

use super::members::Group;
use super::ticket::Ticket;
use super::{CommitSink, Leader, Queue, Shared, TICKET_BYTES};
use crate::debt::stall::StallReason;
use crate::error::Error;
use crate::key::KvsId;
use crate::options::Durability;
use crate::shape::view::Lagging;
use crate::write::gate::{self, Gate, Pass};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How often those that are held are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longest a batch is held before its writer is told so.
const HELD_MAX: Duration = Duration::from_secs(30);
/// Most batches that are held: what a look at all of them may cost.
const TICKETS_MAX: usize = 4096;

/// Batches that wait for compaction.
#[derive(Default)]
pub(super) struct Held {
    gate: Gate,
    /// With when they came, in the queue's order.
    tickets: VecDeque<(Ticket, Duration)>,
    /// How many of them write to each KVS.
    kvss: BTreeMap<KvsId, usize>,
    bytes: usize,
    /// When they are due. All times count from the queue's beginning.
    look_at: Duration,
    /// Until when the time in which something is held has been told.
    told: Duration,
    /// What they waited for when that was last known.
    reason: Option<StallReason>,
}

/// What a leader has taken.
pub(super) struct Taken {
    /// May be empty: all that is queued is held.
    pub(super) group: Group,
    /// To be told so once the post is given up.
    pub(super) refused: Vec<Ticket>,
    held_for: Duration,
    /// What those wait for that are held or refused.
    pub(super) reason: StallReason,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// When somebody is to look at them, if there are any.
    pub(super) fn look_at(&self) -> Option<Duration> {
        (!self.is_empty()).then_some(self.look_at)
    }

    /// They are due at once.
    pub(super) fn hurry(&mut self) {
        self.look_at = Duration::ZERO;
    }

    fn push(&mut self, ticket: Ticket, since: Duration) {
        for kvs in ticket.batch().kvss() {
            *self.kvss.entry(kvs).or_default() += 1;
        }
        self.bytes += bytes_of(&ticket);
        self.tickets.push_back((ticket, since));
    }

    fn forget(&mut self, ticket: &Ticket) {
        for kvs in ticket.batch().kvss() {
            let count = self.kvss.get_mut(&kvs).expect("counted when it was held");
            *count -= 1;
            if *count == 0 {
                self.kvss.remove(&kvs);
            }
        }
        self.bytes -= bytes_of(ticket);
    }
}

fn bytes_of(ticket: &Ticket) -> usize {
    ticket.batch().len_bytes() + TICKET_BYTES
}

impl Queue {
    /// The next group, with these KVSs behind. At most `held_bytes_max` are held after it.
    fn take(&mut self, lagging: &Lagging, now: Duration, held_bytes_max: usize) -> Taken {
        let mut taken = Taken {
            group: Group::default(),
            refused: Vec::new(),
            held_for: self
                .held
                .look_at()
                .map_or(Duration::ZERO, |_| now.saturating_sub(self.held.told)),
            reason: StallReason::RootLength,
        };
        let mut gate = std::mem::take(&mut self.held.gate);
        let mut pass = gate.pass(lagging, now);
        if self.held.look_at().is_some_and(|at| at <= now) {
            self.take_held(&mut pass, now, &mut taken);
        }
        pass.shut(self.held.kvss.keys().copied());
        while let Some(ticket) = self.waiting.front() {
            if taken.group.is_full_for(ticket) {
                break;
            }
            let ticket = self.waiting.pop_front().expect("just looked at");
            if pass.lets(ticket.batch().kvss()) {
                taken.group.take(ticket, &mut pass);
            } else if self.held.bytes + bytes_of(&ticket) <= held_bytes_max
                && self.held.len() < TICKETS_MAX
            {
                if self.held.is_empty() {
                    self.held.look_at = now + LOOK_AGAIN;
                }
                self.held.push(ticket, now);
            } else {
                self.bytes -= bytes_of(&ticket);
                taken.refused.push(ticket);
            }
        }
        if let Some(opens_at) = pass.opens_at() {
            self.held.look_at = self.held.look_at.min(opens_at);
        }
        let refused = taken.refused.iter().flat_map(|ticket| ticket.batch().kvss());
        let waiting = self.held.kvss.keys().copied().chain(refused);
        let reason = gate::reason(lagging, waiting).or(self.held.reason);
        taken.reason = reason.unwrap_or(StallReason::RootLength);
        (self.held.gate, self.held.told, self.held.reason) = (gate, now, reason);
        taken
    }

    /// Those of the held ones that go, or have waited too long.
    fn take_held(&mut self, pass: &mut Pass<'_>, now: Duration, taken: &mut Taken) {
        self.held.look_at = now + LOOK_AGAIN;
        let mut is_full = false;
        for (ticket, since) in std::mem::take(&mut self.held.tickets) {
            self.held.forget(&ticket);
            is_full |= taken.group.is_full_for(&ticket);
            if is_full {
                // The next leader begins with it.
                self.held.look_at = now;
                pass.shut(ticket.batch().kvss());
                self.held.push(ticket, since);
            } else if pass.lets(ticket.batch().kvss()) {
                taken.group.take(ticket, pass);
            } else if now.saturating_sub(since) >= HELD_MAX {
                self.bytes -= bytes_of(&ticket);
                taken.refused.push(ticket);
            } else {
                self.held.push(ticket, since);
            }
        }
    }
}

impl Group {
    fn is_full_for(&self, ticket: &Ticket) -> bool {
        let bytes = self.batch_bytes + ticket.batch().len_bytes();
        let is_full =
            bytes > super::GROUP_BYTES_MAX || self.tickets.len() == super::GROUP_BATCHES_MAX;
        is_full && !self.tickets.is_empty()
    }

    fn take(&mut self, ticket: Ticket, pass: &mut Pass<'_>) {
        let len = ticket.batch().len_bytes();
        pass.charge(ticket.batch().kvss(), len as u64);
        self.durable |= ticket.durability() == Durability::Sync;
        self.interval |= ticket.durability() == Durability::Interval;
        self.bytes += len + TICKET_BYTES;
        self.batch_bytes += len;
        self.tickets.push(ticket);
    }
}

impl<S: CommitSink> Shared<S> {
    /// Takes the next group. The leader's.
    pub(super) fn take(&self) -> Taken {
        let mut lagging = self.sink.lagging();
        let mut queue = self.queue.lock();
        if queue.closed || self.check_poison().is_err() {
            // Nothing is waited for any more.
            lagging.clear();
        }
        let taken = queue.take(&lagging, self.now(), self.limits.queue_bytes_max / 2);
        drop(queue);
        if !taken.held_for.is_zero() {
            self.sink.note_wait(taken.held_for, taken.reason);
        }
        taken
    }

    /// Tells the writers that have been held for too long.
    pub(super) fn tell_refused(&self, refused: Vec<Ticket>, reason: StallReason) {
        for ticket in refused {
            self.counters.stalls.add(1);
            let reason = reason.as_str();
            ticket.complete(Err(Error::Stalled { reason }));
        }
    }

    /// Compaction has done something.
    pub(super) fn relieve(&self) {
        let mut queue = self.queue.lock();
        if queue.held.is_empty() {
            return;
        }
        queue.held.hurry();
        let is_vacant = queue.leader == Leader::Vacant;
        drop(queue);
        if is_vacant {
            self.work.notify_one();
        }
    }
}
