//! PURE: how many different keys kvsets have together: a `HyperLogLog` sketch.
//!
//! 1,024 registers of a byte. A key's hash chooses a register by its low 10 bits; the register
//! keeps the greatest number of leading zeros, plus one, that the other bits began with. The sketch
//! of a union is the greater of each pair of registers, so sketches made at different times can be
//! joined. The standard error is 1.04 / sqrt(1024) = 3.3 %; where two estimates that share most of
//! their keys are compared, most of the error is shared, too ([`union`]).
//!
//! The estimate is the improved raw estimator of Otmar Ertl, "New cardinality estimation algorithms
//! for `HyperLogLog` sketches" (2017), algorithm 6: it needs no tables, and no switch between
//! ranges.

/// Bits of the hash that choose a register. Part of the format of hblocks.
const INDEX_BITS: u32 = 10;
/// Registers, and bytes of a sketch.
pub(crate) const SKETCH_BYTES: usize = 1 << INDEX_BITS;
/// Greatest value of a register: all the other bits are zero.
const RANK_MAX: u8 = 64 - 10 + 1;
const _: () = assert!(INDEX_BITS == 10);
/// Limit of the bias correction for many registers: 1 / (2 ln 2).
const ALPHA: f64 = 0.721_347_520_444_481_7;

/// A set of keys, by their hashes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sketch([u8; SKETCH_BYTES]);

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sketch({})", self.estimate())
    }
}

impl Default for Sketch {
    fn default() -> Self {
        Self([0; SKETCH_BYTES])
    }
}

impl Sketch {
    /// From the bytes of an hblock; `None` if they are none of a sketch.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let registers: [u8; SKETCH_BYTES] = bytes.try_into().ok()?;
        registers.iter().all(|rank| *rank <= RANK_MAX).then_some(Self(registers))
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; SKETCH_BYTES] {
        &self.0
    }

    /// Takes a key.
    pub(crate) fn add(&mut self, hash: u64) {
        let low = hash % (1 << INDEX_BITS);
        let at = usize::try_from(low).expect("10 bits");
        let rank = (hash >> INDEX_BITS).leading_zeros() - INDEX_BITS + 1;
        self.0[at] = self.0[at].max(u8::try_from(rank).expect("55 at most"));
    }

    /// Takes all keys of another set.
    pub(crate) fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// About how many keys the set has.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate is finite, not negative, and far below 2^64"
    )]
    pub(crate) fn estimate(&self) -> u64 {
        let mut counts = [0_u32; RANK_MAX as usize + 1];
        for rank in self.0 {
            counts[usize::from(rank)] += 1;
        }
        let registers = f64::from(1_u32 << INDEX_BITS);
        let part = |rank: usize| f64::from(counts[rank]) / registers;
        let last = usize::from(RANK_MAX);
        let mut sum = registers * tau(1.0 - part(last));
        for rank in (1..last).rev() {
            sum = 0.5 * (sum + f64::from(counts[rank]));
        }
        sum += registers * sigma(part(0));
        if sum.is_infinite() {
            return 0;
        }
        (ALPHA * registers * registers / sum).round() as u64
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z <= before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z >= before {
            return z / 3.0;
        }
    }
}

/// A set of keys whose number is known better than the sketch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeySet {
    pub(crate) keys: u64,
    /// `None`: nothing is known of which keys they are.
    pub(crate) sketch: Option<Box<Sketch>>,
}

impl KeySet {
    /// As [`union`] takes it.
    pub(crate) fn as_pair(&self) -> (u64, Option<&Sketch>) {
        (self.keys, self.sketch.as_deref())
    }
}

/// The sketch of all keys of sets; `None` if one that is not empty has none.
pub(crate) fn joined<'a>(
    sets: impl Iterator<Item = (u64, Option<&'a Sketch>)>,
) -> Option<Box<Sketch>> {
    let mut joined = Box::<Sketch>::default();
    for (_, sketch) in sets.filter(|(keys, _)| *keys > 0) {
        joined.join(sketch?);
    }
    Some(joined)
}

