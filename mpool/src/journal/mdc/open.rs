//! Which journals of the pool's users are open.

use super::pair::Position;
use crate::{
    error::{Error, Result},
    id::MdcId,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

/// Marks a client's journal as open; there is one handle of each at a time, because two would write
/// to the same place.
pub(crate) struct OpenMdc {
    id: MdcId,
    open: OpenMdcs,
}

/// The journals that are open, and where each of them is.
pub(crate) type OpenMdcs = Arc<Mutex<BTreeMap<MdcId, ShowPosition>>>;
/// `None` while the journal is being opened or closed.
pub(crate) type ShowPosition = Arc<dyn Fn() -> Option<Position> + Send + Sync>;

impl OpenMdc {
    /// Marks a journal that is not open yet.
    pub(crate) fn mark(id: MdcId, open: &OpenMdcs) -> Result<Self> {
        match open.lock().entry(id) {
            Entry::Vacant(place) => place.insert(Arc::new(|| None)),
            Entry::Occupied(_) => {
                return Err(Error::Options(format!("{id} is open already; drop its handle first")));
            }
        };
        Ok(Self { id, open: Arc::clone(open) })
    }

    pub(crate) fn id(&self) -> MdcId {
        self.id
    }

    pub(crate) fn set_position(&self, show: ShowPosition) {
        self.open.lock().insert(self.id, show);
    }
}

impl Drop for OpenMdc {
    fn drop(&mut self) {
        self.open.lock().remove(&self.id);
    }
}
