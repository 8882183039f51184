//! The command line of `millpond pool`.

use crate::cli::Server;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use mpool::{MediaClass, VolumeKind};
use std::path::PathBuf;
use std::str::FromStr;
use units::{Size, Span, UnitError};

/// What to do with the pool that holds the data.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Create a pool in a data directory that has none
    #[command(after_help = POOL_CREATE)]
    Create(PoolCreate),
    /// Show the pool and its volumes
    Info(PoolShown),
    /// Add a volume; data can be placed on it at once
    #[command(after_help = POOL_ADD)]
    Add(PoolAdd),
    /// Raise what a volume may grow to, or take in what a device has gained
    Grow(PoolGrow),
    /// Move everything off a volume, so that it can be removed
    #[command(after_help = POOL_EVACUATE)]
    Evacuate(PoolEvacuate),
    /// Take an empty volume out of the pool
    Remove(PoolRemove),
    /// Check that a pool which nobody uses is consistent; changes nothing
    #[command(after_help = POOL_CHECK)]
    Check(PoolCheck),
    /// Verify everything stored, in the background of a running server or on a data directory
    #[command(after_help = POOL_SCRUB)]
    Scrub(PoolScrub),
    /// Show what a running server has mapped into memory
    Maps(PoolShown),
    /// Give the pool a name, which people and metrics see
    Rename(PoolRename),
    /// Destroy a pool with everything in it
    #[command(after_help = POOL_DESTROY)]
    Destroy(PoolDestroy),
}

pub(crate) const POOL_HELP: &str = "\
Two ways to reach a pool:
  --data DIR   the data directory of a server that is not running (default ./millpond-data)
  --url URL    a running server, which must serve /v1/admin (see millpond serve --admin)
A flag counts more than MILLPOND_DATA and MILLPOND_URL, and of these two MILLPOND_URL counts.
A directory whose server runs is locked: the command says so and changes nothing.

Exit codes: 0 done   1 damage found   2 wrong usage   3 refused   4 no connection
            5 the output cannot be written";

const POOL_CREATE: &str = "\
Examples:
  millpond pool create --data /srv/pond --capacity 500GiB --name north
  millpond pool create --data /srv/pond --root /dev/nvme1n1
  millpond pool create --data /srv/pond --volume /mnt/nvme/fast.vol,class=staging,capacity=50GiB

`millpond serve` creates a pool by itself in a directory that is absent or empty; this is for those
who want to say what it is made of. Where there are signs of a pool (a mark, labels, a root volume
that cannot be read) or of a mount that is missing, only --force creates one, and what was there is
lost. The files are readable and writable by their owner only (--mode): whoever may
read them may read all data.";

const POOL_ADD: &str = "\
Examples:
  millpond pool add /mnt/nvme/fast.vol --class staging --capacity 50GiB --url http://127.0.0.1:7300
  millpond pool add /dev/nvme1n1 --kind block

A relative path is within the data directory, of the server with --url. Something else that is on
the file or device is not overwritten without --force. Remove a volume with evacuate, then remove.";

const POOL_EVACUATE: &str = "\
With --url the work goes on in the server if this command is interrupted; `millpond pool info` shows
how far it is. --cancel lets the volume take data again; what was moved stays where it is.
On a data directory, segments of the write-ahead log stay behind: only the server can move them.";

const POOL_CHECK: &str = "\
Checks superblock, labels, journals, the places of all objects, and what the store needs to open:
manifest, kvsets and the write-ahead log, record by record; with --full every page of every object
too. What opening the pool would repair is named and left alone. Exit code 1 if something needs
attention, be it a warning that the next start mends; notes are 0. millpond recover is the way out
of what stops an open. For a pool in use there is `millpond pool scrub`.";

const POOL_SCRUB: &str = "\
Examples:
  millpond pool scrub --url http://127.0.0.1:7300 --rate 100MiB   # starts it and shows it
  millpond pool scrub --url http://127.0.0.1:7300 --status
  millpond pool scrub --url http://127.0.0.1:7300 --stop          # it goes on from there next time
  millpond pool scrub --data /srv/pond                            # on a stopped server's data

