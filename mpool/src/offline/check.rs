//! Check: whether a pool that nobody has open is consistent. Reads only.
//!
//! What opening a pool repairs in passing is named here and left alone: a damaged copy of the
//! superblock, a log that was not retired. What opening would refuse is named with the way out. The
//! steps:
//!
//! 1. both copies of the superblock, and the features that it names;
//! 2. the pool's journal: which of its logs counts, every frame of it, what its records add up to;
//! 3. the volumes that it names: each is here and carries its label; and files beside them that
//!    carry labels of this pool and are not its volumes;
//! 4. the places of all objects: on a volume, within it, nobody else's, before write pointers;
//! 5. every journal of the pool's user;
//! 6. if asked for: every page of every mblock.

pub use crate::offline::report::{CheckOptions, CheckReport, Issue, Severity};
use crate::{
    address::VolumeId,
    device::{Access, Device},
    error::{Error, Result},
    heads::{
        label::{self, Found},
        superblock::{self, Election},
    },
    io::volumes::Volumes,
    journal::{
        catalog::name_of,
        mdc::pair::{Place, Position, elected},
        pool_journal::owner_word,
    },
    media::VolumeRecord,
    missing::MissingVolume,
    object::sums,
    offline::{
        heart::{Find, Heart, ReadOnly, find_in, heart, root_in, volumes_of},
        places::{self, Owned, Shape},
        surroundings,
    },
    options::Options,
    pool::{
        Pool,
        scrub::{Damage, Finding, ScrubTarget},
        session,
    },
    site::{self, VOLUME_FILE, with_path},
    space::layout::Layout,
    verify::{
        heads,
        logs::{self, lost, torn},
        objects::{self, Object},
        reader::Reader,
    },
};
use mpool_device::IO_ALIGN;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of one read: nobody else uses the drive.
const READ_BYTES: usize = 1 << 20;

/// A pool by what it says of itself, without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolIdentity {
    /// Names the pool.
    pub uuid: [u8; 16],
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// What its root volume may grow to, if that was ever said: opening it with a larger
    /// [`Options::capacity_bytes_max`] raises it.
    pub capacity_bytes_max: Option<u64>,
    /// Where its volumes are, the root's first; relative ones are within its directory.
    pub volumes: Vec<PathBuf>,
}

const COPY_IS_BAD: (Severity, &str) = (
    Severity::Warning,
    "nothing is lost: the next start writes this copy again from the other one",
);
const NOT_ITS_LABEL: (Severity, &str) = (
    Severity::Error,
    "make sure that this is the right device; the pool does not open with it, so restore the volume \
     from a backup",
);
const RESTORE: &str = "restore the pool from a backup";

impl Pool {
    /// Reads who the pool in DIR is, without opening it. [`Error::InUse`] if somebody has it open.
    pub fn identify(dir: &Path, options: &Options) -> Result<PoolIdentity> {
        let volumes = volumes_of(root_in(dir, options, Access::Read)?);
        let found =
            heart(&volumes, Some(dir)).map_err(|error| with_path(error, &dir.join(VOLUME_FILE)));
        let Heart { superblock, catalog, .. } = found?;
        let others = catalog.volumes.values().filter(|record| record.id != VolumeId::ROOT);
        let others = others.map(|record| record.path.clone());
        let volumes = std::iter::once(PathBuf::from(VOLUME_FILE)).chain(others).collect();
        let root = catalog.volumes.get(&VolumeId::ROOT);
        let capacity_bytes_max = root.map(|record| record.capacity_bytes_max);
        let (uuid, name) = (superblock.uuid, name_of(&catalog));
        Ok(PoolIdentity { uuid, name, capacity_bytes_max, volumes })
    }

