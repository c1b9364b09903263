//! Media that comes in over WhatsApp: from Twilio into the bucket where it belongs.

mod download;
pub mod target;
