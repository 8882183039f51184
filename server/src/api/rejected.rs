//! Reasons to turn something away, as metrics and `X-Millpond-Stall` name them.

/// Why something was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// More connections than allowed.
    Connections,
    /// The blocking pool's queue is full.
    BlockingQueue,
    /// Request bodies hold all the memory they may.
    BodyMemory,
    /// Heads of requests hold all the memory they may.
    HeadMemory,
    /// Responses hold all the memory they may.
    ResponseMemory,
    /// More streams open than allowed.
    Streams,
    /// The engine stalls writers.
    Stalled,
    /// The store is not open yet, or closing.
    NotReady,
}

impl Rejected {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::BlockingQueue,
        Self::BodyMemory,
        Self::HeadMemory,
        Self::ResponseMemory,
        Self::Streams,
        Self::Stalled,
        Self::NotReady,
    ];

    /// As label and in `X-Millpond-Stall`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::BlockingQueue => "blocking_queue",
            Self::BodyMemory => "body_memory",
            Self::HeadMemory => "head_memory",
            Self::ResponseMemory => "response_memory",
            Self::Streams => "streams",
            Self::Stalled => "stalled",
            Self::NotReady => "not_ready",
        }
    }
}
