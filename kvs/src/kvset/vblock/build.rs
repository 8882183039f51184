//! Writing one vblock.

use super::format::{HEAD_BYTES, RECORD_HEAD_BYTES, VblockHead, record_crc};
use crate::error::Result;
use mpool::{MblockId, MblockWriter};

/// Bytes a vblock needs for one value of this length alone.
pub(crate) fn bytes_for(value_len: usize) -> u64 {
    u64::try_from(HEAD_BYTES + RECORD_HEAD_BYTES + value_len).expect("usize is at most 64 bits")
}

/// A vblock being written.
pub(crate) struct VblockBuilder {
    writer: MblockWriter,
}

impl VblockBuilder {
    /// Writes the head.
    pub(crate) fn new(mut writer: MblockWriter, head: &VblockHead) -> Result<Self> {
        assert_eq!(writer.id(), head.vblock);
        writer.append(&head.encode())?;
        Ok(Self { writer })
    }

    pub(crate) fn id(&self) -> MblockId {
        self.writer.id()
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.writer.len_bytes()
    }

    /// Whether a value of this length fits.
    pub(crate) fn has_room_for(&self, value_len: usize) -> bool {
        let record =
            u64::try_from(RECORD_HEAD_BYTES + value_len).expect("usize is at most 64 bits");
        self.writer.len_bytes() + record <= self.writer.capacity_bytes()
    }

    /// Appends a record; returns its offset.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<u32> {
        assert!(self.has_room_for(value.len()));
        let offset = u32::try_from(self.writer.len_bytes()).expect("a vblock has less than 4 GiB");
        let crc = record_crc(self.writer.id(), offset, value);
        self.writer.append(&crc.to_le_bytes())?;
        self.writer.append(value)?;
        Ok(offset)
    }

    pub(crate) fn finish(self) -> MblockWriter {
        self.writer
    }
}
