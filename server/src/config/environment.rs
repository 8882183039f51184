//! What the environment says, and what it was probably meant to say.
//!
//! A variable that is set to nothing is not set: compose files and unit files write `NAME=` for
//! "no value". A variable that begins like ours and is none of ours is a mistake that would be
//! silently without effect, so it is told, with the nearest name; but not those that orchestrators
//! make of a service that happens to be called millpond.

use std::env;

/// What the names of our variables begin with.
const PREFIX: &str = "MILLPOND_";

/// Variables that are no options: of builds and tests.
const OTHERS: [&str; 5] = [
    "MILLPOND_BUILT_FROM",
    "MILLPOND_CHURN_SECONDS",
    "MILLPOND_COMMIT",
    "MILLPOND_ROUNDS",
    "MILLPOND_SEED",
];
/// What the names of further ones begin with.
const OTHERS_BEGIN: [&str; 2] = ["MILLPOND_TEST_", "MILLPOND_ZNS_"];

/// Names closer than this, from 0 to 1, are taken for misspelt ones.
const LIKENESS_MIN: f64 = 0.8;

/// The command line without the variables that are set to nothing, subcommands included.
pub fn without_empty(command: clap::Command) -> clap::Command {
    let is_empty = |name: &std::ffi::OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if is_empty(name) => argument.env(None),
            _ => argument,
        })
        .mut_subcommands(without_empty)
}

/// Variables of the environment that begin like options and are none.
pub fn unknown(command: &clap::Command) -> Unknown {
    let mut known = OTHERS.map(str::to_owned).to_vec();
    collect(command, &mut known);
    let set = env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    });
    classify(set, &known)
}

/// Variables that begin like options and are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Each with the option that it is probably meant to be.
    pub names: Vec<(String, Option<String>)>,
    /// How many more an orchestrator made for a service.
    pub links: usize,
}

impl Unknown {
    /// Says so in the log.
    pub fn tell(&self) {
        for (name, nearest) in &self.names {
            if let Some(nearest) = nearest {
                tracing::warn!(name, nearest, "a variable of the environment is no option");
            } else {
                let hint = "`millpond serve --help` names all";
                tracing::warn!(name, hint, "a variable of the environment is no option");
            }
        }
        if self.links > 0 {
            let variables = self.links;
            tracing::debug!(variables, "the environment has links to a service named like us");
        }
    }
}

fn collect(command: &clap::Command, known: &mut Vec<String>) {
    let names = command.get_arguments().filter_map(clap::Arg::get_env);
    known.extend(names.map(|name| name.to_string_lossy().into_owned()));
    for command in command.get_subcommands() {
        collect(command, known);
    }
}

fn classify(set: impl Iterator<Item = (String, String)>, known: &[String]) -> Unknown {
    let mut unknown = Unknown::default();
    for (name, value) in set {
        let is_other = OTHERS_BEGIN.iter().any(|begin| name.starts_with(begin));
        if !name.starts_with(PREFIX) || value.is_empty() || is_other || known.contains(&name) {
            continue;
        }
        if is_service_link(&name, &value) {
            unknown.links += 1;
        } else {
            let nearest = nearest(&name, known);
            unknown.names.push((name, nearest));
        }
    }
    unknown.names.sort();
    unknown
}

/// Whether Kubernetes or Docker makes such a variable for a service or a linked container:
/// `.._SERVICE_HOST`, `.._SERVICE_PORT`, `.._PORT=tcp://..`, `.._PORT_7300_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_port = |rest: &str| {
        let number = rest.split('_').next().unwrap_or_default();
        let protocol = rest[number.len()..].trim_start_matches('_').split('_').next();
        number.parse::<u16>().is_ok() && matches!(protocol, Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_url)
        || name.match_indices("_PORT_").any(|(at, port)| is_port(&name[at + port.len()..]))
}

fn nearest(name: &str, known: &[String]) -> Option<String> {
    let scored = known.iter().map(|other| {
        let (ours, theirs) = (&other[PREFIX.len()..], &name[PREFIX.len()..]);
        (strsim::jaro_winkler(ours, theirs), other)
    });
    let (likeness, nearest) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness >= LIKENESS_MIN).then(|| nearest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn classified(set: &[(&str, &str)]) -> Unknown {
        let mut known = OTHERS.map(str::to_owned).to_vec();
        collect(&crate::cli::Cli::command(), &mut known);
        classify(set.iter().map(|(name, value)| ((*name).into(), (*value).into())), &known)
    }

    #[test]
    fn misspelt_names_are_told_with_the_nearest() {
        let unknown = classified(&[
            ("MILLPOND_MEMROY", "2GiB"),
            ("MILLPOND_LOGFORMAT", "json"),
            ("MILLPOND_ZZZ", "1"),
            ("MILLPOND_MEMORY", "2GiB"),
            ("MILLPOND_URL", "http://a"),
            ("MILLPOND_CONFIG", "a.toml"),
            ("MILLPOND_UNSET", ""),
            ("PATH", "/bin"),
        ]);
        let told = |name: &str, nearest: Option<&str>| (name.into(), nearest.map(str::to_owned));
        let want = [
            told("MILLPOND_LOGFORMAT", Some("MILLPOND_LOG_FORMAT")),
            told("MILLPOND_MEMROY", Some("MILLPOND_MEMORY")),
            told("MILLPOND_ZZZ", None),
        ];
        assert_eq!((unknown.names.as_slice(), unknown.links), (&want[..], 0));
    }

    /// A server that a test starts has the test's environment: it warned of `MILLPOND_ROUNDS`.
    #[test]
    fn what_tests_are_told_is_no_mistake() {
        for name in [
            "MILLPOND_CHURN_SECONDS",
            "MILLPOND_ROUNDS",
            "MILLPOND_SEED",
            "MILLPOND_TEST_DENIED",
            "MILLPOND_TEST_IO",
            "MILLPOND_ZNS_DEV",
            "MILLPOND_ZNS_PHASE",
        ] {
            assert_eq!(classified(&[(name, "1")]), Unknown::default(), "{name}");
        }
    }

    #[test]
    fn what_orchestrators_inject_is_counted_only() {
        let links = [
            ("MILLPOND_SERVICE_HOST", "10.0.0.1"),
            ("MILLPOND_SERVICE_PORT", "7300"),
            ("MILLPOND_SERVICE_PORT_HTTP", "7300"),
            ("MILLPOND_PORT", "tcp://10.0.0.1:7300"),
            ("MILLPOND_PORT_7300_TCP", "tcp://10.0.0.1:7300"),
            ("MILLPOND_PORT_7300_TCP_PROTO", "tcp"),
            ("MILLPOND_PORT_7300_TCP_PORT", "7300"),
            ("MILLPOND_PORT_7300_TCP_ADDR", "10.0.0.1"),
            ("MILLPOND_BACKUP_PORT_80_UDP_ADDR", "10.0.0.2"),
        ];
        assert_eq!(classified(&links), Unknown { names: Vec::new(), links: links.len() });
        assert_eq!(classified(&[("MILLPOND_PORT", "7300")]).names.len(), 1);
    }
}
