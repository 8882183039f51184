//! Maps at scale: 75,000 objects mapped at once, against one `mmap` an object.
//!
//! ```text
//! cargo run --release -p millpond-mpool --example maps_at_scale -- \
//!     [--objects 75000] [--object-bytes 8MiB] [--map-objects 100] [--dir DIR] [--json FILE]
//! ```
//!
//! The volume is sparse: a device over a file that leaves out blocks of zeros, so 600 GB of objects
//! (each a numbered page, the rest zeros, committed and checksummed like any other) take 1 GB of
//! disk. With `--dir` the pool stays, and the next run starts with objects of an earlier life.
//!
//! What is measured: making and dropping maps of 100 objects and one of all; memory (what the
//! process's anonymous memory grows by, and what the pool says); mappings and page tables of the
//! kernel, before and after a page of every object is read; what statistics of all maps cost; the
//! same file mapped object by object until the kernel refuses. The reaper is off: pages enter at
//! the first touch.

#![expect(clippy::unwrap_used, reason = "an example: an error ends it")]
#![expect(clippy::print_stdout, reason = "it reports to people")]

use memmap2::{MmapOptions, MmapRaw};
use mpool::{
    Class, Device, Geometry, IoBackend, IoBuf, Map, Mblock, Options, Pool, Priority, ReaperOptions,
    ReaperPolicy,
};
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{self, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const PAGE: usize = 4096;
const COMMIT_OBJECTS: usize = 1000;
const ROUNDS: usize = 21;

/// What to do.
struct Arguments {
    objects: usize,
    object_bytes: u64,
    map_objects: usize,
    dir: Option<PathBuf>,
    json: Option<PathBuf>,
}

fn main() {
    let arguments = arguments();
    let scratch = tempfile::tempdir().unwrap();
    let dir = arguments.dir.clone().unwrap_or_else(|| scratch.path().to_owned());
    fs::create_dir_all(&dir).unwrap();
    let mut report = Report::default();
    report.add("objects", arguments.objects as u64, "");
    report.add("object", arguments.object_bytes, "bytes");

    let before = Memory::now();
    let device = Arc::new(Sparse::open(&dir.join("sparse.vol"), &arguments));
    let pool = open(&device, &arguments);
    let mblocks = objects(&pool, &arguments);
    let grown = Memory::now().since(&before);
    report.add("pool: memory an object", grown.anonymous / mblocks.len() as u64, "bytes");

    maps(&pool, &mblocks, &arguments, &mut report);
    one_map(&pool, &mblocks, &mut report);
    reads(&pool, &mblocks, &mut report);
    mmaps(&device.file, &arguments, &mut report);
    if let Some(path) = &arguments.json {
        fs::write(path, report.json()).unwrap();
    }
}

fn map_of(pool: &Arc<Pool>, mblocks: &[Mblock], owner: &str) -> Map {
    pool.map_named(mblocks, Class::Cold, owner).expect("objects of this pool")
}

/// Creation, drop and memory of maps over objects that nobody reads.
fn maps(pool: &Arc<Pool>, mblocks: &[Mblock], arguments: &Arguments, report: &mut Report) {
    let make = || -> Vec<Map> {
        let pieces = mblocks.chunks(arguments.map_objects);
        pieces.map(|piece| map_of(pool, piece, "example")).collect()
    };
    let (count, objects) =
        (mblocks.len().div_ceil(arguments.map_objects) as u64, mblocks.len() as u64);
    let before = Memory::now();
    let (first, maps) = timed(make);
    let grown = Memory::now().since(&before);
    report.add("maps: made at once", count, "");
    report.add("maps: first creation, a map", nanos(first) / count, "ns");
    report.add("maps: memory, an object", grown.anonymous / objects, "bytes");
    let own: u64 = pool.maps().iter().map(|map| map.heap_bytes).sum();
    report.add("maps: computed, a map's own", own / count, "bytes");
    let known = metric(pool, "mpool_mcache_heap_bytes");
    report.add("maps: computed, an object's", known / objects, "bytes");
    report.add("maps: mappings of the volume", volume_mappings(), "");
    report.add("maps: mappings of the process, more", grown.mappings, "");
    report.add("maps: page tables, more", grown.page_tables, "bytes");
    let (listing, listed) = timed(|| pool.maps().len());
    assert!(listed as u64 == count);
    report.add("maps: statistics of all maps", nanos(listing), "ns");
    let (rendering, _) = timed(|| metric(pool, "mpool_mcache_maps"));
    report.add("maps: all metrics", nanos(rendering), "ns");
    let (dropping, ()) = timed(|| drop(maps));
    report.add("maps: first drop, a map", nanos(dropping) / count, "ns");
    let (mut made, mut dropped) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (making, maps) = timed(make);
        let (dropping, ()) = timed(|| drop(maps));
        made.push(nanos(making) / count);
        dropped.push(nanos(dropping) / count);
    }
    report.add("maps: creation over known objects, a map", median(&mut made), "ns");
    report.add("maps: drop, a map", median(&mut dropped), "ns");
}

