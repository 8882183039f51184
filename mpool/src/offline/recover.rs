//! A pool that has lost both copies of its superblock, opened by what its journal says.
//!
//! The superblock says where the journal is, and little else that the journal does not. So the
//! journal is looked for: its logs begin on an allocation unit, with a mark that bears the pool's
//! owner word, and the pool's UUID is in the mark beside the root volume and in every label.
//!
//! ```text
//! root volume  |lost|  [mark g ...]  [mark g ...]   ...   [retired g ...]
//!                      ^ p           ^ q: a log from p, kept twice, each copy q - p long
//! ```
//!
//! A place that may be a log is judged by reading it: the latest complete log counts, and one that
//! says that it was succeeded by a later one is in the way. Where a log of the first allocation is
//! damaged at its very start, its first copy is taken to be where every pool begins its journal.
//! The other log holds nothing that is needed, so any free ground will do for it.
//!
//! Nothing is written before all of that is known, and then only the superblock.

use crate::{
    address::{ALLOC_UNIT, Extent},
    device::{Access, contents},
    error::{Error, Result},
    heads::{
        log::{Kept, Log},
        superblock::{self, Election, RESERVED, Superblock},
    },
    io::volumes::Volumes,
    journal::{
        catalog::Catalog,
        mdc::{
            elect::{LogState, elect},
            frame::{FRAME_LEN_MAX, FrameHead, FrameKind},
            pair::replay_elected,
            scan::LogReader,
        },
        pool_journal::{self, Replayed},
    },
    media::Priority,
    options::Options,
    pool::{
        Pool,
        open::{new_volume, open_in},
    },
    site::{self, VOLUME_FILE, devices::open_root, with_path},
    space::extent::FreeSet,
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::{cmp::Reverse, path::Path, sync::Arc};

/// A log of which one copy is left is read as if it were this long, and longer while its frames
/// reach to the end of that: nothing else says how long it is.
const LOG_BYTES_FIRST: u64 = ALLOC_UNIT;
/// After so much of the volume the search says how far it is.
const TELL_EVERY_BYTES: u64 = 64 << 30;

/// Where the journal of a pool without superblocks was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundJournal {
    /// Where its log begins on the root volume.
    pub offset: u64,
    /// Whether the log is there twice.
    pub twice: bool,
    /// How often the journal has been rewritten, and the last frame since then.
    pub generation: u64,
    /// The number of the last frame.
    pub frame: u64,
}

impl Pool {
    /// Opens the pool in DIR whose superblock is lost in both copies, and writes it again; with
    /// [`Options::read_only`] in memory only, so that it can be looked at first.
    ///
    /// [`Error::Unusable`] if there is a superblock, if the UUID is not known (neither `pool.id`
    /// nor a volume in the directory has it), if something else has made itself at home on the
    /// root volume, or if there is no journal of this pool that is whole.
    pub fn open_without_superblock(
        dir: &Path,
        options: &Options,
    ) -> Result<(Arc<Self>, FoundJournal)> {
        options.validate()?;
        let path = dir.join(VOLUME_FILE);
        site::survey_root(dir)?;
        let refused = |reason: &str| Error::Unusable { path: path.clone(), reason: reason.into() };
        let uuid = site::uuid_of(dir)?.ok_or_else(|| {
            refused(
                "has no superblock, and whose it was is not known: pool.id beside it is missing or \
                 damaged, and no volume of the pool is in the directory; bring pool.id back from a backup",
            )
        })?;
        let access = if options.read_only { Access::Read } else { Access::Write };
        let volumes = new_volume(open_root(&path, options, access)?, options);
        let found = rebuild(&volumes, uuid).map_err(|error| with_path(error, &path))?;
        let pool = open_in(dir, &volumes, options).map_err(|error| with_path(error, &path))?;
        Ok((pool, found))
    }
}

/// Writes the superblock of the pool `uuid` again.
pub(crate) fn rebuild(volumes: &Volumes, uuid: [u8; 16]) -> Result<FoundJournal> {
    check_lost(volumes)?;
    let (superblock, found) = find(volumes, uuid)?;
    for copy in 0..superblock::COPY_OFFSETS.len() {
        superblock.write_copy(volumes, copy)?;
    }
    tracing::warn!(
        journal_at = found.offset,
        generation = found.generation,
        "both copies of the superblock were lost; they are written again as the pool's journal says"
    );
    Ok(found)
}

