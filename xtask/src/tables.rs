//! Every rule's data and every exception with its reason, in one place.
//!
//! An exception is added here in the commit that needs it, with a reason that a reader can judge.

/// Widest line of Rust source, as in `rustfmt.toml`, which leaves comments and strings alone.
pub(crate) const WIDTH_MAX: usize = 100;
/// Widest line of Rust source that ends in a string: messages stay whole.
pub(crate) const LITERAL_WIDTH_MAX: usize = 140;
/// A longer file needs a reason.
pub(crate) const FILE_LINES_SOFT: usize = 500;
/// A longer file is split.
pub(crate) const FILE_LINES_MAX: usize = 800;

/// Files over [`FILE_LINES_SOFT`] that are better whole: (path, reason).
pub(crate) const LONG_FILES: &[(&str, &str)] = &[];

/// Documents with a length limit: (path, lines, without the drawings of modules).
pub(crate) const DOCUMENT_LINES_MAX: &[(&str, usize)] =
    &[("STYLE.md", 120), ("README.md", 150), ("ARCHITECTURE.md", 300)];

/// The document that lists every format and its owner.
pub(crate) const FORMAT_INDEX: &str = "docs/format.md";

/// What the code leaves off the names of its metrics.
pub(crate) const METRIC_PREFIXES: &[&str] = &["millpond_http_", "millpond_"];

/// Where `unsafe` may stand: files, and folders with a slash at the end.
pub(crate) const UNSAFE_PLACES: &[&str] = &[
    "mpool-device/src/buf.rs",
    "mpool/src/sys/",
    "mpool/src/object/mcache/region.rs",
    "kvs/src/memtable/arena.rs",
    "kvs/src/memtable/skiplist.rs",
];

/// Crate roots that forbid `unsafe` altogether; those that exist are checked.
pub(crate) const SAFE_ROOTS: &[&str] = &[
    "mpool-sim/src/lib.rs",
    "units/src/lib.rs",
    "server/src/lib.rs",
    "server/src/main.rs",
    "ycsb/src/lib.rs",
    "ycsb/src/main.rs",
    "xtask/src/main.rs",
];

/// Folders of the crates whose modules are drawn.
pub(crate) const CRATES: &[&str] =
    &["mpool-device", "mpool-sim", "mpool", "kvs", "server", "ycsb", "units", "xtask"];

/// What a layer may not know.
pub(crate) struct Layer {
    /// The crate's folder.
    pub(crate) folder: &'static str,
    /// Packages that may not stand in its `Cargo.toml`; a `*` at the end matches any rest.
    pub(crate) packages: &'static [&'static str],
    /// Words that may not stand in its code (comments and strings may explain).
    pub(crate) words: &'static [&'static str],
    /// Words that may stand in its tests only.
    pub(crate) test_words: &'static [&'static str],
    pub(crate) reason: &'static str,
}

pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        folder: "mpool-device/",
        packages: &["mpool*", "kvs", "millpond*"],
        words: &[],
        test_words: &[],
        reason: "the traits of devices stand below the pool and below the simulated device",
    },
    Layer {
        folder: "mpool-sim/",
        packages: &["mpool", "kvs", "millpond*"],
        words: &[],
        test_words: &[],
        reason: "the simulated device stands below the pool, whose own unit tests use it",
    },
    Layer {
        folder: "mpool/",
        packages: &[
            "kvs",
            "millpond*",
            "tokio*",
            "axum*",
            "hyper*",
            "tower*",
            "serde_json",
            "prometheus*",
        ],
        words: &[
            "kvs",
            "Kvs",
            "KvsId",
            "kvset",
            "Kvset",
            "memtable",
            "Memtable",
            "tokio",
            "prometheus",
        ],
        test_words: &[],
        reason: "mpool stores objects and journals; it knows nothing of keys, trees or servers",
    },
    Layer {
        folder: "kvs/",
        packages: &[
            "millpond*",
            "mpool-device",
            "tokio*",
            "axum*",
            "hyper*",
            "tower*",
            "http*",
            "serde_json",
            "prometheus*",
        ],
        words: &["tokio", "axum", "hyper", "serde_json", "prometheus"],
        test_words: &["libc", "rustix", "io_uring", "memmap2", "OpenOptions"],
        reason: "kvs is synchronous, speaks no protocol and reaches the medium through mpool only",
    },
    Layer {
        folder: "server/",
        packages: &["ycsb", "millpond-ycsb", "io-uring", "memmap2", "libc"],
        words: &["io_uring", "memmap2", "libc"],
        test_words: &[],
        reason: "the server holds no data and reaches the medium through the engine only",
    },
    Layer {
        folder: "xtask/",
        packages: &["*"],
        words: &[],
        test_words: &[],
        reason: "xtask depends on nothing, so that it builds in a second",
    },
];