    /// Checks the pool in DIR, which nobody may have open, and writes nothing. `progress` gets the
    /// bytes of data verified and to be verified. What is wrong with the pool is in the report;
    /// errors are about getting at it: [`Error::InUse`], no permission, a format that this program
    /// does not know.
    pub fn check_dir(
        dir: &Path,
        options: &Options,
        check: CheckOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CheckReport> {
        let root = root_in(dir, options, Access::Read)?;
        let find = find_in(dir, options, Access::Read);
        Check { volumes: volumes_of(root), dir: Some(dir), find: &find, how: check }.run(progress)
    }

    /// As [`Pool::check_dir`], for a pool on given devices: the root, and the others by their ids.
    pub fn check_on(
        root: Arc<dyn Device>,
        others: &[(VolumeId, Arc<dyn Device>)],
        check: CheckOptions,
    ) -> Result<CheckReport> {
        let find = |record: &VolumeRecord| {
            let given = others.iter().find(|(id, _)| *id == record.id);
            given.map(|(_, device)| Arc::clone(device)).ok_or_else(|| Error::no_such(record.id))
        };
        Check { volumes: volumes_of(root), dir: None, find: &find, how: check }.run(&mut |_, _| ())
    }
}

struct Check<'a> {
    volumes: Arc<Volumes>,
    dir: Option<&'a Path>,
    find: Find<'a>,
    how: CheckOptions,
}

