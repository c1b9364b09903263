//! Jobs by SQL, in a database that no worker serves: what is taken, and what can be done to a job.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::{TICKET, Town, job};
use crate::pg_tests::support::{OTHER_TENANT, Session, TENANT, literal};

/// A session in a database without a worker, and an address that media may come from.
fn desk() -> (Town, Session, String) {
    let town = Town::new();
    let name = town.database_without_worker();
    let session = town.cluster.superuser_of(&name);
    let url = town.twilio.offer("image/jpeg", super::PHOTO);
    (town, session, url)
}

fn enqueue(url: &str, content_type: &str, ticket: &str, tenant: &str, sensitive: &str) -> String {
    let [url, content_type, ticket, tenant] = [url, content_type, ticket, tenant].map(literal);
    format!("SELECT civic.enqueue_media({url}, {content_type}, {ticket}, {tenant}, {sensitive})")
}

fn ordinary(url: &str) -> String {
    enqueue(url, "image/jpeg", TICKET, TENANT, "false")
}

#[test]
fn a_new_job_is_due_at_once_and_knows_where_its_file_goes() {
    let (_town, mut session, url) = desk();
    let id = session.text(&enqueue(&url, "video/mp4; codecs=x", TICKET, TENANT, "false"));
    let row = session.rows(&format!(
        "SELECT state, attempts, next_attempt_at <= clock_timestamp(), started_at, finished_at,
                last_error, bucket, path, media_content_type, media_url, tenant_id, ticket_id,
                is_sensitive, cancel_requested, path = concat_ws('/', tenant_id, ticket_id, file_id) || '.mp4'
         FROM civic.media_jobs WHERE id = '{id}'"
    ));
    let row: Vec<_> = row[0].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(row[..7], ["queued", "0", "t", "NULL", "NULL", "NULL", "evidence"]);
    assert_eq!(row[8..], ["video/mp4", &url, TENANT, TICKET, "f", "f", "t"]);
}

#[test]
fn two_jobs_for_the_same_media_are_two_files() {
    let (_town, mut session, url) = desk();
    let first = session.text(&ordinary(&url));
    let second = session.text(&ordinary(&url));
    assert_ne!(first, second);
    assert_ne!(job(&mut session, &first, "path"), job(&mut session, &second, "path"));
}

#[test]
fn what_is_not_known_to_be_harmless_goes_behind_the_firewall() {
    let (_town, mut session, url) = desk();
    for (sensitive, bucket) in
        [("false", "evidence"), ("true", "gbv-evidence"), ("NULL", "gbv-evidence")]
    {
        let id = session.text(&enqueue(&url, "image/jpeg", TICKET, TENANT, sensitive));
        assert_eq!(job(&mut session, &id, "bucket"), bucket, "{sensitive}");
        let is_sensitive = job(&mut session, &id, "is_sensitive");
        assert_eq!(is_sensitive == "t", bucket == "gbv-evidence", "{sensitive}");
    }
    let omitted = session.text(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')"
    ));
    assert_eq!(job(&mut session, &omitted, "bucket"), "evidence");
}

#[test]
fn a_caller_who_calls_a_sensitive_ticket_harmless_does_not_open_the_firewall() {
    let (_town, mut session, url) = desk();
    session.run(&format!(
        "INSERT INTO tickets (id, tenant_id, is_sensitive) VALUES ('{TICKET}', '{TENANT}', true)"
    ));
    for spelling in [TICKET.to_owned(), TICKET.to_uppercase(), format!("{{{TICKET}}}")] {
        let id = session.text(&enqueue(&url, "image/jpeg", &spelling, TENANT, "false"));
        assert_eq!(job(&mut session, &id, "bucket"), "gbv-evidence", "{spelling}");
    }
}

#[test]
fn media_is_not_filed_under_a_ticket_of_another_municipality() {
    let (_town, mut session, url) = desk();
    session
        .run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{OTHER_TENANT}')"));
    assert_eq!(session.sqlstate(&ordinary(&url)), "22023");
    assert_eq!(session.text("SELECT count(*) FROM civic.media_jobs"), "0");
}

#[test]
fn what_cannot_become_a_file_is_refused_at_once() {
    let (_town, mut session, url) = desk();
    let bad = |session: &mut Session, sql: &str| {
        let error = session.error(sql);
        assert_eq!(error.code().code(), "22023", "{sql}: {}", error.message());
        error.message().to_owned()
    };
    for address in [
        "https://example.com/photo",
        "http://api.twilio.com/photo",
        "https://api.twilio.com.example.com/",
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "photo.jpg",
        "",
        "https://user:password@api.twilio.com/",
    ] {
        let message = bad(&mut session, &ordinary(address));
        assert!(!message.contains("password@"), "{message}");
    }
    for content_type in
        ["text/html", "image/svg+xml", "", "image/jpeg\n", "application/octet-stream"]
    {
        if content_type != "image/jpeg\n" {
            bad(&mut session, &enqueue(&url, content_type, TICKET, TENANT, "false"));
        }
    }
    for tenant in ["", "a/b", "..", "é", "a\nb"] {
        bad(&mut session, &enqueue(&url, "image/jpeg", TICKET, tenant, "false"));
    }
    for ticket in ["", "../x", ".", "a/b", "#"] {
        bad(&mut session, &enqueue(&url, "image/jpeg", ticket, TENANT, "false"));
    }
    for place in 0..4 {
        let mut arguments =
            [literal(&url), "'image/jpeg'".to_owned(), literal(TICKET), literal(TENANT)];
        arguments[place] = "NULL".to_owned();
        bad(&mut session, &format!("SELECT civic.enqueue_media({})", arguments.join(", ")));
    }
    assert_eq!(session.text("SELECT count(*) FROM civic.media_jobs"), "0");
}

