//! Tests on a real server, each with its own database, as real roles in real sessions.
//!
//! Tests of rules without PostgreSQL are next to their code.

/// Settings of the test server. With hundreds of databases, autovacuum would start a process every tenth
/// of a second.
pub const CONFIGURATION: [&str; 4] =
    ["fsync = off", "autovacuum = off", "max_connections = 200", "max_prepared_transactions = 10"];

mod catalog;
mod claims;
mod documentation;
mod events;
mod extension;
mod layering;
mod media;
mod metrics;
mod protect;
mod relay;
mod replaced;
mod setup;
mod storage;
mod support;
mod text_attacks;
mod upgrade;
