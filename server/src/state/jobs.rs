//! Emptying a volume while the server serves: one at a time, on a thread of its own.
//!
//! The work is the pool's and can be repeated; nothing of it is lost when the process ends.

use crate::api::problem::Chain;
use crate::documents::pool as document;
use crate::engine::Engine;
use mpool::VolumeId;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is, or was last, under way.
#[derive(Clone, Default)]
pub struct Jobs {
    evacuation: Arc<Mutex<Option<Value>>>,
}

impl Jobs {
    /// The evacuation under way, or the last one.
    pub(crate) fn evacuation(&self) -> Option<Value> {
        self.evacuation.lock().clone()
    }

    /// Begins to empty a volume; the id of the volume that is being emptied if there is one.
    pub(crate) fn evacuate(&self, engine: Arc<dyn Engine>, volume: VolumeId) -> Result<(), String> {
        let mut evacuation = self.evacuation.lock();
        if let Some(running) = evacuation.as_ref().filter(|job| job["running"] == true) {
            return Err(running["volume"].as_str().unwrap_or_default().to_owned());
        }
        let begun = json!({
            "volume": volume.to_string(), "running": true, "moved": 0, "moved_bytes": 0,
            "left": null, "logs_left": [], "failed": [], "error": null,
        });
        *evacuation = Some(begun);
        drop(evacuation);
        let shown = Arc::clone(&self.evacuation);
        let work = move || {
            let mut moved = 0_u64;
            let outcome = engine.evacuate_volume(volume, &mut |left| {
                moved += 1;
                if let Some(job) = &mut *shown.lock() {
                    (job["moved"], job["left"]) = (moved.into(), left.into());
                }
            });
            let ended = match outcome {
                Ok(done) => document::evacuation(volume, &done),
                Err(error) => {
                    tracing::error!(%volume, error = %Chain(&error), "emptying a volume failed");
                    let mut job = shown.lock().clone().unwrap_or_default();
                    job["running"] = false.into();
                    job["error"] = Chain(&error).to_string().into();
                    job
                }
            };
            *shown.lock() = Some(ended);
        };
        let thread = std::thread::Builder::new().name("pool-evacuate".to_owned()).spawn(work);
        // The thread ends with its work or with the process.
        thread.map(drop).map_err(|error| error.to_string())
    }
}
