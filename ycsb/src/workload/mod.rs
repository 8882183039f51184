//! A workload: what YCSB's properties say, checked and typed.
//!
//! [`Workload`] is made once and shared by all threads. What a thread needs for itself (its
//! distributions) it clones from here. Names and defaults are those of the original's
//! `CoreWorkload`; the one that differs is noted where it is read.

pub(crate) mod course;
pub(crate) mod dist;
pub(crate) mod key;
pub(crate) mod property;
pub(crate) mod random;
pub(crate) mod row;
pub(crate) mod unsupported;

use crate::number::{float, floor};
use crate::workload::course::Course;
use crate::workload::dist::counter::Acknowledged;
use crate::workload::dist::zipfian::{Latest, Scrambled};
use crate::workload::dist::{Histogram, Hotspot, Keys, Lengths, exponential_gamma};
use crate::workload::key::{InsertOrder, KeyNames};
use crate::workload::property::Properties;
use crate::workload::random::Rng;
use crate::workload::row::RowShape;
use anyhow::{Context, Result, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;

/// Longest row that a target accepts: the engine's limit for a value.
const ROW_BYTES_MAX: u64 = 16 << 20;
/// Records of 1 KB would be a petabyte.
const RECORDS_MAX: u64 = 1_000_000_000_000;
/// Years at any speed; and floating point counts so far exactly.
const OPERATIONS_MAX: u64 = 1_000_000_000_000_000;
/// Threads beyond this measure the scheduler.
const THREADS_MAX: u64 = 10_000;
/// More than a clock that is read for each operation can tell apart.
const RATE_MAX: f64 = 1e9;
/// An operation in a quarter of an hour.
const RATE_MIN: f64 = 1e-3;
/// Thirty years.
const SECONDS_MAX: u64 = 1_000_000_000;
/// As many KVSs as a database has.
const TABLES_MAX: u64 = 256;
const SCAN_LENGTH_MAX: u64 = 1_000_000_000;
const RETRIES_MAX: u64 = 1_000_000_000;
const RETRY_SECONDS_MAX: u64 = 3600;
/// Keys whose shares of the requests are computed one by one: 2 GiB of them.
const SHARES_MAX: u64 = 1 << 28;

/// What a client can do. The order is that of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
    /// Of a record that is there, without reading it.
    Overwrite,
    Delete,
    /// A scan of the first record.
    HeadScan,
    /// The same, without the time in which its thread was ready to run and had no processor.
    HeadScanAwake,
    /// Of all records.
    Walk,
}

impl Operation {
    pub(crate) const ALL: [Self; 10] = [
        Self::Read,
        Self::Update,
        Self::Insert,
        Self::Scan,
        Self::ReadModifyWrite,
        Self::Overwrite,
        Self::Delete,
        Self::HeadScan,
        Self::HeadScanAwake,
        Self::Walk,
    ];

    /// Those that the original's workloads are mixed of; the first ones of all.
    const MIXED: [Self; 5] =
        [Self::Read, Self::Update, Self::Insert, Self::Scan, Self::ReadModifyWrite];

    /// The name in reports; of those that it has, as the original prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Update => "UPDATE",
            Self::Insert => "INSERT",
            Self::Scan => "SCAN",
            Self::ReadModifyWrite => "READ-MODIFY-WRITE",
            Self::Overwrite => "OVERWRITE",
            Self::Delete => "DELETE",
            Self::HeadScan => "HEAD-SCAN",
            Self::HeadScanAwake => "HEAD-SCAN-AWAKE",
            Self::Walk => "WALK",
        }
    }

    /// Its place in tables by operation.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Read => 0,
            Self::Update => 1,
            Self::Insert => 2,
            Self::Scan => 3,
            Self::ReadModifyWrite => 4,
            Self::Overwrite => 5,
            Self::Delete => 6,
            Self::HeadScan => 7,
            Self::HeadScanAwake => 8,
            Self::Walk => 9,
        }
    }
}

/// In which order records are walked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Reverse,
}

/// How many of a record's fields an operation asks for or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fields {
    One,
    All,
}