Verifies every checksum of data and metadata. What is damaged is named with its place and its owner;
nothing is repaired. Exit code 1 if something is damaged.";

const POOL_DESTROY: &str = "\
Asks for confirmation: give --yes, or the pool's name or UUID as `millpond pool info` shows it.
Files of the pool are deleted, devices are wiped where their labels are.";

/// What the file system of a data directory may be like.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct FileSystem {
    /// Use the page cache where the file system refuses direct I/O; for tests
    #[arg(long, env = "MILLPOND_ALLOW_BUFFERED", num_args = 0..=1, default_missing_value = "true",
          default_value_t = false)]
    pub allow_buffered: bool,
    /// Accept one that forgets (tmpfs, ramfs, overlayfs)
    #[arg(long, env = "MILLPOND_ALLOW_VOLATILE", num_args = 0..=1, default_missing_value = "true",
          default_value_t = false)]
    pub allow_volatile: bool,
}

pub(crate) const RECOVER_HELP: &str = "\
Examples:
  millpond pool check --data /srv/pond                            # what is damaged
  millpond recover --data /srv/pond --wal skip-damaged            # what that would lose; a dry run
  millpond recover --data /srv/pond --wal skip-damaged --apply --keep /srv/evidence    # do it

A dry run writes nothing. Both say which revisions and keys are lost, as far as they can be read.
skip-damaged keeps all that can be read, so later writes are there without earlier ones;
stop-at-damage ends the log where the damage begins, so what is left was once the latest state.
What is damaged is kept only if --keep says where: its bytes are copied there as files first (of the
log all segments, of a kvset what would be deleted with it), with a text of what they are.
To read what is left and change nothing: millpond serve --read-only (--read-only-wal, ...).

Exit codes: 0 nothing is lost, or --apply has done it   1 something would be lost
2 wrong usage   3 refused";

/// Flags of `millpond recover`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
pub struct Recover {
    #[command(flatten)]
    pub place: PoolDirectory,
    /// What to do about damage in the write-ahead log
    #[arg(long, value_enum, default_value = "refuse")]
    pub wal: RecoverWal,
    /// Take kvsets out that cannot be opened, with what is in them
    #[arg(long)]
    pub drop_kvsets: bool,
    /// Go on without the manifest's last edits, where they are lost, and with what they made
    #[arg(long)]
    pub cut_manifest: bool,
    /// Where both copies of the superblock are lost: find the pool's journal, and write them again
    #[arg(long)]
    pub superblock: bool,
    /// Do it; otherwise only what would be lost is said
    #[arg(long)]
    pub apply: bool,
    /// With --apply: first copy what is damaged, and what goes with it, as files into this
    /// directory, which must be empty or new
    #[arg(long, value_name = "DIR", requires = "apply")]
    pub keep: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// What a recovery does about damage in the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RecoverWal {
    /// Nothing: the recovery is refused.
    Refuse,
    /// Keep everything that can be read.
    SkipDamaged,
    /// End the log where the damage begins.
    StopAtDamage,
}

/// Which pool: one in a data directory, or that of a running server.
#[derive(Clone, Debug)]
pub struct PoolPlace {
    /// The data directory, if no server is asked.
    pub data: PathBuf,
    /// The server to ask.
    pub server: Option<Server>,
    pub allow: FileSystem,
}

/// How a [`PoolPlace`] is said.
#[derive(Clone, Debug, Args)]
struct PlaceFlags {
    /// Data directory of a server that is not running
    #[arg(long, env = "MILLPOND_DATA", value_name = "DIR", default_value = "./millpond-data")]
    data: PathBuf,
    /// Ask this running server instead
    #[arg(long, env = "MILLPOND_URL", value_name = "URL")]
    url: Option<String>,
    /// With a server: longest time in which nothing comes from it or goes to it; 0s is for ever
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Span,
    #[command(flatten)]
    allow: FileSystem,
}

