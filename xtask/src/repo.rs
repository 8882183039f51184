//! The working tree as the checks see it: paths relative to the root, and texts.
//!
//! Checks get a [`Repo`] and nothing else, so their tests plant violations in a tree made of
//! strings.

use crate::source::{self, Split};
use std::fs;
use std::io;
use std::path::Path;

/// One text file. Rust files carry their split into code and comments.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) split: Split,
    /// First line (from 1) of the unit tests at the file's end; one past the last line if there are
    /// none.
    pub(crate) tests_line: usize,
}

impl SourceFile {
    fn new(path: &str, text: &str) -> Self {
        let split = if is_rust(path) { source::split(text) } else { Split::default() };
        let lines = || split.code.lines().enumerate();
        let tests_line = lines()
            .find(|(at, line)| is_for_tests(line.trim()) && opens_tests(&split.code, at + 1))
            .map_or_else(|| text.lines().count() + 1, |(at, _)| at + 1);
        Self { path: path.to_owned(), text: text.to_owned(), split, tests_line }
    }

    /// Lines of code with their numbers from 1, comments and literals blank.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.split.code.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// As `code_lines`, up to the unit tests.
    pub(crate) fn shipped_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code_lines().take_while(|&(line, _)| line < self.tests_line)
    }
}

/// Whether an attribute leaves out what follows it unless tests are compiled.
pub(crate) fn is_for_tests(attribute: &str) -> bool {
    attribute == "#[cfg(test)]" || attribute.starts_with("#[cfg(all(test,")
}

/// True if the line at `at` (from 0) or one right below, after further attributes, opens a module
/// with a body.
fn opens_tests(code: &str, at: usize) -> bool {
    code.lines()
        .skip(at)
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#["))
        .is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

/// All text files of the project, sorted by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repo {
    files: Vec<SourceFile>,
}

impl Repo {
    /// Reads the tree below `root`; build output, hidden folders (but `.ci`) and binary files are
    /// passed over.
    pub(crate) fn load(root: &Path) -> io::Result<Self> {
        let mut repo = Self::default();
        repo.load_dir(root, "")?;
        repo.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(repo)
    }

    /// A tree of (path, text), for tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| SourceFile::new(path, text)).collect() }
    }

    fn load_dir(&mut self, dir: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                if !is_passed_over(&name) && !is_build_output(&entry.path()) {
                    self.load_dir(&entry.path(), &format!("{path}/"))?;
                }
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                self.files.push(SourceFile::new(&path, &text));
            } else {
                // Not text (an image, a golden file): present, with nothing to check.
                self.files.push(SourceFile::new(&path, ""));
            }
        }
        Ok(())
    }

    pub(crate) fn files(&self) -> &[SourceFile] {
        &self.files
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| is_rust(&file.path))
    }

    pub(crate) fn markdown(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.path.strip_suffix(".md").is_some())
    }

    pub(crate) fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// True for a file, and for a folder that has files.
    pub(crate) fn exists(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
    }
}

fn is_passed_over(name: &str) -> bool {
    (name.starts_with('.') && name != ".ci") || name == "millpond-data"
}

/// Cargo marks its target directories, which any folder of sources may share the name with.
fn is_build_output(dir: &Path) -> bool {
    dir.join("CACHEDIR.TAG").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_a_file_begin_at_their_attribute() {
        let repo = Repo::of(&[
            ("a.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n"),
            ("b.rs", "fn f() {}\n#[cfg(test)]\nmod sim;\nfn g() {}\n"),
            ("c.rs", "#[cfg(all(test, not(loom)))]\nmod tests {\n}\n"),
        ]);
        assert_eq!(repo.file("a.rs").map(|file| file.tests_line), Some(3));
        assert_eq!(repo.file("b.rs").map(|file| file.tests_line), Some(5));
        assert_eq!(repo.file("c.rs").map(|file| file.tests_line), Some(1));
    }

    #[test]
    fn folders_exist_through_their_files() {
        let repo = Repo::of(&[("docs/http.md", "")]);
        assert!(repo.exists("docs"));
        assert!(repo.exists("docs/"));
        assert!(repo.exists("docs/http.md"));
        assert!(!repo.exists("doc"));
    }

    #[test]
    fn sources_in_a_folder_named_target_are_read_and_build_output_is_not() {
        let root = std::env::temp_dir().join(format!("xtask-repo-{}", std::process::id()));
        for (path, text) in
            [("src/target/a.rs", ""), ("target/CACHEDIR.TAG", ""), ("target/b.rs", "")]
        {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let repo = Repo::load(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let paths: Vec<&str> = repo.files().iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["src/target/a.rs"]);
    }
}
