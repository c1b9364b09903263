//! Media that comes in over WhatsApp: from Twilio into the bucket where it belongs.

mod attach;
mod download;
mod enqueue;
mod error;
mod in_hand;
pub mod job;
pub mod queue;
pub mod request;
mod stalls;
pub mod tables;
pub mod target;
mod transfer;
mod turn;
mod worker;

pub use error::MediaError;

/// Prepares the worker and its helper. Call it while the library is preloaded.
pub fn initialize() {
    worker::register();
    tables::register();
}
