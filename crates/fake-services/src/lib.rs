//! Servers on loopback that stand in for the Storage API and for Twilio: for tests, demo and bench.
//!
//! [`FakeServer`] answers as a test tells it to, in good weather and bad, and records what it was asked.
//! [`Storage`] and [`Twilio`] behave as the services do. Each takes a port that is free. A server and
//! its connections end when the value is dropped. [`Process`] is a [`Storage`] in a process of its
//! own, which can be killed and keeps its files on disk.

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
pub use storage::{Errors, Moves, Object, Options, Storage};
pub use twilio::Twilio;
