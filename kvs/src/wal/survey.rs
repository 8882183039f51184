//! A log that nobody has open, looked at from end to end: what is wrong with it, and how far each
//! segment goes. Nothing is changed.

use super::damage::{Damage, Hole};
use super::replay::{self, Way};
use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::Revision;
use crate::options::LogDamage;
use crate::wal::mark::Mark;
use mpool::{Pool, SegmentId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that is wrong with the pool's log from the floor on; nothing is changed. `see` gets
/// what can be read.
pub(crate) fn survey(
    pool: &Arc<Pool>,
    floor: Revision,
    see: &mut dyn FnMut(Revision, &WriteBatch) -> Result<()>,
) -> Result<Vec<Hole>> {
    let mut damage = Damage::new(LogDamage::SkipDamaged);
    let closed = Mark::read(pool)?.map(|mark| mark.log);
    let found = replay::find(pool, floor, closed, &mut damage)?;
    let way = Way { floor, pool, reached: &|_| () };
    let mut end = floor;
    for run in &found.runs {
        end = end.max(replay::walk(run, &way, &mut damage, see)?.last);
    }
    if let Some(Err(Error::Corrupt { what, reason })) = closed.map(|closed| closed.check(end)) {
        damage.meet(what, reason, None)?;
    }
    Ok(damage.into_holes())
}

/// The last revision that is known to have been in each segment of a log that nobody has open.
pub(crate) fn ends(pool: &Arc<Pool>, floor: Revision) -> Result<BTreeMap<SegmentId, Revision>> {
    let mut damage = Damage::new(LogDamage::SkipDamaged);
    let closed = Mark::read(pool)?.map(|mark| mark.log);
    let found = replay::find(pool, floor, closed, &mut damage)?;
    let way = Way { floor, pool, reached: &|_| () };
    let mut ends = BTreeMap::new();
    for run in &found.runs {
        let walked = replay::walk(run, &way, &mut damage, &mut |_, _| Ok(()))?;
        ends.insert(run.segment.id(), walked.last);
    }
    Ok(ends)
}
