//! The configuration as a commented TOML file, which could be used in its place.

use super::{Config, Settings, effective};
use clap::CommandFactory;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A command of the settings alone, to read their explanations from.
#[derive(clap::Parser)]
pub(super) struct Explained {
    #[command(flatten)]
    _settings: Settings,
}

impl Config {
    /// The configuration as a file.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        self.to_commented(&BTreeMap::new())
    }

    /// The same, with what those options come to that depend on machine and pool, in comments. The
    /// pool is looked at, and not opened.
    pub fn to_effective_toml(&self) -> anyhow::Result<String> {
        self.to_commented(&effective::of(self)?)
    }

    fn to_commented(&self, effective: &BTreeMap<&str, String>) -> anyhow::Result<String> {
        let values = toml::Table::try_from(self)?;
        let command = Explained::command();
        let mut text = String::from(
            "# Configuration of Millpond. Later sources win: this file, then the environment\n\
             # (MILLPOND_...), then flags.\n",
        );
        for argument in command.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let (id, flag) = (argument.get_id(), argument.get_long().unwrap_or_default());
            writeln!(text, "\n# {help}.\n# Flag --{flag}.")?;
            if let Some(effective) = effective.get(id.as_str()) {
                writeln!(text, "# In effect: {effective}.")?;
            }
            match values.get(id.as_str()) {
                Some(value) => writeln!(text, "{id} = {value}")?,
                // What is not said depends on other options.
                None => writeln!(text, "#{id} =")?,
            }
        }
        Ok(text)
    }
}
