//! The volumes beside the root: each must carry its label, and be of one moment with the root.

use crate::{
    address::VolumeId,
    device::{Device, signature::Signature},
    error::{Error, Result},
    heads::{
        label::{self, Found, Label},
        session::Session,
    },
    id::uuid_text,
    io::volumes::Volumes,
    journal::{catalog::Catalog, pool_journal::Journal},
    media::VolumeRecord,
    missing::MissingVolume,
    options::Options,
    pool::{open::FindDevice, session, volumes::root_record},
    site::devices::guarded,
};
use std::sync::Arc;

/// Opens the volumes that the journal names, and returns the records of all, the root's first.
pub(super) fn join_volumes(
    volumes: &Arc<Volumes>,
    journal: &Journal,
    pool: [u8; 16],
    options: &Options,
    find: FindDevice<'_>,
) -> Result<Vec<VolumeRecord>> {
    let mut named = Arc::unwrap_or_clone(journal.read(|catalog| Arc::clone(&catalog.volumes)));
    let root = match named.remove(&VolumeId::ROOT) {
        // A limit that was raised once is not taken back by a lower option.
        Some(root) => {
            let capacity_bytes_max = root.capacity_bytes_max.max(options.capacity_bytes_max);
            let device = volumes.root();
            device.device().set_len_max(capacity_bytes_max).map_err(|source| Error::Io {
                op: "open",
                offset: 0,
                len: capacity_bytes_max,
                source,
            })?;
            VolumeRecord { capacity_bytes_max, ..root }
        }
        None => root_record(options.capacity_bytes_max),
    };
    let mut records = vec![root];
    let sessions = journal.read(session::sessions_of).unwrap_or_default();
    let mut missing = Vec::new();
    for record in named.into_values() {
        let session = Session::NONE;
        let expected = Label { pool, volume: record.uuid, id: record.id, session };
        match labelled(&record, &expected, find) {
            Ok((device, found)) => {
                sessions.judge(found).map_err(|stale| Error::Unusable {
                    path: record.path.clone(),
                    reason: stale.text(record.id, sessions, found),
                })?;
                label::heal(&*device, &Label { session: found, ..expected }, volumes);
                volumes.add(record.id, guarded(device, options));
                records.push(record);
            }
            Err(Error::Unusable { reason, .. }) => {
                let missed = |catalog: &Catalog| catalog.held_by(record.id);
                missing.push(MissingVolume::new(&record, journal.read(missed), &reason));
            }
            Err(error) => return Err(error),
        }
    }
    if !missing.is_empty() {
        return Err(Error::VolumesMissing { missing });
    }
    volumes.flush()?;
    Ok(records)
}

/// The device of a volume, and the session in its label.
fn labelled(
    record: &VolumeRecord,
    expected: &Label,
    find: FindDevice<'_>,
) -> Result<(Arc<dyn Device>, Session)> {
    let device = find(record)?;
    match label::read(&*device)? {
        Found::Label(found) if found.is_of_same(expected) => Ok((device, found.session)),
        found => {
            let instead = match found {
                Found::Label(Label { pool, id, .. }) => {
                    format!("carries the label of {id} of pool {}", uuid_text(pool))
                }
                Found::Blank => "is blank".to_owned(),
                Found::Unreadable => "carries a label that is damaged or newer".to_owned(),
                Found::Foreign => "carries something else".to_owned(),
                Found::Taken(Signature { what, offset }) => format!(
                    "carries {what} (its signature is at byte {offset}), and a copy of the label is \
                     damaged; if that is not wanted, keep a copy of the volume and wipe that \
                     signature (wipefs), and the next start puts the label right"
                ),
            };
            let reason = format!("does not carry its label: what is there {instead}");
            Err(Error::Unusable { path: record.path.clone(), reason })
        }
    }
}
