//! The server in the test's own process, on an engine in memory.

use super::Client;
use millpond::app::App;
use millpond::connection::ConnectionLimits;
use millpond::engine::memory::MemoryEngine;
use millpond::serve::listener::{accept, bind};
use millpond::state::Limits;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use tokio::sync::watch;

/// A server in this process, on a runtime of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) drained: mpsc::Receiver<()>,
}

impl Server {
    pub(crate) fn start(limits: ConnectionLimits) -> Self {
        Self::with(Limits::default(), limits)
    }

    pub(crate) fn with(requests: Limits, limits: ConnectionLimits) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let app = App::with_engine(Arc::<MemoryEngine>::clone(&engine), requests);
        let (stop, stopped) = watch::channel(false);
        let (tell_address, address) = mpsc::channel();
        let (tell_drained, drained) = mpsc::channel();
        let served = app.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
                tell_address.send(listener.local_addr().unwrap()).unwrap();
                let mut draining = accept(listener, served, limits, stopped).await;
                draining.finished().await;
                tell_drained.send(()).unwrap();
            });
        });
        Self { address: address.recv().unwrap(), app, engine, stop, drained }
    }

    /// The value of a metric, named with its labels; 0 before it is there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.connect().send("GET", "/metrics", b"").unwrap();
        let line = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    pub(crate) fn wait_for(&self, name: &str, value: u64) {
        while self.metric(name) != value {
            std::thread::yield_now();
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address).unwrap()
    }
}
