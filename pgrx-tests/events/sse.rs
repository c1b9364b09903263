//! The deprecated endpoint: who gets a response, and that EventSource can read it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::pg_tests::support::{DEADLINE, Database, OTHER_TENANT, Session, TENANT, literal};

const ASK: &str = "SELECT civic.dashboard_events()";

/// Name and data of each event of a stream, line by line.
fn events(stream: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let data = serde_json::from_str(field("data: ")?).expect("JSON");
        Some((field("event: ")?.to_owned(), data))
    };
    stream.split("\n\n").filter_map(event).collect()
}

#[test]
fn managers_admins_and_councillors_get_the_stream_of_their_own_municipality() {
    let database = Database::supabase();
    for role in ["manager", "admin", "ward_councillor", "ADMIN"] {
        for tenant_id in [TENANT, OTHER_TENANT] {
            let mut session = database.person(tenant_id, role);
            let events = events(&session.text("SELECT civic.dashboard_events('Ward 5')"));
            let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["connected", "heartbeat"]);
            let connected = &events[0].1;
            assert_eq!(connected["status"], "deprecated");
            assert_eq!(connected["municipality_id"], tenant_id);
            assert_eq!(connected["ward_id"], "Ward 5");
            let channel = format!("ticket_updates:{tenant_id}");
            assert_eq!(connected["migration"]["channel"], json!(channel));
            assert_eq!(connected["migration"]["config"], json!({"private": true}));
            let may_join = format!("SELECT civic.can_join_channel('{channel}')");
            assert_eq!(
                session.text(&may_join),
                "t",
                "the guide names a channel that {role} may join"
            );
        }
    }
}

#[test]
fn others_are_refused() {
    let database = Database::supabase();
    for role in ["citizen", "field_worker", "saps_liaison", "", "manager, admin"] {
        let mut session = database.person(TENANT, role);
        let error = session.error(ASK);
        assert_eq!(error.code().code(), "42501", "{role:?}");
        assert!(error.hint().is_some());
    }
    let mut session = database.superuser();
    assert_eq!(session.sqlstate(ASK), "42501", "without claims there is no caller");
    session.acts_as("anon", "{}");
    assert_eq!(session.sqlstate(ASK), "42501");
    session.acts_as("authenticated", "[]");
    assert_eq!(session.sqlstate(ASK), "28000");
}

#[test]
fn it_is_served_as_the_media_type_of_its_domain() {
    let mut session = Database::supabase().person(TENANT, "manager");
    let domain = session.rows(
        "SELECT t.typname, t.typtype, t.typbasetype::regtype, p.proretset
         FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
         WHERE p.oid = 'civic.dashboard_events'::regproc",
    );
    let domain: Vec<_> = domain[0].iter().map(|value| value.as_deref().unwrap()).collect();
    assert_eq!(domain, ["text/event-stream", "d", "text", "f"]);
    // PostgREST calls it by GET in a read-only transaction.
    session.run("BEGIN READ ONLY");
    session.text("SELECT civic.dashboard_events(ward_id => '5')");
    session.run("COMMIT");
}

#[test]
fn the_timestamp_is_now_in_utc_and_every_response_has_a_new_id() {
    let mut session = Database::supabase().person(TENANT, "manager");
    session.run("SET timezone = 'Africa/Johannesburg'; SET datestyle = 'German'; BEGIN");
    let mut ids = vec![];
    for _ in 0..3 {
        let stream = session.text(ASK);
        let timestamp = events(&stream)[1].1["timestamp"].as_str().unwrap().to_owned();
        assert!(timestamp.ends_with("+00:00"), "{timestamp}");
        let is_now = format!(
            "SELECT abs(extract(epoch FROM clock_timestamp() - {}::timestamptz)) < 60",
            literal(&timestamp)
        );
        assert_eq!(session.text(&is_now), "t");
        ids.extend(stream.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned));
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((count, ids.len()), (6, 6));
}

/// The next client that connects. A client process that has failed never connects.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("a listener");
    let deadline = Instant::now() + DEADLINE;
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(false).expect("a connection");
                return connection;
            }
            Err(error) => assert!(Instant::now() < deadline, "no client connects: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Serves the stream to the next client that connects, and returns its Last-Event-ID.
fn serve(listener: &TcpListener, session: &mut Session, ward_id: &str) -> Option<String> {
    let connection = accept(listener);
    let mut seen = None;
    for line in BufReader::new(&connection).lines() {
        let line = line.expect("a request");
        if let Some(id) = line.to_ascii_lowercase().strip_prefix("last-event-id: ") {
            seen = Some(id.to_owned());
        }
        if line.is_empty() {
            break;
        }
    }
    let stream = session.text(&format!("SELECT civic.dashboard_events({})", literal(ward_id)));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    (&connection).write_all((head.to_owned() + &stream).as_bytes()).expect("a reader");
    seen
}

/// Writes past the test harness, which shows only the output of failed tests.
fn skipped(why: &str) {
    let line = format!("the test with a real EventSource is skipped: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[test]
fn a_real_eventsource_reads_it_and_reconnects_after_thirty_seconds() {
    // `make test` sets it if npm could fetch the package.
    let Ok(directory) = std::env::var("PG_CIVIC_EVENTSOURCE") else {
        return skipped("PG_CIVIC_EVENTSOURCE names no directory with the npm package eventsource");
    };
    if !std::path::Path::new(&directory).join("node_modules/eventsource").is_dir() {
        return skipped(&format!("{directory} holds no npm package eventsource"));
    }
    let ward_id = "5\ndata: forged\r\n\nevent: forged\u{2028}é🦀";
    let mut session = Database::supabase().person(TENANT, "ward_councillor");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port that is free");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let client = match Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/pgrx-tests/fixtures/eventsource.mjs"))
        .args([&directory, &url])
        .stdout(std::process::Stdio::piped())
        .spawn()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return skipped("node is not installed");
        }
        client => client.expect("node runs"),
    };
    assert_eq!(serve(&listener, &mut session, ward_id), None);
    let seen_last = serve(&listener, &mut session, ward_id).expect("it says where it stopped");
    let output = client.wait_with_output().expect("it ends");
    let read: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let events = read["events"].as_array().expect("a list");
    let names: Vec<_> = events.iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["connected", "heartbeat", "connected", "heartbeat"]);
    assert_eq!(read["waits"], json!([30_000]));
    assert_eq!(events[1]["id"].as_str(), Some(seen_last.as_str()));
    let data: Value = serde_json::from_str(events[0]["data"].as_str().unwrap()).expect("JSON");
    assert_eq!(data["ward_id"], ward_id);
}
