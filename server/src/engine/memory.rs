//! An engine on ordered maps, for tests and for measuring the server without a store.
//!
//! It has the engine's limits and errors, loses everything when dropped, and fails on request:
//! the next call can be made to fail, lookups can be made cold, walks slow or ended,
//! and the close endless.

mod walks;

use super::{About, Done, Engine, Lookup, Walk, Write, WriteRefused, check_health};
use bytes::Bytes;
use kvs::metrics::{Sample, Value};
use kvs::{
    Durability, Entry, Error, Health, Item, KEY_BYTES_MAX, KVS_MAX, KVS_NAME_BYTES_MAX, KvsInfo,
    Range, Result, Revision, VALUE_BYTES_MAX,
};
use mpool::{Evacuation, ScrubOptions, ScrubProgress, VolumeId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use walks::Walks;

type Map = BTreeMap<Bytes, Entry>;

/// See the module.
#[derive(Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
    hang_close: AtomicBool,
    walks: Walks,
}

#[derive(Default)]
struct State {
    revision: u64,
    spaces: BTreeMap<String, Map>,
    closed: bool,
    health: Health,
    cold: Cold,
    /// Returned by the next call.
    fail_next: Option<Error>,
    /// Writes that were never acknowledged, because the test wants to see a timeout.
    hold_writes: bool,
    held: Vec<Done<Revision>>,
}

/// What lookups do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cold {
    /// Answer at once.
    #[default]
    Never,
    /// Answer through [`Lookup::ColdValue`], and writes, too, from another thread.
    Always,
    /// As `Always`, and ask the drive first where the value is.
    Index,
}

impl MemoryEngine {
    /// An engine that holds the KVS `default`.
    pub fn new() -> Self {
        let engine = Self::default();
        engine.lock().spaces.insert("default".into(), Map::new());
        engine
    }

    /// Makes the next call return `error`.
    pub fn fail_next(&self, error: Error) {
        self.lock().fail_next = Some(error);
    }

    /// Makes it say that something has failed, or nothing.
    pub fn set_health(&self, health: Health) {
        self.lock().health = health;
    }

    /// Makes lookups cold or not.
    pub fn set_cold(&self, cold: Cold) {
        self.lock().cold = cold;
    }

    /// Accepts writes from here on without ever acknowledging them.
    pub fn hold_writes(&self) {
        self.lock().hold_writes = true;
    }

    /// Makes [`Engine::close`] wait for ever, as it does for a drive that does not answer.
    pub fn hang_close(&self) {
        self.hang_close.store(true, Ordering::SeqCst);
    }

    /// Whether [`Engine::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn enter(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.fail_next.take().map_or(Ok(state), Err)
    }
}

impl State {
    fn space(&self, name: &str) -> Result<&Map> {
        self.spaces.get(name).ok_or_else(|| Error::NoSuchKvs { name: name.into() })
    }

