//! How long a transfer may take, how much it may carry, and how it is called off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a transfer may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Resolving the name, connecting and the TLS handshake, together.
    pub connect: Duration,
    /// The longest time in which not a byte may come or go.
    pub read: Duration,
    /// The whole call, redirects and all. What drips is stopped by this one.
    pub total: Duration,
    /// Bytes of a body, uploaded or fetched. Counted while they come: no header is believed.
    pub max_size: u64,
}

/// A token that calls a running transfer off, from another thread or a signal handler: setting it
/// is one atomic store. The transfer ends about 20 ms later with [`Kind::Cancelled`], its connection
/// closed. A token stays set.
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
