//! Where a pool is to be: a directory is looked at before anything in it is opened or made.
//!
//! What is found is a value (`verdict::Site`), and what to do is decided from it alone
//! (`verdict::decide`). Looking changes nothing and locks nothing: whether somebody has the pool
//! open shows when it is opened.

pub(crate) mod devices;
pub(crate) mod elect;
pub(crate) mod mark;
mod mounts;
pub(crate) mod verdict;

use crate::{
    device::{contents, dangling},
    error::{Error, Result},
    heads::{
        label,
        superblock::{self, COPY_OFFSETS, Copy, Election},
    },
    journal::mdc::frame::{FRAME_HEAD_LEN, FrameHead},
    options::Create,
};
use mark::{MARK_FILE, MARK_FILE_NEW, Mark};
use mpool_device::IO_ALIGN;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};
use verdict::{Labelled, Other, Root, Site, Verdict, decide};

/// The root volume's file within the pool's directory.
pub(crate) const VOLUME_FILE: &str = "capacity.vol";

/// The note that an operator leaves in a directory over which something is to be mounted: while it
/// can be seen, nothing is.
pub(crate) const MOUNT_POINT_FILE: &str = "pool.unmounted";
/// The root volume's file until its pool is whole.
pub(crate) const VOLUME_FILE_NEW: &str = "capacity.vol.new";
/// What every ext file system has in its root.
const LOST_AND_FOUND: &str = "lost+found";

/// Entries of the directory that are looked at for labels.
const ENTRIES_MAX: usize = 1000;
/// How far a root volume without superblocks is searched for a journal.
const SEARCH_BYTES: u64 = 64 << 20;
const SEARCH_CHUNK: usize = 1 << 20;

/// Looks at `dir` and decides whether its pool is opened, or one is made; why neither, is the
/// error.
pub(crate) fn survey(dir: &Path, create: Create) -> Result<(Site, bool)> {
    let site = look(dir)?;
    match decide(&site, create) {
        Verdict::Open => Ok((site, false)),
        Verdict::Create => Ok((site, true)),
        Verdict::Refuse(why) => {
            Err(Error::Unusable { path: dir.join(VOLUME_FILE), reason: site.refusal(&why) })
        }
    }
}

/// Whether a copy of the directory would lead to this same volume: its path is absolute, or leads
/// out of the directory by a link.
pub(crate) fn is_outside(dir: &Path, path: &Path) -> bool {
    let leads_out = || {
        let (dir, volume) = (dir.canonicalize().ok()?, dir.join(path).canonicalize().ok()?);
        Some(!volume.starts_with(dir))
    };
    path.is_absolute() || leads_out().unwrap_or(false)
}

/// Whether the root volume is there, whatever is on it; that it is missing, is the error.
pub(crate) fn survey_root(dir: &Path) -> Result<()> {
    match look_at_root(&dir.join(VOLUME_FILE), named_in(dir)) {
        Root::Absent | Root::Dangling(_) => survey(dir, Create::Never).map(drop),
        Root::Empty | Root::Begun | Root::Pool(_) | Root::Other(_) => Ok(()),
    }
}

/// Whose the directory is: by its mark, or by the volumes in it that are of one pool.
pub(crate) fn uuid_of(dir: &Path) -> Result<Option<[u8; 16]>> {
    if let Some(uuid) = named_in(dir) {
        return Ok(Some(uuid));
    }
    let pools: Vec<_> = look(dir)?.volumes.iter().map(|volume| volume.pool).collect();
    Ok(pools.first().copied().filter(|first| pools.iter().all(|pool| pool == first)))
}

/// The pool that the mark of a directory names.
pub(crate) fn named_in(dir: &Path) -> Option<[u8; 16]> {
    match mark::read(dir) {
        Mark::Of(uuid) => Some(uuid),
        Mark::Absent | Mark::Unreadable => None,
    }
}

