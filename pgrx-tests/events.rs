//! The events of each change, through NOTIFY and through Realtime.

mod bulk;
mod moves;
mod notify_queue;
mod publish;
pub mod realtime;
mod sensitive;
mod settled;
mod sse;
mod ticket;
