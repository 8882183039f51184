//! Flushed memtables that readers may still look at.
//!
//! The last owner of a memtable unmaps it, which takes milliseconds where it has 64 MiB. So that no
//! reader has to, the store owns it, too, until nothing else does; then a worker drops it.

use super::Memtable;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Retired {
    memtables: Mutex<Vec<Arc<Memtable>>>,
}

impl Retired {
    /// Owns a memtable that has left the view.
    pub(crate) fn add(&self, memtable: Arc<Memtable>) {
        self.memtables.lock().push(memtable);
    }

    /// Drops those that nothing else owns.
    pub(crate) fn drop_unused(&self) {
        let unused = |memtable: &mut Arc<Memtable>| memtable.is_unshared();
        let dead: Vec<_> = self.memtables.lock().extract_if(.., unused).collect();
        drop(dead);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::key::KvsId;

    #[test]
    fn a_memtable_stays_as_long_as_something_reads_it_and_no_longer() {
        let retired = Retired::default();
        let left = || retired.memtables.lock().len();
        let memtable = Arc::new(Memtable::new(0));
        let cursor = memtable.cursor(KvsId::new(1));
        retired.add(Arc::clone(&memtable));
        retired.drop_unused();
        assert_eq!(left(), 1, "a view has it");
        drop(memtable);
        retired.drop_unused();
        assert_eq!(left(), 1, "a cursor has its list");
        drop(cursor);
        retired.drop_unused();
        assert_eq!(left(), 0);
    }
}
