//! What a replay does about damage, and what it has found.
//!
//! `replay` meets damage and asks here what comes of it; [`Damage`] answers by the policy, and
//! keeps a [`Hole`] for each place. Once the log has ended by policy, what can still be read behind
//! is not applied any more: its keys are noted as lost.
//!
//! Memory: [`KEYS_MAX`] keys of each hole.

use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::{KvsId, Revision};
use crate::options::LogDamage;
use bytes::Bytes;

/// Keys that are kept of a hole.
const KEYS_MAX: usize = 10_000;

/// A place in the log that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) what: String,
    pub(crate) reason: String,
    /// First and last that are lost; `None` where the damage loses none.
    pub(crate) revisions: Option<(Revision, Revision)>,
    pub(crate) keys: Vec<(Revision, KvsId, Bytes)>,
    pub(crate) keys_left_off: u64,
    /// Whether the keys come from frames whose checksum is right.
    pub(crate) is_certain: bool,
}

impl Hole {
    fn new(what: String, reason: String, revisions: Option<(Revision, Revision)>) -> Self {
        let (keys, keys_left_off, is_certain) = (Vec::new(), 0, false);
        Self { what, reason, revisions, keys, keys_left_off, is_certain }
    }

    fn note(&mut self, revision: Revision, batch: &WriteBatch) {
        for (kvs, key, _) in batch.ops() {
            if self.keys.len() == KEYS_MAX {
                self.keys_left_off += 1;
            } else {
                self.keys.push((revision, kvs, Bytes::copy_from_slice(key)));
            }
        }
    }
}

/// The damage that a replay has met so far.
pub(super) struct Damage {
    policy: LogDamage,
    holes: Vec<Hole>,
    /// What can be read and does not count any more, once the log has ended.
    beyond: Option<Hole>,
}

impl Damage {
    pub(super) fn new(policy: LogDamage) -> Self {
        let mut damage = Self { policy, holes: Vec::new(), beyond: None };
        if policy == LogDamage::LeaveOut {
            damage.end("it is left out, sound or not");
        }
        damage
    }

    /// Whether damage is an error.
    pub(super) fn is_refused(&self) -> bool {
        self.policy == LogDamage::Refuse
    }

    fn end(&mut self, reason: &str) {
        if self.beyond.is_none() {
            let mut beyond = Hole::new("write-ahead log".to_owned(), reason.to_owned(), None);
            beyond.is_certain = true;
            self.beyond = Some(beyond);
        }
    }

    /// Damage that loses `revisions`; an error if it is refused.
    pub(super) fn meet(
        &mut self,
        what: String,
        reason: String,
        revisions: Option<(Revision, Revision)>,
    ) -> Result<()> {
        if self.is_refused() {
            return Err(Error::Corrupt { what, reason });
        }
        tracing::warn!(what, reason, "damage in the write-ahead log");
        self.holes.push(Hole::new(what, reason, revisions));
        if self.policy == LogDamage::StopAtDamage && revisions.is_some() {
            self.end("it can be read, but lies behind damage, where the log ends now");
        }
        Ok(())
    }

    /// What the damage met last seems to have been.
    pub(super) fn guess(&mut self, revision: Revision, batch: Result<WriteBatch>) {
        if let (Some(hole), Ok(batch)) = (self.holes.last_mut(), batch) {
            hole.note(revision, &batch);
        }
    }

    /// A frame that can be read: applied, or lost where the log has ended. True: applied.
    pub(super) fn frame(
        &mut self,
        revision: Revision,
        batch: &WriteBatch,
        apply: &mut dyn FnMut(Revision, &WriteBatch) -> Result<()>,
    ) -> Result<bool> {
        let Some(beyond) = &mut self.beyond else {
            apply(revision, batch)?;
            return Ok(true);
        };
        let (first, _) = beyond.revisions.unwrap_or((revision, revision));
        beyond.revisions = Some((first, revision));
        beyond.note(revision, batch);
        Ok(false)
    }

    pub(super) fn into_holes(self) -> Vec<Hole> {
        let beyond = self
            .beyond
            .filter(|hole| hole.revisions.is_some() || self.policy == LogDamage::LeaveOut);
        self.holes.into_iter().chain(beyond).collect()
    }
}
