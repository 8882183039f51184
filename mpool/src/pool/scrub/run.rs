//! One run of a scrub: stage by stage, object by object, from where the last one ended.

use super::{ScrubOwners, ScrubPart, ScrubTarget};
use crate::{
    error::{Error, Result},
    heads::log::Log,
    id::{MblockId, MdcId, SegmentId},
    journal::{
        mdc::pair::{Place, Position, elected},
        pool_journal::owner_word,
    },
    pool::Pool,
    verify::{
        control::Seen,
        finding::{Damage, Finding},
        heads,
        logs::{self, lost, torn},
        objects::{self, Object},
        reader::{Halted, Reader, Stopped},
        state::{self, FINDINGS_KEPT, Stage, State},
    },
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The place is written after so much has been verified: a restart repeats at most this.
const SAVE_BYTES: u64 = 4 << 30;
/// A journal that is rewritten so often while it is being read is left for the next pass.
const LOG_TRIES: u32 = 64;

/// One run of a scrub.
pub(super) struct Scrub<'a> {
    pool: &'a Arc<Pool>,
    owners: &'a ScrubOwners<'a>,
    state: State,
    reader: Reader<'a>,
    /// Bytes of the reader that are in the state and the metrics.
    counted: u64,
    /// Bytes of the state when it was written last.
    saved: u64,
}

impl<'a> Scrub<'a> {
    pub(super) fn new(
        pool: &'a Arc<Pool>,
        owners: &'a ScrubOwners<'a>,
        state: State,
        reader: Reader<'a>,
    ) -> Self {
        let saved = state.bytes;
        Self { pool, owners, state, reader, counted: 0, saved }
    }

    /// Verifies until the end of the pass, or until stopped, which is no error.
    pub(super) fn run(&mut self) -> Result<()> {
        self.show();
        tracing::info!(stage = ?self.state.stage, next = self.state.next_id, "scrubbing");
        while self.state.under_way {
            if self.reader.is_stopped() {
                tracing::info!(bytes = self.state.bytes, "scrub stopped before its end");
                return Ok(());
            }
            match self.step()? {
                Ok(()) => {}
                Err(Stopped) => continue,
            }
            self.count();
            if self.state.bytes - self.saved.min(self.state.bytes) >= SAVE_BYTES {
                self.save();
            }
        }
        let State { bytes, objects, findings_total, .. } = self.state;
        tracing::info!(bytes, objects, findings = findings_total, "scrub complete");
        Ok(())
    }

    /// Writes down how far it is. A pool that cannot be written any more can still be verified.
    pub(super) fn save(&mut self) {
        self.saved = self.state.bytes;
        if let Err(error) = self.pool.set_property(state::PROPERTY, &self.state.encode()) {
            tracing::warn!(%error, "the place of the scrub cannot be kept over a restart");
        }
    }

    /// Verifies the next object, or goes on to the next stage.
    fn step(&mut self) -> Result<Halted<()>> {
        let next_id = self.state.next_id;
        let done = match self.state.stage {
            Stage::Heads => self.heads().map(|()| None),
            Stage::Journals => match self.next_journal() {
                Some(whose) => self.journal(whose)?.map(|()| Some(whose.number())),
                None => Ok(None),
            },
            Stage::Segments => match self.next_segment() {
                Some(id) => self.segment(id).map(|()| Some(id.get())),
                None => Ok(None),
            },
            Stage::Mblocks => match self.next_mblock() {
                Some(id) => self.mblock(id).map(|()| Some(id.get())),
                None => Ok(None),
            },
        };
        let done = match done {
            Ok(done) => done,
            Err(Stopped) => return Ok(Err(Stopped)),
        };
        match done {
            Some(id) => self.state.next_id = id.max(next_id).saturating_add(1),
            None => self.next_stage(),
        }
        Ok(Ok(()))
    }

    fn next_stage(&mut self) {
        self.state.next_id = 0;
        self.state.stage = match self.state.stage {
            Stage::Heads => Stage::Journals,
            Stage::Journals => Stage::Segments,
            Stage::Segments => Stage::Mblocks,
            Stage::Mblocks => {
                self.state.under_way = false;
                self.state.completed_s = now_s();
                self.state.passes += 1;
                self.pool.metrics().scrub_completed_s.set(self.state.completed_s);
                self.pool.metrics().scrub_passes.add(1);
                Stage::Heads
            }
        };
    }

