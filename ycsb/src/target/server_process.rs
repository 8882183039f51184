//! A server of our own: finding the program, starting it, stopping it.
//!
//! The program is, in this order: what `--server` names; when run by cargo, what cargo makes of
//! the workspace right now (so that it is never an older build than we are); the `millpond`
//! beside this program. It listens on a port of its choice and says which on its first line:
//! `listening on http://ADDR:PORT`. If this program dies, the server is told to stop
//! ([`bound`]).

use crate::interrupt;
use crate::machine::bound;
use crate::machine::cgroup::MemoryGroup;
use crate::output::say;
use anyhow::{Context, Result, anyhow, bail};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Recovery of a large store happens before it listens.
const START_MAX: Duration = Duration::from_mins(5);
/// A server flushes what it holds before it goes.
const STOP_MAX: Duration = Duration::from_mins(2);
/// Between two looks at whether a signal has come.
const PATIENCE: Duration = Duration::from_millis(100);
const LISTENING: &str = "listening on ";

/// What to start.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerOptions {
    pub(crate) program: Option<PathBuf>,
    pub(crate) args: Vec<String>,
    /// None for a directory that goes when the server does.
    pub(crate) data: Option<PathBuf>,
    /// This program, which binds the server's life to its own; None for a server of its own right.
    pub(crate) bound_by: Option<PathBuf>,
}

/// A running server. Dropped without [`ServerProcess::stop`], it is killed.
pub(crate) struct ServerProcess {
    child: Child,
    url: String,
    data: PathBuf,
    log: std::fs::File,
    stopped: bool,
    /// Removed after the server is gone.
    _scratch: Option<TempDir>,
}

