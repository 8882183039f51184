//! What a check has to say: where, what is wrong, and the way out.

use std::fmt;

/// Whether a finding fails the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// One violation of one rule at one place. Line 0 means the whole file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: String,
}

impl Finding {
    pub(crate) fn error(
        path: &str,
        line: usize,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            path: path.to_owned(),
            line,
            message: message.into(),
            help: help.into(),
        }
    }

    pub(crate) fn warning(
        path: &str,
        line: usize,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, line, message, help) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{kind}: {}", self.path)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}\n    help: {}", self.message, self.help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_prints_its_place_and_the_way_out() {
        let printed = Finding::error("kvs/src/a.rs", 7, "too wide", "break it").to_string();
        assert_eq!(printed, "error: kvs/src/a.rs:7: too wide\n    help: break it");
        let printed = Finding::warning("README.md", 0, "too long", "cut it").to_string();
        assert_eq!(printed, "warning: README.md: too long\n    help: cut it");
    }
}
