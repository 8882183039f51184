//! A pool as JSON: the same from a running server and from a data directory.

use kvs::SpaceInfo;
use mpool::{
    CheckReport, Evacuation, Feature, Features, Finding, FreeExtents, Inspection, MapStats,
    MissingVolume, Pool, ScrubProgress, VolumeId, VolumeInfo, uuid_text,
};
use serde_json::{Value, json};

/// The pool and its volumes. Without a database that knows what its work needs, as one with default
/// options would.
pub(crate) fn info(pool: &Pool, space: Option<SpaceInfo>) -> Value {
    let info = pool.info();
    let by_default = || SpaceInfo::of(pool.free_space(), &kvs::Options::default());
    let space = space.unwrap_or_else(by_default);
    json!({
        "uuid": uuid_text(info.uuid),
        "name": pool.name(),
        "format": info.format,
        "features": features(info.features),
        "io": info.io_backend,
        "capacity_bytes": info.capacity_bytes_max,
        "len_bytes": info.len_bytes,
        "used_bytes": info.used_bytes,
        "free_bytes": info.free_bytes,
        "spare_bytes": info.spare_bytes,
        "reserve_bytes": space.reserve_bytes,
        "writable_bytes": space.writable_bytes,
        "missing_bytes": space.missing_bytes,
        "stuck_bytes": space.stuck_bytes,
        "mblocks": info.mblocks,
        "volumes": pool.volumes().iter().map(volume).collect::<Vec<_>>(),
    })
}

/// The same of a pool that is not open, and what keeps it from opening.
pub(crate) fn inspection(found: &Inspection) -> Value {
    let sum = |bytes: fn(&VolumeInfo) -> u64| found.volumes.iter().map(bytes).sum::<u64>();
    let missing = found.missing.iter().map(missing);
    let cannot_be_had = |volume: &MissingVolume| format!("{volume}; {}", volume.way_out());
    let trouble = found.missing.iter().map(cannot_be_had).chain(found.stale.clone());
    let space = SpaceInfo::of(found.free, &kvs::Options::default());
    json!({
        "uuid": uuid_text(found.uuid),
        "name": found.name,
        "format": found.format,
        "features": features(found.features),
        "io": "none, as it is not open",
        "capacity_bytes": sum(|volume| volume.capacity_bytes),
        "len_bytes": sum(|volume| volume.len_bytes),
        "used_bytes": sum(|volume| volume.used_bytes),
        "free_bytes": found.free_bytes,
        "spare_bytes": found.free.spare_bytes,
        "reserve_bytes": space.reserve_bytes,
        "writable_bytes": space.writable_bytes,
        "missing_bytes": space.missing_bytes,
        "stuck_bytes": space.stuck_bytes,
        "mblocks": found.mblocks,
        "volumes": found.volumes.iter().map(volume).chain(missing).collect::<Vec<_>>(),
        "trouble": trouble.collect::<Vec<_>>(),
    })
}

fn missing(missing: &MissingVolume) -> Value {
    json!({
        "id": missing.id.to_string(),
        "class": missing.class.name(),
        "kind": missing.kind.name(),
        "path": missing.path.to_string_lossy(),
        "device": null,
        "state": "missing",
        "mblocks": missing.holds.mblocks,
        "used_bytes": missing.holds.mblock_bytes,
        "logs": missing.holds.segments + missing.holds.journals,
    })
}

/// What a pool uses beyond its format; a feature without a name is not known to this program.
fn features(features: Features) -> Vec<Value> {
    let one = |feature: &Feature| {
        let (name, kind) = (feature.name, feature.kind.name());
        json!({ "name": name, "kind": kind, "bit": feature.bit })
    };
    features.list().iter().map(one).collect()
}

fn volume(volume: &VolumeInfo) -> Value {
    json!({
        "id": volume.id.to_string(),
        "class": volume.class.name(),
        "kind": volume.kind.name(),
        "path": volume.path.to_string_lossy(),
        "outside": volume.outside,
        "device": volume.device,
        "state": if volume.evacuating { "evacuating" } else { "in use" },
        "len_bytes": volume.len_bytes,
        "capacity_bytes": volume.capacity_bytes,
        "used_bytes": volume.used_bytes,
        "free_bytes": volume.free_bytes,
        "spare_bytes": volume.spare_bytes,
        "disk_bytes": volume.disk_bytes,
        "free_extents": free_extents(&volume.free_extents),
        "last": volume.last.as_ref().map(|last| {
            json!({ "what": last.what, "end_bytes": last.end_bytes })
        }),
        "mblocks": volume.mblocks,
        "logs": volume.logs,
        "zones": volume.zones.map(|(count, whole)| json!({"count": count, "whole": whole})),
    })
}

