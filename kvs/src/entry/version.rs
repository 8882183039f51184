//! A version, where its value lies, and the laws of sorted sources of versions.
//!
//! A *version* is (key, revision, what is stored). Sources are ordered by key ascending, then
//! revision descending.

use crate::entry::op::Op;
use crate::error::Result;
use crate::key::Revision;
use bytes::Bytes;
use mpool::MblockId;

/// Where a value lies: a record of 4 bytes CRC-32C (little-endian) followed by `len` bytes, at
/// `offset` of the vblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValuePtr {
    /// Index in the kvset's table of vblocks.
    pub(crate) vblock: u32,
    pub(crate) offset: u32,
    /// Length of the value, without the CRC.
    pub(crate) len: u32,
}

/// A position in a sorted source of versions.
///
/// Laws: after `seek*`, `next`, `prev` the cursor is `valid` or past an end. `next` past the end
/// and `prev` before the start leave it invalid; only a `seek*` makes an invalid cursor valid
/// again. `key`, `revision`, `op`, `value` panic when invalid. `Send + 'static`: a cursor owns
/// what it reads.
pub(crate) trait VersionCursor: Send + 'static {
    /// To the first version whose key is at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<()>;
    /// To the last version whose key is before `key`.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;
    /// To the newest version of `key` at or before `at`, or, if there is none, to the first version
    /// of a later key.
    fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        self.seek(key)?;
        while self.valid() && self.key() == key && self.revision() > at {
            self.next()?;
        }
        Ok(())
    }
    fn seek_first(&mut self) -> Result<()>;
    fn seek_last(&mut self) -> Result<()>;
    fn valid(&self) -> bool;
    fn key(&self) -> &[u8];
    fn revision(&self) -> Revision;
    fn op(&self) -> Op<'_, ValuePtr>;
    /// The mblock that `op()` points into, when it is `Extern`.
    fn vblock(&self, ptr: ValuePtr) -> MblockId;
    fn next(&mut self) -> Result<()>;
    fn prev(&mut self) -> Result<()>;
    /// Whether `prev` may lead to another version of the same key. False only where it does not.
    fn may_have_newer(&self) -> bool {
        true
    }
    /// The value's bytes, read and verified; panics on a tombstone.
    fn value(&self) -> Result<Bytes>;
    /// Back to the version from which one `prev` has just led.
    ///
    /// A merge undoes the step of one source, where `next` would turn all of them round.
    fn return_to(&mut self, key: &[u8], revision: Revision) -> Result<()> {
        step_to(self, key, revision)
    }
}

/// Forward to a version that lies just ahead. A memtable may have grown by others in between.
pub(crate) fn step_to<C: VersionCursor + ?Sized>(
    cursor: &mut C,
    key: &[u8],
    revision: Revision,
) -> Result<()> {
    if !cursor.valid() {
        cursor.seek_first()?;
    }
    while cursor.valid()
        && cursor.key().cmp(key).then_with(|| revision.cmp(&cursor.revision())).is_lt()
    {
        cursor.next()?;
    }
    Ok(())
}
