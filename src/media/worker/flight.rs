//! The jobs in flight: claimed, and not recorded yet.
//!
//! They belong to the process and not to the worker: where a shutdown request reaches the worker during a
//! transaction, the server ends the process there, and only what it calls at the end still sees them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use civic_http::Cancel;
use pgrx::Uuid;

use crate::media::store::Job;

/// A job in flight: it waits for a look at other tables, travels, or waits to be recorded.
pub struct InFlight {
    pub job: Job,
    pub cancel: Cancel,
    /// Whether its transfer has begun.
    pub has_begun: bool,
    /// Content type and size in bytes of the file, once it is stored.
    pub stored: Option<(String, u64)>,
}

static IN_FLIGHT: LazyLock<Mutex<HashMap<Uuid, InFlight>>> = LazyLock::new(Mutex::default);

/// While this is held nothing of the server's is called, so that the server ends no process that holds it.
pub fn jobs() -> MutexGuard<'static, HashMap<Uuid, InFlight>> {
    IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner)
}
