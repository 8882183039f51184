//! How the server ends: it drains, closes the store, and waits for neither without a bound.
//!
//! ```text
//!   signal --> draining --all finished, or drain_timeout--> closing --closed--> exit 0
//!                 |                                            `-close_timeout--> exit 1
//!                 `------ a second signal, at any time --------> exit 128 + its number
//! ```
//!
//! `timeout` and some supervisors send a signal to the process and to its group, so that it comes
//! twice in a moment: that is one signal.
//!
//! While it lasts connections are accepted still: `/readyz` says `draining`, `/livez`, `/metrics`
//! and `/version` answer, everything else is refused as `closing`. However it ends, whatever was
//! acknowledged is in the log. A drive that does not answer would hold up the close for ever, and
//! the drop of the store as well, so what did not end in order is left to the end of the process.

use crate::app::App;
use crate::engine::Engine;
use crate::serve::listener::Draining;
use crate::state::Phase;
use anyhow::{Context, bail};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Within this time after a signal the same one is not another one. People are slower.
const ECHO: Duration = Duration::from_millis(100);

/// What a second signal leaves, for the log.
const CUT: &str = "the store is not closed; what was acknowledged as durable is in its log, and the \
                   next start replays that";

/// How long the end may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For requests under way to finish.
    pub drain: Duration,
    /// For the store to close.
    pub close: Duration,
}

/// A signal that ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

impl Signal {
    /// What a shell shows for a process that this signal ended.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => 128 + 15,
            Self::Interrupt => 128 + 2,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The store is closed.
    InOrder,
    /// A second signal was not to be kept waiting.
    Cut(Signal),
}

/// Signals as they come. Each is seen once, whatever the server is doing.
#[derive(Debug)]
pub struct Signals {
    coming: mpsc::Receiver<(Signal, Instant)>,
    last: Option<(Signal, Instant)>,
}

impl Signals {
    /// The process's own SIGTERM and SIGINT.
    pub fn of_process() -> anyhow::Result<Self> {
        let (tell, coming) = mpsc::channel(4);
        for (kind, what) in [
            (SignalKind::terminate(), Signal::Terminate),
            (SignalKind::interrupt(), Signal::Interrupt),
        ] {
            let mut seen = signal(kind).with_context(|| format!("{what} cannot be awaited"))?;
            let tell = tell.clone();
            tokio::spawn(async move {
                while seen.recv().await.is_some() && tell.send((what, Instant::now())).await.is_ok()
                {
                }
            });
        }
        Ok(Self::of_channel(coming))
    }

    /// Signals that another part of the program sends, with the times at which they came.
    pub fn of_channel(coming: mpsc::Receiver<(Signal, Instant)>) -> Self {
        Self { coming, last: None }
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        while let Some((signal, at)) = self.coming.recv().await {
            let echoes = |(last, then)| signal == last && at.duration_since(then) < ECHO;
            if !self.last.is_some_and(echoes) {
                self.last = Some((signal, at));
                return signal;
            }
        }
        // Nobody is left who could send one.
        std::future::pending().await
    }
}

/// Ends a server whose accept loop ends when `stop` is told to it.
pub async fn run(
    (app, engine): (&App, Arc<dyn Engine>),
    (accepting, stop): (JoinHandle<Draining>, watch::Sender<bool>),
    bounds: Bounds,
    signals: &mut Signals,
) -> anyhow::Result<Ended> {
    app.shared().set_phase(Phase::Draining);
    stop.send_replace(true);
    // Kept to the end, so that connections are accepted while the store closes.
    let mut draining = accepting.await.context("the accept loop failed")?;
    let ended = tokio::select! {
        () = draining.finished() => {
            tracing::info!("all requests are finished");
            None
        }
        () = tokio::time::sleep(bounds.drain) => {
            // A response that its client does not read keeps a connection, and is no request.
            let http = &app.shared().metrics.http;
            let (requests, connections) = (http.in_flight(), http.connections.get());
            let after = bounds.drain;
            tracing::warn!(requests, connections, ?after, "what is under way is cut off");
            None
        }
        signal = signals.next() => Some(signal),
    };
    if let Some(signal) = ended {
        tracing::warn!(%signal, "another signal before all requests were finished: ending at once; {CUT}");
        leave(engine);
        return Ok(Ended::Cut(signal));
    }
    close(engine, bounds.close, signals).await
}