/// There must be no superblock, and nobody else.
fn check_lost(volumes: &Volumes) -> Result<()> {
    match superblock::read(volumes, None) {
        Ok(Election::Elected(_)) => Err(unusable("has its superblock: there is nothing to find")),
        Ok(Election::Begun) => Err(unusable(site::elect::CUT_SHORT)),
        Ok(Election::Blank) | Err(Error::Unusable { .. }) => check_nobody_else(volumes),
        Err(Error::Corrupt { reason: superblock::NEITHER_INTACT, .. }) => {
            check_nobody_else(volumes)
        }
        Err(error) => Err(error),
    }
}

fn check_nobody_else(volumes: &Volumes) -> Result<()> {
    let contents = contents::of_device(&**volumes.root().device());
    match contents.map_err(|source| Error::io("read", 0, 0, source))? {
        contents::Contents::Taken(taken) if taken.foreign.is_some() => Err(unusable(&format!(
            "has no superblock, and something else is on it: {taken}. If that is not wanted, keep a \
             copy of the volume and wipe that signature (wipefs)"
        ))),
        _ => Ok(()),
    }
}

fn unusable(reason: &str) -> Error {
    site::unusable(reason)
}

/// A place at which a log may begin, and the mark there.
#[derive(Clone, Copy)]
struct Start {
    offset: u64,
    mark: FrameHead,
}

/// A log that was read.
#[derive(Clone, Copy)]
struct Whole {
    log: Log,
    state: LogState,
    generation: u64,
    seqno: u64,
    tail: u64,
    rot: Option<u64>,
}

impl Whole {
    /// What makes it the one to take: the latest; of equals the one that is not damaged, the one
    /// that is kept twice, the shortest.
    fn rank(&self) -> impl Ord + use<> {
        let Self { log, generation, seqno, rot, .. } = *self;
        (generation, seqno, rot.is_none(), log.is_twice(), Reverse(log.len))
    }
}

fn find(volumes: &Volumes, uuid: [u8; 16]) -> Result<(Superblock, FoundJournal)> {
    let owner = pool_journal::place(uuid, [Log { offset: 0, len: 0, kept: Kept::Once }; 2]).owner;
    let end = volumes.root().device().geometry().len_bytes / ALLOC_UNIT * ALLOC_UNIT;
    let starts = starts(volumes, owner, end);
    let mut wholes = Vec::new();
    for log in candidates(&starts, end) {
        wholes.extend(read(volumes, log, owner, end)?);
    }
    wholes.sort_by_key(|whole| Reverse(whole.rank()));
    let Some(whole) = wholes.first() else {
        return Err(unusable(
            "has no superblock, and no journal of its pool that is whole; restore it from a backup",
        ));
    };
    let retired = |start: &&Start| start.mark.kind == FrameKind::Retired;
    let successor = starts.iter().filter(retired).map(|start| start.mark.generation).max();
    if successor.is_some_and(|successor| successor > whole.generation) {
        return Err(unusable(
            "has no superblock, and the journal that is left was succeeded by one that is lost; restore \
             it from a backup",
        ));
    }
    if let Some(at) = whole.rot {
        let reason = "the only journal that is left is damaged before its end";
        return Err(Error::corrupt("pool journal", whole.log.offset + at, reason));
    }
    let Replayed { catalog, needs } = replay(volumes, uuid, whole)?;
    let Whole { generation, seqno, .. } = *whole;
    // They say the same; the first whose ground is nobody else's by that is where it lies.
    let alike = wholes.iter().filter(|w| (w.generation, w.seqno) == (generation, seqno));
    let mut pairs = alike.map(|whole| pair(&catalog, whole, end));
    let first = pairs.next().expect("the best is one of them");
    let logs = first.or_else(|error| pairs.find_map(Result::ok).ok_or(error))?;
    let superblock = Superblock::new(uuid, logs).with_features(needs);
    let Log { offset, kept, .. } = logs[0];
    let found = FoundJournal { offset, twice: kept == Kept::Twice, generation, frame: seqno };
    Ok((superblock, found))
}

/// Every place that has the first mark of a log.
fn starts(volumes: &Volumes, owner: u64, end: u64) -> Vec<Start> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    let mut found = Vec::new();
    let mut offset = RESERVED.end();
    while offset < end {
        // What cannot be read is no place that counts.
        let is_read = volumes.read(offset, &mut page, Priority::Read).is_ok();
        let head = FrameHead::decode(page.first_chunk().expect("a page holds a head"));
        if let (true, Ok(mark)) = (is_read, head)
            && (mark.owner, mark.seqno) == (owner, 1)
            && matches!(mark.kind, FrameKind::Begin | FrameKind::Retired)
        {
            found.push(Start { offset, mark });
        }
        offset += ALLOC_UNIT;
        if offset.is_multiple_of(TELL_EVERY_BYTES) {
            tracing::info!(offset, end, "looking for the pool's journal");
        }
    }
    found
}

