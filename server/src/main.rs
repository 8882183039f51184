//! The `millpond` binary: parses the command line, runs one command, turns its outcome into an
//! exit code.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a binary")]

use clap::FromArgMatches;
use millpond::cli::{Cli, Command, ConfigCommand, Man, Serve};
use millpond::client::{self, Failure, print};
use millpond::config::Config;
use millpond::{cli, serve, telemetry};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::command().map_err(Failure::from).and_then(run) {
        Ok(code) => {
            telemetry::flush();
            code
        }
        // The reader of standard output has seen enough.
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            telemetry::complain(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn run(mut line: clap::Command) -> Result<ExitCode, Failure> {
    let matches = cli::with_whole_usage(line.clone()).get_matches();
    let parsed = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match parsed.command {
        Command::Serve(flags) => {
            let served = load(&flags).and_then(|config| serve::run(&config));
            return served.map_err(Failure::Serve);
        }
        Command::Config(ConfigCommand::Print(flags)) => {
            let text = load(&flags.serve).and_then(|config| {
                if flags.effective { config.to_effective_toml() } else { config.to_toml() }
            });
            print(text.map_err(Failure::Serve)?.as_bytes())
        }
        Command::Completions(completions) => {
            let mut script = Vec::new();
            clap_complete::generate(completions.shell, &mut line, "millpond", &mut script);
            print(&script)
        }
        Command::Man(man) => pages(&man),
        command => client::run(command),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn load(flags: &Serve) -> anyhow::Result<Config> {
    Config::load(flags.config.as_deref(), &flags.settings)
}

fn pages(man: &Man) -> Result<(), Failure> {
    let written = cli::man::write(cli::command()?, &man.dir);
    let said = man.dir.display();
    written
        .map_err(|error| Failure::Usage(format!("pages cannot be written to {said}: {error}")))?;
    print(format!("millpond.1 and a page for each command are in {said}\n").as_bytes())
}
