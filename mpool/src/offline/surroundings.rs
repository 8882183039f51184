//! Check: the data directory around the pool. Which volumes are not in it, and what else is.

use crate::{
    address::VolumeId,
    heads::label,
    journal::catalog::Catalog,
    offline::{
        check::{CheckReport, Severity},
        heart::Heart,
    },
    site,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Volumes that a copy of the directory would share.
pub(super) fn outside(dir: &Path, catalog: &Catalog, report: &mut CheckReport) {
    let others = catalog.volumes.values().filter(|record| record.id != VolumeId::ROOT);
    for record in others.filter(|record| site::is_outside(dir, &record.path)) {
        let text = format!("{} is not copied with the data directory", record.path.display());
        let way_out = "a copy of the directory opens this same volume; see docs/pool.md, \"Backing \
                       up and copying\"";
        report.note(Severity::Note, record.id, text, way_out);
    }
}

/// Files beside the pool's volumes that carry a label of this pool.
pub(super) fn strangers(dir: &Path, heart: &Heart, report: &mut CheckReport) {
    let members: BTreeSet<PathBuf> =
        heart.catalog.volumes.values().map(|record| dir.join(&record.path)).collect();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
        if !is_file || members.contains(&path) {
            continue;
        }
        if let Ok(file) = std::fs::File::open(&path)
            && let Some(found) = label::in_file(&file)
            && found.pool == heart.superblock.uuid
        {
            let text = format!("{} carries its label, but it is no volume", path.display());
            let way_out = "it is left over from an addition that was cut short, or a removal; \
                           add it again or delete the file";
            report.note(Severity::Note, found.id, text, way_out);
        }
    }
}
