//! Media that comes in over WhatsApp: from Twilio into the bucket where it belongs.

mod attach;
mod download;
mod enqueue;
mod in_hand;
pub mod job;
pub mod queue;
pub mod target;
mod transfer;
mod turn;
mod worker;

/// Prepares the worker. Call it while the library is preloaded.
pub fn initialize() {
    worker::register();
}
