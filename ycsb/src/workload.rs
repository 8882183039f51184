//! A workload: what YCSB's properties say, checked and typed.
//!
//! [`Workload`] is made once and shared by all threads. What a thread needs for itself (its
//! distributions) it clones from here. Names and defaults are those of the original's
//! `CoreWorkload`; the one that differs is noted where it is read.

use crate::dist::counter::Acknowledged;
use crate::dist::zipfian::{Latest, Scrambled};
use crate::dist::{Histogram, Hotspot, Keys, Lengths, exponential_gamma};
use crate::key::{InsertOrder, KeyNames};
use crate::number::{float, floor};
use crate::property::Properties;
use crate::random::Rng;
use crate::row::RowShape;
use anyhow::{Context, Result, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;

/// Longest row that a target accepts: the engine's limit for a value.
const ROW_BYTES_MAX: u64 = 16 << 20;

/// What a client can do. The order is that of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
}

impl Operation {
    pub(crate) const ALL: [Self; 5] =
        [Self::Read, Self::Update, Self::Insert, Self::Scan, Self::ReadModifyWrite];

    /// The name in reports, as the original prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Update => "UPDATE",
            Self::Insert => "INSERT",
            Self::Scan => "SCAN",
            Self::ReadModifyWrite => "READ-MODIFY-WRITE",
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
        }
    }
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
        let records: u64 = p.number("recordcount")?.unwrap_or(1000);
        let insert_start: u64 = p.number("insertstart")?.unwrap_or(0);
        let insert_count =
            p.number("insertcount")?.unwrap_or_else(|| records.saturating_sub(insert_start));
        let end = insert_start.checked_add(insert_count);
        if insert_count == 0 || end.is_none_or(|end| end > records) {
            bail!(
                "recordcount={records}, insertstart={insert_start}, insertcount={insert_count}: \
                 at least one record must be inserted, and none above recordcount"
            );
        }
        let field_lengths = field_lengths(p)?;
        let rows = row_shape(p, &field_lengths)?;
        Ok(Self {
            table: p.text("table", "usertable").into(),
            keys: key_names(p)?,
            rows,
            records,
            insert_start,
            insert_count,
            operations: p.number("operationcount")?.unwrap_or(0),
            write: if p.flag("writeallfields", false)? { Fields::All } else { Fields::One },
            verify: p.flag("dataintegrity", false)?,
            threads: positive(p, "threadcount", 1)?,
            rate: p.number("target")?.filter(|rate| *rate > 0.0),
            time_max: p.number("maxexecutiontime")?.filter(|s| *s > 0).map(Duration::from_secs),
            percentiles: percentiles(p)?,
            retries: Retries {
                limit: p.number("core_workload_insertion_retry_limit")?.unwrap_or(0),
                interval: Duration::from_secs(
                    p.number("core_workload_insertion_retry_interval")?.unwrap_or(3),
                ),
            },
            mix: mix(p)?,
            request: request(p, records)?,
            field_lengths,
            scan_lengths: scan_lengths(p)?,
        })
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

    /// How often each loaded key is asked for, as a share, where that stays the same.
    pub(crate) fn shares(&self) -> Option<Vec<f64>> {
        self.choose_keys(&Acknowledged::new(self.records)).shares(self.last())
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

    pub(crate) fn field_lengths(&self) -> Lengths {
        self.field_lengths.clone()
    }

    pub(crate) fn scan_lengths(&self) -> Lengths {
        self.scan_lengths.clone()
    }

    /// Draws an operation by its share.
    pub(crate) fn operation(&self, rng: &mut Rng) -> Operation {
        let mut u = rng.unit();
        for operation in Operation::ALL {
            let share = self.mix[operation.index()];
            if u < share {
                return operation;
            }
            u -= share;
        }
        // Rounding left a sliver beyond the last share.
        let last = Operation::ALL.iter().rev().find(|op| self.mix[op.index()] > 0.0);
        *last.expect("checked by mix: some share is positive")
    }
}

fn positive(p: &Properties, name: &str, default: usize) -> Result<usize> {
    match p.number(name)?.unwrap_or(default) {
        0 => bail!("{name}=0: must be 1 or more"),
        n => Ok(n),
    }
}

