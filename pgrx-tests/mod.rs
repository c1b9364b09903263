//! Tests on a real server, each in a database of its own, as real roles in real sessions.
//!
//! Rules without PostgreSQL are tested beside their code; what is here needs a server.

/// Settings of the test server.
pub const CONFIGURATION: [&str; 3] =
    ["fsync = off", "max_connections = 200", "max_prepared_transactions = 10"];

mod access_settings;
mod catalog;
mod check;
mod claims;
mod differential;
mod documentation;
mod exposure;
mod extension;
mod firewall;
mod firewall_attacks;
mod firewall_commands;
mod firewall_outlives;
mod firewall_sessions;
mod layering;
mod media;
mod notify_queue;
mod paths;
mod publish;
mod ranges;
mod realtime;
mod relay;
mod sensitive;
mod service;
mod settled;
mod setup;
mod setup_attacks;
mod setup_rights;
mod setup_sessions;
mod setup_traps;
mod sse;
mod superuser_tables;
mod support;
mod teardown;
mod text_attacks;
mod ticket;
mod ticket_hazards;
mod ticket_triggers;
mod ticket_types;
mod uncovered_rights;