/// What may be a log.
fn candidates(starts: &[Start], end: u64) -> Vec<Log> {
    let begins = || starts.iter().filter(|start| start.mark.kind == FrameKind::Begin);
    let mut logs = Vec::new();
    for second in begins() {
        let same = |first: &&Start| {
            first.offset < second.offset && first.mark.generation == second.mark.generation
        };
        let firsts = begins().filter(same).map(|first| first.offset);
        for offset in firsts.chain([RESERVED.end()]) {
            logs.push(Log { offset, len: second.offset.saturating_sub(offset), kept: Kept::Twice });
        }
        let len = (end - second.offset).min(LOG_BYTES_FIRST);
        logs.push(Log { offset: second.offset, len, kept: Kept::Once });
    }
    logs.retain(|log| log.len > 0 && log.is_sound() && log.extent().end() <= end);
    logs
}

/// The log, if it is complete.
fn read(volumes: &Volumes, mut log: Log, owner: u64, end: u64) -> Result<Option<Whole>> {
    loop {
        let state = match LogReader::new(volumes, log, owner).scan() {
            Ok(state) => state,
            Err(Error::Io { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let whole = match state {
            LogState::Complete { generation, seqno, tail, rot } => {
                Some(Whole { log, state, generation, seqno, tail, rot })
            }
            LogState::Incomplete { .. } => None,
            _ => return Ok(None),
        };
        let len_max = end - log.offset;
        // The next frame may be cut off by the end that was assumed.
        let is_cut = whole.is_none_or(|whole| whole.tail + FRAME_LEN_MAX as u64 > log.len);
        if log.is_twice() || !is_cut || log.len == len_max {
            return Ok(whole);
        }
        log.len = log.len.saturating_mul(2).min(len_max);
    }
}

fn replay(volumes: &Volumes, uuid: [u8; 16], whole: &Whole) -> Result<Replayed> {
    let place = pool_journal::place(uuid, [whole.log; 2]);
    let other = LogState::Unusable { generation_max: whole.generation };
    let elected = elect([whole.state, other]).expect("a complete log beside none is elected");
    let mut replayed = Replayed::default();
    let at = whole.log.offset;
    replay_elected(volumes, &place, &elected, &mut |bytes| replayed.record(at, bytes))?;
    Ok(replayed)
}

/// The log, no longer than to what lies behind it, and ground for the other one.
fn pair(catalog: &Catalog, whole: &Whole, end: u64) -> Result<[Log; 2]> {
    let no_room = || unusable("has no superblock, and no room for the other log of its journal");
    let mut free = FreeSet::new(end);
    let on_root = |extent: &Extent| extent.end() <= end;
    let used: Vec<Extent> = catalog.extents().into_iter().filter(on_root).collect();
    for extent in used.iter().chain([&RESERVED]) {
        free.take(*extent).map_err(|reason| Error::corrupt("space map", extent.offset, reason))?;
    }
    let Whole { mut log, tail, .. } = *whole;
    if log.kept == Kept::Once {
        let behind = used.iter().map(|extent| extent.offset).filter(|at| *at > log.offset).min();
        log.len = log.len.min(behind.unwrap_or(end) - log.offset);
        // A quarter at most where nothing lies behind it, as the other one needs as much; but all
        // that is in it.
        let least = tail.next_multiple_of(ALLOC_UNIT);
        log.len = log.len.min((end / 4).next_multiple_of(ALLOC_UNIT).max(least));
        if log.len < least {
            return Err(no_room());
        }
    }
    let taken = free.take(log.extent());
    taken.map_err(|reason| Error::corrupt("space map", log.offset, reason))?;
    let len = log.extent().len;
    let beside = [log.extent().end(), log.offset.saturating_sub(len)];
    let beside = beside.map(|offset| Extent { offset, len });
    let other = beside.into_iter().find(|extent| free.clone().take(*extent).is_ok());
    let other = other.or_else(|| free.allocate(len)).ok_or_else(no_room)?;
    Ok([log, Log { offset: other.offset, ..log }])
}
