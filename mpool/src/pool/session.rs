//! Sessions of an open pool: how they begin, and who bears them.

use crate::{
    address::VolumeId,
    device::Device,
    error::{Error, Result},
    heads::{
        label::{self, Label},
        session::{Session, Sessions},
    },
    io::volumes::Volumes,
    journal::{catalog::Catalog, pool_journal::Journal, record::Change},
};
use std::{fs::File, io::Read, sync::Arc};

/// The property of the pool's journal.
pub(crate) const PROPERTY: &str = "pool.session";

/// What a catalog says; `None` if the pool has no sessions.
pub(crate) fn sessions_of(catalog: &Catalog) -> Option<Sessions> {
    Sessions::decode(catalog.properties.get(PROPERTY)?)
}

/// Begins the next session: see the picture above. Where the pool's journal is full the session
/// stays, and so do the labels. The pool has `others` beside its root, with their labels.
pub(crate) fn begin(journal: &Journal, others: &[(Arc<dyn Device>, Label)]) -> Result<()> {
    let bearers: Vec<_> =
        others.iter().filter(|(device, _)| !label::is_appended(&**device)).collect();
    if bearers.is_empty() {
        return Ok(());
    }
    let finish = |next: Session| {
        for (device, label) in &bearers {
            label::write_again(&**device, &Label { session: next, ..*label })?;
        }
        put(journal, Sessions { current: next, next: Session::NONE })
    };
    let Sessions { mut current, next } = journal.read(sessions_of).unwrap_or_default();
    // A crash came between. Some labels may have it, so it is brought to its end first; nothing was
    // written in it, but a copy may have been made since.
    if next != Session::NONE {
        finish(next)?;
        current = next;
    }
    let next = Session { count: current.count.saturating_add(1), nonce: new_nonce()? };
    match put(journal, Sessions { current, next }) {
        Err(error @ Error::Full { .. }) => {
            tracing::warn!(%error, "the pool's session stays as it was");
            Ok(())
        }
        outcome => outcome.and_then(|()| finish(next)),
    }
}

fn put(journal: &Journal, sessions: Sessions) -> Result<()> {
    let change = Change::PropertySet { name: PROPERTY.to_owned(), value: sessions.encode() };
    journal.commit(&[change], |_| Ok(()), || ())
}

/// The devices beside the root, with the labels that the catalog gives them; what they carry of a
/// session is not asked for.
pub(crate) fn bearers_of(
    pool: [u8; 16],
    catalog: &Catalog,
    volumes: &Volumes,
) -> Vec<(Arc<dyn Device>, Label)> {
    let others = catalog.volumes.values().filter(|record| record.id != VolumeId::ROOT);
    let bearer = |record: &crate::media::VolumeRecord| {
        let volume = volumes.get(record.id)?;
        let session = Session::NONE;
        let label = Label { pool, volume: record.uuid, id: record.id, session };
        Some((Arc::clone(volume.device()), label))
    };
    others.filter_map(bearer).collect()
}

fn new_nonce() -> Result<u64> {
    let mut bytes = [0; 8];
    let filled = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    filled.map_err(|source| Error::Io { op: "open", offset: 0, len: 8, source })?;
    Ok(u64::from_le_bytes(bytes))
}
