//! `millpond pool` on a data directory that no server has open: the lock says so.

use super::{refused, refused_at};
use crate::api::problem::Chain;
use crate::cli::pool::{
    FileMode, FileSystem, PoolAdd, PoolCheck, PoolCreate, PoolDestroy, PoolDirectory, PoolEvacuate,
    PoolGrow, PoolPlace, PoolRemove, PoolRename, PoolScrub, VolumeSpec,
};
use crate::client::Failure;
use crate::config::check_capacity;
use crate::documents::pool as document;
use crate::documents::pool::parse_volume;
use crate::telemetry;
use kvs::{Checked, Database};
use mpool::{
    CheckOptions, Create, FoundJournal, NewRoot, NewVolume, Options, Pool, ScrubOptions,
    ScrubOwners, ScrubProgress, ScrubTarget, Severity, VolumeId, VolumeKind, uuid_text,
};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use units::Size;

/// Name of the root volume's file.
const ROOT: &str = "capacity.vol";

/// Name of the pool's mark.
const MARK: &str = "pool.id";

fn options(allow: FileSystem) -> Options {
    let FileSystem { allow_buffered, allow_volatile } = allow;
    let mut options = Options { allow_buffered, allow_volatile, ..Options::default() };
    // Nothing is mapped here.
    options.reaper.policy = mpool::ReaperPolicy::Off;
    options
}

/// Opens the pool of a directory as it is, for reading only or not.
pub(super) fn open_as(place: &PoolDirectory, read_only: bool) -> Result<Arc<Pool>, Failure> {
    let PoolDirectory { data, allow } = place;
    let mut options = options(*allow);
    let failed = |error: mpool::Error| refused_at(data, &error);
    let identity = Pool::identify(data, &options).map_err(failed)?;
    options.capacity_bytes_max = identity.capacity_bytes_max.unwrap_or(options.capacity_bytes_max);
    options.read_only = read_only;
    Pool::open_dir(data, &options).map_err(failed)
}

/// Opens the pool whose superblock is lost, which is written again unless it is for reading only.
pub(super) fn open_lost(
    place: &PoolDirectory,
    read_only: bool,
) -> Result<(Arc<Pool>, FoundJournal), Failure> {
    let PoolDirectory { data, allow } = place;
    let options = Options { read_only, ..options(*allow) };
    Pool::open_without_superblock(data, &options).map_err(|error| refused_at(data, &error))
}

/// What is repaired as the pool is opened is told on standard error, as the log of a server has it.
pub(super) fn tell_repairs() {
    if let Err(error) = telemetry::start_warnings() {
        telemetry::complain(&format!("warning: what is repaired is not told: {error:#}"));
    }
}

/// Opens the pool as it is: with its own limit, not with a default that would raise it.
fn open(place: &PoolPlace) -> Result<Arc<Pool>, Failure> {
    tell_repairs();
    let mut options = options(place.allow);
    let failed = |error: mpool::Error| refused(place, &error);
    let identity = Pool::identify(&place.data, &options).map_err(failed)?;
    options.capacity_bytes_max = identity.capacity_bytes_max.unwrap_or(options.capacity_bytes_max);
    Pool::open_dir(&place.data, &options).map_err(failed)
}

pub(super) fn create(create: &PoolCreate) -> Result<Value, Failure> {
    let PoolDirectory { data, allow } = &create.place;
    let failed = |error: mpool::Error| refused_at(data, &error);
    let mut options = options(*allow);
    // As `serve` has it, so that it opens what is made here.
    check_capacity(create.capacity).map_err(|error| Failure::Usage(error.to_string()))?;
    if create.capacity.0 > 0 {
        options.capacity_bytes_max = create.capacity.0;
    }
    // Before anything is made.
    create.name.as_deref().map_or(Ok(()), Pool::check_name).map_err(failed)?;
    options.create = if create.force { Create::Force } else { Create::Always };
    options.validate().map_err(failed)?;
    let volumes: Vec<NewVolume> =
        create.volumes.iter().map(|spec| new_volume(spec, create.force)).collect();
    volumes.iter().try_for_each(NewVolume::validate).map_err(failed)?;
    let root = data.join(ROOT);
    match Pool::identify(data, &options) {
        Ok(_) => {
            let text = format!(
                "{} holds a pool already; destroy it first (millpond pool destroy)",
                data.display()
            );
            return Err(Failure::Refused(text));
        }
        Err(error @ mpool::Error::InUse { .. }) => return Err(failed(error)),
        // What is there instead decides below.
        Err(_) => {}
    }
    let pool = if let Some(device) = &create.root {
        let root = NewRoot { device: device.clone(), force: create.force };
        Pool::create_on_block(data, &root, &options).map_err(failed)?
    } else {
        let pool = Pool::create_dir(data, &options).map_err(failed)?;
        give_to_owner(data, &root);
        set_mode(&root, create.mode)?;
        // Written down, so that a server started with other defaults keeps to it.
        pool.grow_volume(VolumeId::ROOT, options.capacity_bytes_max).map_err(failed)?;
        pool
    };
    give_to_owner(data, &data.join(MARK));
    if let Some(name) = &create.name {
        pool.rename(name).map_err(failed)?;
    }
    for new in &volumes {
        pool.add_volume(new).map_err(failed)?;
        set_mode_of_new(data, new, create.mode)?;
    }
    Ok(document::info(&pool, None))
}

