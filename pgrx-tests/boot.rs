//! Starting the server is what a `#[pg_test]` does first: the other tests ask for this one.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;

    #[pg_test]
    fn boot() {}
}
