//! The log's segments: made before they are needed, and given back when nothing is put any more.

use super::Work;
use crate::error::{Error, Result, Scope};
use mpool::Segment;
use std::time::Duration;

/// When nothing was put for so long, the log rests.
const REST_AFTER: Duration = Duration::from_secs(10);

impl Work {
    /// Makes the segment that the log will need next, so that no put has to.
    pub(super) fn prepare_log(&self) {
        let Some(wanted) = self.commits.take_wanted() else { return };
        if self.store.space.is_tight() {
            // Then the log has what it needs: see `ready_log`.
            return;
        }
        match wanted.create(&self.store.pool) {
            Ok(segment) => self.commits.add_segment(segment),
            Err(error) => tracing::debug!(%error, "the put that needs a segment makes it"),
        }
    }

    /// When nothing is put any more, has the log rest on one short segment: what is in memory is
    /// flushed, however little it is, and then kvsets have everything that the log holds.
    pub(super) fn rest_log_when_idle(&self) {
        if self.store.pool.is_read_only() || self.jobs.unwritten_for() < REST_AFTER {
            return;
        }
        match self.rest_log() {
            Err(Error::Closed) | Ok(()) => {}
            Err(error) if error.scope() == Scope::Store => self.store.life.fail_shape(&error),
            Err(error) => tracing::debug!(%error, "the log stays as long as it is"),
        }
    }

    /// The next step to a log that rests; `rest_log_when_idle` comes again.
    pub(super) fn rest_log(&self) -> Result<()> {
        let commits = &self.commits;
        let Some(short_bytes) = commits.rest_bytes() else { return Ok(()) };
        let view = self.store.shape.view.load();
        if !view.sealed.is_empty() {
            return Ok(());
        }
        if !view.active.is_empty() {
            self.seal();
            return Ok(());
        }
        drop(view);
        let floor = self.settle_floor()?;
        let delete = |gone: Vec<Segment>| -> Result<()> {
            gone.iter().try_for_each(|segment| Ok(self.store.pool.delete_segment(segment.id())?))
        };
        // They go first, so that the short one has room where they were: at the end of a file it
        // would keep that as long as it is.
        delete(commits.give_up_spares(floor)?)?;
        delete(commits.rest(floor, self.store.pool.create_segment(short_bytes)?)?)
    }

    /// The floor, raised to everything visible if that is in kvsets. A log may hold nothing but
    /// entries of dropped KVSs: then there was nothing to flush.
    pub(crate) fn settle_floor(&self) -> Result<crate::Revision> {
        let settled = self.commits.exclusive(|| {
            let view = self.store.shape.view.load();
            (view.active.is_empty() && view.sealed.is_empty()).then(|| self.store.shape.visible())
        });
        self.store.shape.raise_floor(settled)
    }
}

#[cfg(test)]
mod tests {
    use crate::db::Database;
    use crate::options::{Durability, Options};
    use mpool::{Pool, ReturnOptions};
    use mpool_sim::SimDevice;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    fn options(background_threads: u64) -> Options {
        Options { background_threads, wal_segment_bytes: 32 * MIB, ..Options::default() }
    }

    fn database(device: &SimDevice, options: Options) -> Database {
        let pool = Pool::open(Arc::new(device.clone()), &options.pool)
            .or_else(|_| Pool::create(Arc::new(device.clone()), &options.pool));
        Database::open_pool(pool.unwrap(), options).unwrap()
    }

    fn log_bytes(db: &Database) -> u64 {
        let pool = db.pool();
        let len = |id| pool.open_segment(id).unwrap().len_bytes();
        pool.segment_ids().into_iter().map(len).sum()
    }

    /// A store with a little in each of 256 KVSs was mostly log, for ever.
    #[test]
    fn a_store_that_is_not_written_to_has_a_short_log() {
        let device = SimDevice::new(4 << 30);
        let db = database(&device, options(0));
        let kvs = db.create_kvs("k").unwrap();
        let rest = |db: &Database| {
            for _ in 0..4 {
                db.work().rest_log().unwrap();
                db.compact().unwrap();
            }
        };
        for n in 0..40_u8 {
            kvs.put(&[n], &vec![n; 1_000_000], Durability::Sync).unwrap();
        }
        assert_eq!(log_bytes(&db), (16 + 32) * MIB);
        rest(&db);
        assert_eq!(log_bytes(&db), 16 * MIB);
        // It stays with a little more, and that is not flushed for it.
        kvs.put(b"a little", b"1", Durability::Sync).unwrap();
        rest(&db);
        assert!(!db.store().shape.view.load().active.is_empty());
        assert_eq!(log_bytes(&db), 16 * MIB);
        let killed = device.after_crash(0);
        drop((kvs, db));
        let db = database(&killed, options(0));
        let kvs = db.open_kvs("k").unwrap();
        assert_eq!(kvs.get(b"a little").unwrap().unwrap().value, &b"1"[..]);
        assert_eq!(kvs.get(&[7]).unwrap().unwrap().value, vec![7; 1_000_000]);
        rest(&db);
        assert_eq!(log_bytes(&db), 16 * MIB);
    }

    /// The short segment was made while the long ones were there yet, behind everything else. Logs
    /// do not move, so the file stayed as long as it had been.
    #[test]
    fn a_log_rests_low_so_that_the_file_becomes_short() {
        let device = SimDevice::new(4 << 30);
        let mut options = options(0);
        options.pool.background = false;
        options.pool.returning = Some(ReturnOptions { after_s: 0, ..ReturnOptions::default() });
        options.pool.grow_step_bytes = MIB;
        let db = database(&device, options);
        let kvs = db.create_kvs("k").unwrap();
        let rest = |db: &Database| {
            for _ in 0..4 {
                db.work().rest_log().unwrap();
                db.compact().unwrap();
                while db.pool().tidy() {}
            }
        };
        for n in 0..40_u8 {
            kvs.put(&[n], &vec![n; 1_000_000], Durability::Sync).unwrap();
        }
        rest(&db);
        assert_eq!(log_bytes(&db), 16 * MIB);
        let info = db.pool().info();
        let (len, used) = (info.len_bytes, info.used_bytes);
        assert!(len <= used + used / 4 + 5 * MIB, "{len} for {used}");
    }

    /// The put that found the tail full filled the next segment with zeros itself.
    #[test]
    fn the_next_segment_is_made_in_the_background() {
        let db = database(&SimDevice::new(4 << 30), options(1));
        let kvs = db.create_kvs("k").unwrap();
        for n in 0..10_u8 {
            kvs.put(&[n], &vec![n; 1_000_000], Durability::Sync).unwrap();
        }
        // Nothing is written any more: a worker does it.
        while log_bytes(&db) < (16 + 32) * MIB {
            std::thread::yield_now();
        }
        for n in 10..40_u8 {
            kvs.put(&[n], &vec![n; 1_000_000], Durability::Sync).unwrap();
        }
        db.close().unwrap();
    }
}
