//! Creating a pool: only where nothing is, or where it is asked for.
//!
//! What is in the directory is looked at first (`site`), and decides. A pool that begins in a file
//! appears under its name whole:
//!
//! ```text
//! capacity.vol.new, empty | logs, superblock | named capacity.vol | pool.id
//! ^ nothing yet, whatever a crash leaves                          ^ open leaves it, too
//! ```
//!
//! A device has its name from the start. There the first thing written says that a creation is
//! under way (`superblock`), and a link to it is made in the directory when the pool is whole.

use crate::{
    address::ALLOC_UNIT,
    device::{self, Access, Device, FileDevice, Zoned, contents::Contents},
    error::{Error, Result},
    heads::{
        log::{Kept, Log},
        superblock::{self, Election, RESERVED, Superblock},
    },
    io::volumes::Volumes,
    journal::{mdc::pair::LogPair, pool_journal},
    media::Priority,
    options::{Create, Options},
    pool::{
        Pool,
        open::{new_uuid, new_volume, no_others, open_in, open_on},
    },
    site::{
        self, VOLUME_FILE, VOLUME_FILE_NEW,
        devices::{file_options, open_root},
        unusable,
        verdict::Root,
        with_path,
    },
};
use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The pool's journal takes this share of the capacity for each copy of its two logs, within
/// bounds: at 36 bytes an object, 8 MiB describe 230,000 objects. With more than half of that it
/// moves to longer logs (`upkeep::journal`).
const LOG_SHARE: u64 = 256;
const LOG_BYTES_MIN: u64 = 2 * ALLOC_UNIT;
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The block device that a new pool begins on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoot {
    /// The device.
    pub device: PathBuf,
    /// Take it even though something is on it, which is then lost.
    pub force: bool,
}

const HOLDS_A_POOL: &str = "holds a pool already; open it, or --force it and lose what is there";

impl Pool {
    /// Opens the pool in DIR (its root volume is DIR/capacity.vol). Where there is none, one is
    /// made if [`Options::create`] allows that, with the directory; if not, the error says what is
    /// there instead. [`Error::InUse`] if locked by another process.
    pub fn open_or_create(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        if options.read_only {
            return Self::open_dir(dir, options);
        }
        match site::survey(dir, options.create)? {
            (_, false) => Self::open_dir(dir, options),
            (found, true) => create_in(dir, &found.root, options),
        }
    }

    /// Creates a pool in DIR, where there must be none, as far as [`Options::create`] allows that.
    pub fn create_dir(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        match site::survey(dir, options.create)? {
            (_, false) => Err(with_path(unusable(HOLDS_A_POOL), &dir.join(VOLUME_FILE))),
            (found, true) => create_in(dir, &found.root, options),
        }
    }

    /// Creates a pool in DIR whose root volume is a whole block device: DIR/capacity.vol is a
    /// symbolic link to it, so that the pool is opened like any other. There must be no pool in
    /// DIR.
    pub fn create_on_block(dir: &Path, root: &NewRoot, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let path = dir.join(VOLUME_FILE);
        let failed = |error: io::Error| Error::Unusable {
            path: path.clone(),
            reason: format!("no pool can be begun here: {error}"),
        };
        let target = std::path::absolute(&root.device).map_err(failed)?;
        if let (_, false) = site::survey(dir, options.create)? {
            return Err(with_path(unusable(HOLDS_A_POOL), &path));
        }
        // Before anything is made or changed: who has the device, and what is on it?
        let device = device::open_block(&target, Access::Write)?;
        if root.force {
            device::wipe_ends(&*device)
                .map_err(|source| Error::io("durable write", 0, 0, source))?;
        }
        let volume = new_volume(device, options);
        check_blank(&volume, root.force)
            .and_then(|()| create_on(&volume, options))
            .map_err(|error| with_path(error, &target))?;
        make_private(dir).map_err(failed)?;
        remove_if_there(&path).map_err(failed)?;
        std::os::unix::fs::symlink(&target, &path).map_err(failed)?;
        sync_dir(&path).map_err(failed)?;
        open_in(dir, &volume, options).map_err(|error| with_path(error, &target))
    }

    /// Creates a pool on a given device, which must be blank: nothing known is on it, and both its
    /// ends are zeros.
    pub fn create(device: Arc<dyn Device>, options: &Options) -> Result<Arc<Self>> {
        options.validate()?;
        let volume = new_volume(device, options);
        check_blank(&volume, false)?;
        create_on(&volume, options)?;
        open_on(&volume, options, None, &no_others)
    }
}

