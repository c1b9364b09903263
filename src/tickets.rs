//! Tickets: the tables that hold them, whether one is sensitive, and which become so.

pub mod sensitivity;
pub mod tables;
pub mod transitions;
