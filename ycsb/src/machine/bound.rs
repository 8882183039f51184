//! Processes that do not outlive this one: the server that is started, and runs of a comparison.
//!
//! A program cannot be told from outside to die with its parent, and it forgets nothing when
//! another program takes its place. So this program is started once more, asks the kernel for
//! SIGTERM when its parent dies, and then becomes the program that is wanted:
//!
//! ```text
//!   ycsb --fork, exec--> ycsb bound PID PROGRAM ARGS --exec--> PROGRAM ARGS
//!                        prctl(PR_SET_PDEATHSIG, SIGTERM)
//! ```
//!
//! The kernel watches the thread that forked, so these processes are started by the main thread.
//! They are in a process group of their own: Ctrl-C on a terminal reaches this program only, which
//! stops them in its own order.

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

#[derive(Clone, Debug, Args)]
pub(crate) struct BoundArgs {
    /// The process to die with
    parent: i32,

    /// What to become
    program: PathBuf,

    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// A command that starts `program` bound to this process. `own` is the path of this program.
pub(crate) fn command(own: &Path, program: &Path) -> Command {
    let mut command = Command::new(own);
    command.arg("bound").arg(std::process::id().to_string()).arg(program);
    command.process_group(0);
    command
}

/// The new process's part. Returns only if it fails.
pub(crate) fn become_program(args: &BoundArgs) -> Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("the kernel cannot be asked for a signal when the parent dies")?;
    // A parent that died before the line above sends nothing.
    if getppid() != Pid::from_raw(args.parent) {
        bail!("process {} is not the parent, or is gone", args.parent);
    }
    let error = Command::new(&args.program).args(&args.args).exec();
    Err(error).with_context(|| format!("cannot start {}", args.program.display()))
}

/// Ends this process at once, as a crash does. Returns only if it fails.
pub(crate) fn kill_self() -> Result<()> {
    kill_process(getpid(), Signal::KILL).context("this process cannot kill itself")
}

/// Asks the process to stop.
pub(crate) fn terminate(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("a process id is positive")?;
    // A process that is gone already shows by its status how it went.
    let _gone = kill_process(pid, Signal::TERM);
    Ok(())
}
