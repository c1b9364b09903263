//! Fake servers for the Storage API and for Twilio, on loopback, for tests, demo and bench.
//!
//! [`FakeServer`] gives the answers that a test specifies, including faulty ones, and records the
//! requests. [`Storage`] and [`Twilio`] behave like the real services. Each takes a free port. A
//! server and its connections end when the value is dropped. [`Process`] is a [`Storage`] in a
//! separate process, which can be killed and keeps its files on disk.

mod answer;
pub mod certificate;
mod client;
mod jwt;
mod process;
mod request;
mod server;
mod storage;
mod twilio;

pub use answer::Answer;
pub use client::Client;
pub use jwt::{sign as sign_jwt, verify as verify_jwt};
pub use process::Process;
pub use request::Request;
pub use server::{FakeServer, Gate, sequence};
pub use storage::{Errors, Object, Options, Storage};
pub use twilio::Twilio;
