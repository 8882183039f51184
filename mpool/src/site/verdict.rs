//! PURE: whether a pool is opened, made, or neither, by what was found where it should be.
//!
//! ```text
//! found                                                    auto    always   never    force
//! a superblock                                             open    open     open     open
//! one whose mark names another pool                        refuse  refuse   refuse   refuse
//! a root volume that holds something else, or zeros        refuse  refuse   refuse   create
//! a mark, labels, or a renamed root, and no root volume    refuse  refuse   refuse   create
//! a link to nothing                                        refuse  refuse   refuse   create
//! the note of a mount point, or a mount that is missing    refuse  refuse   refuse   create
//! a root volume of length 0                                refuse  create   refuse   create
//! other files, and no root volume                          refuse  create   refuse   create
//! a device on which a creation was cut short               create  create   refuse   create
//! no directory, or an empty one                            create  create   refuse   create
//! ```
//!
//! What is refused is refused with what was found and the way out: a pool that is made over one
//! that was only out of sight hides it, and what is written from then on is in the wrong place.

use crate::{
    address::VolumeId, device::contents::Taken, id::uuid_text, options::Create, site::mark::Mark,
};
use std::{fmt::Write as _, path::PathBuf};

/// Other entries of the directory that a refusal names.
const OTHERS_SHOWN: usize = 3;

/// What was found where a pool should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) root: Root,
    pub(crate) mark: Mark,
    /// Whether the note is to be seen that an operator has left below a mount.
    pub(crate) is_mount_point: bool,
    /// Where `/etc/fstab` wants something mounted, at or above the directory, and nothing is.
    pub(crate) not_mounted: Option<PathBuf>,
    /// Files that carry labels.
    pub(crate) volumes: Vec<Labelled>,
    /// Root volumes under other names, and the pools that they are of.
    pub(crate) roots: Vec<(String, [u8; 16])>,
    /// What else is in the directory, sorted.
    pub(crate) others: Vec<String>,
}

/// What stands where the root volume would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Absent,
    /// A link, and what it leads to is not there.
    Dangling(PathBuf),
    /// A file of length 0.
    Empty,
    /// A device on which a creation was cut short.
    Begun,
    /// A superblock, of this pool if it can be read. Opening says what is wrong with it, if
    /// something is.
    Pool(Option<[u8; 16]>),
    /// Neither copy of a superblock, and something else.
    Other(Other),
}

/// What a root volume without superblocks holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) taken: Taken,
    /// The first frame of a journal that was found on it.
    pub(crate) journal_at: Option<u64>,
}

/// A volume that is not the root, found by its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labelled {
    pub(crate) name: String,
    pub(crate) id: VolumeId,
    pub(crate) pool: [u8; 16],
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Open,
    Create,
    Refuse(Why),
}

/// Why there is no pool to be opened, and none is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The superblock is of one pool, the mark of another.
    AnotherPool { root: [u8; 16], mark: [u8; 16] },
    /// The root volume holds something without being a pool's.
    NotAPool,
    /// A pool was here, and its root volume is not.
    RootMissing,
    /// The root volume is a link to nothing.
    DanglingRoot,
    /// What should be mounted here is not.
    NotMounted,
    /// A file of length 0 is in the root volume's place.
    EmptyRoot,
    /// There are other files.
    Occupied,
    /// There is nothing, and nothing may be made.
    Nothing,
}

pub(crate) fn decide(site: &Site, create: Create) -> Verdict {
    let is_mark = site.mark != Mark::Absent;
    let why = match (&site.root, site.mark) {
        (Root::Pool(Some(root)), Mark::Of(mark)) if *root != mark => {
            return Verdict::Refuse(Why::AnotherPool { root: *root, mark });
        }
        (Root::Pool(_), _) => return Verdict::Open,
        _ if create == Create::Force => return Verdict::Create,
        (Root::Other(_), _) => Why::NotAPool,
        _ if is_mark || !site.volumes.is_empty() || !site.roots.is_empty() => Why::RootMissing,
        (Root::Dangling(_), _) => Why::DanglingRoot,
        _ if site.is_mount_point || site.not_mounted.is_some() => Why::NotMounted,
        _ if create == Create::Never => Why::Nothing,
        (Root::Begun, _) => return Verdict::Create,
        (Root::Empty, _) if create == Create::Auto => Why::EmptyRoot,
        _ if create == Create::Auto && !site.others.is_empty() => Why::Occupied,
        _ => return Verdict::Create,
    };
    Verdict::Refuse(why)
}

const ANEW: &str = "to give it up and begin anew, `millpond pool create --force`";
const BRING_BACK: &str = "bring the root volume back (is its disk mounted?), or restore the pool \
                          from a backup";

