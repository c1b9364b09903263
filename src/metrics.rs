//! Numbers for monitoring: the function behind the view `civic.metrics`, by Prometheus' conventions.
//!
//! No label names a municipality, a ticket or a file.

mod jobs;
mod server;

use pgrx::JsonB;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use serde_json::{Value, json};

use crate::pg::shared;

/// One value of a metric.
#[derive(Clone)]
struct Metric {
    name: &'static str,
    labels: Value,
    value: f64,
    help: &'static str,
}

impl Metric {
    fn new(name: &'static str, help: &'static str, value: impl Into<Number>) -> Metric {
        Metric::labelled(name, help, json!({}), value)
    }

    fn labelled(
        name: &'static str,
        help: &'static str,
        labels: Value,
        value: impl Into<Number>,
    ) -> Metric {
        Metric { name, labels, value: value.into().0, help }
    }
}

/// What a metric's value is made of. A counter above 2^53 loses its last digits.
struct Number(f64);

impl From<u64> for Number {
    fn from(number: u64) -> Number {
        Number(number as f64)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Number {
        Number(number as f64)
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Number {
        Number(number as f64)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Number {
        Number(number)
    }
}

#[pg_schema]
mod civic {
    use super::*;

    /// What the view `civic.metrics` shows. Without preloading, or where the table of jobs is locked, it
    /// leaves out what it cannot know.
    #[pg_extern(volatile, parallel_unsafe, cost = 1000)]
    #[search_path(pg_catalog, pg_temp)]
    fn metrics() -> TableIterator<
        'static,
        (name!(name, String), name!(labels, JsonB), name!(value, f64), name!(help, String)),
    > {
        let of_server = shared::shared().map(server::metrics).unwrap_or_default();
        let metrics = of_server.into_iter().chain(jobs::metrics());
        let row = |it: Metric| (it.name.to_owned(), JsonB(it.labels), it.value, it.help.to_owned());
        TableIterator::new(metrics.map(row).collect::<Vec<_>>())
    }
}