/// Words that no file whose header says `PURE` may use: decisions see no IO, clock, lock or
/// randomness.
pub(crate) const IMPURE_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
    "File",
    "fs",
    "thread",
    "random",
    "rand",
    "tracing",
];

/// Code that may not stand anywhere: (text, what to do instead).
pub(crate) const FORBIDDEN_CODE: &[(&str, &str)] = &[
    ("todo!", "write it, or return an error that says what is missing"),
    ("unimplemented!", "write it, or return an error that says what is missing"),
    ("#[ignore]", "run it, or give the reason: #[ignore = \"needs ...\"]"),
    ("#[doc(hidden)]", "make it pub(crate), or document it"),
];

/// Words that may not stand in comments.
pub(crate) const FORBIDDEN_COMMENT_WORDS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Modules of loom tests, as `.ci/run` selects them.
pub(crate) const LOOM_MODULES: &[&str] = &["interleavings", "loom_tests"];

/// Files of the engine that may read the clock, with the reason; everything else takes time as an
/// argument.
pub(crate) const CLOCK_FILES: &[(&str, &str)] = &[
    ("kvs/src/db/close.rs", "how long the last flush took is told to people"),
    (
        "kvs/src/shape/holds.rs",
        "the age of snapshots is told to people, and bounded; ids begin with the time",
    ),
    ("kvs/src/db/recover.rs", "how long a replay takes bounds the log"),
    ("kvs/src/db/replay.rs", "how far a replay is is told once a second"),
    ("kvs/src/write/group.rs", "interval durability is a promise about time"),
    ("kvs/src/write/group/post.rs", "interval durability is a promise about time"),
    ("kvs/src/write/group/thread.rs", "interval durability is a promise about time"),
    ("kvs/src/shape/bell.rs", "a wait has an end"),
    ("kvs/src/store/space.rs", "for how long puts were refused is told to people"),
    ("kvs/src/jobs/mod.rs", "failed work waits out a pause before it is tried again"),
    ("kvs/src/jobs/requested/errand.rs", "for how long a compaction runs is told to people"),
    ("kvs/src/jobs/watch.rs", "for how long jobs run is told to people"),
    ("kvs/src/jobs/quiet.rs", "a database is quiet when for some time little was put"),
    ("kvs/src/write/group/room.rs", "a throttled writer waits, and its wait is counted"),
    ("mpool/src/device/file_space.rs", "what a disk has left is asked for again after a second"),
    ("mpool/src/upkeep/returns.rs", "what goes back to a disk has been free for a time"),
    ("mpool/src/chores.rs", "a chore may name the moment of its next step"),
    ("mpool/src/io/pacer.rs", "pacing compares latencies, and a rate is a promise about time"),
    ("mpool/src/metrics/histogram.rs", "the one place that measures how long things take"),
    ("mpool/src/reaper/task.rs", "the reaper's tick"),
    ("mpool/src/verify/reader.rs", "a scrub keeps to a rate"),
    ("mpool/src/verify/control.rs", "a scrub that waits for its turn can be stopped"),
    ("mpool/src/pool/scrub/run.rs", "when a scrub began and ended is told to people"),
];