/// What is free within a volume's present length.
fn free_extents(extents: &FreeExtents) -> Value {
    json!({
        "count": extents.count,
        "bytes": extents.bytes,
        "longest_bytes": extents.longest_bytes,
        "hole_bytes": extents.hole_bytes,
    })
}

/// `vol-2`, or only `2`.
pub(crate) fn parse_volume(text: &str) -> Option<VolumeId> {
    VolumeId::new(text.strip_prefix("vol-").unwrap_or(text).parse().ok()?)
}

/// A volume that was taken out of the pool, and where it is now that nothing leads there.
pub(crate) fn removed(pool: &Pool, volume: &VolumeInfo) -> Value {
    let path = pool.resolve(&volume.path);
    // Whoever reads it may work elsewhere.
    let path = std::path::absolute(&path).unwrap_or(path);
    json!({
        "id": volume.id.to_string(),
        "kind": volume.kind.name(),
        "path": path.to_string_lossy(),
    })
}

/// The maps over a pool's objects.
pub(crate) fn maps(maps: &[MapStats]) -> Value {
    let one = |map: &MapStats| {
        json!({
            "id": map.id.to_string(),
            "owner": map.owner,
            "class": format!("{:?}", map.class).to_lowercase(),
            "objects": map.objects,
            "mapped_bytes": map.mapped_bytes,
            "resident_bytes": map.resident_bytes,
            "hits": map.hits,
            "faults": map.faults,
            "direct_reads": map.direct_reads,
            "purged_bytes": map.purged_bytes,
            "heap_bytes": map.heap_bytes,
        })
    };
    json!({ "maps": maps.iter().map(one).collect::<Vec<_>>() })
}

/// How far a scrub is.
pub(crate) fn scrub(progress: &ScrubProgress) -> Value {
    let since = |seconds: u64| (seconds > 0).then_some(seconds);
    json!({
        "running": progress.running,
        "under_way": progress.under_way,
        "stage": progress.stage,
        "bytes": progress.bytes,
        "goal_bytes": progress.goal_bytes,
        "objects": progress.objects,
        "began": since(progress.began_s),
        "completed": since(progress.completed_s),
        "passes": progress.passes,
        "findings_total": progress.findings_total,
        "findings": progress.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "target": finding.target.to_string(),
        "part": finding.part.name(),
        "offset": finding.offset,
        "len_bytes": finding.len_bytes,
        "volume": finding.volume.to_string(),
        "volume_offset": finding.volume_offset,
        "damage": finding.damage.name(),
        "owner": finding.owner,
        "text": finding.to_string(),
    })
}

/// What a check found.
pub(crate) fn check(report: &CheckReport) -> Value {
    let issue = |issue: &mpool::Issue| {
        json!({
            "severity": issue.severity.name(),
            "what": issue.what,
            "text": issue.text,
            "way_out": issue.way_out,
        })
    };
    json!({
        "uuid": report.uuid.map(uuid_text),
        "name": report.name,
        "features": features(report.features),
        "volumes": report.volumes,
        "mblocks": report.mblocks,
        "journals": report.journals,
        "segments": report.segments,
        "bytes": report.bytes,
        "unverifiable": report.unverifiable,
        "worst": report.worst().map(mpool::Severity::name),
        "issues": report.issues.iter().map(issue).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// How emptying a volume went.
pub(crate) fn evacuation(volume: VolumeId, done: &Evacuation) -> Value {
    let failed: Vec<Value> =
        done.failed.iter().map(|(id, why)| json!({"mblock": id.to_string(), "why": why})).collect();
    json!({
        "volume": volume.to_string(),
        "running": false,
        "moved": done.moved,
        "moved_bytes": done.moved_bytes,
        "left": 0,
        "logs_left": done.left,
        "failed": failed,
        "error": null,
    })
}
