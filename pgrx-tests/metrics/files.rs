//! The files of docs/monitoring/ name metrics that exist, and every metric that exists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{checked, names};
use crate::pg_tests::support::Session;

const QUERIES: &str = include_str!("../../docs/monitoring/queries.yaml");
const DASHBOARD: &str = include_str!("../../docs/monitoring/dashboard.json");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// A query of the exporter's file, and its columns with their usage.
struct Query {
    namespace: String,
    sql: String,
    columns: Vec<(String, String)>,
}

/// What the file says, in the form that this file has: two spaces per level.
fn queries() -> Vec<Query> {
    let mut queries: Vec<Query> = vec![];
    for line in QUERIES.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let text = line.trim_start();
        match line.len() - text.len() {
            0 => queries.push(Query {
                namespace: text.trim_end_matches(':').to_owned(),
                sql: String::new(),
                columns: vec![],
            }),
            4 if text.starts_with("- ") => {
                let name = text.trim_start_matches("- ").trim_end_matches(':').to_owned();
                queries.last_mut().expect("a query").columns.push((name, String::new()));
            }
            4 | 6 => {
                let sql = &mut queries.last_mut().expect("a query").sql;
                sql.push_str(text);
                sql.push('\n');
            }
            8 if text.starts_with("usage: ") => {
                let usage = text.trim_start_matches("usage: ").trim_matches('"').to_owned();
                let columns = &mut queries.last_mut().expect("a query").columns;
                columns.last_mut().expect("a column").1 = usage;
            }
            _ => {}
        }
    }
    queries
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("pg_civic_"));
    words.map(str::to_owned).collect()
}

/// The labels of each metric of the view.
fn labels(session: &mut Session) -> BTreeMap<String, BTreeSet<String>> {
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in session.rows(
        "SELECT DISTINCT name, label FROM civic.metrics
         LEFT JOIN LATERAL jsonb_object_keys(labels) label ON true",
    ) {
        labels.entry(row[0].clone().expect("a name")).or_default().extend(row[1].clone());
    }
    labels
}

#[test]
fn every_query_of_the_exporters_file_runs_as_pg_monitor_and_gives_the_metrics_of_the_view() {
    let cluster = checked();
    let mut session = cluster.superuser();
    let labels = labels(&mut session);
    session.run("CREATE ROLE exporter IN ROLE pg_monitor; SET ROLE exporter");
    let mut exported = BTreeSet::new();
    for Query { namespace, sql, columns } in queries() {
        let rows = session.rows(&sql);
        assert!(!rows.is_empty(), "{sql}");
        let is_complete = |row: &Vec<Option<String>>| row.iter().all(Option::is_some);
        assert!(rows.iter().all(is_complete), "{sql}: {rows:?}");
        let found = session.client().prepare(&sql).expect("it can be prepared");
        let found: Vec<_> = found.columns().iter().map(|it| it.name().to_owned()).collect();
        let expected: Vec<_> = columns.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(found, expected, "{namespace}");
        let own = |(name, usage): &(String, String)| (usage == "LABEL").then(|| name.clone());
        let own: BTreeSet<_> = columns.iter().filter_map(own).collect();
        for (column, usage) in columns.iter().filter(|(_, usage)| usage != "LABEL") {
            let name = format!("{namespace}_{column}");
            let counter = if name.ends_with("_total") { "COUNTER" } else { "GAUGE" };
            assert_eq!(usage, counter, "{name}");
            assert_eq!(labels.get(&name), Some(&own), "labels of {name}");
            exported.insert(name);
        }
    }
    assert_eq!(exported, labels.into_keys().collect());
}

#[test]
fn without_preloading_every_query_of_the_exporters_file_runs() {
    let mut session = crate::pg_tests::support::Database::guarded().superuser();
    for Query { namespace, sql, .. } in queries() {
        let rows = session.rows(&sql);
        let is_known = matches!(namespace.as_str(), "pg_civic" | "pg_civic_media_oldest");
        assert_eq!(!rows.is_empty(), is_known, "{namespace}");
    }
}

#[test]
fn the_dashboard_and_the_documentation_name_every_metric_and_no_other() {
    let cluster = checked();
    let mut session = cluster.superuser();
    let labels = labels(&mut session);
    let all = names(&mut session);
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut shown = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let metrics = named(expression);
            assert!(!metrics.is_empty(), "{expression}");
            let legend = target["legendFormat"].as_str().expect("a legend");
            let shown_labels =
                legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
            for label in shown_labels {
                let has = |name: &String| labels.get(name).is_some_and(|it| it.contains(label));
                assert!(metrics.iter().all(has), "{label} in {expression}");
                assert!(expression.contains(label), "{label} in {expression}");
            }
            for name in &metrics {
                let is_rate = expression.contains(&format!("rate({name}"))
                    || expression.contains(&format!("increase({name}"));
                assert_eq!(is_rate, name.ends_with("_total"), "{name} in {expression}");
            }
            shown.extend(metrics);
        }
    }
    assert_eq!(shown, all);
    let documented = named(OPERATIONS);
    let unknown: Vec<_> = documented.difference(&all).collect();
    assert!(unknown.is_empty(), "docs/operations.md names {unknown:?}");
    let missing: Vec<_> = all.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/operations.md lacks {missing:?}");
}