#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) table: String,
    /// Of the store; each record is in the one that its key says.
    pub(crate) tables: u64,
    pub(crate) keys: KeyNames,
    pub(crate) rows: RowShape,
    pub(crate) records: u64,
    pub(crate) insert_start: u64,
    pub(crate) insert_count: u64,
    /// 0 means until the time is over.
    pub(crate) operations: u64,
    pub(crate) write: Fields,
    pub(crate) verify: bool,
    pub(crate) threads: usize,
    /// Operations a second over all threads, where the load is open.
    pub(crate) rate: Option<f64>,
    pub(crate) time_max: Option<Duration>,
    /// Percentiles that the original's report format shows.
    pub(crate) percentiles: Vec<f64>,
    pub(crate) retries: Retries,
    /// Stages of its own, in the place of a mix of operations.
    pub(crate) course: Option<Course>,
    mix: [f64; 5],
    request: Request,
    field_lengths: Lengths,
    scan_lengths: Lengths,
}

/// What becomes of an insert that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retries {
    pub(crate) limit: u64,
    pub(crate) interval: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Uniform,
    Zipfian,
    Latest,
    Sequential,
    Hotspot { data: f64, operations: f64 },
    Exponential { gamma: f64 },
}

impl Workload {
    pub(crate) fn new(p: &Properties) -> Result<Self> {
        // The original has no default and stops at 0; 1000 is what its workload files say.
        let records = p.whole("recordcount", 1..=RECORDS_MAX)?.unwrap_or(1000);
        let insert_start = p.whole("insertstart", 0..=RECORDS_MAX)?.unwrap_or(0);
        let insert_count = p
            .whole("insertcount", 1..=RECORDS_MAX)?
            .unwrap_or_else(|| records.saturating_sub(insert_start));
        if insert_count == 0 || insert_start + insert_count > records {
            bail!(
                "recordcount={records}, insertstart={insert_start}, insertcount={insert_count}: \
                 at least one record must be inserted, and none above recordcount"
            );
        }
        check_choices(p)?;
        let field_lengths = field_lengths(p)?;
        let rows = row_shape(p, &field_lengths)?;
        let workload = Self {
            table: p.text("table", "usertable").into(),
            tables: p.whole("tables", 1..=TABLES_MAX)?.unwrap_or(1),
            keys: key_names(p)?,
            rows,
            records,
            insert_start,
            insert_count,
            operations: p.whole("operationcount", 0..=OPERATIONS_MAX)?.unwrap_or(0),
            write: if p.flag("writeallfields", false)? { Fields::All } else { Fields::One },
            verify: p.flag("dataintegrity", false)?,
            threads: usize::try_from(p.whole("threadcount", 1..=THREADS_MAX)?.unwrap_or(1))?,
            rate: rate(p)?,
            time_max: p
                .whole("maxexecutiontime", 0..=SECONDS_MAX)?
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            percentiles: percentiles(p)?,
            retries: retries(p)?,
            course: Course::new(p)?,
            mix: mix(p)?,
            request: request(p, records)?,
            field_lengths,
            scan_lengths: scan_lengths(p)?,
        };
        if let Some(course) = &workload.course {
            course.check(&workload)?;
        }
        Ok(workload)
    }

    /// The last key number that is loaded.
    fn last(&self) -> u64 {
        self.insert_start + self.insert_count - 1
    }

    /// The run phase's chooser of keys. Made once a run and cloned for each thread: zipfian sums
    /// are costly, and sequential draws share a counter.
    pub(crate) fn choose_keys(&self, inserted: &Acknowledged) -> Keys {
        let (first, last) = (self.insert_start, self.last());
        match self.request {
            Request::Uniform => Keys::Uniform { first, last },
            Request::Zipfian => {
                // Room for the keys to come, so that popularity does not shift as they do. Twice
                // the expected number, as the original has it; the bound is inclusive.
                let share = self.mix[Operation::Insert.index()];
                let room = floor(float(self.operations) * share * 2.0);
                Keys::Zipfian(Scrambled::new(first, last + 1 + room))
            }
            Request::Latest => Keys::Latest(Latest::new(inserted.last())),
            Request::Sequential => Keys::Sequential { first, last, next: Arc::default() },
            Request::Hotspot { data, operations } => {
                Keys::Hotspot(Hotspot::new(first, last, data, operations))
            }
            Request::Exponential { gamma } => Keys::Exponential { gamma },
        }
    }

    /// How often each loaded key is asked for, as a share, where that stays the same and the keys
    /// are not too many for memory.
    pub(crate) fn shares(&self) -> Option<Vec<f64>> {
        let few = self.records <= SHARES_MAX;
        few.then(|| self.choose_keys(&Acknowledged::new(self.records)).shares(self.last()))?
    }