impl Args for PoolPlace {
    fn augment_args(command: Command) -> Command {
        PlaceFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        PlaceFlags::augment_args_for_update(command)
    }
}

impl FromArgMatches for PoolPlace {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = PlaceFlags::from_arg_matches(matches)?;
        let [data, url] = ["data", "url"].map(|id| weight(matches.value_source(id)));
        if data == 2 && url == 2 {
            let text = "give --data or --url, not both: a directory or a running server\n";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        }
        let PlaceFlags { data: directory, url: address, timeout, allow } = flags;
        let address = address.filter(|_| url >= data);
        let server = address.map(|url| Server { url, timeout });
        Ok(Self { data: directory, server, allow })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag weighs more than the environment, which weighs more than a default. Of two variables of
/// the environment the server's address counts.
fn weight(source: Option<ValueSource>) -> u8 {
    match source {
        Some(ValueSource::CommandLine) => 2,
        Some(ValueSource::EnvVariable) => 1,
        _ => 0,
    }
}

/// Which data directory; these commands are not for running servers.
#[derive(Clone, Debug, Args)]
pub struct PoolDirectory {
    /// Data directory of a server that is not running
    #[arg(long, env = "MILLPOND_DATA", value_name = "DIR", default_value = "./millpond-data")]
    pub data: PathBuf,
    #[command(flatten)]
    pub allow: FileSystem,
}

/// Flags of `millpond pool info` and `maps`.
#[derive(Debug, Args)]
pub struct PoolShown {
    #[command(flatten)]
    pub place: PoolPlace,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `millpond pool create`.
#[derive(Debug, Args)]
pub struct PoolCreate {
    #[command(flatten)]
    pub place: PoolDirectory,
    /// What the root volume may grow to, 256MiB to 4PiB; 0 takes 1TiB
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub capacity: Size,
    /// Begin on this whole block device instead of a file
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["capacity", "mode"])]
    pub root: Option<PathBuf>,
    /// A name for people and metrics
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A further volume: `PATH[,class=capacity|staging][,kind=file|block|zoned][,capacity=SIZE]`
    #[arg(long = "volume", value_name = "SPEC")]
    pub volumes: Vec<VolumeSpec>,
    /// Take files and devices although something else is on them, which is then lost
    #[arg(long)]
    pub force: bool,
    /// Permissions of the files, in octal
    #[arg(long, value_name = "MODE", default_value = "0600")]
    pub mode: FileMode,
}

/// Flags of `millpond pool add`.
#[derive(Debug, Args)]
pub struct PoolAdd {
    /// The file or device
    pub path: PathBuf,
    /// What it is: file, block, zoned or emulated-zoned
    #[arg(long, default_value = "file")]
    pub kind: VolumeKind,
    /// What it is for: capacity (the bulk of the data) or staging (logs and young data)
    #[arg(long, default_value = "capacity")]
    pub class: MediaClass,
    /// What a file may grow to, 1MiB to 4PiB; devices are used whole
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub capacity: Size,
    /// Take it although something else is on it, which is then lost
    #[arg(long)]
    pub force: bool,
    /// Permissions of a new file, in octal [default: 0600]; not with a running server, whose files
    /// have that
    #[arg(long, value_name = "MODE")]
    pub mode: Option<FileMode>,
    #[command(flatten)]
    pub place: PoolPlace,
}

/// Flags of `millpond pool grow`.
#[derive(Debug, Args)]
pub struct PoolGrow {
    /// The volume, such as vol-0
    pub volume: String,
    /// What it may grow to, not less than now and at most 4PiB
    pub capacity: Size,
    #[command(flatten)]
    pub place: PoolPlace,
}

/// Flags of `millpond pool evacuate`.
#[derive(Debug, Args)]
pub struct PoolEvacuate {
    /// The volume, such as vol-1
    pub volume: String,
    /// Let it take data again
    #[arg(long)]
    pub cancel: bool,
    #[command(flatten)]
    pub place: PoolPlace,
}

