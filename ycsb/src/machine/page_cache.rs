//! Page cache that earlier runs left behind.
//!
//! A page belongs to the memory group of whoever read it first, and to that group's parent when
//! the group is gone. A run in a group of its own that finds such pages has memory beyond its
//! limit. So the files of a data set are dropped from the page cache before a bounded run.

use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::path::Path;

/// Drops the files below `dir` from the page cache, as far as nobody has them mapped. Best effort:
/// what stays makes a run look better, not fail.
pub(crate) fn drop_files(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => drop_files(&path),
            Ok(kind) if kind.is_file() => {
                if let Ok(file) = File::open(&path) {
                    // Dirty pages cannot be dropped. The run reports an error of this file itself.
                    let _unsynced = file.sync_all();
                    let _stays = fadvise(&file, 0, None, Advice::DontNeed);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// Content survives, whatever the file system does about the advice.
    #[test]
    fn files_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let mut file = File::create(below.join("file")).unwrap();
        let content = vec![7; 100_000];
        file.write_all(&content).unwrap();
        drop_files(dir.path());
        drop_files(Path::new("/nonexistent"));
        let mut back = Vec::new();
        File::open(below.join("file")).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back, content);
    }
}
