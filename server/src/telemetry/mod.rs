//! Logs: to standard error, as text or as JSON, one line an event, best effort.
//!
//! Nothing that happens to standard error reaches who logs (`queue.rs`); a place in the code that
//! logs too often is cut short (`limit.rs`). In text, control characters of fields and messages are
//! escaped whoever wrote them: keys and names come from outside, and a line break in one would
//! forge a line. Colours are for terminals, where `NO_COLOR` is not set.
//!
//! A panic is a line like any other, so that its message survives a standard error that does not.

mod escape;
mod limit;
mod queue;

pub use self::escape::Escaped;
use self::limit::{Books, Limit, WINDOW};
use self::queue::Queue;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// The target of lines about what administrators did: never left out.
pub const ADMIN: &str = limit::UNLIMITED;

/// How long the end of the process waits for its last lines.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// The queue of this process, once it logs.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Begins to log. `filter` is a level or a list of `target=level`.
pub fn start(log_format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("option log: {filter:?} is no level or list of target=level"))?;
    let books = Books::default();
    let told = books.clone();
    let look = Box::new(move || told.tell());
    let queue = Queue::start(io::stderr(), WINDOW, look).context("no thread for log lines")?;
    let lines = registry().with(filter).with(Limit { books, queue: queue.clone() });
    let writer = fmt::layer().with_writer(queue.clone()).log_internal_errors(false);
    let begun = match log_format {
        LogFormat::Text => {
            let writer = writer.with_ansi(shows_colours()).fmt_fields(
                format::debug_fn(|out, field, value| match field.name() {
                    "message" => write!(out, "{}", Escaped(format_args!("{value:?}"))),
                    name if name.starts_with("log.") => Ok(()),
                    name => write!(out, "{name}={}", Escaped(format_args!("{value:?}"))),
                })
                .delimited(" "),
            );
            lines.with(writer).try_init()
        }
        LogFormat::Json => lines.with(writer.json()).try_init(),
    };
    begun.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    assert!(QUEUE.set(queue).is_ok(), "the subscriber is set once, and so is its queue");
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Begins to log warnings, for a command that opens a store as a server does; once.
pub fn start_warnings() -> anyhow::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    start(LogFormat::Text, "warn")
}

/// Refuses what is no filter of log lines. A misspelt level would be taken for the name of
/// a module, and nothing be logged.
pub(crate) fn check_filter(filter: &str) -> anyhow::Result<()> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in filter.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            anyhow::bail!(
                "option log is {filter:?}, and {level:?} is no level: use one of {}, or a list such \
                 as info,kvs=debug",
                LEVELS.join(", ")
            );
        }
    }
    Ok(())
}

/// Log lines that were lost: standard error did not take them, or not as fast as they came.
pub fn lines_lost() -> u64 {
    QUEUE.get().map_or(0, Queue::lost)
}

/// Waits until the lines logged so far are written, but not for long.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIME_MAX);
    }
}

/// Writes a message of the process's end to standard error, after what was logged. Where it cannot
/// be written, the exit code has to do.
pub fn complain(message: &str) {
    let line = format!("error: {}\n", escape::Lines(message));
    match QUEUE.get() {
        Some(queue) => {
            queue.push(line.as_bytes());
            queue.flush(FLUSH_TIME_MAX);
        }
        None => drop(io::Write::write_all(&mut io::stderr(), line.as_bytes())),
    }
}

fn shows_colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !refused && !dumb
}

fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let message = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let shown = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = shown.then(|| tracing::field::display(&backtrace));
    tracing::error!(thread = thread.name(), place, backtrace, "panic: {message}");
    // It may end the process.
    flush();
}