    fn heads(&mut self) -> Halted<()> {
        let pool = self.pool;
        let look = |scrub: &mut Self| {
            let mut findings = Vec::new();
            heads::superblock(Some(pool.uuid), &mut scrub.reader, &mut findings)?;
            let volumes = pool.journal.read(|catalog| {
                catalog.volumes.values().map(|v| (v.id, v.uuid)).collect::<Vec<_>>()
            });
            let sessions = pool.journal.read(crate::pool::session::sessions_of);
            for label in heads::labels(pool.uuid, volumes) {
                if let Some(space) = pool.space.of(label.id) {
                    let device = space.volume().device();
                    let expected = (&label, sessions);
                    heads::label(expected, &**device, &mut scrub.reader, &mut findings)?;
                }
            }
            Ok(findings)
        };
        let mut findings = look(self)?;
        if !findings.is_empty() {
            // A copy that was being written, or a volume that was being removed, is sound now.
            let again = look(self)?;
            findings.retain(|finding| again.contains(finding));
        }
        let members = pool.journal.read(|catalog| catalog.volumes.clone());
        findings.retain(|finding| match finding.target {
            ScrubTarget::Label(id) => members.contains_key(&id),
            _ => true,
        });
        self.state.objects += 1;
        self.report(findings);
        Ok(())
    }

    fn next_journal(&self) -> Option<Whose> {
        let Some(from) = MdcId::new(self.state.next_id) else { return Some(Whose::Pool) };
        let table = self.pool.table.read();
        table.mdcs.range(from..).next().map(|(id, _)| Whose::User(*id))
    }

    fn journal(&mut self, whose: Whose) -> Result<Halted<()>> {
        let target = match whose {
            Whose::Pool => ScrubTarget::PoolJournal,
            Whose::User(id) => ScrubTarget::Journal(id),
        };
        let owner = owner_word(self.pool.uuid, whose.number());
        for _ in 0..LOG_TRIES {
            let place = self.pool.journal_position(whose)?;
            let mut findings = Vec::new();
            let position = match &place {
                Where::Open(position) | Where::Closed(position) => position,
                Where::Gone => return Ok(Ok(())),
                Where::Lost { logs, address } => {
                    if matches!(self.pool.journal_position(whose)?, Where::Lost { .. }) {
                        findings.push(lost(target, logs, *address));
                        self.report(findings);
                        return Ok(Ok(()));
                    }
                    continue;
                }
            };
            if logs::verify((target, owner), position, &mut self.reader, &mut findings).is_err() {
                return Ok(Err(Stopped));
            }
            if let Where::Closed(position) = &place {
                findings.extend(torn((target, owner), position, &mut self.reader));
            }
            let unchanged = match (&place, self.pool.journal_position(whose)?) {
                (Where::Open(before), Where::Open(after)) => before.same_log(&after),
                (Where::Closed(before), Where::Closed(after)) => *before == after,
                _ => false,
            };
            if findings.is_empty() || unchanged {
                self.state.objects += 1;
                self.report(findings);
                return Ok(Ok(()));
            }
        }
        tracing::warn!(%target, "a journal is rewritten too often to be verified");
        Ok(Ok(()))
    }

    fn next_segment(&self) -> Option<SegmentId> {
        let from = SegmentId::new(self.state.next_id.max(1))?;
        let table = self.pool.table.read();
        table.segments.range(from..).next().map(|(id, _)| *id)
    }

    fn segment(&mut self, id: SegmentId) -> Halted<()> {
        let Ok(segment) = self.pool.open_segment(id) else { return Ok(()) };
        let reader = &mut self.reader;
        let scrubbed = (self.owners.segment)(&segment, &mut |bytes| reader.pause(bytes).is_ok());
        if self.reader.is_stopped() {
            return Err(Stopped);
        }
        let Some(scrubbed) = scrubbed else { return Ok(()) };
        self.state.bytes += scrubbed.bytes;
        self.pool.metrics().scrub_bytes.add(scrubbed.bytes);
        self.state.objects += 1;
        let what = (ScrubTarget::Segment(id), ScrubPart::Data);
        let at = segment.address();
        let damaged = scrubbed.damaged.into_iter();
        let findings = damaged
            .map(|(offset, len)| Finding::at(what, offset, (at + offset, len), Damage::Checksum));
        self.report(findings.collect());
        Ok(())
    }