/// Flags of `millpond pool remove`.
#[derive(Debug, Args)]
pub struct PoolRemove {
    /// The volume, such as vol-1
    pub volume: String,
    /// Give up a volume that is gone, if nothing lies on it; on a data directory only
    #[arg(long, conflicts_with = "url")]
    pub lost: bool,
    #[command(flatten)]
    pub place: PoolPlace,
}

/// Flags of `millpond pool check`.
#[derive(Debug, Args)]
pub struct PoolCheck {
    #[command(flatten)]
    pub place: PoolDirectory,
    /// Verify every page of every object too
    #[arg(long)]
    pub full: bool,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Flags of `millpond pool scrub`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
pub struct PoolScrub {
    #[command(flatten)]
    pub place: PoolPlace,
    /// Bytes verified per second at most; 0 is as fast as it goes
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub rate: Size,
    /// Begin anew even if an earlier scrub was stopped before its end
    #[arg(long)]
    pub from_start: bool,
    /// Only show how far it is
    #[arg(long, conflicts_with_all = ["stop", "from_start"])]
    pub status: bool,
    /// Stop it; the next one goes on from there
    #[arg(long, requires = "url", conflicts_with = "from_start")]
    pub stop: bool,
    /// With --url: start it and return at once
    #[arg(long, requires = "url")]
    pub detach: bool,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Flags of `millpond pool rename`.
#[derive(Debug, Args)]
pub struct PoolRename {
    /// 1 to 64 of A-Z a-z 0-9 . _ -
    pub name: String,
    #[command(flatten)]
    pub place: PoolPlace,
}

/// Flags of `millpond pool destroy`.
#[derive(Debug, Args)]
pub struct PoolDestroy {
    /// The pool's name or UUID, as a confirmation
    pub name: Option<String>,
    /// Do it without the name
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub place: PoolDirectory,
}

/// `PATH[,class=..][,kind=..][,capacity=..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    pub path: PathBuf,
    pub class: MediaClass,
    pub kind: VolumeKind,
    pub capacity: Size,
}

impl FromStr for VolumeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = parts.next().filter(|path| !path.is_empty()).ok_or("a volume needs a path")?;
        let mut spec = Self {
            path: path.into(),
            class: MediaClass::Capacity,
            kind: VolumeKind::File,
            capacity: Size(1 << 40),
        };
        for part in parts {
            match part.split_once('=') {
                Some(("class", class)) => spec.class = class.parse()?,
                Some(("kind", kind)) => spec.kind = kind.parse()?,
                Some(("capacity", size)) => {
                    spec.capacity = size.parse().map_err(|error: UnitError| error.to_string())?;
                }
                _ => return Err(format!("{part:?} is none of class=, kind= and capacity=")),
            }
        }
        Ok(spec)
    }
}

/// Permissions of a file, in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        let mode = mode.filter(|mode| mode & 0o600 == 0o600).map(Self);
        mode.ok_or_else(|| {
            format!("{text:?} is no mode such as 0600 or 0640 that lets the owner in")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_given_by_path_and_properties() {
        let spec: VolumeSpec = "/mnt/a.vol,class=staging,capacity=5GiB".parse().unwrap();
        assert_eq!((spec.class, spec.capacity), (MediaClass::Staging, Size(5 << 30)));
        assert_eq!((spec.kind, spec.path), (VolumeKind::File, "/mnt/a.vol".into()));
        for (text, want) in [
            ("", "path"),
            ("a,class=fast", "staging"),
            ("a,kind=tape", "zoned"),
            ("a,capacity=lots", "lots"),
            ("a,size=5", "none of"),
        ] {
            let error = text.parse::<VolumeSpec>().unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn modes_let_the_owner_in() {
        assert_eq!("0640".parse(), Ok(FileMode(0o640)));
        for bad in ["", "8", "1777", "0400", "rw"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_count_more_than_the_environment() {
        let (flag, env) = (Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable));
        let default = Some(ValueSource::DefaultValue);
        assert!(weight(flag) > weight(env) && weight(env) > weight(default));
        assert_eq!(weight(None), weight(default));
    }
}
