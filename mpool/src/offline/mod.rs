//! What is done with a pool that nobody has open: a check, a look at it, its end, and its recovery
//! where both copies of the superblock are lost. `heart` finds superblock and catalog without
//! writing anything; the others begin with it.

pub(crate) mod check;
pub(crate) mod destroy;
pub(crate) mod heart;
pub(crate) mod inspect;
pub(crate) mod places;
pub(crate) mod recover;
pub(crate) mod report;
pub(crate) mod surroundings;
