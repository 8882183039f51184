//! The real engine: [`kvs::Database`].
//!
//! Nothing but translation. A KVS is looked up by name on each request, in the database's list of
//! names in memory.

use super::{About, Done, Engine, Lookup, Walk, Write, WriteRefused, check_health};
use bytes::Bytes;
use kvs::metrics::Sample;
use kvs::{
    Advance, Cursor, Database, Durability, Health, KvsInfo, NoRoom, Range, Result, Revision,
    SpaceInfo, TryGet, WriteBatch,
};
use mpool::{Evacuation, Pool, ScrubOptions, ScrubProgress, VolumeId};
use std::sync::Arc;

impl Engine for Database {
    fn try_get(
        &self,
        kvs: &str,
        key: &[u8],
        room: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Lookup> {
        Ok(match self.open_kvs(kvs)?.try_get_within(key, room)? {
            Ok(found) => lookup(found),
            Err(NoRoom { value_len }) => Lookup::NoRoom { value_len },
        })
    }

    fn check_writable(&self, kvs: Option<&str>) -> Result<()> {
        self.check(&self.batch())?;
        // A log or a volume that failed is met by the next write only.
        check_health(&Self::health(self))?;
        kvs.map_or(Ok(()), |kvs| self.open_kvs(kvs).map(drop))
    }

    fn check_write(&self, kvs: &str, key: &[u8], value_bytes: u64) -> Result<()> {
        self.check_writable(None)?;
        let mut batch = self.batch();
        batch.put(&self.open_kvs(kvs)?, key, b"")?;
        self.check_with(&batch, value_bytes)
    }

    fn write(
        &self,
        writes: &[Write<'_>],
        durability: Durability,
        done: Done<Revision>,
    ) -> Result<(), WriteRefused> {
        let mut batch = self.batch();
        for (at, write) in writes.iter().enumerate() {
            add(self, &mut batch, write).map_err(|error| WriteRefused { at, error })?;
        }
        self.write_async(batch, durability, done);
        Ok(())
    }

    fn walk(&self, kvs: &str, range: Range, holder: &str) -> Result<Box<dyn Walk>> {
        Ok(Box::new(self.open_kvs(kvs)?.cursor_for(range, holder)?))
    }

    fn create_kvs(&self, name: &str) -> Result<()> {
        Self::create_kvs(self, name).map(drop)
    }

    fn drop_kvs(&self, name: &str) -> Result<()> {
        Self::drop_kvs(self, name)
    }

    fn list_kvs(&self) -> Result<Vec<KvsInfo>> {
        Ok(Self::list_kvs(self))
    }

    fn visit_metrics(&self, see: &mut dyn FnMut(Sample<'_>)) {
        Self::visit_metrics(self, see);
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn about(&self) -> About {
        let info = self.pool().info();
        About {
            format: info.format,
            device: info.device,
            io_backend: info.io_backend,
            read_only: self.is_read_only(),
            left_out: self.losses().len(),
        }
    }

    fn database(&self) -> Option<&Database> {
        Some(self)
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(Self::pool(self))
    }

    fn space(&self) -> Option<SpaceInfo> {
        Some(Self::space(self))
    }

    fn scrub(&self, options: &ScrubOptions) -> Result<ScrubProgress> {
        Self::scrub(self, options)
    }

    fn evacuate_volume(&self, id: VolumeId, left: &mut dyn FnMut(u64)) -> Result<Evacuation> {
        Self::evacuate_volume(self, id, left)
    }

    fn remove_volume(&self, id: VolumeId) -> Result<()> {
        Self::remove_volume(self, id)
    }

    fn close(&self) -> Result<()> {
        Self::close(self)
    }
}

fn lookup(found: TryGet) -> Lookup {
    match found {
        TryGet::Ready(entry) => Lookup::Ready(entry),
        TryGet::Cold(cold) => match cold.value_len() {
            Some(value_len) => {
                Lookup::ColdValue { value_len, ask: Box::new(move |done| cold.submit(done)) }
            }
            None => Lookup::ColdIndex(Box::new(move |done: Done<Lookup>| {
                cold.locate(Box::new(move |found| done(found.map(lookup))));
            })),
        },
    }
}

fn add(database: &Database, batch: &mut WriteBatch, write: &Write<'_>) -> Result<()> {
    let kvs = database.open_kvs(write.kvs)?;
    match write.value {
        Some(value) => batch.put(&kvs, write.key, value),
        None => batch.delete(&kvs, write.key),
    }
}

impl Walk for Cursor {
    fn advance(&mut self, steps_max: u32) -> Result<Advance> {
        Self::advance(self, steps_max)
    }

    fn key(&self) -> &[u8] {
        Self::key(self)
    }

    fn key_revision(&self) -> Revision {
        Self::key_revision(self)
    }

    fn value_len(&self) -> usize {
        Self::value_len(self)
    }

    fn value(&self) -> Result<Bytes> {
        Self::value(self)
    }

    fn revision(&self) -> Revision {
        Self::revision(self)
    }

    fn check(&mut self) -> Result<()> {
        Self::check(self)
    }

    fn on_end(&self, call: Box<dyn FnOnce() + Send>) {
        Self::on_end(self, call);
    }
}