fn key_names(p: &Properties) -> Result<KeyNames> {
    let order = match p.text("insertorder", "hashed") {
        "hashed" => InsertOrder::Hashed,
        "ordered" => InsertOrder::Ordered,
        other => bail!("insertorder={other}: must be hashed or ordered"),
    };
    let zero_padding = p.number("zeropadding")?.unwrap_or(1);
    if zero_padding > 1000 {
        bail!("zeropadding={zero_padding}: must be 1000 or less, keys have at most 1,344 bytes");
    }
    Ok(KeyNames { zero_padding, order })
}

fn field_lengths(p: &Properties) -> Result<Lengths> {
    let max = p.number("fieldlength")?.unwrap_or(100);
    let min = p.number("minfieldlength")?.unwrap_or(1);
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
    let count = positive(p, "fieldcount", 10)?;
    let prefix = p.text("fieldnameprefix", "field");
    let fields = u64::try_from(count)?;
    let row = lengths.max().saturating_add(40).saturating_mul(fields);
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
            let percentile = p.number("exponential.percentile")?.unwrap_or(95.0);
            if !(percentile > 0.0 && percentile < 100.0) {
                bail!("exponential.percentile={percentile}: must be between 0 and 100");
            }
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
    let min = p.number("minscanlength")?.unwrap_or(1);
    let max = p.number("maxscanlength")?.unwrap_or(1000);
    if min > max || min == 0 {
        bail!("minscanlength={min}, maxscanlength={max}: must be 1 or more, and in this order");
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
mod tests {
    use super::*;

    fn workload(files: &[&str], pairs: &[&str]) -> Result<Workload> {
        let own = |words: &[&str]| words.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Workload::new(&Properties::gather(&own(files), &own(pairs))?)
    }

    fn shares(name: &str) -> Vec<(&'static str, u32)> {
        let workload = workload(&[name], &[]).unwrap();
        let mut rng = Rng::new(1, 0);
        let mut seen = [0_u32; 5];
        (0..100_000).for_each(|_| seen[workload.operation(&mut rng).index()] += 1);
        Operation::ALL
            .iter()
            .map(|op| (op.name(), (seen[op.index()] + 500) / 1000))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    #[test]
    fn ready_made_workloads_have_their_mix() {
        assert_eq!(shares("a"), [("READ", 50), ("UPDATE", 50)]);
        assert_eq!(shares("b"), [("READ", 95), ("UPDATE", 5)]);
        assert_eq!(shares("c"), [("READ", 100)]);
        assert_eq!(shares("d"), [("READ", 95), ("INSERT", 5)]);
        assert_eq!(shares("e"), [("INSERT", 5), ("SCAN", 95)]);
        assert_eq!(shares("f"), [("READ", 50), ("READ-MODIFY-WRITE", 50)]);
    }

    #[test]
    fn zipfian_leaves_room_for_inserts() {
        let w = workload(&["e"], &["recordcount=1000", "operationcount=10000"]).unwrap();
        let mut keys = w.choose_keys(&Acknowledged::new(1000));
        let mut rng = Rng::new(1, 0);
        // 1000 records, twice 500 expected inserts, and the inclusive bound: keys 0..=2000.
        let most = (0..200_000).map(|_| keys.draw(u64::MAX, &mut rng)).max();
        assert_eq!(most, Some(2000));
    }

    #[test]
    fn errors_name_the_property_and_its_limit() {
        for (pair, say) in [
            ("recordcount=0", "at least one record"),
            ("insertstart=1000", "at least one record"),
            ("insertcount=1001", "none above recordcount"),
            ("fieldcount=0", "fieldcount=0: must be 1 or more"),
            ("fieldlength=99999999", "the limit is 16777216"),
            ("requestdistribution=zipf", "must be uniform, zipfian"),
            ("insertorder=random", "hashed or ordered"),
            ("minscanlength=2000", "in this order"),
            ("threadcount=0", "threadcount=0"),
            ("hdrhistogram.percentiles=50,x", "\"x\" is not between"),
            ("fieldlengthdistribution=histogram", "hist.txt"),
        ] {
            let error = format!("{:#}", workload(&[], &[pair]).unwrap_err());
            assert!(error.contains(say), "{pair}: {error}");
        }
        let none = ["readproportion=0", "updateproportion=0"];
        assert!(workload(&[], &none).unwrap_err().to_string().contains("nothing to do"));
    }

    #[test]
    fn proportions_need_not_sum_to_one() {
        let w = workload(&[], &["readproportion=0.2", "updateproportion=0.2"]).unwrap();
        assert!((w.mix[0] - 0.5).abs() < 1e-9);
    }
}