async fn close(
    engine: Arc<dyn Engine>,
    time_max: Duration,
    signals: &mut Signals,
) -> anyhow::Result<Ended> {
    let closed = Arc::clone(&engine);
    let mut closing = tokio::task::spawn_blocking(move || closed.close());
    let closed = tokio::select! {
        closed = &mut closing => closed.context("closing the store failed")?,
        () = tokio::time::sleep(time_max) => {
            leave(engine);
            bail!(
                "the store did not close within {} s (option close_timeout): the drive does not \
                 answer, or has too much to write; the process ends without waiting for it. What \
                 was acknowledged is in the log and will be recovered at the next start",
                time_max.as_secs()
            );
        }
        signal = signals.next() => {
            tracing::warn!(%signal, "another signal before the store was closed: ending at once; {CUT}");
            leave(engine);
            return Ok(Ended::Cut(signal));
        }
    };
    closed.context(
        "the store could not be closed in order; what was acknowledged is in its log and will be \
         recovered at the next start",
    )?;
    tracing::info!("the store is closed");
    Ok(Ended::InOrder)
}

/// Leaves the store to the end of the process: dropping its last handle would wait for the drive.
fn leave(engine: Arc<dyn Engine>) {
    Box::leak(Box::new(engine));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ConnectionLimits;
    use crate::engine::memory::MemoryEngine;
    use crate::serve::listener::accept;
    use crate::state::Limits;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_hours(1);

    /// A server that is told to stop, on a store that may never close.
    async fn ended(
        engine: Arc<MemoryEngine>,
        bounds: Bounds,
        signals: Vec<Signal>,
    ) -> anyhow::Result<Ended> {
        let app = App::with_engine(Arc::<MemoryEngine>::clone(&engine), Limits::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let limits = ConnectionLimits::default();
        let accepting = tokio::spawn(accept(listener, app.clone(), limits, stopped));
        let (tell, coming) = mpsc::channel(4);
        for signal in signals {
            tell.send((signal, Instant::now())).await.unwrap();
        }
        let mut signals = Signals::of_channel(coming);
        run((&app, engine), (accepting, stop), bounds, &mut signals).await
    }

    /// `timeout` sends SIGTERM to the process and to its group. A server that took that for two
    /// ended at once and did not close its store.
    #[tokio::test]
    async fn a_signal_that_comes_twice_in_a_moment_is_one() {
        let (tell, coming) = mpsc::channel(8);
        let mut signals = Signals::of_channel(coming);
        let begun = Instant::now();
        let (term, int) = (Signal::Terminate, Signal::Interrupt);
        for (signal, after_ms) in
            [(term, 0), (term, 1), (term, 99), (int, 99), (int, 150), (int, 199), (term, 250)]
        {
            tell.send((signal, begun + Duration::from_millis(after_ms))).await.unwrap();
        }
        drop(tell);
        for want in [term, int, int, term] {
            assert_eq!(signals.next().await, want);
        }
        let more = tokio::time::timeout(Duration::from_millis(1), signals.next()).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[tokio::test]
    async fn an_idle_server_closes_its_store() {
        let engine = Arc::new(MemoryEngine::new());
        let bounds = Bounds { drain: LONG, close: LONG };
        let ended = ended(Arc::clone(&engine), bounds, vec![]).await;
        assert_eq!(ended.unwrap(), Ended::InOrder);
        assert!(engine.is_closed());
    }

    /// A close that hangs on its drive used to hang the process, and nobody read a second signal.
    #[test]
    fn a_store_that_never_closes_does_not_keep_the_process() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let engine = Arc::new(MemoryEngine::new());
        engine.hang_close();
        let bounds = Bounds { drain: LONG, close: Duration::from_millis(1) };
        let outcome = runtime.block_on(ended(Arc::clone(&engine), bounds, vec![]));
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("option close_timeout"), "{error}");
        assert!(error.contains("What was acknowledged is in the log"), "{error}");
        let bounds = Bounds { drain: LONG, close: LONG };
        let outcome = runtime.block_on(async {
            // The drain has nothing to wait for, or takes the signal itself.
            ended(Arc::clone(&engine), bounds, vec![Signal::Terminate]).await
        });
        assert_eq!(outcome.unwrap(), Ended::Cut(Signal::Terminate));
        assert_eq!(Signal::Terminate.exit_code(), 143);
        runtime.shutdown_background();
    }
}
