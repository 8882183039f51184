//! What stands in the place of `hooks` outside of tests: nothing.

use super::rules::ZoneTable;
use std::{fs::File, io};

#[derive(Debug, Default)]
pub(super) struct Hooks {}

/// What a device's verb holds while it is under way: nothing here.
pub(super) struct Inside;

#[expect(clippy::unused_self, reason = "the same calls as of the hooks of tests")]
#[expect(clippy::unnecessary_wraps, reason = "the same calls as of the hooks of tests")]
impl Hooks {
    pub(super) fn enter(&self) -> Inside {
        Inside
    }

    pub(super) fn before_append(&self, _: &mut ZoneTable, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn before_verb(&self, _: &mut ZoneTable, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn before_flush(&self) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn watch(&self, _: &File, _: u64, _: u64) {}
}
