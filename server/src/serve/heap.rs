//! Memory that a crowd of clients has left in the heap goes back to the system.
//!
//! Heads of requests, and the buffers of connections, are blocks of 8 to 128 KiB. The heap keeps
//! those when they are freed: 3,000 connections with unfinished heads left 400 MiB behind. So now
//! and then [`Crowd`] decides, purely, whether most of those that were there have gone. If so the
//! heap is told to give back what is free. That takes milliseconds and happens once for each
//! crowd, so that a server with steady clients never does it.

use crate::state::Shared;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Fewer connections leave little behind.
const CONNECTIONS_MIN: usize = 256;

/// Fewer bytes of heads are not worth the time.
const HEAD_BYTES_MIN: usize = 8 << 20;

/// Most of what was there at a time, since the last crowd went.
#[derive(Debug, Default)]
struct Crowd {
    connections: usize,
    head_bytes: usize,
}

impl Crowd {
    /// Whether most have gone, of whom there were many. `peak` is since the last look.
    fn has_gone(&mut self, peak: &Self, now: &Self) -> bool {
        self.connections = self.connections.max(peak.connections);
        self.head_bytes = self.head_bytes.max(peak.head_bytes);
        let most = |before: usize, now: usize, min| before >= min + now && before / 2 >= now;
        let gone = most(self.connections, now.connections, CONNECTIONS_MIN)
            || most(self.head_bytes, now.head_bytes, HEAD_BYTES_MIN);
        if gone {
            *self = Self { ..*now };
        }
        gone
    }
}

/// Looks for as long as it is polled.
pub(crate) async fn give_back(shared: Arc<Shared>) {
    let mut crowd = Crowd::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let http = &shared.metrics.http;
        let count = |connections| usize::try_from(connections).unwrap_or(0);
        let peak = Crowd {
            connections: count(http.take_connections_peak()),
            head_bytes: shared.heads.take_peak(),
        };
        let now = Crowd {
            connections: count(http.connections.get()),
            head_bytes: shared.heads.held_bytes(),
        };
        if crowd.has_gone(&peak, &now) {
            let given = tokio::task::spawn_blocking(mpool::return_free_memory).await;
            tracing::debug!(
                given = given.unwrap_or(false),
                "a crowd has gone, and its memory with it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_goes_once() {
        const MIB: usize = 1 << 20;
        let mut crowd = Crowd::default();
        let mut look = |connections, peak_mib, now_mib| {
            let peak = Crowd { connections, head_bytes: peak_mib * MIB };
            crowd.has_gone(&peak, &Crowd { connections, head_bytes: now_mib * MIB })
        };
        for (connections, peak_mib, now_mib, gone) in [
            (10, 0, 0, false),
            (3000, 0, 0, false),
            (1501, 0, 0, false),
            (1500, 0, 0, true),
            (1400, 0, 0, false),
            (1000, 64, 64, false),
            (1000, 64, 40, false),
            (1000, 40, 1, true),
            (1000, 1, 1, false),
            // Come and gone between two looks.
            (1000, 9, 1, true),
            (700, 1, 0, false),
            (1, 0, 0, true),
            (200, 0, 0, false),
            (0, 0, 0, false),
        ] {
            let seen = look(connections, peak_mib, now_mib);
            assert_eq!(seen, gone, "{connections} {peak_mib} {now_mib}");
        }
    }
}
