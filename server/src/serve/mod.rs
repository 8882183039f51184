//! `millpond serve`: open, listen, serve, drain, close.
//!
//! The port is taken first, so that a mistake in the address shows before the store is touched.
//! While the store recovers, `/livez` and `/readyz` are answered already, and the latter says how
//! far it is; the line on standard output comes when everything is served.
//!
//! The first SIGTERM or SIGINT begins the end, which [`crate::serve::shutdown`] tells.

mod heap;
pub mod listener;
pub mod shutdown;

use crate::api::problem::Chain;
use crate::app::App;
use crate::cli::Cli;
use crate::config::{Config, environment};
use crate::connection::ConnectionLimits;
use crate::engine::capacity;
use crate::engine::{DEFAULT_KVS, Engine};
use crate::process_limits;
use crate::state::blocking::Lanes;
use crate::telemetry;
use anyhow::{Context, anyhow, bail};
use clap::CommandFactory;
use kvs::{Database, Error, OpenProgress, WayOut};
use shutdown::{Bounds, Ended, Signals};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use units::Size;

/// Serves until told to stop; says how the process ends.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    telemetry::start(config.log_format, &config.log)?;
    let outcome = run_logged(config);
    telemetry::flush();
    outcome
}

fn run_logged(config: &Config) -> anyhow::Result<ExitCode> {
    environment::unknown(&Cli::command()).tell();
    // Responses and bodies of megabytes come and go.
    if !mpool::return_large_allocations() {
        tracing::debug!("the heap cannot be told to return large blocks");
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .enable_all()
        .thread_name("millpond-http")
        // Opening and closing the store run beside the lanes.
        .max_blocking_threads(Lanes::threads(config.blocking_threads) + 4);
    if config.workers > 0 {
        builder.worker_threads(config.workers);
    }
    let runtime = builder.build().context("the async runtime cannot be started")?;
    match runtime.block_on(serve(config)) {
        Ok(Ended::Cut(signal)) => {
            runtime.shutdown_background();
            Ok(ExitCode::from(signal.exit_code()))
        }
        outcome => {
            // Requests that were cut off by the end of the drain go with the runtime.
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome.map(|_in_order| ExitCode::SUCCESS)
        }
    }
}

async fn serve(config: &Config) -> anyhow::Result<Ended> {
    let mut signals = Signals::of_process()?;
    process_limits::heed_file_size()?;
    let files = process_limits::raise_open_files();
    let listener = bind(config.listen)?;
    let address = listener.local_addr().context("the listening address is unknown")?;
    let app = App::new(config.limits()?).with_access(config.access()?);
    let (stop, stopped) = watch::channel(false);
    let limits = fitting(config.connection_limits()?, files);
    app.shared().metrics.http.connections_max.set(i64::try_from(limits.connections_max)?);
    // It ends with the runtime.
    drop(tokio::spawn(heap::give_back(Arc::clone(app.shared()))));
    let accepting = tokio::spawn(listener::accept(listener, app.clone(), limits, stopped));
    let engine = tokio::select! {
        opened = open(config, app.shared().progress.clone()) => opened?,
        _ = signals.next() => {
            // Recovery writes nothing that another recovery does not write again.
            tracing::info!("stopped before the store was open");
            return Ok(Ended::InOrder);
        }
    };
    app.shared().open(Arc::clone(&engine));
    let default_is_there = engine.list_kvs()?.iter().any(|kvs| kvs.name == DEFAULT_KVS);
    if let Err(error) = announce(address, default_is_there) {
        // Whoever closed it does not want to know; the log says the same.
        tracing::warn!(%error, "standard output cannot be written");
    }
    warn_of_strangers(address, &config.data);
    tracing::info!(%address, data = %config.data.display(), "serving");

    let signal = signals.next().await;
    tracing::info!(
        %signal,
        "stopping: requests under way are finished and the store is closed; another signal ends the \
         process without that"
    );
    let bounds = Bounds { drain: config.drain_timeout.0, close: config.close_timeout.0 };
    shutdown::run((&app, engine), (accepting, stop), bounds, &mut signals).await
}

/// The limits on connections, with as many as `files` that may be open leave room for.
fn fitting(asked: ConnectionLimits, files: u64) -> ConnectionLimits {
    let connections_max = process_limits::connections_that_fit(asked.connections_max, files);
    if connections_max < asked.connections_max {
        tracing::warn!(
            asked = asked.connections_max,
            connections_max,
            files,
            "option connections does not fit the files that this process may have open (ulimit -n, \
             LimitNOFILE= of systemd): fewer connections are served at a time"
        );
    }
    ConnectionLimits { connections_max, ..asked }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "port {} of {} is in use; choose another with --listen, or port 0 for a free one",
            address.port(),
            address.ip()
        ),
        _ => anyhow!("cannot listen on {address}: {error}; choose another with --listen"),
    })
}