#[test]
fn a_job_that_waits_is_cancelled_at_once_and_told_of() {
    let (_town, mut session, url) = desk();
    session.run(&format!("LISTEN \"media_jobs:{TENANT}\""));
    let id = session.text(&ordinary(&url));
    session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    assert_eq!(job(&mut session, &id, "state"), "cancelled");
    assert_eq!(job(&mut session, &id, "finished_at IS NOT NULL AND next_attempt_at IS NULL"), "t");
    let heard = session.heard();
    assert_eq!(heard.len(), 1);
    let event: Value = serde_json::from_str(&heard[0].1).expect("JSON");
    assert_eq!(
        (event["job_id"].as_str(), event["state"].as_str()),
        (Some(id.as_str()), Some("cancelled"))
    );
}

/// Puts a job into a state, as the worker does.
fn put(session: &mut Session, id: &str, state: &str) {
    session.run(&format!(
        "UPDATE civic.media_jobs
         SET state = '{state}', attempts = 3, started_at = now(), cancel_requested = false,
             last_error = 'x',
             next_attempt_at = CASE '{state}' WHEN 'queued' THEN now() + interval '1 hour' END,
             finished_at = CASE WHEN '{state}' IN ('done', 'failed', 'cancelled') THEN now() END,
             content_type = CASE '{state}' WHEN 'done' THEN 'image/jpeg' END,
             file_size = CASE '{state}' WHEN 'done' THEN 1 END
         WHERE id = '{id}'"
    ));
}

#[test]
fn each_state_takes_what_can_be_done_to_it_and_refuses_the_rest() {
    let (_town, mut session, url) = desk();
    let id = session.text(&ordinary(&url));
    for (state, cancelled, retried) in [
        ("queued", Some("cancelled"), Some("queued")),
        ("running", Some("running"), None),
        ("done", None, None),
        ("failed", None, Some("queued")),
        ("cancelled", None, Some("queued")),
    ] {
        for (function, result) in [("cancel", cancelled), ("retry", retried)] {
            put(&mut session, &id, state);
            let call = format!("SELECT civic.{function}_media_job('{id}')");
            match result {
                Some(result) => {
                    session.run(&call);
                    assert_eq!(job(&mut session, &id, "state"), result, "{function} {state}");
                }
                None => {
                    let error = session.error(&call);
                    assert_eq!(error.code().code(), "55000", "{function} {state}");
                    assert!(error.message().contains(&format!("{id} is {state}")));
                    assert_eq!(job(&mut session, &id, "state"), state, "{function}");
                }
            }
        }
    }
}

#[test]
fn a_retried_job_is_due_at_once_with_all_its_tries_or_those_that_it_has_left() {
    let (_town, mut session, url) = desk();
    let id = session.text(&ordinary(&url));
    for (state, attempts) in [("queued", "3"), ("failed", "0"), ("cancelled", "0")] {
        put(&mut session, &id, state);
        let path = job(&mut session, &id, "path");
        session.run(&format!("SELECT civic.retry_media_job('{id}')"));
        let due =
            "next_attempt_at <= clock_timestamp() AND finished_at IS NULL AND NOT cancel_requested";
        assert_eq!(job(&mut session, &id, due), "t", "{state}");
        assert_eq!(job(&mut session, &id, "attempts"), attempts, "{state}");
        assert_eq!(job(&mut session, &id, "path"), path, "its file goes where it would have gone");
    }
}

#[test]
fn a_job_that_is_not_there_is_told_so() {
    let (_town, mut session, _) = desk();
    for function in ["cancel", "retry"] {
        let error = session.error(&format!("SELECT civic.{function}_media_job('{TICKET}')"));
        assert_eq!(error.code().code(), "P0002");
        assert!(error.message().contains(TICKET));
    }
}

#[test]
fn no_row_says_that_a_sensitive_file_is_in_an_open_bucket() {
    let (_town, mut session, url) = desk();
    let id = session.text(&enqueue(&url, "image/jpeg", TICKET, TENANT, "true"));
    for change in [
        "bucket = 'evidence'",
        "is_sensitive = false",
        "bucket = 'documents'",
        "state = 'lost'",
        "state = 'done'",
        "state = 'running'",
        "next_attempt_at = NULL",
    ] {
        let update = format!("UPDATE civic.media_jobs SET {change} WHERE id = '{id}'");
        assert_eq!(session.sqlstate(&update), "23514", "{change}");
    }
}

#[test]
fn jobs_survive_dump_and_restore() {
    let town = Town::new();
    let (from, to) = (town.database_without_worker(), "restored");
    let mut session = town.cluster.superuser_of(&from);
    let url = town.twilio.offer("image/jpeg", super::PHOTO);
    let id = session.text(&ordinary(&url));
    let row = |session: &mut Session| {
        session.text(&format!("SELECT to_jsonb(j) FROM civic.media_jobs j WHERE id = '{id}'"))
    };
    let before = row(&mut session);
    let dump = town.cluster.program("pg_dump", &from).output().expect("it runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    town.cluster.superuser().run(&format!("CREATE DATABASE {to}"));
    let mut restore = town
        .cluster
        .program("psql", to)
        .args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    restore.stdin.take().expect("piped").write_all(&dump.stdout).expect("it reads");
    let restore = restore.wait_with_output().expect("it ends");
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    let mut restored = town.cluster.superuser_of(to);
    assert_eq!(row(&mut restored), before);
    drop(restored);
    town.cluster.superuser().run(&format!("DROP DATABASE {to} WITH (FORCE)"));
}