    /// The names of its tables: `usertable`, `usertable1` ..
    pub(crate) fn table_names(&self) -> Vec<String> {
        let more = (1..self.tables).map(|number| format!("{}{number}", self.table));
        std::iter::once(self.table.clone()).chain(more).collect()
    }

    /// Bytes of a row, where all are of one length.
    pub(crate) fn row_bytes(&self) -> usize {
        // Two lengths of four bytes come with each field.
        self.rows.names.iter().map(|name| name.len() + 8 + self.rows.lengths.1).sum()
    }

    /// Digits of the greatest number that a key may have.
    pub(crate) fn digits_max(&self) -> usize {
        self.records.max(self.operations).to_string().len()
    }

    /// Most bytes that a key and its row have.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        // "user" and up to 19 digits, or as many as they are padded to.
        let digits = u64::try_from(self.keys.zero_padding).expect("checked: at most 1000").max(19);
        let names: usize = self.rows.names.iter().map(|name| name.len() + 8).sum();
        let fields = u64::try_from(self.rows.names.len()).expect("a count of fields");
        4 + digits
            + u64::try_from(names).expect("checked: short")
            + fields * self.field_lengths.max()
    }

    /// Keys and rows of all records as loaded, at most.
    pub(crate) fn dataset_bytes(&self) -> u64 {
        self.insert_count.saturating_mul(self.record_bytes_max())
    }

    pub(crate) fn field_lengths(&self) -> Lengths {
        self.field_lengths.clone()
    }

    pub(crate) fn scan_lengths(&self) -> Lengths {
        self.scan_lengths.clone()
    }

    /// Draws an operation by its share.
    pub(crate) fn operation(&self, rng: &mut Rng) -> Operation {
        let mut u = rng.unit();
        for operation in Operation::MIXED {
            let share = self.mix[operation.index()];
            if u < share {
                return operation;
            }
            u -= share;
        }
        // Rounding left a sliver beyond the last share.
        let last = Operation::MIXED.iter().rev().find(|op| self.mix[op.index()] > 0.0);
        *last.expect("checked by mix: some share is positive")
    }
}

/// Refuses properties that choose something which is not there. Reads bring the whole row from any
/// key-value store, so which fields are asked for changes nothing.
fn check_choices(p: &Properties) -> Result<()> {
    for name in ["readallfields", "readallfieldsbyname"] {
        p.flag(name, true)?;
    }
    for (name, default, why) in [
        ("measurementtype", "hdrhistogram", unsupported::measurement_type as fn(&str) -> _),
        ("workload", "site.ycsb.workloads.CoreWorkload", unsupported::workload_class),
    ] {
        let value = p.text(name, default);
        if let Some(why) = why(value) {
            bail!("{name}={value} is not offered: {why}");
        }
    }
    Ok(())
}

/// 0 means as fast as it goes, as in the original.
fn rate(p: &Properties) -> Result<Option<f64>> {
    let rate = p.real("target", 0.0..=RATE_MAX)?.filter(|rate| *rate > 0.0);
    if let Some(rate) = rate.filter(|rate| *rate < RATE_MIN) {
        bail!("target={rate}: must be 0, or a number from {RATE_MIN} to {RATE_MAX}");
    }
    Ok(rate)
}

fn retries(p: &Properties) -> Result<Retries> {
    let limit = p.whole("core_workload_insertion_retry_limit", 0..=RETRIES_MAX)?;
    let seconds = p.whole("core_workload_insertion_retry_interval", 0..=RETRY_SECONDS_MAX)?;
    let interval = Duration::from_secs(seconds.unwrap_or(3));
    Ok(Retries { limit: limit.unwrap_or(0), interval })
}

fn key_names(p: &Properties) -> Result<KeyNames> {
    let order = match p.text("insertorder", "hashed") {
        "hashed" => InsertOrder::Hashed,
        "ordered" => InsertOrder::Ordered,
        other => bail!("insertorder={other}: must be hashed or ordered"),
    };
    // Keys have at most 1,344 bytes.
    let zero_padding = usize::try_from(p.whole("zeropadding", 0..=1000)?.unwrap_or(1))?;
    Ok(KeyNames { zero_padding, order })
}

