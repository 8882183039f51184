//! Sessions: whether the volumes of a pool are all of one moment, version 1.
//!
//! A session is a count and a random nonce. It changes whenever a pool of several volumes is
//! opened, closed in order, or gets a volume: the pool's journal, which lies on the root volume,
//! and the label of every other volume then carry the new one. So a copy of one volume that was put
//! back beside newer ones is told when the pool is opened:
//!
//! ```text
//! journal {5}   labels 5, 5    as it was
//! journal {5 6} labels 5, 5    the next session is written down
//! journal {5 6} labels 6, 5    and given to one volume after the other
//! journal {6}   labels 6, 6    it counts; data is written from here on
//! ```
//!
//! A crash leaves labels that carry one of the sessions that the journal names; a stale copy
//! carries another. A copy that was made while the pool was open is told once the pool was closed
//! or opened again.
//!
//! The value of the property `pool.session`:
//!
//! ```text
//! offset  size  field
//!      0     1  version  1
//!      1     8  count, from 1, and ...
//!      9     8  nonce    ... of the session
//!     17     8  count, and ...
//!     25     8  nonce    ... of the one that is being begun; both 0 if none is
//! ```
//!
//! Integers are little-endian. A label without a session (of an earlier program, or of a zoned
//! volume, whose label can only be appended) is not compared, and a pool of one volume has no
//! sessions.

use crate::address::VolumeId;

const VERSION: u8 = 1;
const LEN: usize = 33;

/// Names the time from one opening or closing of a pool to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// 0: no session.
    pub(crate) count: u64,
    pub(crate) nonce: u64,
}

impl Session {
    pub(crate) const NONE: Self = Self { count: 0, nonce: 0 };
}

/// What the journal says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    pub(crate) current: Session,
    pub(crate) next: Session,
}

/// How label and journal contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// The volume is older than the root.
    Volume,
    /// The root is older than the volume.
    Root,
    /// They have had different sessions since they were together.
    Parted,
}

impl Sessions {
    pub(crate) fn encode(self) -> Vec<u8> {
        let Self { current, next } = self;
        let mut bytes = vec![VERSION];
        for word in [current.count, current.nonce, next.count, next.nonce] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    /// `None`: these are no sessions of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let (version, words) = bytes.split_first()?;
        let (words, _) = words.as_chunks::<8>();
        let [a, b, c, d] = words else { return None };
        let session = |count: &[u8; 8], nonce: &[u8; 8]| Session {
            count: u64::from_le_bytes(*count),
            nonce: u64::from_le_bytes(*nonce),
        };
        let found = Self { current: session(a, b), next: session(c, d) };
        (*version == VERSION && found.encode() == bytes).then_some(found)
    }

    /// Whether a label of this session may stand beside the journal.
    pub(crate) fn judge(self, label: Session) -> Result<(), Stale> {
        let Self { current, next } = self;
        if label == Session::NONE || label == current || label == next {
            return Ok(());
        }
        Err(match label.count.cmp(&current.count) {
            std::cmp::Ordering::Less => Stale::Volume,
            std::cmp::Ordering::Equal => Stale::Parted,
            // The one that was being begun here, and was begun elsewhere, too.
            std::cmp::Ordering::Greater if label.count == next.count => Stale::Parted,
            std::cmp::Ordering::Greater => Stale::Root,
        })
    }
}

impl Stale {
    /// What is wrong, with the counts, and the way out.
    pub(crate) fn text(self, id: VolumeId, sessions: Sessions, label: Session) -> String {
        let (label, root) = (label.count, sessions.current.count);
        let what = match self {
            Self::Volume => format!(
                "is an older copy of {id}: it is of session {label} of the pool, which has come to \
                 session {root}"
            ),
            Self::Root => format!(
                "is of session {label} of the pool, and the root volume is an older copy, of session \
                 {root}"
            ),
            Self::Parted => format!(
                "and the root volume have been used apart from each other since session {} of the \
                 pool",
                label.min(root).saturating_sub(1)
            ),
        };
        let copied = if self == Self::Root {
            "; if a copy of the data directory was opened, it took this volume, too: go on with the \
             root of that copy; else"
        } else {
            ";"
        };
        format!(
            "{what}{copied} put volumes of one moment together, or restore the pool from a backup"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn session(count: u64, nonce: u64) -> Session {
        Session { count, nonce }
    }

    #[test]
    fn layout_is_frozen() {
        let sessions = Sessions { current: session(2, 7), next: session(3, 9) };
        let bytes = sessions.encode();
        let words = [2_u64, 7, 3, 9].map(u64::to_le_bytes).concat();
        assert_eq!((bytes.len(), bytes[0], &bytes[1..]), (33, 1, &words[..]));
        assert_eq!(Sessions::decode(&bytes), Some(sessions));
        for len in 0..bytes.len() {
            assert_eq!(Sessions::decode(&bytes[..len]), None);
        }
        assert_eq!(Sessions::decode(&[&[2], &bytes[1..]].concat()), None, "a later version");
    }

    #[test]
    fn a_crash_is_told_from_a_stale_copy() {
        let closed = Sessions { current: session(5, 50), next: Session::NONE };
        let begun = Sessions { current: session(5, 50), next: session(6, 60) };
        for (sessions, label, verdict) in [
            (closed, session(5, 50), Ok(())),
            (begun, session(5, 50), Ok(())),
            (begun, session(6, 60), Ok(())),
            // Not compared.
            (closed, Session::NONE, Ok(())),
            // Copies of before and after, and of another life.
            (closed, session(4, 40), Err(Stale::Volume)),
            (begun, session(4, 40), Err(Stale::Volume)),
            (closed, session(6, 60), Err(Stale::Root)),
            (begun, session(7, 70), Err(Stale::Root)),
            (closed, session(5, 51), Err(Stale::Parted)),
            (begun, session(6, 61), Err(Stale::Parted)),
            (Sessions::default(), session(1, 10), Err(Stale::Root)),
        ] {
            assert_eq!(sessions.judge(label), verdict, "{sessions:?} {label:?}");
        }
    }
}
