//! The command line.

use crate::config::Settings;
use crate::pool::cli::{POOL_HELP, PoolCommand};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

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
  0 done   1 no such key, not ready, or damage found   2 wrong usage   3 refused   4 no connection";

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
    /// List, create and drop KVSs
    #[command(subcommand)]
    Kvs(KvsCommand),
    /// Manage the pool of volumes that holds the data
    #[command(subcommand, after_help = POOL_HELP)]
    Pool(PoolCommand),
    /// Exit with 0 if a server is ready, else with 1
    Healthcheck(Server),
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
    Print(Serve),
}

/// Which server to ask.
#[derive(Debug, Args)]
pub struct Server {
    /// Where the server is
    #[arg(long, env = "MILLPOND_URL", default_value = "http://127.0.0.1:7300")]
    pub url: String,
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
    pub key: String,
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
    pub key: String,
    /// The value; without it and without --file it is read from standard input
    pub value: Option<String>,
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
    pub key: String,
    /// When the delete is acknowledged
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
    #[command(flatten)]
    pub target: Target,
}

/// Flags of `millpond scan`.
#[derive(Debug, Args)]
pub struct Scan {
    /// Only keys that start with this
    pub prefix: Option<String>,
    /// First key, inclusive
    #[arg(long, value_name = "KEY")]
    pub start: Option<String>,
    /// Last key, exclusive
    #[arg(long, value_name = "KEY")]
    pub end: Option<String>,
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

/// What to do with KVSs.
#[derive(Debug, Subcommand)]
pub enum KvsCommand {
    /// List all KVSs
    List(Server),
    /// Create a KVS; fine if it is there
    Create(OneKvs),
    /// Drop a KVS and everything in it
    Drop(OneKvs),
}

/// A KVS by name.
#[derive(Debug, Args)]
pub struct OneKvs {
    pub name: String,
    #[command(flatten)]
    pub server: Server,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;
    use clap::CommandFactory;

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
    fn wrong_usage_is_refused() {
        for line in [
            "millpond",
            "millpond serve --listen here",
            "millpond serve --memory lots",
            "millpond put k v --file f",
            "millpond get",
            "millpond pool",
            "millpond pool scrub --stop",
            "millpond pool add a --mode 0640 --url http://a",
            "millpond pool create --capacity lots",
        ] {
            assert!(Cli::try_parse_from(line.split_ascii_whitespace()).is_err(), "{line}");
        }
    }
}