fn field_lengths(p: &Properties) -> Result<Lengths> {
    let max = p.whole("fieldlength", 0..=ROW_BYTES_MAX)?.unwrap_or(100);
    let min = p.whole("minfieldlength", 0..=ROW_BYTES_MAX)?.unwrap_or(1);
    match p.text("fieldlengthdistribution", "constant") {
        "constant" => Ok(Lengths::Constant(max)),
        "uniform" | "zipfian" if min > max => {
            bail!("minfieldlength={min} is above fieldlength={max}")
        }
        "uniform" => Ok(Lengths::Uniform { min, max }),
        "zipfian" => Ok(Lengths::zipfian(min, max)),
        "histogram" => {
            let file = p.text("fieldlengthhistogram", "hist.txt");
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read fieldlengthhistogram={file}"))?;
            let histogram = Histogram::parse(&text)
                .map_err(|why| anyhow!("fieldlengthhistogram={file}: {why}"))?;
            Ok(Lengths::Histogram(Arc::new(histogram)))
        }
        other => bail!(
            "fieldlengthdistribution={other}: must be constant, uniform, zipfian or histogram"
        ),
    }
}

fn row_shape(p: &Properties, lengths: &Lengths) -> Result<RowShape> {
    let count = p.whole("fieldcount", 1..=ROW_BYTES_MAX)?.unwrap_or(10);
    let prefix = p.text("fieldnameprefix", "field");
    // Two lengths of four bytes and the digits of the field's number come with each field.
    let overhead = u64::try_from(prefix.len())?.saturating_add(16);
    let row = lengths.max().saturating_add(overhead).saturating_mul(count);
    if row > ROW_BYTES_MAX {
        bail!(
            "fieldcount={count} with fieldlength={}: rows would have up to {row} bytes, \
             the limit is {ROW_BYTES_MAX}",
            lengths.max()
        );
    }
    let names = (0..count).map(|i| format!("{prefix}{i}")).collect();
    Ok(RowShape {
        names,
        lengths: (usize::try_from(lengths.min())?, usize::try_from(lengths.max())?),
    })
}

fn mix(p: &Properties) -> Result<[f64; 5]> {
    let mut mix = [
        p.share("readproportion", 0.95)?,
        p.share("updateproportion", 0.05)?,
        p.share("insertproportion", 0.0)?,
        p.share("scanproportion", 0.0)?,
        p.share("readmodifywriteproportion", 0.0)?,
    ];
    let sum: f64 = mix.iter().sum();
    if sum <= 0.0 {
        bail!("all proportions are 0: there is nothing to do");
    }
    for share in &mut mix {
        *share /= sum;
    }
    Ok(mix)
}

fn request(p: &Properties, records: u64) -> Result<Request> {
    Ok(match p.text("requestdistribution", "uniform") {
        "uniform" => Request::Uniform,
        "zipfian" => Request::Zipfian,
        "latest" => Request::Latest,
        "sequential" => Request::Sequential,
        "hotspot" => Request::Hotspot {
            data: p.share("hotspotdatafraction", 0.2)?,
            operations: p.share("hotspotopnfraction", 0.8)?,
        },
        "exponential" => {
            // Below, nearly all draws would fall beyond the first key, and be repeated for ever.
            let percentile = p.real("exponential.percentile", 1.0..=99.999)?.unwrap_or(95.0);
            let fraction = p.share("exponential.frac", 0.857_142_857_1)?;
            Request::Exponential { gamma: exponential_gamma(percentile, float(records) * fraction) }
        }
        other => bail!(
            "requestdistribution={other}: must be uniform, zipfian, latest, sequential, hotspot \
             or exponential"
        ),
    })
}

fn scan_lengths(p: &Properties) -> Result<Lengths> {
    let min = p.whole("minscanlength", 1..=SCAN_LENGTH_MAX)?.unwrap_or(1);
    let max = p.whole("maxscanlength", 1..=SCAN_LENGTH_MAX)?.unwrap_or(1000);
    if min > max {
        bail!("minscanlength={min} is above maxscanlength={max}");
    }
    match p.text("scanlengthdistribution", "uniform") {
        "uniform" => Ok(Lengths::Uniform { min, max }),
        "zipfian" => Ok(Lengths::zipfian(min, max)),
        other => bail!("scanlengthdistribution={other}: must be uniform or zipfian"),
    }
}

fn percentiles(p: &Properties) -> Result<Vec<f64>> {
    let text = p.text("hdrhistogram.percentiles", "50,95,99");
    text.split(',')
        .map(|word| match word.trim().parse() {
            Ok(percentile) if (0.0..=100.0).contains(&percentile) => Ok(percentile),
            _ => bail!("hdrhistogram.percentiles={text}: {word:?} is not between 0 and 100"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