    fn next_mblock(&self) -> Option<MblockId> {
        let from = MblockId::new(self.state.next_id.max(1))?;
        let table = self.pool.table.read();
        table.mblocks.range(from..).next().map(|(id, _)| *id)
    }

    fn mblock(&mut self, id: MblockId) -> Halted<()> {
        // The handle keeps the place from being used again while it is read.
        let Ok(mblock) = self.pool.mblock(id) else { return Ok(()) };
        let object = Object {
            id,
            layout: mblock.layout(),
            len_bytes: mblock.len_bytes(),
            sums_crc: mblock.sums_crc(),
        };
        let mut findings = Vec::new();
        objects::verify(&object, &mut self.reader, &mut findings)?;
        self.state.objects += 1;
        // What was deleted or moved meanwhile is nobody's loss.
        let there = self.pool.mblock(id).is_ok_and(|_| !mblock.has_moved());
        if there {
            self.report(findings);
        }
        Ok(())
    }

    /// Takes what the reader has read into state and metrics.
    fn count(&mut self) {
        let bytes = self.reader.bytes - self.counted;
        self.counted = self.reader.bytes;
        self.state.bytes += bytes;
        self.pool.metrics().scrub_bytes.add(bytes);
        self.show();
    }

    pub(super) fn show(&self) {
        let metrics = self.pool.metrics();
        let goal_bytes = self.pool.scrub_goal_bytes(&self.state);
        metrics.scrub_goal_bytes.set(goal_bytes);
        metrics.scrub_position_bytes.set(self.state.bytes);
        self.pool.scrubbing.show(Seen { state: self.state.clone(), goal_bytes });
    }

    fn report(&mut self, findings: Vec<Finding>) {
        self.pool.metrics().scrub_objects.add(1);
        for mut finding in findings {
            finding.owner = (self.owners.owner_of)(&finding);
            tracing::error!(%finding, "scrub found damage");
            self.pool.metrics().scrub_findings.add(1);
            self.state.findings_total = self.state.findings_total.saturating_add(1);
            if self.state.findings.len() < FINDINGS_KEPT {
                self.state.findings.push(finding);
            }
        }
    }
}

/// A journal: the pool's own, which comes first, as number 0, or a user's.
#[derive(Clone, Copy)]
enum Whose {
    Pool,
    User(MdcId),
}

impl Whose {
    fn number(self) -> u64 {
        match self {
            Self::Pool => 0,
            Self::User(id) => id.get(),
        }
    }
}

/// Where a journal is.
enum Where {
    /// Its owner has it open: everything before the tail was acknowledged.
    Open(Position),
    /// Its tail is where reading it ends.
    Closed(Position),
    /// It cannot be opened: damage at this address.
    Lost {
        logs: [Log; 2],
        address: u64,
    },
    Gone,
}

impl Pool {
    /// Where a journal is at the moment. A journal that nobody has open is read to find out.
    fn journal_position(&self, whose: Whose) -> Result<Where> {
        let Whose::User(id) = whose else { return Ok(Where::Open(self.journal.position())) };
        let open = self.open_mdcs.lock().get(&id).cloned();
        if let Some(position) = open.and_then(|position| position()) {
            return Ok(Where::Open(position));
        }
        let logs = self.journal.read(|catalog| catalog.mdcs.get(&id).copied());
        let Some(logs) = logs else { return Ok(Where::Gone) };
        let owner = owner_word(self.uuid, id.get());
        let place = Place { name: id.to_string(), owner, logs };
        match elected(&self.volumes, &place) {
            Ok(elected) => Ok(Where::Closed(elected.position(logs))),
            Err(Error::Corrupt { offset, .. } | Error::Io { offset, .. }) => {
                Ok(Where::Lost { logs, address: offset })
            }
            Err(other) => Err(other),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "for people only: nothing depends on it")]
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
