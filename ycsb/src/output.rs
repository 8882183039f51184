//! Where words go: a line for people, and a file that the result goes to, `--json` or `--svg`.
//!
//! An hour of measuring must not end with a file that cannot be written, so it is opened before
//! the work begins. What an earlier run left in it stays until the result is there; a file that
//! was made for this run goes again if there never was a result.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where a result will go.
#[derive(Debug)]
pub(crate) struct Output {
    /// With its dashes.
    option: &'static str,
    path: PathBuf,
    /// It was made by [`Output::reserve`] and is still empty.
    is_placeholder: bool,
}

impl Output {
    /// Makes sure that `path` can be written; `-` is standard output.
    pub(crate) fn reserve(option: &'static str, path: &Path) -> Result<Self> {
        let mut output = Self { option, path: path.into(), is_placeholder: false };
        if output.is_stdout() {
            return Ok(output);
        }
        let shown = path.display();
        if path.is_dir() {
            bail!("{option}: {shown} is a directory; name a file in it");
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(missing) = parent.filter(|parent| !parent.is_dir()) {
            bail!("{option}: {} is not a directory", missing.display());
        }
        let exists = path.exists();
        // A pipe or a device is opened once, when there is something to say.
        if !exists || path.is_file() {
            let cannot = || format!("{option}: cannot write {shown}");
            let _closed: File = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .with_context(cannot)?;
            output.is_placeholder = !exists;
        }
        Ok(output)
    }

    /// The same for an option that may not have been given.
    pub(crate) fn reserve_given(option: &'static str, path: Option<&Path>) -> Result<Option<Self>> {
        path.map(|path| Self::reserve(option, path)).transpose()
    }

    pub(crate) fn is_stdout(&self) -> bool {
        self.path == Path::new("-")
    }

    pub(crate) fn write(mut self, text: &str) -> Result<()> {
        self.is_placeholder = false;
        if self.is_stdout() {
            return print(text);
        }
        std::fs::write(&self.path, text)
            .with_context(|| format!("{}: cannot write {}", self.option, self.path.display()))
    }

    /// Writes `value`, readable.
    pub(crate) fn write_json(self, value: &impl Serialize) -> Result<()> {
        self.write(&(serde_json::to_string_pretty(value)? + "\n"))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_placeholder {
            // An empty file that stays harms nobody.
            let _stays = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes to standard output. Files come first: nobody may be reading this.
pub(crate) fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the result")
}

/// A line for people, beside the result on standard output.
pub(crate) fn say(line: &str) {
    // With nobody listening on standard error there is nobody to tell.
    let _unheard = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("no/x.json");
        for (path, say) in [
            (dir.path(), "is a directory; name a file in it"),
            (below.as_path(), "is not a directory"),
            (Path::new("/proc/x.json"), "cannot write /proc/x.json"),
        ] {
            let error = format!("{:#}", Output::reserve("--json", path).unwrap_err());
            assert!(error.starts_with("--json: ") && error.contains(say), "{error}");
        }
    }

    #[test]
    fn an_earlier_result_stays_until_there_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "earlier").unwrap();
        let reserved = [&old, &new].map(|path| Output::reserve("--json", path).unwrap());
        assert!(new.exists(), "it can be made");
        drop(reserved);
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "earlier");
        assert!(!new.exists(), "nothing came of it");
        for path in [&old, &new] {
            Output::reserve("--json", path).unwrap().write("x").unwrap();
            assert_eq!(std::fs::read_to_string(path).unwrap(), "x");
        }
    }

    #[test]
    fn a_pipe_or_a_device_is_left_alone() {
        let output = Output::reserve("--json", Path::new("/dev/null")).unwrap();
        output.write("x").unwrap();
        assert!(Path::new("/dev/null").exists());
    }
}