fn new_volume(spec: &VolumeSpec, force: bool) -> NewVolume {
    let (kind, class) = (spec.kind, spec.class);
    NewVolume { path: spec.path.clone(), kind, class, capacity_bytes_max: spec.capacity.0, force }
}

fn set_mode_of_new(data: &Path, new: &NewVolume, mode: FileMode) -> Result<(), Failure> {
    match new.kind {
        VolumeKind::File | VolumeKind::EmulatedZoned => {
            let path = data.join(&new.path);
            give_to_owner(data, &path);
            set_mode(&path, mode)
        }
        VolumeKind::Block | VolumeKind::Zoned => Ok(()),
    }
}

/// Gives what was made to the owner of the data directory: root makes it for the server's user.
fn give_to_owner(data: &Path, path: &Path) {
    let (Ok(directory), Ok(made)) = (std::fs::metadata(data), std::fs::metadata(path)) else {
        return;
    };
    let (user, group) = (directory.uid(), directory.gid());
    if made.uid() == user {
        return;
    }
    if let Err(error) = std::os::unix::fs::chown(path, Some(user), Some(group)) {
        let (path, data) = (path.display(), data.display());
        telemetry::complain(&format!(
            "warning: {path} belongs to another user than {data} and cannot be given to that one \
             ({error}): a server of that user may not open it; chown it"
        ));
    }
}

/// Files are made for their owner alone, and opened to others after that.
fn set_mode(path: &Path, mode: FileMode) -> Result<(), Failure> {
    let set = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.0));
    set.map_err(|error| {
        Failure::Refused(format!("{}: mode cannot be set: {error}", path.display()))
    })
}

/// Reads only, so that it works on what is write-protected.
pub(super) fn info(place: &PoolPlace) -> Result<Value, Failure> {
    let found = Pool::inspect(&place.data, &options(place.allow));
    Ok(document::inspection(&found.map_err(|error| refused(place, &error))?))
}

pub(super) fn add(add: &PoolAdd) -> Result<String, Failure> {
    let pool = open(&add.place)?;
    let Size(capacity_bytes_max) = add.capacity;
    let (path, kind, class, force) = (add.path.clone(), add.kind, add.class, add.force);
    let new = NewVolume { path, kind, class, capacity_bytes_max, force };
    let id = pool.add_volume(&new).map_err(|error| refused(&add.place, &error))?;
    set_mode_of_new(&add.place.data, &new, add.mode.unwrap_or_default())?;
    Ok(id.to_string())
}

pub(super) fn grow(grow: &PoolGrow) -> Result<Value, Failure> {
    change(&grow.place, &grow.volume, |pool, id| pool.grow_volume(id, grow.capacity.0))
}

pub(super) fn cancel(evacuate: &PoolEvacuate) -> Result<Value, Failure> {
    change(&evacuate.place, &evacuate.volume, |pool, id| pool.cancel_evacuation(id))
}

pub(super) fn remove(remove: &PoolRemove) -> Result<Value, Failure> {
    let id = volume_id(&remove.volume)?;
    if remove.lost {
        tell_repairs();
        let forgotten = Pool::forget_volume(&remove.place.data, id, &options(remove.place.allow));
        forgotten.map_err(|error| refused(&remove.place, &error))?;
        // What becomes of its file, where that is, is not known here.
        return Ok(json!({ "id": id.to_string() }));
    }
    let pool = open(&remove.place)?;
    let volume = pool.volumes().into_iter().find(|volume| volume.id == id);
    pool.remove_volume(id).map_err(|error| refused(&remove.place, &error))?;
    Ok(volume.map_or(Value::Null, |volume| document::removed(&pool, &volume)))
}

pub(super) fn rename(rename: &PoolRename) -> Result<Value, Failure> {
    let pool = open(&rename.place)?;
    pool.rename(&rename.name).map_err(|error| refused(&rename.place, &error))?;
    Ok(document::info(&pool, None))
}

fn change(
    place: &PoolPlace,
    volume: &str,
    change: impl FnOnce(&Arc<Pool>, VolumeId) -> mpool::Result<()>,
) -> Result<Value, Failure> {
    let id = volume_id(volume)?;
    let pool = open(place)?;
    change(&pool, id).map_err(|error| refused(place, &error))?;
    Ok(document::info(&pool, None))
}

fn volume_id(text: &str) -> Result<VolumeId, Failure> {
    parse_volume(text).ok_or_else(|| Failure::Usage(format!("{text:?} is no volume such as vol-1")))
}

