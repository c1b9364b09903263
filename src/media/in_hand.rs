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

/// A job whose transfer is under way, or has ended and waits to be recorded.
pub struct InHand {
    pub claim: Claim,
    pub cancel: Cancel,
}

static IN_HAND: LazyLock<Mutex<HashMap<Uuid, InHand>>> = LazyLock::new(Mutex::default);

/// Whoever has this calls nothing of the server's meanwhile, so that the server ends no process that
/// has it.
pub fn jobs() -> MutexGuard<'static, HashMap<Uuid, InHand>> {
    IN_HAND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At an end in good order no job loses a try.
pub fn release_all() {
    let claims: Vec<_> = jobs().drain().map(|(_, in_hand)| in_hand.claim).collect();
    if !claims.is_empty() {
        turn::release(&claims);
    }
}
