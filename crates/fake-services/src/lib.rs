//! Fake servers on loopback for the Storage API and Twilio, for tests, demo and bench.
//!
//! [`FakeServer`] sends the responses that a test defines, including faulty ones, and records the
//! requests. [`Storage`] and [`Twilio`] behave like the services. Each listens on a free port. A server
//! and its connections end when the value is dropped. [`Process`] is a [`Storage`] in a separate process,
//! which can be killed and keeps its files on disk. [`RateLimit`] drops what Supabase Realtime drops.

mod answer;
pub mod certificate;
mod client;
mod jwt;
mod process;
mod realtime;
mod request;
mod server;
mod storage;
mod sync;
mod twilio;

pub use answer::Answer;
pub use client::Client;
pub use jwt::{sign as sign_jwt, verify as verify_jwt};
pub use process::Process;
pub use realtime::RateLimit;
pub use request::Request;
pub use server::{FakeServer, sequence};
pub use storage::{Entry, Errors, Moves, Object, Options, Storage};
pub use sync::Gate;
pub use twilio::Twilio;