/// One map over everything.
fn one_map(pool: &Arc<Pool>, mblocks: &[Mblock], report: &mut Report) {
    let before = Memory::now();
    let (making, map) = timed(|| map_of(pool, mblocks, "all"));
    let grown = Memory::now().since(&before);
    report.add("one map of all: creation", nanos(making), "ns");
    report.add("one map of all: computed, its own", pool.maps()[0].heap_bytes, "bytes");
    report.add("one map of all: mappings, more", grown.mappings, "");
    let (dropping, ()) = timed(|| drop(map));
    report.add("one map of all: drop", nanos(dropping), "ns");
}

/// A page of every object is read through a map; then the hot path.
fn reads(pool: &Arc<Pool>, mblocks: &[Mblock], report: &mut Report) {
    let map = map_of(pool, mblocks, "read");
    let objects = map.len() as u64;
    let before = Memory::now();
    let mut scratch = IoBuf::zeroed(PAGE);
    let (reading, ()) = timed(|| {
        for (n, mblock) in mblocks.iter().enumerate() {
            let seen = map.read(n, 0..8, &mut scratch).unwrap();
            assert!(seen == mblock.id().get().to_le_bytes(), "object {n} shows another");
        }
    });
    let grown = Memory::now().since(&before);
    report.add("a page of each read: time", nanos(reading) / objects, "ns");
    report.add("a page of each read: mappings, more", grown.mappings, "");
    report.add("a page of each read: page tables, more", grown.page_tables, "bytes");
    let known = metric(pool, "mpool_mcache_heap_bytes");
    report.add("a page of each read: computed, an object's", known / objects, "bytes");
    let stats = map.stats();
    report.add("a page of each read: resident", stats.resident_bytes, "bytes");
    report.add("a page of each read: mapped", stats.mapped_bytes, "bytes");
    hot_path(&map, report);
    let (purging, ()) = timed(|| map.purge());
    report.add("purge, an object", nanos(purging) / objects, "ns");
    report.add("purged: page tables left", Memory::now().since(&before).page_tables, "bytes");
}

/// Reads of pages that are in memory.
fn hot_path(map: &Map, report: &mut Report) {
    const TURNS: usize = 2000;
    let hot = 256.min(map.len());
    (0..hot).for_each(|object| drop(map.page(object, 0, |_| true).unwrap()));
    let (mut pages, mut ranges) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (page, ()) = timed(|| {
            for object in (0..TURNS).flat_map(|_| 0..hot) {
                black_box(map.try_page(object, 0).unwrap());
            }
        });
        let (range, ()) = timed(|| {
            for object in (0..TURNS).flat_map(|_| 0..hot) {
                black_box(map.try_read(object, 100..1100).unwrap());
            }
        });
        pages.push(nanos(page) * 1000 / (TURNS * hot) as u64);
        ranges.push(nanos(range) * 1000 / (TURNS * hot) as u64);
    }
    report.add("try_page of a verified page", median(&mut pages), "ps");
    report.add("try_read of 1,000 bytes", median(&mut ranges), "ps");
}

