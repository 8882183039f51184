//! Moving what lives at the end of a volume down, so that the end can be cut off
//! (`space::shorten` decides what; `space::give_back` cuts).
//!
//! It is a part of the chore that gives space back, which calls [`MoveDown::step`] when nothing
//! else is left to go. What is moved frees its old place when the last handle over it is gone.

use crate::{
    address::{Extent, VolumeId, offset_of},
    error::{Result, Scope},
    heads::log::Log,
    id::MblockId,
    journal::catalog::Catalog,
    object::{mblock::Mblock, sums},
    space::{
        Room,
        lower::Below,
        shorten::{self, Moves, Shorten, Stretch},
        volume::VolumeSpace,
    },
    upkeep::parts::Parts,
};
use std::{collections::BTreeSet, sync::Arc};

#[derive(Default)]
pub(crate) struct MoveDown {
    plan: Option<Plan>,
    /// Mblocks that cannot be moved: they stay until the pool is opened again, as logs do.
    stuck: BTreeSet<MblockId>,
    /// The next look begins behind this volume, so that none where nothing can be done, or not yet,
    /// keeps others long.
    last: Option<VolumeId>,
}

struct Plan {
    volume: VolumeId,
    moves: Moves,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveStep {
    /// There is nothing to move, or nothing finds room.
    Nothing,
    /// There is, when readers of old places are gone, or more is free.
    Waits,
    /// One mblock of so many bytes has moved.
    Moved(u64),
}

impl MoveDown {
    /// Moves one mblock.
    pub(crate) fn step(&mut self, pool: &Parts) -> MoveStep {
        // Each volume once.
        for _ in 0..pool.space.all().len() {
            if self.plan.is_none() {
                self.plan = self.look(pool);
            }
            match self.go_on(pool) {
                MoveStep::Nothing => self.forget(),
                step => return step,
            }
        }
        MoveStep::Nothing
    }

    /// The next step takes another look.
    pub(crate) fn forget(&mut self) {
        self.plan = None;
    }

    fn go_on(&mut self, pool: &Parts) -> MoveStep {
        let Some(Plan { volume, moves }) = &mut self.plan else { return MoveStep::Nothing };
        let space = pool.space.of(*volume).filter(|space| !space.is_evacuating());
        let Some(space) = space else { return MoveStep::Nothing };
        while let Some((id, below)) = moves.next() {
            let object = pool.table.read().mblocks.get(&id).cloned();
            let Some(object) = object.filter(|object| object.volume() == *volume) else {
                // It has gone to another volume, or has been deleted.
                moves.done(0);
                continue;
            };
            let bytes = sums::total_len(object.len_bytes());
            if !space.affords_move(bytes) {
                return MoveStep::Waits;
            }
            match move_down(pool, &space, (&object, below)) {
                Ok(Some((0, _))) => moves.done(0),
                Ok(Some((bytes, end))) => {
                    moves.done(end);
                    tracing::debug!(%volume, %id, bytes, end, "moved from the end of a volume");
                    return MoveStep::Moved(bytes);
                }
                Ok(None) => moves.put_off(bytes),
                Err(error) if error.scope() == Scope::Object => {
                    tracing::warn!(%volume, %id, %error, "an mblock could not be moved");
                    self.stuck.insert(id);
                    return MoveStep::Nothing;
                }
                Err(error) => {
                    tracing::debug!(%volume, %id, %error, "the end of a volume stays");
                    return MoveStep::Nothing;
                }
            }
        }
        MoveStep::Nothing
    }

    fn look(&mut self, pool: &Parts) -> Option<Plan> {
        let mut spaces = pool.space.all();
        spaces.retain(|space| !space.is_evacuating());
        let behind = spaces.partition_point(|space| Some(space.id()) <= self.last);
        spaces.rotate_left(behind);
        let plan = spaces.iter().find_map(|space| {
            let needed_bytes = space.stretch()?;
            let volume = space.id();
            let stretch = self.stretch(pool, space, needed_bytes);
            match shorten::choose(stretch) {
                Shorten::Short => None,
                Shorten::Logs => {
                    tracing::debug!(%volume, needed_bytes, "a log keeps the end of a volume");
                    None
                }
                Shorten::Move(moves) => {
                    let (goal, objects) = (moves.goal, moves.len());
                    tracing::debug!(%volume, needed_bytes, goal, objects, "the end of a volume is to be cleared");
                    Some(Plan { volume, moves })
                }
            }
        })?;
        self.last = Some(plan.volume);
        Some(plan)
    }

    fn stretch(&self, pool: &Parts, space: &VolumeSpace, needed_bytes: u64) -> Stretch {
        let id = space.id();
        let last_of = |extents: &mut dyn Iterator<Item = Extent>| {
            let here = extents.filter(|extent| VolumeId::of(extent.offset) == id);
            here.map(|extent| Extent { offset: offset_of(extent.offset), ..extent })
                .max_by_key(|extent| extent.end())
        };
        // A copy, which costs nothing, so that commits do not wait.
        let catalog = pool.journal.read(Catalog::clone);
        let (mut objects, mut stuck_end) = (Vec::new(), 0);
        for (id, place) in &catalog.mblocks {
            let Some(last) = last_of(&mut place.extents.iter().copied()) else { continue };
            if self.stuck.contains(id) {
                stuck_end = stuck_end.max(last.end());
            } else {
                objects.push((*id, last));
            }
        }
        let mdcs = catalog.mdcs.values().flatten().map(|log| log.extent());
        let journal = pool.anchor.superblock().logs.map(Log::extent);
        let mut logs = mdcs.chain(catalog.segments.values().copied()).chain(journal);
        let logs_end = last_of(&mut logs).map_or(0, Extent::end);
        Stretch { needed_bytes, logs_end: logs_end.max(stuck_end), objects }
    }
}

/// The bytes moved, 0 if it was deleted meanwhile, and where the new place ends; `None` if there is
/// no room for it.
fn move_down(
    pool: &Parts,
    space: &Arc<VolumeSpace>,
    (object, below): (&Mblock, Below),
) -> Result<Option<(u64, u64)>> {
    let bytes = sums::total_len(object.len_bytes());
    let Some(lease) = space.room_below(bytes, below)? else { return Ok(None) };
    let end = lease.extents().iter().map(|extent| offset_of(extent.end())).max().unwrap_or(0);
    pool.move_into(Room::Places(lease), object).map(|moved| Some((moved, end)))
}

#[cfg(test)]
mod tests;
