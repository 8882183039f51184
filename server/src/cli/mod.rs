//! The command line.

pub mod admin;
pub mod man;
pub mod pool;

use crate::config::{Config, Settings, environment};
use admin::{COMPACT_HELP, Compact, SNAPSHOTS_HELP, Snapshots, TREE_HELP, Tree};
use clap::{Args, CommandFactory, Parser, Subcommand};
use pool::{POOL_HELP, PoolCommand, RECOVER_HELP, Recover};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use units::Span;

/// A durable key-value service for data larger than memory.
#[derive(Debug, Parser)]
#[command(name = "millpond", version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Getting going:
  millpond serve --data ./millpond-data     # serves http://127.0.0.1:7300
  millpond put greeting hello
  millpond get greeting
  curl -X PUT --data-binary hello http://127.0.0.1:7300/v1/kv/default/greeting
  curl http://127.0.0.1:7300/v1/kv/default/greeting

Exit codes of the client commands:
  0 done   1 no such key, not ready, or damage found   2 wrong usage   3 refused
  4 no connection, or it fell silent   5 the output cannot be written   130 interrupted";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a store over HTTP
    Serve(Serve),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a key's value to standard output
    Get(Get),
    /// Set a key to a value from an argument, a file or standard input
    Put(Put),
    /// Delete a key
    Del(Del),
    /// List keys and values in order, one JSON document a line
    Scan(Scan),
    /// Write what scan printed, to the same or another KVS or server
    #[command(after_help = LOAD)]
    Load(Load),
    /// List, create and drop KVSs
    #[command(subcommand)]
    Kvs(KvsCommand),
    /// Manage the pool of volumes that holds the data
    #[command(subcommand, after_help = POOL_HELP)]
    Pool(PoolCommand),
    /// Show the trees of a running server: kvsets, what compaction has to do, and its jobs
    #[command(after_help = TREE_HELP)]
    Tree(Tree),
    /// Compact what a running server holds: everything, a KVS, or a range of its keys
    #[command(after_help = COMPACT_HELP)]
    Compact(Compact),
    /// Show the snapshots and scans of a running server that hold space, or end one
    #[command(after_help = SNAPSHOTS_HELP)]
    Snapshots(Snapshots),
    /// Open a damaged store for writing again, at the price of what is damaged; dry run by default
    #[command(after_help = RECOVER_HELP)]
    Recover(Recover),
    /// Exit with 0 if a server is ready, else with 1
    Healthcheck(Server),
    /// Write a shell's completions to standard output
    #[command(after_help = COMPLETIONS)]
    Completions(Completions),
    /// Write the manual pages, one for each command
    Man(Man),
}

const LOAD: &str = "\
Examples:
  millpond scan --kvs birds > birds.ndjson
  millpond kvs create copy && millpond load birds.ndjson --kvs copy
  millpond scan --url http://old:7300 | millpond load - --url http://new:7300

Lines go in batches of up to 10,000 lines or 4 MiB, each of them all or nothing. To do it again is
no harm. Where it stops it says which lines are written, and the --skip that goes on from there.
Keys that are there already get the values of the file; no key is deleted. Exit code 1: some lines
stand for keys that the scan could not read; the others are written.";

const COMPLETIONS: &str = "\
Examples:
  millpond completions bash > /etc/bash_completion.d/millpond
  millpond completions zsh > ~/.zfunc/_millpond          # a directory of fpath
  millpond completions fish > ~/.config/fish/completions/millpond.fish";

/// Flags of `millpond completions`.
#[derive(Debug, Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,
}

/// Flags of `millpond man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Directory for the pages; made if there is none
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// Flags of `millpond serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Configuration file (TOML); `millpond config print` writes one
    #[arg(long, env = "MILLPOND_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration as a commented file
    Print(ConfigPrint),
}

/// Flags of `millpond config print`.
#[derive(Debug, Args)]
pub struct ConfigPrint {
    /// Say in comments what options come to that depend on this machine, on other options or on the
    /// pool, as `serve` would have it now. The pool is looked at, and none is made
    #[arg(long)]
    pub effective: bool,
    #[command(flatten)]
    pub serve: Serve,
}

/// Which server to ask.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// Where the server is
    #[arg(long, env = "MILLPOND_URL", default_value = "http://127.0.0.1:7300")]
    pub url: String,
    /// Longest time in which nothing comes from the server or goes to it; 0s is for ever
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub timeout: Span,
}

impl Server {
    /// The time limit, if there is one.
    pub(crate) fn silence_max(&self) -> Option<Duration> {
        (!self.timeout.0.is_zero()).then_some(self.timeout.0)
    }
}

/// A key of a KVS.
#[derive(Debug, Args)]
pub struct Key {
    /// The key: the argument's bytes as they are
    pub key: OsString,
    /// The key is base64url, as scan prints it in k64 where it is no text
    #[arg(long)]
    pub k64: bool,
}

/// Which KVS of which server to ask.
#[derive(Debug, Args)]
pub struct Target {
    #[command(flatten)]
    pub server: Server,
    /// Name of the KVS
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub kvs: String,
}

/// Flags of `millpond get`.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    pub key: Key,
    #[command(flatten)]
    pub target: Target,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// When it is on stable storage
    #[default]
    Sync,
    /// At once; on stable storage within the server's interval
    Interval,
    /// At once; on stable storage some time later
    Off,
}

impl Durability {
    /// As in `?durability=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Interval => "interval",
            Self::Off => "off",
        }
    }
}