/// What is in a directory.
pub(crate) fn look(dir: &Path) -> Result<Site> {
    let root = look_at_root(&dir.join(VOLUME_FILE), named_in(dir));
    let mut site = Site {
        mark: mark::read(dir),
        is_mount_point: false,
        not_mounted: None,
        volumes: Vec::new(),
        roots: Vec::new(),
        others: Vec::new(),
        root,
    };
    // The rest is of interest where there is no pool only.
    if !matches!(site.root, Root::Pool(_)) {
        look_around(dir, &mut site)?;
    }
    Ok(site)
}

/// Whether a file that has the name of a root volume in the making is what a creation leaves that
/// was cut short: empty, or it begins with a superblock or its absence. Anything else is
/// somebody's.
pub(crate) fn check_left_over(new: &Path) -> Result<()> {
    let head = match File::open(new) {
        Ok(file) if file.metadata().is_ok_and(|found| found.is_file()) => {
            let mut head = Vec::new();
            file.take(superblock::LEN as u64).read_to_end(&mut head).map(|_| head)
        }
        // Whatever is wrong with it is told when it is opened.
        _ => return Ok(()),
    };
    let is_ours = head.is_ok_and(|head| match head.first_chunk() {
        Some(copy) => superblock::decode(copy) != Copy::Foreign,
        None => head.is_empty(),
    });
    if is_ours {
        return Ok(());
    }
    let reason = "has the name of a volume in the making, and something else is in it, which a \
                  creation would overwrite; move it away"
        .to_owned();
    Err(Error::Unusable { path: new.to_owned(), reason })
}

/// Leaves the mark of `pool` in its directory, unless it is there. A directory that does not take
/// it is not in the way of opening the pool.
pub(crate) fn keep_mark(dir: &Path, pool: [u8; 16]) {
    match mark::read(dir) {
        Mark::Of(marked) if marked == pool => return,
        Mark::Unreadable => {
            let dir = dir.display();
            tracing::warn!(%dir, "the mark {MARK_FILE} cannot be read, and is written again");
        }
        Mark::Of(_) | Mark::Absent => {}
    }
    if let Err(error) = mark::write(dir, pool) {
        let dir = dir.display();
        tracing::warn!(%dir, %error, "the mark {MARK_FILE} cannot be left beside the root volume");
    }
}

/// Takes the mark away.
pub(crate) fn remove_mark(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(MARK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn look_at_root(path: &Path, named: Option<[u8; 16]>) -> Root {
    if let Some(target) = dangling(path) {
        return Root::Dangling(target);
    }
    match read_root(path, named) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Root::Absent,
        // Opening it says why it cannot be read.
        Err(_) => Root::Pool(None),
    }
}

fn read_root(path: &Path, named: Option<[u8; 16]>) -> io::Result<Root> {
    // Before it is opened: the open of a fifo waits for somebody at its other end.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(Root::Pool(None));
    }
    let mut file = File::open(path)?;
    let len_bytes = file.seek(SeekFrom::End(0))?;
    if len_bytes == 0 {
        return Ok(Root::Empty);
    }
    let mut copies = [Copy::Blank, Copy::Blank];
    for (copy, offset) in copies.iter_mut().zip(COPY_OFFSETS) {
        if offset + IO_ALIGN as u64 <= len_bytes {
            let mut bytes = [0; superblock::LEN];
            file.read_exact_at(&mut bytes, offset)?;
            *copy = superblock::decode(&bytes);
        }
    }
    Ok(match superblock::elect(copies, named) {
        Ok(Election::Elected(superblock)) => Root::Pool(Some(superblock.uuid)),
        Ok(Election::Begun) => Root::Begun,
        Ok(Election::Blank) | Err(Error::Unusable { .. }) => {
            let taken = contents::of_file(&file, len_bytes)?;
            Root::Other(Other { taken, journal_at: find_journal(&file, len_bytes)? })
        }
        Err(_) => Root::Pool(None),
    })
}

