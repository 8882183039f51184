//! The pool's own chores, which move and free what is stored. They run on the thread of
//! [`crate::chores`] and hold the [`parts::Parts`] of a pool, not the pool.
//!
//! `journal` rewrites the pool's journal and gives it longer logs. `zones` resets zones and clears
//! those that are mostly dead. `returns` gives free space back to the disk below, for which
//! `move_down` takes objects from the ends of files. `relocate` is the move of one object.

pub(crate) mod journal;
pub(crate) mod move_down;
pub(crate) mod parts;
pub(crate) mod relocate;
pub(crate) mod returns;
pub(crate) mod zones;