/// Makes the directory, and what is missing above it, for its owner alone, whatever the umask. One
/// that is there stays as it is.
fn make_private(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes a pool in a directory that may have one, where `root` was found.
fn create_in(dir: &Path, root: &Root, options: &Options) -> Result<Arc<Pool>> {
    make_private(dir).map_err(|error| Error::Unusable {
        path: dir.to_owned(),
        reason: format!("the directory cannot be created: {error}"),
    })?;
    let path = dir.join(VOLUME_FILE);
    let is_device = device::is_block_path(&path);
    let made = if is_device || matches!(root, Root::Empty | Root::Begun) {
        create_in_place(&path, options)
    } else {
        create_file(&path, options)
    };
    made.and_then(|volume| open_in(dir, &volume, options)).map_err(|error| with_path(error, &path))
}

/// On a device, or in an empty file that was asked for, through links too.
fn create_in_place(path: &Path, options: &Options) -> Result<Arc<Volumes>> {
    let device = open_root(path, options, Access::Write)?;
    let force = options.create == Create::Force;
    if force {
        device::wipe_ends(&*device).map_err(|source| Error::io("durable write", 0, 0, source))?;
    }
    let volume = new_volume(device, options);
    check_blank(&volume, force)?;
    create_on(&volume, options)?;
    Ok(volume)
}

/// In a new file. By force it takes the place of whatever is there.
fn create_file(path: &Path, options: &Options) -> Result<Arc<Volumes>> {
    let failed = |error: io::Error| Error::Unusable {
        path: path.to_owned(),
        reason: format!("the root volume cannot be made: {error}"),
    };
    if options.create == Create::Force {
        remove_if_there(path).map_err(failed)?;
    }
    let new = path.with_file_name(VOLUME_FILE_NEW);
    let fresh = Fresh::at(&new);
    let device = site::check_left_over(&new)
        .and_then(|()| FileDevice::open_anew(&new, path, &file_options(options)));
    let device = device.inspect_err(|error| fresh.clean_up(error))?;
    let volume = new_volume(Arc::new(device), options);
    let made = create_on(&volume, options).and_then(|()| match name(&new, path) {
        Ok(()) => sync_dir(path).map_err(failed),
        // Somebody else was faster.
        Err(Errno::EXIST) => Err(Error::InUse { path: path.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    });
    made.inspect_err(|_| {
        // What stays is nobody's, and the next attempt takes it.
        drop(remove_if_there(&new));
    })?;
    Ok(volume)
}

/// A path at which there was nothing yet: a refusal leaves nothing there either.
pub(crate) struct Fresh<'a>(Option<&'a Path>);

impl<'a> Fresh<'a> {
    pub(crate) fn at(path: &'a Path) -> Self {
        Self(std::fs::symlink_metadata(path).is_err().then_some(path))
    }

    /// For a device that has no path, or is not new.
    pub(crate) const NOTHING: Self = Self(None);

    /// Takes away what was made before `error`, unless somebody else may be making it. It must not
    /// be a volume yet.
    pub(crate) fn clean_up(&self, error: &Error) {
        let is_ours = !matches!(error, Error::InUse { .. });
        if let Some(path) = self.0.filter(|_| is_ours) {
            // What stays is told by the next attempt.
            drop(remove_if_there(path));
        }
    }
}

/// Gives a file its name, which nothing may have.
fn name(new: &Path, path: &Path) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot promise that.
        Err(Errno::INVAL) if !path.exists() => rustix::fs::rename(new, path),
        outcome => outcome,
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// A new name must survive a crash as well as the file does.
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Whether a pool may begin on a device: nothing is on it, but for what a creation has left that
/// was cut short.
fn check_blank(volume: &Volumes, force: bool) -> Result<()> {
    conventional_bytes(volume)?;
    let root = volume.root();
    let contents = device::contents::of_device(&**root.device())
        .map_err(|source| Error::io("read", 0, 0, source))?;
    let taken = match (superblock::read(volume, None), contents) {
        (Ok(Election::Begun), _) | (Ok(Election::Blank), Contents::Blank) => return Ok(()),
        (Ok(Election::Elected(_)), _) => return Err(unusable(HOLDS_A_POOL)),
        (Ok(Election::Blank) | Err(Error::Unusable { .. }), Contents::Taken(taken)) => taken,
        (Err(error), _) => return Err(error),
    };
    // Its ends have been wiped; what lies between them is given up.
    if force { Ok(()) } else { Err(unusable(&taken.refusal())) }
}

/// Bytes of the root that can be overwritten.
fn conventional_bytes(volumes: &Volumes) -> Result<u64> {
    let root = volumes.root();
    match root.device().zones().map(Zoned::limits) {
        None => Ok(root.device().geometry().len_bytes_max),
        Some(limits) if limits.conventional_zones > 0 => {
            Ok(u64::from(limits.conventional_zones) * limits.zone_bytes)
        }
        Some(_) => Err(unusable(
            "has only zones that are written in sequence; a pool begins on a volume that can be \
             overwritten, and such a device is added to it",
        )),
    }
}

fn create_on(volume: &Arc<Volumes>, options: &Options) -> Result<()> {
    let root = volume.root();
    let device = root.device();
    let capacity = options.capacity_bytes_max.min(conventional_bytes(volume)?);
    let log_len = (capacity / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX);
    let log_len = log_len.next_multiple_of(ALLOC_UNIT);
    let kept = Kept::Twice;
    let log = |n| Log { offset: RESERVED.end() + n * kept.copies() * log_len, len: log_len, kept };
    let logs = [log(0), log(1)];
    let need_bytes = logs[1].extent().end();
    let fits = need_bytes <= device.geometry().len_bytes;
    if need_bytes > capacity {
        let text = format!("takes at most {capacity} bytes, and a pool needs {need_bytes}");
        return Err(unusable(&text));
    }
    if !fits {
        // The device knows what its disk has, and what of that is left to others.
        let no_room = |error| unusable(&format!("no room for a pool: {error}"));
        device.grow(need_bytes).map_err(no_room)?;
    }
    superblock::write_begun(volume)?;
    for log in logs {
        volume.write_zeros(log.extent(), Priority::Wal)?;
    }
    volume.flush()?;
    let uuid = new_uuid()?;
    LogPair::format(Arc::clone(volume), pool_journal::place(uuid, logs))?;
    let superblock = Superblock::new(uuid, logs);
    superblock.write_copy(volume, 0)?;
    superblock.write_copy(volume, 1)?;
    tracing::info!(device = device.kind(), capacity, "created a pool");
    Ok(())
}