/// The first frame of any journal in the first part of a file.
fn find_journal(file: &File, len_bytes: u64) -> io::Result<Option<u64>> {
    let end = len_bytes.min(SEARCH_BYTES) / IO_ALIGN as u64 * IO_ALIGN as u64;
    let mut chunk = vec![0; SEARCH_CHUNK];
    for at in (0..end).step_by(SEARCH_CHUNK) {
        let len = usize::try_from((end - at).min(SEARCH_CHUNK as u64)).expect("a chunk");
        file.read_exact_at(&mut chunk[..len], at)?;
        for (n, page) in chunk[..len].chunks(IO_ALIGN).enumerate() {
            let head: &[u8; FRAME_HEAD_LEN] = page.first_chunk().expect("a page holds a head");
            if FrameHead::decode(head).is_ok() {
                return Ok(Some(at + (n * IO_ALIGN) as u64));
            }
        }
    }
    Ok(None)
}

/// Everything but root and mark.
fn look_around(dir: &Path, site: &mut Site) -> Result<()> {
    let unusable = |reason: String| Error::Unusable { path: dir.to_owned(), reason };
    let absolute = settled(dir);
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (fstab, mountinfo) = (text("/etc/fstab"), text("/proc/self/mountinfo"));
    site.not_mounted = mounts::not_mounted(&absolute, &fstab, &mountinfo);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(format!("the directory cannot be listed: {error}"))),
    };
    for (n, entry) in entries.enumerate() {
        let entry = entry.map_err(|e| unusable(format!("the directory cannot be listed: {e}")))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            MOUNT_POINT_FILE => site.is_mount_point = true,
            VOLUME_FILE | VOLUME_FILE_NEW | MARK_FILE | MARK_FILE_NEW | LOST_AND_FOUND => {}
            _ if n >= ENTRIES_MAX => site.others.push(name),
            _ => match volume_at(&entry.path()) {
                Some(Member::Volume(label)) => {
                    site.volumes.push(Labelled { name, id: label.id, pool: label.pool });
                }
                Some(Member::Root(pool)) => site.roots.push((name, pool)),
                None => site.others.push(name),
            },
        }
    }
    site.volumes.sort_by_key(|volume| volume.id);
    site.roots.sort();
    site.others.sort();
    Ok(())
}

/// A file or device that is of a pool, by its first bytes.
enum Member {
    Volume(label::Label),
    /// The root volume of this pool, under another name than a root volume has.
    Root([u8; 16]),
}

/// What a file or device is to a pool. Links are followed; what may block is not opened.
fn volume_at(path: &Path) -> Option<Member> {
    let kind = std::fs::metadata(path).ok()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return None;
    }
    let file = File::open(path).ok()?;
    if let Some(label) = label::in_file(&file) {
        return Some(Member::Volume(label));
    }
    COPY_OFFSETS.iter().find_map(|offset| {
        let mut copy = [0; superblock::LEN];
        file.read_exact_at(&mut copy, *offset).ok()?;
        match superblock::decode(&copy) {
            Copy::Intact(superblock) => Some(Member::Root(superblock.uuid)),
            _ => None,
        }
    })
}

/// The directory without links and relative parts, as far as it is there.
fn settled(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    for above in absolute.ancestors() {
        if let Ok(real) = std::fs::canonicalize(above) {
            let rest = absolute.strip_prefix(above).expect("it is an ancestor");
            // Joining nothing would add a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    absolute
}

pub(crate) fn unusable(reason: &str) -> Error {
    Error::Unusable { path: PathBuf::from("volume"), reason: reason.to_owned() }
}

/// Errors from below the file's name speak of "volume"; the user knows it by its path.
pub(crate) fn with_path(error: Error, path: &Path) -> Error {
    match error {
        Error::Unusable { path: nameless, reason } if nameless == Path::new("volume") => {
            Error::Unusable { path: path.to_owned(), reason }
        }
        other => other,
    }
}
