//! Traces of requests, seeded.

const ITEMS: f64 = 1e10;
const ZETA: f64 = 26.469_028_201_783_02;
const THETA: f64 = 0.99;
/// Records that a scan reads.
const SCAN_RECORDS: u32 = 50;
/// One request in so many is a scan.
const SCAN_EVERY: u32 = 20;
/// In so many requests a record, each rank moves to another record once, at a time of its own.
const MOVE_REQUESTS: u64 = 8;

/// What is done to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read(u32),
    /// A read that is not a lookup: it passes through memory, but is not counted.
    Scan(u32),
    Write(u32),
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As YCSB: a rank of 10^10, hashed. What is hot lies scattered.
    Scrambled,
    /// What is hot lies together, most popular first.
    Zipfian,
    /// The newest records most; one request in twenty writes a new one over the oldest.
    Latest,
    /// As `Scrambled`, and one request in 20 begins a scan of 50 records.
    ScanMixed,
    /// As `Scrambled`, and in eight requests a record the hot set is replaced, piece by piece.
    Moving,
}

/// A trace to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) write_pct: u32,
    /// Half of the objects are replaced where counting starts.
    pub(crate) compacts: bool,
}

impl Plan {
    pub(crate) fn reads(shape: Shape) -> Self {
        Self { shape, write_pct: 0, compacts: false }
    }

    /// Whether a fixed set of records can be the best.
    pub(crate) fn is_stationary(self) -> bool {
        !matches!(self.shape, Shape::Latest | Shape::Moving)
    }
}

/// `SplitMix64`.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }
}

pub(crate) fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Ranks by Gray's method, as YCSB draws them.
struct Zipfian {
    items: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    fn new(items: f64, zeta: f64) -> Self {
        let zeta2 = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / items).powf(1.0 - THETA)) / (1.0 - zeta2 / zeta);
        Self { items, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    fn of_records(records: u32) -> Self {
        let zeta = (1..=records).map(|n| f64::from(n).powf(-THETA)).sum();
        Self::new(f64::from(records), zeta)
    }

    fn rank(&self, rng: &mut Rng) -> u64 {
        let u = rng.uniform();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        (self.items * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64
    }
}

fn fnv(mut n: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..8 {
        hash ^= n & 0xff;
        hash = hash.wrapping_mul(1_099_511_628_211);
        n >>= 8;
    }
    hash.cast_signed().unsigned_abs()
}

/// Records as they are asked for.
pub(crate) struct Requests {
    plan: Plan,
    records: u32,
    rng: Rng,
    zipfian: Zipfian,
    served: u32,
    /// The newest record, for `Latest`.
    newest: u32,
    scan: u32,
    scan_left: u32,
}

impl Requests {
    pub(crate) fn new(plan: Plan, records: u32, seed: u64) -> Self {
        let zipfian = match plan.shape {
            Shape::Zipfian | Shape::Latest => Zipfian::of_records(records),
            Shape::Scrambled | Shape::ScanMixed | Shape::Moving => Zipfian::new(ITEMS, ZETA),
        };
        let rng = Rng::new(seed);
        Self { plan, records, rng, zipfian, served: 0, newest: records - 1, scan: 0, scan_left: 0 }
    }

    /// A record drawn by the trace's shape.
    fn draw(&mut self) -> u32 {
        let rank = self.zipfian.rank(&mut self.rng);
        let records = u64::from(self.records);
        let record = match self.plan.shape {
            Shape::Scrambled | Shape::ScanMixed => fnv(rank) % records,
            Shape::Moving => {
                let period = MOVE_REQUESTS * records;
                let moves = (u64::from(self.served) + mix(rank) % period) / period;
                fnv(rank ^ mix(moves)) % records
            }
            Shape::Zipfian => rank.min(records - 1),
            Shape::Latest => (u64::from(self.newest) + records - rank.min(records - 1)) % records,
        };
        record as u32
    }
}

impl Iterator for Requests {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        if self.scan_left > 0 {
            self.scan_left -= 1;
            self.scan = (self.scan + 1) % self.records;
            return Some(Op::Scan(self.scan));
        }
        self.served = self.served.wrapping_add(1);
        if self.plan.shape == Shape::Latest && self.served.is_multiple_of(20) {
            self.newest = (self.newest + 1) % self.records;
            return Some(Op::Write(self.newest));
        }
        if self.plan.shape == Shape::ScanMixed && self.served.is_multiple_of(SCAN_EVERY) {
            self.scan = self.rng.below(self.records);
            self.scan_left = SCAN_RECORDS;
        }
        let record = self.draw();
        if self.plan.write_pct > 0 && self.rng.below(100) < self.plan.write_pct {
            return Some(Op::Write(record));
        }
        Some(Op::Read(record))
    }
}