impl ServerProcess {
    /// Starts a server, inside `group` if there is one, and waits until it listens.
    pub(crate) fn start(options: &ServerOptions, group: Option<&MemoryGroup>) -> Result<Self> {
        let program = find_program(options.program.as_deref())?;
        let scratch = match options.data {
            Some(_) => None,
            None => Some(tempfile::tempdir().context("cannot make a temporary directory")?),
        };
        let data = options.data.clone().or_else(|| Some(scratch.as_ref()?.path().into()));
        let data = data.expect("one of the two is there");
        let log = tempfile::tempfile().context("cannot make a temporary file")?;
        let mut command = match &options.bound_by {
            Some(own) => bound::command(own, &program),
            None => Command::new(&program),
        };
        command.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
        // What a benchmark has written may go.
        command.arg("--allow-volatile=true");
        command.args(&options.args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(log.try_clone()?);
        if let Some(group) = group {
            group.enter()?;
        }
        let child = command.spawn();
        if let Some(group) = group {
            group.leave()?;
        }
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let url = String::new();
        let mut server = Self { child, url, data, log, stopped: false, _scratch: scratch };
        server.url = server.wait_for_url()?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        bound::terminate(&self.child)?;
        let status = self.wait_for_exit()?;
        self.stopped = true;
        if status.success() {
            return Ok(());
        }
        bail!("the server ended with {status}{}", self.last_words())
    }

    fn wait_for_exit(&mut self) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > STOP_MAX {
                bail!("the server did not stop within {} s; killed", STOP_MAX.as_secs());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn wait_for_url(&mut self) -> Result<String> {
        let stdout = self.child.stdout.take().expect("stdout is piped");
        let (found, url) = channel();
        // Reads on to the end, so that a server that prints never blocks on a full pipe. Ends
        // with the server.
        std::thread::spawn(move || listen(stdout, &found));
        let began = Instant::now();
        loop {
            match url.recv_timeout(PATIENCE) {
                Ok(url) => return Ok(url),
                Err(RecvTimeoutError::Timeout) if began.elapsed() < START_MAX => {
                    interrupt::check()?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the server does not listen after {} s", START_MAX.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait_for_exit()?;
                    self.stopped = true;
                    let words = self.last_words();
                    return Err(anyhow!("the server ended with {status} at once{words}"));
                }
            }
        }
    }

    /// The end of what it wrote to standard error.
    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let read =
            self.log.seek(SeekFrom::Start(0)).and_then(|_| self.log.read_to_string(&mut text));
        let lines: Vec<&str> = text.lines().collect();
        if read.is_err() || lines.is_empty() {
            return "; it said nothing".into();
        }
        let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
        format!("; its last words:\n  {tail}")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if !self.stopped {
            // Only on the way out after another error, which is the one to tell.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn listen(stdout: ChildStdout, found: &Sender<String>) {
    let mut found = Some(found);
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        if let Some(url) = line.strip_prefix(LISTENING)
            && let Some(found) = found.take()
        {
            // Without a listener the start has timed out, and said so.
            let _late = found.send(url.trim().into());
        }
    }
}

fn find_program(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(program) = given {
        return Ok(program.into());
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let dir = own.parent().context("a program is in a directory")?;
    let sibling = dir.join(format!("millpond{}", std::env::consts::EXE_SUFFIX));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().filter(|dir| dir.exists());
    if let (Some(cargo), Some(workspace)) = (std::env::var_os("CARGO"), workspace) {
        build(Path::new(&cargo), workspace, dir)?;
    }
    if sibling.exists() {
        return Ok(sibling);
    }
    bail!(
        "there is no server program at {}; build it with `cargo build --release -p millpond`, \
         or name one with --server PATH, or a running server with --url http://HOST:PORT",
        sibling.display()
    )
}

/// Builds the server into the directory of this program, in its profile.
fn build(cargo: &Path, workspace: &Path, dir: &Path) -> Result<()> {
    say("building the server (cargo build -p millpond) ...");
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "-p", "millpond"]);
    if dir.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target) = dir.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.status().with_context(|| format!("cannot start {}", cargo.display()))?;
    if status.success() {
        return Ok(());
    }
    bail!("building the server failed with {status}; or name a server with --server PATH")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A shell script in the place of the server.
    fn fake(script: &str) -> (TempDir, ServerOptions) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("server");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = Some(dir.path().join("data"));
        let args = vec!["--flag".into()];
        (dir, ServerOptions { program: Some(program), args, data, bound_by: None })
    }

    #[test]
    fn a_server_is_started_and_stopped() {
        let (dir, options) = fake(
            r#"echo "$@" > "$3.args"; trap 'exit 0' TERM; echo warming; echo listening on http://127.0.0.1:7300
               while :; do sleep 0.05; done"#,
        );
        let server = ServerProcess::start(&options, None).unwrap();
        assert_eq!(server.url(), "http://127.0.0.1:7300");
        let args = std::fs::read_to_string(dir.path().join("data.args")).unwrap();
        let expect = "--listen 127.0.0.1:0 --allow-volatile=true --flag\n";
        assert!(args.ends_with(expect), "{args}");
        server.stop().unwrap();
    }

    #[test]
    fn a_server_that_dies_is_quoted() {
        let (_dir, options) = fake("echo 'no such drive' >&2; exit 3");
        let Err(error) = ServerProcess::start(&options, None) else { panic!("it started") };
        let error = error.to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such drive"), "{error}");
    }

    #[test]
    fn a_bad_end_is_an_error() {
        let (_dir, options) = fake(
            "trap 'echo lost data >&2; exit 1' TERM; echo listening on x; while :; do sleep 0.05; done",
        );
        let error = ServerProcess::start(&options, None).unwrap().stop().unwrap_err().to_string();
        assert!(error.contains("lost data"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let options = ServerOptions {
            program: Some("/nonexistent/millpond".into()),
            ..ServerOptions::default()
        };
        let Err(error) = ServerProcess::start(&options, None) else { panic!("it started") };
        assert!(error.to_string().contains("/nonexistent/millpond"), "{error}");
    }
}