/// The same file mapped object by object, until the kernel refuses.
fn mmaps(file: &File, arguments: &Arguments, report: &mut Report) {
    let before = Memory::now();
    let mut mapped: Vec<MmapRaw> = Vec::with_capacity(arguments.objects);
    let start = Instant::now();
    let refused = (0..arguments.objects as u64).find_map(|object| {
        let len = usize::try_from(arguments.object_bytes).unwrap();
        // Places where objects may lie; where exactly makes no difference.
        let offset = object * (arguments.object_bytes + (64 << 10));
        let one = MmapOptions::new().offset(offset).len(len).map_raw_read_only(file);
        one.map(|one| mapped.push(one)).err().map(|error| (object, error))
    });
    let made = mapped.len().max(1) as u64;
    report.add("one mmap an object: time", nanos(start.elapsed()) / made, "ns");
    report.add("one mmap an object: made", made, "");
    if let Some((object, error)) = &refused {
        note(&format!("one mmap an object: object {object} is refused: {error}"));
    }
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    report.add("one mmap an object: vm.max_map_count", limit.trim().parse().unwrap(), "");
    // Room for the report itself, which the allocator may have to map.
    drop(mapped.split_off(mapped.len().saturating_sub(16)));
    let grown = Memory::now().since(&before);
    report.add("one mmap an object: mappings, more", grown.mappings, "");
    report.add("one mmap an object: kernel memory a mapping", grown.slab / made, "bytes");
    report.add("one mmap an object: page tables, more", grown.page_tables, "bytes");
    let (dropping, ()) = timed(|| drop(mapped));
    report.add("one mmap an object: munmap", nanos(dropping) / made, "ns");
}

/// Opens the pool, or creates it where there is none.
fn open(device: &Arc<Sparse>, arguments: &Arguments) -> Arc<Pool> {
    let options = Options {
        // The queue writes through the device, which leaves the zeros out.
        io: IoBackend::Threads,
        capacity_bytes_max: arguments.capacity_bytes(),
        reserve_bytes: Some(0),
        spare_pct: 0,
        reaper: ReaperOptions { policy: ReaperPolicy::Off, ..ReaperOptions::default() },
        ..Options::default()
    };
    let on = Arc::clone(device) as Arc<dyn Device>;
    let blank = device.len_bytes.load(Relaxed) == 0;
    if blank { Pool::create(on, &options).unwrap() } else { Pool::open(on, &options).unwrap() }
}

/// As many objects as were asked for: those that are there, and new ones.
fn objects(pool: &Arc<Pool>, arguments: &Arguments) -> Vec<Mblock> {
    let mut mblocks: Vec<Mblock> =
        pool.mblock_ids().into_iter().map(|id| pool.mblock(id).unwrap()).collect();
    mblocks.retain(|mblock| mblock.len_bytes() == arguments.object_bytes);
    mblocks.truncate(arguments.objects);
    let zeros = vec![0; 1 << 20];
    let mut err = io::stderr();
    while mblocks.len() < arguments.objects {
        let now = COMMIT_OBJECTS.min(arguments.objects - mblocks.len());
        let writers = (0..now).map(|_| {
            let mut writer = pool.allocate(arguments.object_bytes, Priority::Flush).unwrap();
            writer.append(&writer.id().get().to_le_bytes()).unwrap();
            let mut left = usize::try_from(arguments.object_bytes).unwrap() - 8;
            while left > 0 {
                let piece = left.min(zeros.len());
                writer.append(&zeros[..piece]).unwrap();
                left -= piece;
            }
            writer.seal().unwrap();
            writer
        });
        mblocks.extend(pool.commit(writers.collect(), &[]).unwrap());
        writeln!(err, "{} objects", mblocks.len()).unwrap();
    }
    mblocks
}