pub(super) fn evacuate(
    evacuate: &PoolEvacuate,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    let id = volume_id(&evacuate.volume)?;
    let pool = open(&evacuate.place)?;
    let done = pool.evacuate_volume(id, &mut |left| progress(0, left));
    let done = done.map_err(|error| refused(&evacuate.place, &error))?;
    Ok(document::evacuation(id, &done))
}

pub(super) fn check(
    check: &PoolCheck,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    let PoolDirectory { data, allow } = &check.place;
    let how = CheckOptions { data: check.full };
    let report = Pool::check_dir(data, &options(*allow), how, progress);
    let mut report = report.map_err(|error| refused_at(data, &error))?;
    // What the pool does not know: whether the store on it would open, and whose objects are.
    match open_as(&check.place, true) {
        Ok(pool) => {
            let Checked { issues, owners } = Database::check_on(&pool);
            report.issues.extend(issues);
            for finding in &mut report.findings {
                if let ScrubTarget::Mblock(id) = finding.target {
                    finding.owner = owners.get(&id).cloned();
                }
            }
            for issue in &mut report.issues {
                let owner = owners.iter().find(|(id, _)| id.to_string() == issue.what);
                if let Some((_, owner)) = owner {
                    issue.text = format!("{}; it is of {owner}", issue.text);
                }
            }
        }
        // The report says why already.
        Err(_) if report.worst() == Some(Severity::Error) => {}
        Err(error) => return Err(error),
    }
    Ok(document::check(&report))
}

pub(super) fn scrub_status(place: &PoolPlace) -> Result<Value, Failure> {
    Ok(document::scrub(&open(place)?.scrub_progress()))
}

pub(super) fn scrub(
    scrub: &PoolScrub,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    let options = ScrubOptions {
        bytes_per_s: scrub.rate.0,
        from_start: scrub.from_start,
        ..ScrubOptions::default()
    };
    let pool = open(&scrub.place).map_err(|failure| match failure {
        Failure::Refused(text) => Failure::Refused(format!(
            "{text}; `millpond pool check --full` verifies what can be read without opening it"
        )),
        other => other,
    })?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::Refused(format!("the scrub ended: {}", Chain(error)))
    };
    // A store knows whose objects are, and can read its log; another user's pool is verified too.
    let store = Database::is_on(&pool).then(|| {
        let mut options = kvs::Options::default();
        options.pool.allow_buffered = scrub.place.allow.allow_buffered;
        Database::open_pool(Arc::clone(&pool), options)
    });
    let refused = store.as_ref().and_then(|store| store.as_ref().err());
    let refused = refused.map(|error| Chain(error).to_string());
    let work = || -> Result<ScrubProgress, Failure> {
        match &store {
            Some(Ok(store)) => store.scrub(&options).map_err(|error| failed(&error)),
            // It is damaged: so much the more reason to look at all of it.
            Some(Err(error)) if error.way_out().is_some() => {
                Database::scrub_unopened(&pool, &options).map_err(|error| failed(&error))
            }
            Some(Err(error)) => Err(failed(error)),
            None => pool.scrub(&options, &ScrubOwners::default()).map_err(|error| failed(&error)),
        }
    };
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(work);
        while !running.is_finished() {
            let seen = pool.scrub_progress();
            progress(seen.bytes, seen.goal_bytes);
            std::thread::park_timeout(Duration::from_millis(200));
        }
        running.join()
    });
    let seen = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let mut document = document::scrub(&seen);
    // Beside the findings: a store may not open for another reason than a page that has rotted.
    document["store_refused"] = json!(refused);
    Ok(document)
}

pub(super) fn destroy(destroy: &PoolDestroy) -> Result<String, Failure> {
    let PoolDirectory { data, allow } = &destroy.place;
    let options = options(*allow);
    let failed = |error: mpool::Error| refused_at(data, &error);
    let known = match Pool::identify(data, &options) {
        Ok(identity) => Some(identity),
        Err(error @ (mpool::Error::InUse { .. } | mpool::Error::Unusable { .. })) => {
            return Err(failed(error));
        }
        // Too damaged to say who it is; --yes can still be said.
        Err(_) => None,
    };
    let is_named = known.as_ref().is_some_and(|known| {
        let given = destroy.name.as_deref();
        given.is_some()
            && (given == known.name.as_deref() || given == Some(&*uuid_text(known.uuid)))
    });
    if !is_named && !destroy.yes {
        let who = known.map_or_else(
            || "a pool that cannot say who it is".to_owned(),
            |known| format!("{} {}", uuid_text(known.uuid), known.name.unwrap_or_default()),
        );
        return Err(Failure::Usage(format!(
            "{} holds {}; to destroy it with all its data, give its name or UUID, or --yes",
            data.display(),
            who.trim_end()
        )));
    }
    let done = Pool::destroy(data, &options).map_err(failed)?;
    let mut out = String::new();
    for path in &done.wiped {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "wiped {}", path.display());
    }
    for (path, why) in &done.left {
        let _ = writeln!(out, "left  {}: {why}", path.display());
    }
    Ok(out)
}
