//! The `millpond` binary: parses the command line, runs one command, turns its outcome into an
//! exit code.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a binary")]

use clap::Parser;
use millpond::cli::{Cli, Command, ConfigCommand, Serve};
use millpond::config::Config;
use millpond::{client, serve};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(flags) => load(&flags).and_then(|config| serve::run(&config)),
        Command::Config(ConfigCommand::Print(flags)) => print(&flags),
        command => return run_client(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn load(flags: &Serve) -> anyhow::Result<Config> {
    Config::load(flags.config.as_deref(), &flags.settings)
}

fn print(flags: &Serve) -> anyhow::Result<()> {
    let text = load(flags)?.to_toml()?;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn run_client(command: Command) -> ExitCode {
    match client::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn complain(message: &str) {
    // Where standard error cannot be written, the exit code has to do.
    drop(writeln!(std::io::stderr(), "error: {message}"));
}