fn metric(pool: &Pool, wanted: &str) -> u64 {
    let mut found = None;
    pool.visit_memory(&mut |name, _, _, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found.unwrap()
}

/// A volume in a sparse file: whole blocks of zeros are not written, because there is nothing else
/// where they would go.
struct Sparse {
    file: File,
    len_bytes: AtomicU64,
    len_bytes_max: u64,
}

impl Sparse {
    fn open(path: &Path, arguments: &Arguments) -> Self {
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
            options.open(path)
        };
        let file = open(libc::O_DIRECT).or_else(|_| open(0)).unwrap();
        let len_bytes = AtomicU64::new(file.metadata().unwrap().len());
        Self { file, len_bytes, len_bytes_max: arguments.capacity_bytes() }
    }
}

impl Device for Sparse {
    fn geometry(&self) -> Geometry {
        let len_bytes = self.len_bytes.load(Relaxed);
        Geometry { sector_bytes: 512, len_bytes, len_bytes_max: self.len_bytes_max }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        // Journals write over what was there before, in smaller pieces.
        if buf.len() < 64 << 10 {
            return self.file.write_all_at(buf, offset);
        }
        for (n, block) in buf.chunks(PAGE).enumerate() {
            if *block != [0; PAGE][..block.len()] {
                self.file.write_all_at(block, offset + (n * PAGE) as u64)?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes > self.len_bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if len_bytes > self.len_bytes.load(Relaxed) {
            self.file.set_len(len_bytes)?;
            self.len_bytes.fetch_max(len_bytes, Relaxed);
        }
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn kind(&self) -> &'static str {
        "sparse"
    }
}

/// What this process takes, as the kernel tells.
struct Memory {
    anonymous: u64,
    page_tables: u64,
    mappings: u64,
    /// Of the whole machine.
    slab: u64,
}

impl Memory {
    fn now() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        Self {
            anonymous: field("/proc/self/status", "RssAnon:"),
            page_tables: field("/proc/self/status", "VmPTE:"),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count() as u64,
            slab: field("/proc/meminfo", "Slab:"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            anonymous: self.anonymous.saturating_sub(before.anonymous),
            page_tables: self.page_tables.saturating_sub(before.page_tables),
            mappings: self.mappings.saturating_sub(before.mappings),
            slab: self.slab.saturating_sub(before.slab),
        }
    }
}

fn volume_mappings() -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.ends_with("sparse.vol")).count() as u64
}

/// Figures, printed as they come.
#[derive(Default)]
struct Report(Vec<(String, u64)>);

impl Report {
    fn add(&mut self, name: &str, value: u64, unit: &str) {
        note(&format!("{name:<48} {value:>14} {unit}"));
        let key = format!("{name} {unit}").to_lowercase();
        let words = key.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        self.0.push((words.collect::<Vec<_>>().join("_"), value));
    }

    fn json(&self) -> String {
        let mut json = String::from("{\n");
        for (n, (name, value)) in self.0.iter().enumerate() {
            let comma = if n + 1 < self.0.len() { "," } else { "" };
            writeln!(json, "  \"{name}\": {value}{comma}").unwrap();
        }
        json + "}\n"
    }
}

fn note(line: &str) {
    println!("{}", line.trim_end());
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let outcome = work();
    (start.elapsed(), outcome)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

impl Arguments {
    fn capacity_bytes(&self) -> u64 {
        // An object and its checksums in units of 64 KiB; the journal.
        let each = self.object_bytes + self.object_bytes / 1024 + (128 << 10);
        (self.objects as u64 * each).next_multiple_of(1 << 30) + (1 << 30)
    }
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        objects: 75_000,
        object_bytes: 8 << 20,
        map_objects: 100,
        dir: None,
        json: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--objects" => arguments.objects = value.parse().unwrap(),
            "--object-bytes" => arguments.object_bytes = bytes(&value),
            "--map-objects" => arguments.map_objects = value.parse().unwrap(),
            "--dir" => arguments.dir = Some(value.into()),
            "--json" => arguments.json = Some(value.into()),
            _ => panic!("{name}: one of --objects --object-bytes --map-objects --dir --json"),
        }
    }
    assert!(arguments.objects > 0 && arguments.map_objects > 0);
    assert!(arguments.object_bytes >= PAGE as u64);
    arguments
}

fn bytes(text: &str) -> u64 {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    number.parse::<u64>().unwrap() * bytes
}
