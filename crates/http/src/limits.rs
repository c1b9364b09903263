//! How long a transfer may take, how much it may carry, and how it is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The limits of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Name resolution, connection and TLS handshake together.
    pub connect: Duration,
    /// The longest time without a byte received or sent.
    pub read: Duration,
    /// The whole call, including redirects. It also stops a server that sends very slowly.
    pub total: Duration,
    /// Bytes of a body, uploaded or fetched. They are counted as they arrive, because a
    /// Content-Length may be wrong.
    pub max_size: u64,
    /// Names that are looked up at once in the whole process. Nothing can stop a look-up that hangs: each
    /// keeps a thread. Another transfer waits for one to end.
    pub lookups: usize,
}

/// Cancels a running transfer from another thread or a signal handler: setting it is one atomic
/// store. The transfer ends about 20 ms later with [`Kind::Cancelled`], and its connection is closed.
/// It cannot be reset.
///
/// [`Kind::Cancelled`]: crate::Kind::Cancelled
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn new() -> Cancel {
        Cancel::default()
    }

    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
