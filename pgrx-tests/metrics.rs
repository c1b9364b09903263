//! The view `civic.metrics`, and the files of docs/monitoring/ over it: what these tests share.

mod access;
mod books;
mod exporter;
mod files;

use std::collections::BTreeSet;

use super::support::cluster::Cluster;
use super::support::{APPLICATION, REALTIME, SUPABASE, Session, wait_until};

/// A cluster with the workers, Supabase Realtime and the application's tables.
pub fn served(settings: &[&str]) -> Cluster {
    let cluster = Cluster::preloaded("metrics", settings, |cluster| {
        let mut session = cluster.superuser();
        for fixture in [SUPABASE, REALTIME, APPLICATION] {
            session.run(fixture);
        }
        session.run("CREATE EXTENSION pg_civic");
        session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    });
    let mut session = cluster.superuser();
    wait_until("the workers run", || {
        ["relay", "media", "media_tables"].iter().all(|worker| {
            value(&mut session, "pg_civic_worker_up", &format!("{{\"worker\": \"{worker}\"}}"))
                == 1.0
        })
    });
    cluster
}

/// The same, after a whole check: then every metric is there.
fn checked() -> Cluster {
    let cluster = served(&[]);
    cluster.superuser().run("SELECT count(*) FROM civic.check()");
    cluster
}

/// The value of a metric with these labels.
#[track_caller]
pub fn value(session: &mut Session, name: &str, labels: &str) -> f64 {
    let sql =
        format!("SELECT value FROM civic.metrics WHERE name = '{name}' AND labels = '{labels}'");
    session.text(&sql).parse().expect("a number")
}

/// The names of all metrics.
fn names(session: &mut Session) -> BTreeSet<String> {
    session.column("SELECT DISTINCT name FROM civic.metrics").into_iter().collect()
}
