//! Tickets: the tables that hold them, whether one is sensitive, and which become so.

pub mod attach;
mod error;
mod mark;
pub mod sensitivity;
pub mod tables;
pub mod ticket;
pub mod transitions;

pub use error::TicketError;
