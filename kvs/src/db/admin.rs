//! Volumes of an open database: they are added, emptied and removed while it serves.
//!
//! Emptying a volume takes all the layers:
//!
//! ```text
//!   pool     nothing new is placed there; mblocks move
//!   jobs     those that had begun to write there end; what they wrote moves too
//!   view     kvsets take handles of the new places (`moved`)
//!   log      the tail goes on elsewhere; what is in the old segments is flushed, they are deleted
//!   manifest moves if it is there
//! ```
//!
//! Every step can be repeated: after a crash, the volume is still being emptied, and whoever asks
//! for it again goes on where it ended.

use crate::db::Database;
use crate::error::Result;
use mpool::{Evacuation, NewVolume, VolumeId, VolumeInfo};

impl Database {
    /// The volumes of the pool, in order of their ids.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        self.pool().volumes()
    }

    /// Adds a volume; it takes new data at once, as [`Options::media_policy`] says.
    ///
    /// [`Options::media_policy`]: crate::Options::media_policy
    pub fn add_volume(&self, new: &NewVolume) -> Result<VolumeId> {
        self.store().life.check_writable()?;
        Ok(self.pool().add_volume(new)?)
    }

    /// Empties a volume while the database serves, so that [`remove_volume`](Self::remove_volume)
    /// can take it out. Blocks; `progress` is told after each mblock how many there are still. May
    /// be called again, after an error or a restart; [`mpool::Pool::cancel_evacuation`] ends it.
    pub fn evacuate_volume(
        &self,
        id: VolumeId,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Evacuation> {
        let store = self.store();
        store.life.check_writable()?;
        let mut done = store.pool.evacuate_volume(id, progress)?;
        // Jobs that had begun before hold room there, and commit what they write.
        self.work().jobs.wait_for_jobs()?;
        add(&mut done, store.pool.evacuate_volume(id, progress)?);
        self.refresh_moved()?;
        self.empty_log()?;
        store.shape.versions.lock().manifest.leave_volumes(&store.pool)?;
        // Compactions that had begun before the refresh read the old places.
        self.work().jobs.wait_for_jobs()?;
        add(&mut done, store.pool.evacuate_volume(id, progress)?);
        Ok(done)
    }

    /// Takes an emptied volume out of the pool. An error while old snapshots, cursors or reads
    /// under way still see what was on it: end them, or try again.
    pub fn remove_volume(&self, id: VolumeId) -> Result<()> {
        self.store().life.check_writable()?;
        self.refresh_moved()?;
        Ok(self.pool().remove_volume(id)?)
    }

    /// Takes new handles of all objects that the pool has moved, so that their old places become
    /// free. Background threads do that by themselves, within a second or so.
    pub fn refresh_moved(&self) -> Result<()> {
        self.work().jobs.refresh_moved()
    }

    /// Writes everything that the log holds into kvsets, so that no later open needs it. Blocks. To
    /// be called after an open past damage: the damaged part is never looked at again.
    pub fn settle(&self) -> Result<()> {
        self.store().life.check_writable()?;
        self.flush()?;
        self.open_database().forget_log()
    }

    /// Takes the log off volumes that are being emptied: it goes on elsewhere, and what it holds is
    /// flushed.
    fn empty_log(&self) -> Result<()> {
        self.commits().leave_volumes()?;
        self.flush()?;
        self.open_database().forget_log()
    }
}

fn add(done: &mut Evacuation, more: Evacuation) {
    done.moved += more.moved;
    done.moved_bytes += more.moved_bytes;
    done.left = more.left;
    done.failed = more.failed;
}
