//! What those options come to that depend on the machine, on other options, or on the pool, as
//! `serve` would have it if it were started now.
//!
//! The pool is looked at for reading only, and none is made.

use super::Config;
use crate::engine::capacity;
use crate::process_limits;
use mpool::Pool;
use std::collections::BTreeMap;
use units::human;

/// What an option comes to, by its name.
pub(super) fn of(config: &Config) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let memory = mpool::memory_budget_bytes((config.memory.0 > 0).then_some(config.memory.0));
    let limits = config.limits()?;
    let bytes = |bytes: usize| human(bytes as u64);
    let files = process_limits::raise_open_files();
    let connections = process_limits::connections_that_fit(config.connections, files);
    let mut found = BTreeMap::from([
        ("memory", human(memory)),
        ("body_memory", bytes(limits.body_memory_bytes)),
        ("head_memory", bytes(limits.head_memory_bytes)),
        ("response_memory", bytes(limits.response_memory_bytes)),
        ("admin", limits.admin.to_string()),
        ("connections", connections.to_string()),
    ]);
    if config.workers == 0 {
        let threads = std::thread::available_parallelism()?;
        found.insert("workers", threads.to_string());
    }
    let (capacity, memtable) = of_pool(config)?;
    found.extend([("capacity", capacity), ("memtable", memtable)]);
    Ok(found)
}

/// The limit of the root volume, and the size of memtables, which no pool has larger than a 32nd of
/// itself.
fn of_pool(config: &Config) -> anyhow::Result<(String, String)> {
    let options = config.engine_options()?;
    let told = Pool::identify(&config.data, &options.pool).map(|pool| pool.capacity_bytes_max);
    let limit = capacity::limit(config.capacity, told.as_ref().ok().copied().flatten());
    let bytes = limit.opens_with.map_or(options.pool.capacity_bytes_max, |size| size.0);
    let unknown = |why: &str| {
        let memtable = human(options.memtable_bytes);
        format!("{memtable}, or a 32nd of the pool where that is less ({why})")
    };
    if let Err(error) = told {
        let (capacity, why) = match error {
            mpool::Error::InUse { .. } => (
                "that of the pool, or this where it is more".to_owned(),
                "the pool is in use; millpond pool info --url shows it",
            ),
            _ => (human(bytes), "there is no pool yet, or none that can be read"),
        };
        return Ok((capacity, unknown(why)));
    }
    let found = Pool::inspect(&config.data, &options.pool);
    let memtable = match found {
        Ok(found) if !limit.is_new() => {
            let total_bytes = found.free.total_bytes;
            let fitted = options.fitted_to(total_bytes);
            format!("{}, in a pool of {}", human(fitted.memtable_bytes), human(total_bytes))
        }
        Ok(_) => unknown("the pool grows at the next start"),
        Err(error) => unknown(&error.to_string()),
    };
    Ok((human(bytes), memtable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use tempfile::TempDir;

    fn config(data: &std::path::Path, file: &str) -> Config {
        let flags = Settings { data: Some(data.to_owned()), ..Settings::default() };
        let file = format!("allow_buffered = true\nallow_volatile = true\n{file}");
        Config::resolve(&file, &flags).unwrap()
    }

    #[test]
    fn what_depends_on_others_is_told_and_no_pool_is_made() {
        let data = TempDir::new().unwrap();
        let found =
            of(&config(data.path(), "memory = \"512MiB\"\nlisten = \"0.0.0.0:0\"")).unwrap();
        assert_eq!(found["admin"], "false");
        assert_eq!(found["capacity"], "1.0 TiB");
        assert!(found["memtable"].starts_with("64.0 MiB, or a 32nd"), "{found:?}");
        // A cgroup with less bounds the memory.
        if mpool::memory_budget_bytes(Some(512 << 20)) == 512 << 20 {
            assert_eq!((&*found["memory"], &*found["body_memory"]), ("512 MiB", "64.0 MiB"));
        }
        for name in ["workers", "connections"] {
            assert!(found[name].parse::<usize>().unwrap() > 0, "{found:?}");
        }
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    }

    #[test]
    fn memtables_are_told_as_they_fit_the_pool() {
        let data = TempDir::new().unwrap();
        let small = config(data.path(), "capacity = \"320MiB\"");
        let pool = Pool::create_dir(data.path(), &small.engine_options().unwrap().pool).unwrap();
        // As a first start does.
        pool.grow_volume(mpool::VolumeId::ROOT, small.capacity.0).unwrap();
        drop(pool);
        let found = of(&small).unwrap();
        assert_eq!(found["capacity"], "320 MiB");
        assert_eq!(found["memtable"], "10.0 MiB, in a pool of 320 MiB");
    }
}
