//! Tests on a real server, each in a database of its own, as real roles in real sessions.
//!
//! Rules without PostgreSQL are tested beside their code; what is here needs a server.

mod boot {
    use pgrx::prelude::*;

    #[pg_schema]
    mod tests {
        use super::*;

        /// Starting the server is what a `#[pg_test]` does first: the tests below ask for this one.
        #[pg_test]
        fn boot() {}
    }
}

/// Settings of the test server.
#[cfg(test)]
pub const CONFIGURATION: [&str; 3] =
    ["fsync = off", "max_connections = 200", "max_prepared_transactions = 10"];

#[cfg(test)]
mod access_settings;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod firewall;
#[cfg(test)]
mod firewall_attacks;
#[cfg(test)]
mod firewall_commands;
#[cfg(test)]
mod firewall_sessions;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod ranges;
#[cfg(test)]
mod support;