/// Flags of `millpond put`.
#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    pub key: Key,
    /// The value; without it and without --file it is read from standard input
    pub value: Option<OsString>,
    /// Read the value from a file (`-`: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// When the write is acknowledged
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
    #[command(flatten)]
    pub target: Target,
}

/// Flags of `millpond del`.
#[derive(Debug, Args)]
pub struct Del {
    #[command(flatten)]
    pub key: Key,
    /// When the delete is acknowledged
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
    #[command(flatten)]
    pub target: Target,
}

/// Flags of `millpond scan`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
pub struct Scan {
    /// Only keys that start with this
    pub prefix: Option<OsString>,
    /// First key, inclusive
    #[arg(long, value_name = "KEY")]
    pub start: Option<OsString>,
    /// Last key, exclusive
    #[arg(long, value_name = "KEY")]
    pub end: Option<OsString>,
    /// Prefix, start and end are base64url
    #[arg(long)]
    pub k64: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// From the last key to the first
    #[arg(long)]
    pub reverse: bool,
    /// Keys without values
    #[arg(long)]
    pub keys_only: bool,
    /// Keys and values always as base64url (k64, v64)
    #[arg(long)]
    pub base64: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Flags of `millpond load`.
#[derive(Debug, Args)]
pub struct Load {
    /// A file of lines as scan prints them (`-`: standard input)
    pub file: PathBuf,
    /// Leave so many lines out at the beginning
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub skip: u64,
    /// When each batch is acknowledged
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
    #[command(flatten)]
    pub target: Target,
}

/// What to do with KVSs.
#[derive(Debug, Subcommand)]
pub enum KvsCommand {
    /// List all KVSs
    List(Server),
    /// Create a KVS; fine if it is there
    Create(OneKvs),
    /// Drop a KVS and everything in it; asks for its name
    Drop(KvsDrop),
}

/// Flags of `millpond kvs drop`.
#[derive(Debug, Args)]
pub struct KvsDrop {
    #[command(flatten)]
    pub kvs: OneKvs,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// A KVS by name.
#[derive(Debug, Args)]
pub struct OneKvs {
    pub name: String,
    #[command(flatten)]
    pub server: Server,
}

/// The command line, its help complete: options of the configuration say their defaults.
pub fn command() -> anyhow::Result<clap::Command> {
    let defaults = toml::Table::try_from(Config::default())?;
    let serve = |command: clap::Command| command.mut_args(|argument| say(argument, &defaults));
    let command = Cli::command()
        .mut_subcommand("serve", serve)
        .mut_subcommand("config", |config| config.mut_subcommand("print", serve));
    Ok(environment::without_empty(command.mut_subcommands(with_exit_codes)))
}

/// What commands end with that have nothing of their own to say about it.
const EXIT_CODES: &str = "\
Exit codes: 0 done   1 no such key, not ready, damage found, or it failed   2 wrong usage: nothing
            was done   3 the server, or the pool, refused   4 no connection, or it fell silent
            5 the output cannot be written";

/// Says of each command how it ends, where its help does not.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    if command.has_subcommands() {
        return command.mut_subcommands(with_exit_codes);
    }
    let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    match (own.contains("Exit codes:"), own.is_empty()) {
        (true, _) => command,
        (false, true) => command.after_help(EXIT_CODES),
        (false, false) => command.after_help(format!("{own}\n\n{EXIT_CODES}")),
    }
}

/// It with the usage of each command as its help has it. What an error would show instead names
/// each option that the environment sets, as if it had to be given.
pub fn with_whole_usage(mut command: clap::Command) -> clap::Command {
    fn whole(mut command: clap::Command) -> clap::Command {
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").to_owned();
        command.override_usage(usage).mut_subcommands(whole)
    }
    command.build();
    whole(command)
}

fn say(argument: clap::Arg, defaults: &toml::Table) -> clap::Arg {
    let default = match defaults.get(argument.get_id().as_str()) {
        Some(toml::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => return argument,
    };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    argument.help(format!("{help} [default: {default}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::Size;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_serve_become_settings() {
        let line = "millpond serve --data d --listen 127.0.0.1:0 --memory 2GiB --allow-buffered \
                    --io threads --log-format json";
        let cli = Cli::try_parse_from(line.split_ascii_whitespace()).unwrap();
        let Command::Serve(serve) = cli.command else { panic!("serve") };
        assert_eq!(serve.settings.data, Some("d".into()));
        assert_eq!(serve.settings.memory, Some(Size(2 << 30)));
        assert_eq!(serve.settings.allow_buffered, Some(true));
        assert_eq!(serve.settings.connections, None);
    }

    #[test]
    fn the_help_of_serve_says_every_default() {
        let mut command = command().unwrap();
        let serve = command.find_subcommand_mut("serve").unwrap();
        // Without the line breaks that a narrow terminal wants.
        let help = serve.render_help().to_string();
        let help = help.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(help.matches("[default: ").count(), defaults.len(), "{help}");
        assert!(help.contains("[default: 64MiB]"), "{help}");
    }

    #[test]
    fn every_command_says_how_it_ends() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(command.has_subcommands() || help.contains("Exit codes:"), "{name}");
            command.get_subcommands().for_each(check);
        }
        check(&command().unwrap());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "millpond",
            "millpond serve --listen here",
            "millpond serve --memory lots",
            "millpond put k v --file f",
            "millpond get",
            "millpond pool",
            "millpond pool scrub --stop",
            "millpond pool info --data d --url http://a",
            "millpond get k --timeout soon",
            "millpond completions cmd",
            "millpond pool create --capacity lots",
        ] {
            assert!(Cli::try_parse_from(line.split_ascii_whitespace()).is_err(), "{line}");
        }
    }
}
