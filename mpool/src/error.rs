//! Errors of the pool.
//!
//! A caller asks one question of an error: is it the call, the object, or the pool that is bad?
//! [`Error::scope`] answers it, so nobody matches on variants to decide. The text of an error names
//! what was asked, the limit it met, and the way out; the underlying cause is its `source`.

use crate::{
    features::{FORMAT_MAJOR, Features},
    missing::MissingVolume,
};
use std::{fmt::Display, io, path::PathBuf};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in a pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The medium, or the file system before it, refused an operation.
    #[error("{op} of {len} bytes at offset {offset} failed")]
    Io {
        /// "read", "write", "durable write", "flush", "grow" or "open".
        op: &'static str,
        /// Where on the volume, in bytes.
        offset: u64,
        /// How much, in bytes; 0 for a flush.
        len: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes on the medium are not what was written there.
    #[error("{what} is corrupt at offset {offset}: {reason}")]
    Corrupt {
        /// The object or structure.
        what: String,
        /// Where, in bytes: on the volume for the pool's own structures.
        offset: u64,
        /// Which check failed.
        reason: &'static str,
    },
    /// No object of this name, or it has been deleted.
    #[error("{id} does not exist")]
    NoSuchObject {
        /// The printed form of the id.
        id: String,
    },
    /// A handle was given to another pool than its own, or to a later opening of its own; or the id
    /// of a volume to another pool.
    #[error("{what} is of {owner}, and was given to {given_to}; ask that one for its own")]
    ForeignHandle {
        /// The handle.
        what: Box<str>,
        /// The open pool that made it.
        owner: Box<str>,
        /// The open pool that was to use it.
        given_to: Box<str>,
    },
    /// An argument or option out of its range. The text names the option, the value and the range.
    #[error("{0}")]
    Options(String),
    /// No extent of this size is free and the volume cannot grow.
    #[error(
        "pool is full: {need_bytes} bytes wanted, {free_bytes} free; delete data, grow a volume, add one, or make room on the disk"
    )]
    Full {
        /// What was asked for.
        need_bytes: u64,
        /// What is free, though perhaps not in one piece.
        free_bytes: u64,
    },
    /// Somebody else has the pool open.
    #[error("pool at {path} is in use by another process")]
    InUse {
        /// The volume file.
        path: PathBuf,
    },
    /// The path exists but cannot serve as a pool here: not a pool, no permission, no direct IO.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// Why, and what to do about it.
        reason: String,
    },
    /// Volumes that the pool's journal names cannot be had.
    #[error("{}", crate::missing::text(missing))]
    VolumesMissing {
        /// Each of them.
        missing: Vec<MissingVolume>,
    },
    /// The pool was written by a newer version of this program.
    #[error("pool format {found} is newer than {supported}, the newest this binary knows")]
    Format {
        /// Major version on the medium.
        found: u32,
        /// Newest major version this binary reads.
        supported: u32,
    },
    /// The pool uses features this binary does not know, though its major format is known.
    #[error("{}", features_text(*unknown, added_by.as_deref()))]
    Features {
        /// The features in the way.
        unknown: Features,
        /// Version of the program that last added a feature to the pool, if it is known.
        added_by: Option<String>,
    },
    /// An earlier flush failed. The kernel may have dropped the dirty data, so a later flush that
    /// succeeds proves nothing; the pool must be closed and recovered.
    #[error(
        "pool is read-only after a failed flush or a fault of this program; restart to recover"
    )]
    Poisoned,
    /// The program found that it was wrong, before any harm was done: a bug. The pool accepts no
    /// more writes, and what has been acknowledged is safe.
    #[error(
        "{what} turned out wrong by a fault of this program, which its log tells; the pool is read-only: restart, and report it"
    )]
    Fault {
        /// What is not to be trusted any more.
        what: String,
    },
}

/// How far the damage reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing changed. Ask for something else, or ask again later.
    Call,
    /// One object is lost or unreadable. The rest of the pool is sound.
    Object,
    /// No further write may be accepted.
    Pool,
}

impl Error {
    /// How far the damage reaches; see [`Scope`].
    pub fn scope(&self) -> Scope {
        match self {
            Self::NoSuchObject { .. }
            | Self::ForeignHandle { .. }
            | Self::Options(_)
            | Self::Full { .. }
            | Self::Io { op: "grow", .. } => Scope::Call,
            Self::Io { op: "read" | "mapped read" | "write", .. } | Self::Corrupt { .. } => {
                Scope::Object
            }
            Self::Io { .. }
            | Self::InUse { .. }
            | Self::Unusable { .. }
            | Self::VolumesMissing { .. }
            | Self::Format { .. }
            | Self::Features { .. }
            | Self::Fault { .. }
            | Self::Poisoned => Scope::Pool,
        }
    }

    pub(crate) fn io(op: &'static str, offset: u64, len: usize, source: io::Error) -> Self {
        Self::Io { op, offset, len: len as u64, source }
    }

    pub(crate) fn corrupt(what: impl Into<String>, offset: u64, reason: &'static str) -> Self {
        Self::Corrupt { what: what.into(), offset, reason }
    }

    pub(crate) fn foreign(what: String, owner: impl Display, given_to: impl Display) -> Self {
        let text = |text: String| text.into_boxed_str();
        let (owner, given_to) = (text(owner.to_string()), text(given_to.to_string()));
        Self::ForeignHandle { what: text(what), owner, given_to }
    }

    pub(crate) fn no_such(id: impl Display) -> Self {
        Self::NoSuchObject { id: id.to_string() }
    }
}

/// Which features, which versions, and the way out.
fn features_text(unknown: Features, added_by: Option<&str>) -> String {
    let who = added_by.map_or_else(|| "a later version".to_owned(), |v| format!("version {v}"));
    let (this, known) = (env!("CARGO_PKG_VERSION"), Features::known());
    let look = if unknown.incompat == 0 { "check it, or " } else { "" };
    format!(
        "pool uses features that this program does not know: {unknown}, added by {who}; this is \
         version {this}, which knows format {FORMAT_MAJOR} with {known}; {look}open it with {who} \
         or later"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_flush_is_the_pools_matter_and_a_failed_read_the_objects() {
        let flush = Error::io("flush", 0, 0, io::Error::other("x"));
        let read = Error::io("read", 4096, 4096, io::Error::other("x"));
        assert_eq!(flush.scope(), Scope::Pool);
        assert_eq!(read.scope(), Scope::Object);
        assert_eq!(Error::Full { need_bytes: 2, free_bytes: 1 }.scope(), Scope::Call);
    }

    #[test]
    fn messages_name_the_facts() {
        let full = Error::Full { need_bytes: 65_536, free_bytes: 4_096 }.to_string();
        assert!(full.contains("65536") && full.contains("4096"), "{full}");
        let newer = Error::Format { found: 9, supported: 1 }.to_string();
        assert!(newer.contains('9') && newer.contains('1'), "{newer}");
    }
}