    fn check(&self, write: &Write<'_>) -> Result<()> {
        self.space(write.kvs)?;
        check_key(write.key)?;
        match write.value {
            Some(value) if value.len() > VALUE_BYTES_MAX => {
                Err(Error::ValueLength { len: value.len() })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn apply(&mut self, write: &Write<'_>, revision: Revision) {
        let map = self.spaces.get_mut(write.kvs).expect("checked");
        match write.value {
            Some(value) => {
                let value = Bytes::copy_from_slice(value);
                map.insert(Bytes::copy_from_slice(write.key), Entry { value, revision });
            }
            None => drop(map.remove(write.key)),
        }
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        Ok(())
    } else {
        Err(Error::KeyLength { len: key.len() })
    }
}

impl Engine for MemoryEngine {
    fn try_get(
        &self,
        kvs: &str,
        key: &[u8],
        room: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Lookup> {
        let state = self.enter()?;
        check_key(key)?;
        let found = state.space(kvs)?.get(key).cloned();
        let cold_value = |found: Option<Entry>| {
            let Some(entry) = found else { return Lookup::Ready(None) };
            let value_len = entry.value.len();
            // Another thread, as in the engine, so that a missing wake-up shows.
            let ask = move |done: Done<Option<Entry>>| {
                std::thread::spawn(move || done(Ok(Some(entry))));
            };
            Lookup::ColdValue { value_len, ask: Box::new(ask) }
        };
        Ok(match state.cold {
            Cold::Never => match &found {
                Some(Entry { value, .. }) if !room(value.len()) => {
                    Lookup::NoRoom { value_len: value.len() }
                }
                _ => Lookup::Ready(found),
            },
            Cold::Always => cold_value(found),
            Cold::Index => Lookup::ColdIndex(Box::new(move |done: Done<Lookup>| {
                std::thread::spawn(move || done(Ok(cold_value(found))));
            })),
        })
    }

    fn check_writable(&self, kvs: Option<&str>) -> Result<()> {
        let state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        check_health(&state.health)?;
        kvs.map_or(Ok(()), |kvs| state.space(kvs).map(drop))
    }

    fn check_write(&self, kvs: &str, key: &[u8], _value_bytes: u64) -> Result<()> {
        self.check_writable(None)?;
        self.lock().check(&Write { kvs, key, value: None })
    }

    fn write(
        &self,
        writes: &[Write<'_>],
        _durability: Durability,
        done: Done<Revision>,
    ) -> Result<(), WriteRefused> {
        let mut state = self.enter().map_err(|error| WriteRefused { at: 0, error })?;
        for (at, write) in writes.iter().enumerate() {
            state.check(write).map_err(|error| WriteRefused { at, error })?;
        }
        state.revision += 1;
        let revision = Revision::new(state.revision);
        for write in writes {
            state.apply(write, revision);
        }
        if state.hold_writes {
            state.held.push(done);
            return Ok(());
        }
        let cold = state.cold;
        drop(state);
        match cold {
            Cold::Never => done(Ok(revision)),
            Cold::Always | Cold::Index => {
                drop(std::thread::spawn(move || done(Ok(revision))));
            }
        }
        Ok(())
    }

    fn walk(&self, kvs: &str, range: Range, _holder: &str) -> Result<Box<dyn Walk>> {
        self.walks.wait_until_let();
        let state = self.enter()?;
        let items = items_within(state.space(kvs)?, &range);
        Ok(self.walks.open(items, Revision::new(state.revision)))
    }

    fn create_kvs(&self, name: &str) -> Result<()> {
        let mut state = self.enter()?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let dots = name == "." || name == "..";
        if name.is_empty() || name.len() > KVS_NAME_BYTES_MAX || dots || !name.bytes().all(legal) {
            return Err(Error::KvsName { name: name.into() });
        }
        let full = state.spaces.len() >= KVS_MAX;
        match state.spaces.entry(name.into()) {
            Slot::Occupied(_) => Err(Error::KvsExists { name: name.into() }),
            Slot::Vacant(_) if full => Err(Error::KvsLimit),
            Slot::Vacant(slot) => {
                slot.insert(Map::new());
                Ok(())
            }
        }
    }

    fn drop_kvs(&self, name: &str) -> Result<()> {
        let mut state = self.enter()?;
        state.spaces.remove(name).map(drop).ok_or_else(|| Error::NoSuchKvs { name: name.into() })
    }

    fn list_kvs(&self) -> Result<Vec<KvsInfo>> {
        let state = self.enter()?;
        let info = |(name, map): (&String, &Map)| KvsInfo {
            name: name.clone(),
            keys_estimate: count(map.len()),
            value_bytes: map.values().map(|entry| count(entry.value.len())).sum(),
            index_bytes: 0,
            kvsets: 0,
            leaves: 0,
        };
        Ok(state.spaces.iter().map(info).collect())
    }

    fn visit_metrics(&self, see: &mut dyn FnMut(Sample<'_>)) {
        for (name, map) in &self.lock().spaces {
            #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
            let value = map.len() as f64;
            see(Sample {
                name: "kvs_keys",
                help: "Keys, by KVS.",
                labels: &[("kvs", name)],
                value: Value::Gauge(value),
            });
        }
    }

    fn health(&self) -> Health {
        self.lock().health.clone()
    }

    fn about(&self) -> About {
        let (read_only, left_out) = (false, 0);
        About { format: 0, device: "memory", io_backend: "none", read_only, left_out }
    }

    fn scrub(&self, _options: &ScrubOptions) -> Result<ScrubProgress> {
        Ok(ScrubProgress::default())
    }

    fn evacuate_volume(&self, id: VolumeId, _left: &mut dyn FnMut(u64)) -> Result<Evacuation> {
        Err(Error::Pool(mpool::Error::NoSuchObject { id: id.to_string() }))
    }

    fn remove_volume(&self, id: VolumeId) -> Result<()> {
        Err(Error::Pool(mpool::Error::NoSuchObject { id: id.to_string() }))
    }

    fn close(&self) -> Result<()> {
        while self.hang_close.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.lock().closed = true;
        Ok(())
    }
}

/// What a walk shows, in the order from its end.
fn items_within(map: &Map, range: &Range) -> Vec<Item> {
    let inside = |key: &Bytes| {
        key.starts_with(&range.prefix)
            && range.start.as_ref().is_none_or(|start| key >= start)
            && range.end.as_ref().is_none_or(|end| key < end)
    };
    let items = map.iter().filter(|(key, _)| inside(key)).map(|(key, entry)| Item {
        key: key.clone(),
        value: entry.value.clone(),
        revision: entry.revision,
    });
    let mut items: Vec<Item> = items.collect();
    if !range.reverse {
        items.reverse();
    }
    items
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits")
}