impl Site {
    /// The refusal in words: what was found, and the way out.
    pub(crate) fn refusal(&self, why: &Why) -> String {
        match why {
            Why::AnotherPool { root, mark } => format!(
                "is the root volume of pool {}, but the mark pool.id beside it names pool {}; put \
                 the right volume here, or, if this is the right one, delete pool.id",
                uuid_text(*root),
                uuid_text(*mark)
            ),
            Why::NotAPool => {
                format!("{}; restore it from a backup, or move it away; {ANEW}", self.findings())
            }
            Why::RootMissing => {
                let pool = self
                    .pool()
                    .map_or_else(|| "a pool".into(), |pool| format!("pool {}", uuid_text(pool)));
                let findings = self.findings();
                let back = self.bring_back();
                format!(
                    "is the root volume of {pool}, which is missing: {findings}; {back}; {ANEW}"
                )
            }
            Why::DanglingRoot => format!("{}; {BRING_BACK}; or delete the link", self.findings()),
            Why::NotMounted => self.not_mounted_text(),
            Why::EmptyRoot => {
                "is an empty file, so there was a pool, or there was to be one: restore \
                               it from a backup; if nothing is missing, delete it, or have a pool \
                               made of it with --create"
                    .to_owned()
            }
            Why::Occupied => format!(
                "does not exist, and its directory is not empty ({}), so it may be the wrong one; \
                 choose an empty directory, or have a pool made beside that with --create",
                self.others_text()
            ),
            Why::Nothing => {
                "does not exist, and neither does anything else of a pool: is this the \
                             right directory? To have a pool made there, `millpond pool create`, \
                             or serve with --create auto"
                    .to_owned()
            }
        }
    }

    /// The pool that mark or labels name.
    fn pool(&self) -> Option<[u8; 16]> {
        if let Mark::Of(pool) = self.mark {
            return Some(pool);
        }
        let labels = self.volumes.iter().map(|volume| volume.pool);
        labels.chain(self.roots.iter().map(|(_, pool)| *pool)).next()
    }

    fn not_mounted_text(&self) -> String {
        match &self.not_mounted {
            Some(point) => format!(
                "does not exist, and /etc/fstab names {} as a mount point, where nothing is \
                 mounted; mount it, or choose another directory",
                point.display()
            ),
            None => "does not exist, and the note pool.unmounted says that its directory is only \
                     the place of a mount; mount what belongs here, or delete the note"
                .to_owned(),
        }
    }

    fn others_text(&self) -> String {
        let shown = self.others.iter().take(OTHERS_SHOWN).map(String::as_str);
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if self.others.len() > OTHERS_SHOWN {
            // Writing to a string cannot fail.
            let _ = write!(text, " and {} more", self.others.len() - OTHERS_SHOWN);
        }
        text
    }

    /// Everything that was looked for, as one clause after the other.
    pub(crate) fn findings(&self) -> String {
        let mut text = match &self.root {
            Root::Absent => "it does not exist".to_owned(),
            Root::Empty => "it is an empty file".to_owned(),
            Root::Begun => "a creation on it was cut short".to_owned(),
            Root::Dangling(target) => {
                format!("is a link to {}, which does not exist", target.display())
            }
            Root::Pool(_) => "it holds a superblock".to_owned(),
            Root::Other(Other { taken, journal_at }) => {
                let journal = journal_at.map_or_else(
                    || "nor a journal".to_owned(),
                    |at| {
                        format!(
                            "but a journal of a pool, at byte {at} (`millpond recover --superblock` \
                             finds what can be opened by it)"
                        )
                    },
                );
                format!(
                    "holds no pool that can be found: {taken}; neither copy of the superblock (at \
                     bytes 0 and 65536) is there, {journal}"
                )
            }
        };
        match self.mark {
            Mark::Absent => {}
            Mark::Of(pool) => {
                let _ = write!(text, "; the mark pool.id names pool {}", uuid_text(pool));
            }
            Mark::Unreadable => text.push_str("; the mark pool.id is there and cannot be read"),
        }
        for Labelled { name, id, pool } in &self.volumes {
            let _ = write!(text, "; {name} carries the label of {id} of pool {}", uuid_text(*pool));
        }
        for (name, pool) in &self.roots {
            let pool = uuid_text(*pool);
            let _ = write!(text, "; {name} is the root volume of pool {pool}, under another name");
        }
        text
    }

    fn bring_back(&self) -> String {
        match &self.roots[..] {
            [] => BRING_BACK.to_owned(),
            [(name, _), ..] => format!("rename {name} if it is the right one; else {BRING_BACK}"),
        }
    }
}

#[cfg(test)]
mod tests;
