//! What is written.

/// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Which keys are written after the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Keys {
    /// Any, as often.
    Uniform,
    /// A few very often, with YCSB's exponent, spread over the key space.
    Zipfian,
    /// New ones at the end.
    Sequential,
    /// New ones at the end; once there are as many as were loaded, one at the head is deleted for
    /// each.
    Window,
    /// Nine of ten deletes of loaded keys, in no order; then nothing.
    DeleteMost,
}

/// One load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) name: String,
    /// Keys of the store, and how many of them one of the simulation stands for.
    pub(crate) keys: u64,
    pub(crate) scale: u64,
    pub(crate) value_bytes: u64,
    pub(crate) order: Keys,
    /// Times the keys are written after the load.
    pub(crate) rounds: u64,
    /// Bytes a second that writers put; as fast as they are let, up to what two threads can.
    pub(crate) rate: f64,
}

const FASTEST: f64 = 170e6;

pub(crate) fn all() -> Vec<Load> {
    let load = |name: &str, keys: u64, scale, value_bytes, order, rounds| Load {
        name: name.to_owned(),
        keys,
        scale,
        value_bytes,
        order,
        rounds,
        rate: FASTEST,
    };
    vec![
        load("uniform 500k x 1 KB, 10 times", 500_000, 20, 1000, Keys::Uniform, 10),
        load("zipfian 500k x 1 KB, 10 times", 500_000, 20, 1000, Keys::Zipfian, 10),
        load("uniform 1M x 1 KB, 25 times", 1_000_000, 20, 1000, Keys::Uniform, 25),
        load("uniform 8M x 1 KB, 10 times", 8_000_000, 80, 1000, Keys::Uniform, 10),
        load("zipfian 8M x 1 KB, 10 times", 8_000_000, 80, 1000, Keys::Zipfian, 10),
        load("load 5M x 100 B", 5_000_000, 100, 100, Keys::Uniform, 0),
        load("uniform 5M x 100 B, 5 times", 5_000_000, 100, 100, Keys::Uniform, 5),
        load("sequential 20M x 1 KB", 1_000_000, 100, 1000, Keys::Sequential, 19),
        load("window of 1M x 1 KB, 20 times", 1_000_000, 50, 1000, Keys::Window, 20),
        load("window of 200k x 116 B, 30 times", 200_000, 20, 116, Keys::Window, 30),
        load("delete 90 % of 500k x 1 KB", 500_000, 20, 1000, Keys::DeleteMost, 1),
        load("uniform 100M x 1 KB (100 GB), twice", 100_000_000, 500, 1000, Keys::Uniform, 2),
        load("load 100M x 100 B", 100_000_000, 1000, 100, Keys::Uniform, 0),
        load("uniform 50M x 100 B, 3 times", 50_000_000, 1000, 100, Keys::Uniform, 3),
        Load {
            rate: 40e6,
            ..load(
                "uniform 1G x 1 KB (1 TB) at 40 MB/s",
                1_000_000_000,
                2000,
                1000,
                Keys::Uniform,
                1,
            )
        },
    ]
}

/// What is written to one key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Write {
    Put(u32),
    Delete(u32),
}

/// The keys of a load, one after the other.
pub(crate) struct Stream {
    load: Load,
    rng: Rng,
    /// Writes so far, and when it is over.
    done: u64,
    all: u64,
    next: u32,
    head: u32,
    zipf: Zipf,
}

impl Stream {
    pub(crate) fn new(load: &Load) -> Self {
        let keys = load.keys / load.scale;
        let after = match load.order {
            Keys::Window => 2 * keys * load.rounds,
            Keys::DeleteMost => keys * 9 / 10,
            _ => keys * load.rounds,
        };
        let zipf = Zipf::new(keys);
        let (rng, all) = (Rng(7), keys + after);
        Self { load: load.clone(), rng, done: 0, all, next: 0, head: 0, zipf }
    }

    fn keys(&self) -> u64 {
        self.load.keys / self.load.scale
    }

    /// Whether every key was written once.
    pub(crate) fn is_loaded(&self) -> bool {
        self.done >= self.keys()
    }
}

impl Iterator for Stream {
    type Item = Write;

    fn next(&mut self) -> Option<Write> {
        if self.done >= self.all {
            return None;
        }
        let (at, keys) = (self.done, self.keys());
        self.done += 1;
        let in_order = matches!(self.load.order, Keys::Sequential | Keys::Window);
        let small = |n: u64| u32::try_from(n).expect("a simulation has fewer keys than that");
        if at < keys && !in_order {
            // A permutation: each key once, in no order.
            return Some(Write::Put(small(scatter(at, keys))));
        }
        Some(match self.load.order {
            Keys::Uniform => Write::Put(small(self.rng.below(keys))),
            Keys::Zipfian => {
                let rank = self.zipf.rank(self.rng.unit());
                Write::Put(small(scatter(rank, keys)))
            }
            Keys::Window if at >= keys && at % 2 == 1 => {
                self.head += 1;
                Write::Delete(self.head - 1)
            }
            Keys::Sequential | Keys::Window => {
                self.next += 1;
                Write::Put(self.next - 1)
            }
            Keys::DeleteMost => {
                // Nine of ten, each once: the permutation's own order.
                let n = at - keys;
                Write::Delete(small(scatter(n, keys)))
            }
        })
    }
}

/// A permutation of `0..keys`: a step that has no divisor in common with their number.
fn scatter(n: u64, keys: u64) -> u64 {
    let mut step = (keys * 618 / 1000) | 1;
    while gcd(step, keys) != 1 {
        step += 2;
    }
    u64::try_from(u128::from(n) * u128::from(step) % u128::from(keys)).expect("below the keys")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Ranks by YCSB's `ZipfianGenerator` (Gray et al., "Quickly generating billion-record synthetic
/// databases", 1994).
struct Zipf {
    keys: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    #[expect(clippy::cast_precision_loss, reason = "a simulation has fewer keys than 2^53")]
    fn new(keys: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
        let (all, two) = (zeta(keys), zeta(2));
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - THETA)) / (1.0 - two / all);
        Self { keys: keys as f64, zeta: all, alpha: 1.0 / (1.0 - THETA), eta }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is below the number of keys"
    )]
    fn rank(&self, unit: f64) -> u64 {
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        (self.keys * (self.eta * unit - self.eta + 1.0).powf(self.alpha)).min(self.keys - 1.0)
            as u64
    }
}
