//! What becomes of what was not flushed.

use super::Seeded;

/// What becomes of a write that was not flushed. Long writes would practically never survive whole,
/// or vanish whole, by the toss of a coin for each sector; so these two are drawn as often as a
/// tear.
pub(super) enum Fate {
    Whole,
    Gone,
    Torn,
}

impl Fate {
    pub(super) fn draw(seeded: &mut Seeded) -> Self {
        match seeded.below(4) {
            0 => Self::Whole,
            1 => Self::Gone,
            _ => Self::Torn,
        }
    }

    pub(super) fn survives(&self, seeded: &mut Seeded) -> bool {
        match self {
            Self::Whole => true,
            Self::Gone => false,
            Self::Torn => seeded.coin(),
        }
    }
}
