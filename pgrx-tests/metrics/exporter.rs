//! A scrape through Debian's postgres_exporter, as a member of pg_monitor.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{checked, value};
use crate::pg_tests::support::{TENANT, wait_until};

/// Ends with this value.
struct Exporter {
    process: Child,
    port: u16,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Exporter {
    fn start(program: &std::path::Path, source: &str) -> Exporter {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port that is free");
            free.local_addr().expect("an address").port()
        };
        let process = Command::new(program)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--disable-default-metrics", "--disable-settings-metrics", "--log.level=error"])
            .arg("--extend.query-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring/queries.yaml"))
            .env("DATA_SOURCE_NAME", source)
            .stdin(Stdio::null())
            // Its own queries of the server do not know every major version.
            .stderr(Stdio::null())
            .spawn()
            .expect("the exporter runs");
        Exporter { process, port }
    }

    fn scrape(&self) -> Option<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: exporter\r\n\r\n").ok()?;
        let mut response = String::new();
        connection.read_to_string(&mut response).ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }
}

/// One sample of Prometheus' text format: name, labels, value.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("the end of labels")),
    };
    let labels = labels.split("\",").filter(|label| !label.is_empty()).map(|label| {
        let (key, text) = label.split_once("=\"").expect("a label");
        (key.to_owned(), text.trim_end_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().expect("a number"))
}

/// Writes past the test harness, which shows only the output of failed tests.
fn skipped(why: &str) {
    let line = format!("the test with a real exporter is skipped: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[test]
fn a_real_exporter_scrapes_every_metric_of_the_view() {
    // `make test` sets it if Debian has the package.
    let Some(directory) = std::env::var_os("PG_CIVIC_POSTGRES_EXPORTER") else {
        return skipped("PG_CIVIC_POSTGRES_EXPORTER names no directory with the package's files");
    };
    let program = std::path::Path::new(&directory).join("usr/bin/prometheus-postgres-exporter");
    if !program.is_file() {
        return skipped(&format!("{} does not exist", program.display()));
    }
    let cluster = checked();
    let mut session = cluster.superuser();
    session.run("CREATE ROLE exporter LOGIN IN ROLE pg_monitor");
    for number in 0..5 {
        session.run(&format!(
            "INSERT INTO tickets (tenant_id, tracking_number, category, status)
             VALUES ('{TENANT}', '{number}', 'water', 'open')"
        ));
    }
    let (directory, _) = cluster.address();
    let exporter = Exporter::start(
        &program,
        &format!("host={} user=exporter dbname=postgres sslmode=disable", directory.display()),
    );
    let mut text = String::new();
    wait_until("the exporter answers with all of it", || {
        text = exporter.scrape().unwrap_or_default();
        text.contains("pg_civic_firewall_refused_uploads_total")
    });

    let failed = text.lines().find(|line| line.starts_with("pg_exporter_last_scrape_error"));
    assert_eq!(failed.map(|line| sample(line).2), Some(0.0), "{text}");
    let types: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut scraped = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("pg_civic_")) {
        let (name, mut labels, value) = sample(line);
        labels.remove("server");
        assert!(value.is_finite(), "{line}");
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        assert_eq!(types.get(name.as_str()), Some(&kind), "{line}");
        assert!(!line.contains(TENANT), "{line}");
        assert!(scraped.insert((name, serde_json::json!(labels).to_string())), "twice: {line}");
        if line.starts_with("pg_civic_events_total") && labels["transport"] == "relay" {
            assert_eq!(value, 5.0, "{line}");
        }
    }
    let rows = session.rows("SELECT name, labels FROM civic.metrics");
    let expected: BTreeSet<_> = rows
        .iter()
        .map(|row| {
            let labels: BTreeMap<String, String> =
                serde_json::from_str(row[1].as_deref().expect("labels")).expect("JSON");
            (row[0].clone().expect("a name"), serde_json::json!(labels).to_string())
        })
        .collect();
    assert_eq!(scraped, expected);
    let sent = "{\"transport\": \"relay\", \"outcome\": \"sent\"}";
    assert_eq!(value(&mut session, "pg_civic_events_total", sent), 5.0);
}
