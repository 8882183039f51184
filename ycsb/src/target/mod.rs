//! Targets: the stores that a workload can be run against.
//!
//! A [`Target`] is one store; a [`Session`] is one thread's way to it. A session blocks until an
//! operation is answered. Rows are opaque bytes here.
//!
//! | target | store |
//! |---|---|
//! | [`memory`] | a map in this process: measures the driver itself |
//! | [`embedded`] | the engine in this process |
//! | [`http`] | a Millpond server |
//! | `rocksdb` | RocksDB in this process, with the feature of that name |

pub(crate) mod embedded;
mod exposition;
pub(crate) mod http;
pub(crate) mod memory;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocksdb;
pub(crate) mod server_process;

use crate::machine::Place;
use crate::workload::Way;
use anyhow::{Result, bail};
use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

/// Why an operation did not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store is overloaded; the same operation may succeed later.
    Busy(String),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// One thread's way to the store.
pub(crate) trait Session: Send {
    /// Replaces `row` with the value of `key`; false where there is none.
    fn read(&mut self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Failure>;

    /// Writes `row` under `key`, acknowledged as the durability asks.
    fn write(&mut self, key: &[u8], row: &[u8]) -> Result<(), Failure>;

    /// Deletes `key`, acknowledged as the durability asks.
    fn delete(&mut self, key: &[u8]) -> Result<(), Failure>;

    /// Shows all records to `see`, in the order of their keys or against it, until it breaks off.
    fn walk(&mut self, way: Way, see: &mut See<'_>) -> Result<(), Failure>;

    /// Replaces `rows` with up to `limit` records from `start` (inclusive) on, in order.
    fn scan(&mut self, start: &[u8], limit: usize, rows: &mut Rows) -> Result<(), Failure>;
}

/// Is shown the key and the row of a record.
pub(crate) type See<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Holds a snapshot until it is dropped.
pub(crate) type Hold = Box<dyn Any + Send>;

/// One store.
pub(crate) trait Target: Send + Sync {
    fn session(&self) -> Result<Box<dyn Session>>;

    /// Whose CPU and I/O are the store's.
    fn place(&self) -> Place {
        Place::Here
    }

    /// Where the data is, if it is on this machine.
    fn data_dir(&self) -> Option<&Path>;

    /// Facts about the store for the report: name and value.
    fn facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// What the store counts about itself.
    fn counters(&self) -> Vec<Counted> {
        Vec::new()
    }

    /// Takes what is in memory to where compactions find it.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Lets flushes and compactions finish that are due.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Why it can be asked for neither of the two; none where it can.
    fn deaf(&self) -> Option<&'static str> {
        None
    }

    /// Merges and writes anew everything, due or not.
    fn compact(&self) -> Result<()> {
        self.settle()
    }

    /// Takes a snapshot of everything and holds it.
    fn hold(&self) -> Result<Hold> {
        bail!("--hold-snapshot is for embedded and rocksdb; this target holds none")
    }

    /// Closes the store in order. Called once, when no session is left.
    fn close(self: Box<Self>) -> Result<()>;
}

/// A number that a store keeps about itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counted {
    /// With its labels, as Prometheus writes them.
    pub(crate) name: String,
    /// It only grows: what matters is a difference. Otherwise it is a level.
    pub(crate) grows: bool,
    pub(crate) value: f64,
}

/// Records of a scan in one buffer, reused from scan to scan.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    bytes: Vec<u8>,
    /// Ends of key and value of each record.
    ends: Vec<(usize, usize)>,
}

impl Rows {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Key and value of each record.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        (0..self.ends.len()).map(|at| {
            let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
            let (mid, end) = self.ends[at];
            (&self.bytes[start..mid], &self.bytes[mid..end])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_records_apart() {
        let mut rows = Rows::default();
        rows.push(b"gone", b"gone");
        rows.clear();
        let records: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"bb", b""), (b"c", b"333")];
        for (key, value) in records {
            rows.push(key, value);
        }
        assert_eq!(rows.len(), 3);
        assert_eq!(rows.iter().collect::<Vec<_>>(), records);
    }
}
