//! The space that a store takes: what it says itself, and what its files take.
//!
//! | fact | from |
//! |---|---|
//! | used | the pool's own count; where a store has none (RocksDB), the lengths of its files |
//! | data | `kvs_used_bytes` of all KVSs, or `rocksdb_sst_bytes`: without logs and journals |
//! | file | `st_size` of all files below the data directory |
//! | allocated | their `st_blocks`, of 512 bytes: without holes |

use super::samples::own_name;
use crate::number::floor;
use crate::target::Counted;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const BLOCK_BYTES: u64 = 512;

/// Bytes; absent where nobody says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) used: Option<u64>,
    pub(crate) data: Option<u64>,
    pub(crate) file: Option<u64>,
    pub(crate) allocated: Option<u64>,
}

impl Space {
    pub(crate) fn look(dir: Option<&Path>, counters: &[Counted]) -> Self {
        let files = dir.map(files_below);
        let said = counters.iter().find(|c| own_name(&c.name) == "mpool_space_used_bytes");
        Self {
            used: said.map(|c| floor(c.value)).or(files.map(|(len, _)| len)),
            data: data(counters),
            file: files.map(|(len, _)| len),
            allocated: files.map(|(_, allocated)| allocated),
        }
    }
}

/// What records take, current ones and old ones, where the store says so.
fn data(counters: &[Counted]) -> Option<u64> {
    let is_data = |counted: &&Counted| {
        let name = own_name(&counted.name);
        name.starts_with("kvs_used_bytes{") || name == "rocksdb_sst_bytes"
    };
    let bytes = counters.iter().filter(is_data).map(|counted| floor(counted.value));
    bytes.reduce(|sum, bytes| sum + bytes)
}

/// Length of all files below `dir`, and what is allocated for them. A file that goes while it is
/// looked at counts nothing.
fn files_below(dir: &Path) -> (u64, u64) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold((0, 0), |(len, allocated), entry| {
        let (more_len, more_allocated) = match entry.metadata() {
            Ok(meta) if meta.is_dir() => files_below(&entry.path()),
            Ok(meta) => (meta.len(), meta.blocks() * BLOCK_BYTES),
            Err(_gone) => (0, 0),
        };
        (len + more_len, allocated + more_allocated)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn holes_have_a_length_and_are_not_allocated() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::fs::write(dir.path().join("below/full"), vec![7; 10_000]).unwrap();
        let space = Space::look(Some(dir.path()), &[]);
        assert_eq!(space.file, Some((1 << 30) + 10_000));
        assert_eq!(space.used, space.file, "nothing else is known");
        assert!(space.allocated < Some(1 << 20), "{space:?}");
    }

    #[test]
    fn data_is_that_of_all_kvss() {
        let counted = |name: &str, value| Counted { name: name.into(), grows: false, value };
        let counters = [
            counted("kvs_used_bytes{kvs=\"a\"}", 100.0),
            counted("millpond_kvs_used_bytes{kvs=\"b\"}", 20.0),
            counted("kvs_live_bytes{kvs=\"a\"}", 7.0),
        ];
        assert_eq!(Space::look(None, &counters).data, Some(120));
        assert_eq!(Space::look(None, &counters[2..]).data, None);
        assert_eq!(Space::look(None, &[counted("rocksdb_sst_bytes", 9.0)]).data, Some(9));
    }

    #[test]
    fn what_the_pool_says_is_used() {
        for name in ["mpool_space_used_bytes", "millpond_mpool_space_used_bytes"] {
            let counted = Counted { name: name.into(), grows: false, value: 4096.0 };
            let space = Space::look(None, &[counted]);
            assert_eq!((space.used, space.file), (Some(4096), None));
        }
        assert_eq!(Space::look(None, &[]), Space::default());
    }
}