impl Check<'_> {
    fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mut reader = Reader::direct(&self.volumes, READ_BYTES);
        self.superblock(&mut reader, &mut report);
        let heart = match heart(&self.volumes, self.dir) {
            Ok(heart) => heart,
            Err(error @ (Error::Format { .. } | Error::Features { .. })) => return Err(error),
            Err(error) => {
                let error = match self.dir {
                    Some(dir) => with_path(error, &dir.join(VOLUME_FILE)),
                    None => error,
                };
                report.note(Severity::Error, "the pool", error.to_string(), RESTORE);
                return Ok(report);
            }
        };
        let catalog = &heart.catalog;
        report.uuid = Some(heart.superblock.uuid);
        report.name = name_of(catalog);
        features(&heart, &mut report);
        report.mblocks = catalog.mblocks.len() as u64;
        report.journals = catalog.mdcs.len() as u64;
        report.segments = catalog.segments.len() as u64;
        let who = (ScrubTarget::PoolJournal, owner_word(heart.superblock.uuid, 0));
        take_frames(frames(who, &heart.position, &mut reader), &heart.position, &mut report);
        self.join(&heart, &mut reader, &mut report);
        if let Some(dir) = self.dir {
            surroundings::outside(dir, catalog, &mut report);
            surroundings::strangers(dir, &heart, &mut report);
        }
        let lost = self.places(&heart, &mut report)?;
        self.journals(&heart, &mut reader, &mut report);
        if self.how.data {
            data(&heart, &lost, (&mut reader, progress), &mut report);
        }
        report.bytes = reader.bytes;
        Ok(report)
    }

    fn superblock(&self, reader: &mut Reader<'_>, report: &mut CheckReport) {
        let len = self.volumes.root().device().geometry().len_bytes;
        if len < superblock::RESERVED.len {
            return;
        }
        let named = self.dir.and_then(site::named_in);
        let pool = match superblock::read(&self.volumes, named) {
            Ok(Election::Elected(counts)) => Some(counts.uuid),
            _ => None,
        };
        let mut findings = Vec::new();
        let intact = heads::superblock(pool, reader, &mut findings).ok().flatten();
        match intact {
            Some(_) => {
                let way_out = "opening the pool writes this copy again from the other one";
                report.take(findings, Severity::Warning, way_out);
            }
            // Neither: what it is instead is told by the attempt to read it.
            None => report.findings = findings,
        }
    }

    /// Opens the volumes that the journal names and compares their labels.
    fn join(&self, heart: &Heart, reader: &mut Reader<'_>, report: &mut CheckReport) {
        report.volumes = 1;
        for record in heart.catalog.volumes.values() {
            if record.evacuating {
                let text = "it is being emptied".to_owned();
                report.note(Severity::Note, record.id, text, "evacuate it again, or cancel that");
            }
            if record.id == VolumeId::ROOT {
                continue;
            }
            report.volumes += 1;
            match (self.find)(record) {
                Ok(device) => self.volumes.add(record.id, Arc::new(ReadOnly(device))),
                Err(error) => {
                    let reason = match error {
                        Error::Unusable { reason, .. } => reason,
                        other => format!("cannot be opened: {other}"),
                    };
                    let missing =
                        MissingVolume::new(record, heart.catalog.held_by(record.id), &reason);
                    let MissingVolume { class, kind, .. } = &missing;
                    let text = format!("{class}, kind {kind}, {}", missing.whereabouts());
                    report.note(Severity::Error, record.id, text, &missing.way_out());
                    continue;
                }
            }
            let expected = heads::labels(heart.superblock.uuid, [(record.id, record.uuid)]);
            let mut findings = Vec::new();
            // Without a control nothing stops the reader.
            let Some(volume) = self.volumes.get(record.id) else { continue };
            let device = &**volume.device();
            if heads::label((&expected[0], None), device, reader, &mut findings).is_ok() {
                let found = label::read(device);
                let opens = matches!(found, Ok(Found::Label(it)) if it.is_of_same(&expected[0]));
                let (severity, way_out) = if opens { COPY_IS_BAD } else { NOT_ITS_LABEL };
                report.take(findings, severity, way_out);
            }
            if !label::is_appended(device)
                && matches!(label::read_copy(device, 1), Ok(Found::Blank))
            {
                // Nothing tells the one from the other.
                let (what, text) = (ScrubTarget::Label(record.id), "copy 2 is missing".to_owned());
                let way_out = "volumes of earlier programs have none, on others it was lost; the \
                               next start writes it";
                report.note(Severity::Note, what, text, way_out);
            }
            self.session(record.id, heart, report);
        }
    }

    /// Whether a volume and the root are of one moment.
    fn session(&self, id: VolumeId, heart: &Heart, report: &mut CheckReport) {
        let Some(volume) = self.volumes.get(id) else { return };
        // What is wrong with the label itself is told already.
        let Ok(Found::Label(found)) = label::read(&**volume.device()) else { return };
        let sessions = session::sessions_of(&heart.catalog).unwrap_or_default();
        if let Err(stale) = sessions.judge(found.session) {
            let text = stale.text(id, sessions, found.session);
            report.note(Severity::Error, id, text, "the pool does not open like this");
        }
    }

    /// Checks all places; returns the owners whose bytes cannot be had.
    fn places(&self, heart: &Heart, report: &mut CheckReport) -> Result<BTreeSet<String>> {
        let mut shapes = BTreeMap::new();
        for volume in self.volumes.all() {
            let shape = shape_of(&**volume.device())
                .map_err(|e| Error::io("zone report", volume.id().address(0), 0, e))?;
            shapes.insert(volume.id(), shape);
        }
        let mut lost = BTreeSet::new();
        for wrong in places::check(&shapes, owned(heart)) {
            let at = wrong.extent.offset;
            let text = format!("{} bytes at address {at:#x}: {}", wrong.extent.len, wrong.reason);
            report.note(Severity::Error, &wrong.owner, text, RESTORE);
            lost.insert(wrong.owner);
        }
        Ok(lost)
    }

    fn journals(&self, heart: &Heart, reader: &mut Reader<'_>, report: &mut CheckReport) {
        for (id, logs) in &heart.catalog.mdcs {
            let (target, owner) =
                (ScrubTarget::Journal(*id), owner_word(heart.superblock.uuid, id.get()));
            let place = Place { name: id.to_string(), owner, logs: *logs };
            match elected(&self.volumes, &place) {
                Ok(elected) => {
                    let position = elected.position(*logs);
                    take_frames(frames((target, owner), &position, reader), &position, report);
                }
                Err(error) => {
                    let address = match &error {
                        Error::Corrupt { offset, .. } | Error::Io { offset, .. } => *offset,
                        _ => logs[0].offset,
                    };
                    report.note(Severity::Error, target, error.to_string(), RESTORE);
                    report.findings.push(lost(target, logs, address));
                }
            }
        }
    }
}

