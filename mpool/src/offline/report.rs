//! What a check found: issues, the worst of which decides, and every damaged place.

use crate::{features::Features, pool::scrub::Finding, verify::finding::push};
use std::fmt;

/// How bad an [`Issue`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong, but somebody may want to know.
    Note,
    /// Nothing is lost, and something should be done.
    Warning,
    /// Something is lost, or the pool cannot be opened.
    Error,
}

impl Severity {
    /// "note", "warning" or "error".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that a check noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: "superblock copy 1", "vol-2", "mb-1f".
    pub what: String,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub way_out: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, what, text, way_out } = self;
        write!(f, "{}: {what}: {text}; {way_out}", severity.name())
    }
}

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read and verify every page of every mblock. Default false: structures only.
    pub data: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The pool, if its superblock could be read.
    pub uuid: Option<[u8; 16]>,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Volumes, the root among them.
    pub volumes: u64,
    /// Mblocks.
    pub mblocks: u64,
    /// Features that the pool uses.
    pub features: Features,
    /// Journals of the pool's user.
    pub journals: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Mblocks without checksums, of format version 1: with `data` they are read, not verified.
    pub unverifiable: u64,
    /// What is wrong, in the order of the steps.
    pub issues: Vec<Issue>,
    /// Every damaged place.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// The worst of its issues.
    pub fn worst(&self) -> Option<Severity> {
        self.issues.iter().map(|issue| issue.severity).max()
    }

    pub(super) fn note(
        &mut self,
        severity: Severity,
        what: impl fmt::Display,
        text: String,
        way_out: &str,
    ) {
        let (what, way_out) = (what.to_string(), way_out.to_owned());
        self.issues.push(Issue { severity, what, text, way_out });
    }

    /// Takes findings in: each is an issue too.
    pub(super) fn take(&mut self, findings: Vec<Finding>, severity: Severity, way_out: &str) {
        for finding in findings {
            let (part, volume) = (finding.part_name(), finding.volume);
            let Finding { offset, len_bytes, volume_offset, damage, .. } = &finding;
            let text = format!(
                "{part}, {len_bytes} bytes at {offset} ({volume} at {volume_offset}): {}",
                damage.text()
            );
            self.note(severity, finding.target, text, way_out);
            push(&mut self.findings, finding);
        }
    }
}
