//! A medium in memory that can lose power, tear, lie and fill up; and the harnesses built on it.
//!
//! [`SimDevice`] implements [`mpool_device::Device`]; [`crash`] enumerates power cuts; [`suite`]
//! checks any device against the contract. For the tests of the pool and of its users.
#![forbid(unsafe_code)]

pub mod crash;
mod device;
mod fate;
pub mod image;
mod pages;
mod part;
pub mod shuffle;
pub mod suite;
mod zoned;
mod zoned_device;
pub mod zoned_suite;
#[cfg(test)]
mod zoned_tests;

pub use device::{Faults, SimDevice};
pub use part::SimPart;
pub use zoned::{ZoneFault, ZoneFaults, ZoneHarm, draw_loss, strikes};

/// A small seeded generator (xorshift64*), so that a failure can be replayed from its seed.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator whose sequence follows from `seed` alone.
    pub fn new(seed: u64) -> Self {
        // Spread small seeds over all bits; zero is the one state xorshift cannot leave.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xD134_2543_DE82_EF95) | 1)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }
}