/// What the superblock says that the pool uses, beside what its journal needs.
fn features(heart: &Heart, report: &mut CheckReport) {
    report.features = heart.superblock.features;
    let unnamed = heart.needs.without(report.features);
    if !unnamed.is_empty() {
        let text = format!("the journal uses {unnamed}, which the superblock does not name");
        let way_out = "the program that wrote it knew of no features; opening the pool names them";
        report.note(Severity::Note, "superblock", text, way_out);
    }
    let unknown = report.features.unknown();
    if !unknown.is_empty() {
        let text = format!("the pool uses features that this program does not know: {unknown}");
        let way_out = if heart.superblock.check_writable().is_ok() {
            "they are harmless; a later version makes use of them"
        } else {
            "what they are about was not checked, and only a later version can open the pool"
        };
        report.note(Severity::Note, "superblock", text, way_out);
    }
}

/// Verifies every mblock but those whose bytes cannot be had.
fn data(
    heart: &Heart,
    lost: &BTreeSet<String>,
    (reader, progress): (&mut Reader<'_>, &mut dyn FnMut(u64, u64)),
    report: &mut CheckReport,
) {
    let here = heart.catalog.mblocks.iter().filter(|(id, _)| !lost.contains(&id.to_string()));
    let goal = here.clone().map(|(_, place)| sums::total_len(place.len_bytes)).sum();
    let before = reader.bytes;
    for (id, place) in here {
        let layout = Layout::new(&place.extents);
        let (len_bytes, sums_crc) = (place.len_bytes, place.sums_crc);
        let object = Object { id: *id, layout: &layout, len_bytes, sums_crc };
        let mut findings = Vec::new();
        // Without a control nothing stops the reader.
        if objects::verify(&object, reader, &mut findings).is_ok() {
            report.take(findings, Severity::Error, "delete or rewrite what it belongs to");
        }
        report.unverifiable += u64::from(sums_crc.is_none());
        progress(reader.bytes - before, goal);
    }
}

/// Verifies one journal's frames, the last one included.
fn frames(who: (ScrubTarget, u64), position: &Position, reader: &mut Reader<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Without a control nothing stops the reader.
    if logs::verify(who, position, reader, &mut findings).is_ok() {
        findings.extend(torn(who, position, reader));
    }
    findings
}

/// What is damaged in one copy of a journal that can be read is sound in the other.
fn take_frames(findings: Vec<Finding>, position: &Position, report: &mut CheckReport) {
    let twice = position.logs[0].is_twice();
    for finding in findings {
        let (severity, way_out) = match finding.damage {
            Damage::TornOrDamaged => (
                Severity::Note,
                "after a crash this is usual; if it is rot instead, what it made is lost",
            ),
            _ if twice => COPY_IS_BAD,
            _ => (Severity::Error, "the journal is still read: copy what matters off the pool now"),
        };
        report.take(vec![finding], severity, way_out);
    }
}

fn shape_of(device: &dyn Device) -> std::io::Result<Shape> {
    let len_bytes = device.geometry().len_bytes;
    let Some(zones) = device.zones() else {
        return Ok(Shape { len_bytes, conventional_bytes: len_bytes, ..Shape::default() });
    };
    let limits = zones.limits();
    let conventional = limits.conventional_zones;
    Ok(Shape {
        len_bytes,
        conventional_bytes: u64::from(conventional) * limits.zone_bytes,
        zone_bytes: limits.zone_bytes,
        zones: zones.report(conventional, limits.zones - conventional)?,
    })
}

/// Every place that has an owner, the pool's own logs included.
fn owned(heart: &Heart) -> Vec<Owned> {
    let Heart { superblock, catalog, .. } = heart;
    let own = superblock.logs.iter().map(|log| (log.extent(), "pool journal".to_owned()));
    let mblocks = catalog
        .mblocks
        .iter()
        .flat_map(|(id, place)| place.extents.iter().map(|extent| (*extent, id.to_string())));
    let mdcs =
        catalog.mdcs.iter().flat_map(|(id, logs)| logs.map(|log| (log.extent(), id.to_string())));
    let segments = catalog.segments.iter().map(|(id, extent)| (*extent, id.to_string()));
    let all = own.chain(mblocks).chain(mdcs).chain(segments);
    all.map(|(extent, owner)| Owned { extent, owner }).collect()
}

const _: () = assert!(READ_BYTES.is_multiple_of(IO_ALIGN));
