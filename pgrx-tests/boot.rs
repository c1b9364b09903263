//! Starts the server, as a `#[pg_test]` does first: the other tests run this one.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;

    #[pg_test]
    fn boot() {}
}
