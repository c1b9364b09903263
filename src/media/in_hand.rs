//! The jobs that the worker has in hand.
//!
//! They are the process's and not the worker's own: where an order to end meets the worker amid a
//! transaction, the server ends the process there, and only what it calls at the end still sees them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use civic_http::Cancel;
use pgrx::Uuid;

use super::queue::Claim;
use super::turn;
use crate::pg::shared;

/// A job that is claimed: it waits for a look at its ticket, travels, or waits to be recorded.
pub struct InHand {
    pub claim: Claim,
    pub cancel: Cancel,
    /// Whether its transfer has begun.
    pub has_begun: bool,
    /// Content type and size in bytes of the file, once it is stored.
    pub stored: Option<(String, u64)>,
}

static IN_HAND: LazyLock<Mutex<HashMap<Uuid, InHand>>> = LazyLock::new(Mutex::default);

/// Whoever has this calls nothing of the server's meanwhile, so that the server ends no process that
/// has it.
pub fn jobs() -> MutexGuard<'static, HashMap<Uuid, InHand>> {
    IN_HAND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At an end in good order no job loses a try.
pub fn release_all() {
    if let Some(shared) = shared::shared() {
        shared.mailbox.withdraw();
    }
    let released: Vec<_> = jobs().drain().map(|(_, in_hand)| in_hand).collect();
    if !released.is_empty() {
        turn::release(&released);
    }
}