/// The union of sets, each of whose numbers is known. Where a sketch is missing, the sets are taken
/// to have no key in common.
///
/// What the sketches say of the union is scaled by how far they are off for the parts, because a
/// small set beside a large one barely changes the registers: the error of both sides is nearly the
/// same.
pub(crate) fn union<'a>(sets: impl Iterator<Item = (u64, Option<&'a Sketch>)>) -> KeySet {
    let (mut keys, mut told, mut greatest, mut count) = (0_u64, 0_u64, 0, 0);
    let mut joined = Some(Box::<Sketch>::default());
    for (of, sketch) in sets {
        if of == 0 {
            continue;
        }
        count += 1;
        keys = keys.saturating_add(of);
        greatest = of.max(greatest);
        match (&mut joined, sketch) {
            (Some(joined), Some(sketch)) => {
                told = told.saturating_add(sketch.estimate());
                joined.join(sketch);
            }
            _ => joined = None,
        }
    }
    let Some(sketch) = joined else { return KeySet { keys, sketch: None } };
    if count > 1 && told > 0 {
        let scaled = u128::from(keys) * u128::from(sketch.estimate()) / u128::from(told);
        keys = u64::try_from(scaled).unwrap_or(u64::MAX).clamp(greatest, keys);
    }
    KeySet { keys, sketch: Some(sketch) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KvsId, key_hash};

    fn sketch(keys: std::ops::Range<u64>) -> Sketch {
        let mut sketch = Sketch::default();
        for n in keys {
            sketch.add(key_hash(KvsId::new(1), &n.to_le_bytes()));
        }
        sketch
    }

    #[test]
    fn estimates_are_near_for_few_and_many_keys() {
        assert_eq!(sketch(0..0).estimate(), 0);
        for keys in [1, 10, 100, 1000, 3000, 10_000, 100_000, 1_000_000] {
            let estimate = sketch(0..keys).estimate();
            let tenth = keys / 10 + 1;
            assert!(estimate.abs_diff(keys) <= tenth, "{keys}: {estimate}");
        }
    }

    #[test]
    fn keys_of_both_count_once() {
        let table = [(0..100_000, 0..10_000), (0..100_000, 95_000..105_000), (0..50, 25..75)];
        for (a, b) in table {
            let (of_a, of_b) = (a.end - a.start, b.end - b.start);
            let distinct = a.end.max(b.end);
            let (a, b) = (sketch(a), sketch(b));
            let sets = [(of_a, Some(&a)), (of_b, Some(&b))];
            let union = union(sets.into_iter());
            assert_eq!(union.sketch, joined(sets.into_iter()));
            // Of the smaller set, a tenth.
            let off = union.keys.abs_diff(distinct);
            assert!(off <= of_b / 10 + of_a / 100, "{union:?} for {distinct}");
        }
    }

    #[test]
    fn sets_without_a_sketch_have_nothing_in_common() {
        let a = sketch(0..1000);
        let sets = [(1000, Some(&a)), (1000, None), (0, None)];
        assert_eq!(union(sets.into_iter()), KeySet { keys: 2000, sketch: None });
        let alone = [(0, None), (1000, Some(&a))];
        assert_eq!(union(alone.into_iter()).keys, 1000, "one set is counted, not estimated");
        assert_eq!(union(std::iter::empty()).keys, 0);
        assert_eq!(joined(sets.into_iter()), None);
    }

    #[test]
    fn bytes_that_no_key_makes_are_no_sketch() {
        let made = sketch(0..5000);
        assert_eq!(Sketch::from_bytes(made.as_bytes()), Some(made.clone()));
        assert_eq!(Sketch::from_bytes(&made.as_bytes()[1..]), None);
        let mut bytes = *made.as_bytes();
        bytes[7] = RANK_MAX + 1;
        assert_eq!(Sketch::from_bytes(&bytes), None);
        let mut all = Sketch::default();
        all.add(0);
        assert_eq!(all.as_bytes()[0], RANK_MAX);
    }
}