/// Opens the store on a thread that may block. A new one begins with the KVS `default`.
async fn open(config: &Config, progress: OpenProgress) -> anyhow::Result<Arc<dyn Engine>> {
    let (directory, mut options) = (config.data.clone(), config.engine_options()?);
    options.initial_kvs = vec![DEFAULT_KVS.to_owned()];
    capacity::tell_memory(config.memory, config.memtable);
    let asked = config.capacity;
    let shown = directory.display().to_string();
    let begun = Instant::now();
    let opened = tokio::task::spawn_blocking(move || {
        // Whatever is wrong with the pool is told by the attempt to open it.
        let found = match mpool::Pool::identify(&directory, &options.pool) {
            // It has been waited for once.
            Err(error @ mpool::Error::InUse { .. }) => return Err(error.into()),
            found => found.ok(),
        };
        let limit = capacity::limit(asked, found.and_then(|pool| pool.capacity_bytes_max));
        if let Some(Size(bytes)) = limit.opens_with {
            options.pool.capacity_bytes_max = bytes;
        }
        let database = Database::open_watched(&directory, options, &progress)?;
        limit.keep(database.pool());
        capacity::tell_outside(database.pool());
        Ok(database)
    });
    let database: Result<Database, Error> = opened.await.context("opening the store failed")?;
    if let Err(Error::Pool(mpool::Error::InUse { path })) = &database {
        let path = path.display();
        bail!(
            "the store in {shown} cannot be opened: {path} is in use by another process, which `fuser \
             -v {path}` names; stop that, or serve another directory with --data"
        );
    }
    let note = match &database {
        Err(Error::Pool(mpool::Error::Full { .. })) => process_limits::file_size_note(),
        Ok(_) | Err(_) => String::new(),
    };
    let way_out = database.as_ref().err().map_or_else(String::new, way_out);
    // Of the causes, which come after it, the way out is the end.
    let database = database.map_err(|error| {
        anyhow!("the store in {shown} cannot be opened{note}: {}{way_out}", Chain(&error))
    })?;
    if database.is_read_only() {
        let left_out = database.losses().len();
        tracing::warn!(left_out, "the store is open for reading only");
    } else {
        capacity::tell_full(&database.space());
    }
    tracing::info!(elapsed = ?begun.elapsed(), "the store is open");
    Ok(Arc::new(database))
}

/// What can be done about damage that keeps a store from opening.
fn way_out(error: &Error) -> String {
    let advice = match error {
        Error::Pool(mpool::Error::Corrupt { .. }) => {
            Some("millpond pool check names all that is damaged, and what can be done about it")
        }
        other => other.way_out().map(WayOut::advice),
    };
    advice.map_or_else(String::new, |advice| format!("; {advice}"))
}

/// The lines a person, or a program that started us, waits for.
fn announce(address: SocketAddr, default_is_there: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in announcement(address, default_is_there) {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Where it listens, and two commands to try.
fn announcement(address: SocketAddr, default_is_there: bool) -> [String; 3] {
    // A wildcard is no address to connect to.
    let reachable = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    };
    let url = format!("http://{reachable}/v1");
    let [first, second] = if default_is_there {
        let key = format!("{url}/kv/{DEFAULT_KVS}/greeting");
        [format!("curl -X PUT --data-binary 'hello, pond' {key}"), format!("curl {key}")]
    } else {
        [format!("curl {url}/kvs"), format!("curl -X PUT {url}/kvs/{DEFAULT_KVS}")]
    };
    [format!("listening on http://{address}"), first, second]
}

/// Says who may get at the data beside its owner.
fn warn_of_strangers(address: SocketAddr, data: &Path) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "there is no authentication: whoever reaches this address reads and writes everything; \
             listen on a loopback address, or let only trusted hosts reach the port"
        );
    }
    let Ok(found) = std::fs::metadata(data) else { return };
    let mode = found.permissions().mode() & 0o777;
    // Files have 0600; who may write to the directory can take them away all the same.
    if mode & 0o002 != 0 {
        tracing::warn!(
            data = %data.display(), mode = %format_args!("{mode:o}"),
            "every user of this machine may write to the directory of the data; chmod 700 it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_can_be_tried() {
        let wildcard = "0.0.0.0:7300".parse().unwrap();
        let [listening, put, get] = announcement(wildcard, true);
        assert_eq!(listening, "listening on http://0.0.0.0:7300");
        assert!(put.ends_with("http://127.0.0.1:7300/v1/kv/default/greeting"), "{put}");
        assert!(get.ends_with("http://127.0.0.1:7300/v1/kv/default/greeting"), "{get}");
        let [_, list, create] = announcement("[::]:7300".parse().unwrap(), false);
        assert_eq!(list, "curl http://[::1]:7300/v1/kvs");
        assert_eq!(create, "curl -X PUT http://[::1]:7300/v1/kvs/default");
    }
}
