//! Code on tables of other roles, in functions that wait for it.

use std::time::{Duration, Instant};

use super::{PHOTO, SUB, Town, add_object};
use crate::pg_tests::support::{Session, TENANT};

const FILE: &str = "8f14e45f-0000-4000-8000-00000000000a";
const STUCK: &str =
    "LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP";

/// A town with an upload to confirm, and a trigger on the table of attachments.
fn with_trigger(body: &str) -> Town {
    let town = Town::new();
    let mut session = town.superuser();
    add_object(&mut session, "documents", &format!("{TENANT}/{FILE}/photo.jpg"), SUB);
    session.run(&format!(
        "CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN {body}; RETURN NEW; END $$;
         CREATE TRIGGER trap BEFORE INSERT ON public.media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.trap()"
    ));
    town
}

/// Confirms the upload, and gives severity, SQLSTATE, message and detail of the error. They are empty where
/// the driver has seen the closed connection before the message.
#[track_caller]
fn confirm(mut session: Session) -> (Duration, String, String, String) {
    let begun = Instant::now();
    let call = std::thread::spawn(move || {
        let sql = format!("SELECT civic.confirm_upload('{FILE}', 'proof_of_residence')");
        session.client().batch_execute(&sql)
    });
    super::wait_until("confirm_upload() ends", || call.is_finished());
    let error = call.join().expect("no panic").expect_err("it does not succeed");
    let Some(error) = error.as_db_error() else {
        assert!(error.is_closed(), "{error:?}");
        return (begun.elapsed(), String::new(), String::new(), String::new());
    };
    let said = format!("{} {}", error.message(), error.detail().unwrap_or_default());
    (begun.elapsed(), error.severity().to_owned(), error.code().code().to_owned(), said)
}

#[test]
fn a_trigger_that_takes_too_long_is_cancelled() {
    let town = with_trigger("PERFORM pg_sleep(1000)");
    let (took, severity, sqlstate, said) = confirm(town.person("citizen"));
    assert_eq!((severity.as_str(), sqlstate.as_str()), ("ERROR", "57014"));
    assert!(said.contains("public.media_attachments") && said.contains("5 s"), "{said}");
    assert!(took >= Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_trigger_that_ignores_cancellation_ends_only_its_session() {
    let town = with_trigger(STUCK);
    let mut other = town.superuser();
    let (_, severity, sqlstate, mut said) = confirm(town.person("citizen"));
    if severity.is_empty() {
        said = town.cluster.log();
        assert!(said.contains("FATAL:"), "{said}");
    } else {
        assert_eq!((severity.as_str(), sqlstate.as_str()), ("FATAL", "57P01"));
    }
    for part in ["public.media_attachments", "10 s", "ignored"] {
        assert!(said.contains(part), "{said}");
    }
    // The server has not restarted.
    other.run("SELECT 1");
}

#[test]
fn a_callers_own_timeout_and_cancellation_work_as_usual() {
    let town = with_trigger("PERFORM pg_sleep(1000)");
    let mut session = town.person("citizen");
    session.run("SET statement_timeout = '1s'");
    let (took, severity, sqlstate, said) = confirm(session);
    assert_eq!((severity.as_str(), sqlstate.as_str()), ("ERROR", "57014"));
    assert!(said.contains("statement timeout"), "{said}");
    // The limit would be said to be the cause, not the time-out.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn a_trigger_that_ignores_cancellation_and_then_ends_leaves_the_session_usable() {
    let town =
        with_trigger("BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END");
    let mut session = town.person("citizen");
    session.run(&format!("SELECT civic.confirm_upload('{FILE}', 'proof_of_residence')"));
    // Neither limit is still active.
    session.run("SELECT pg_sleep(7)");
    assert_eq!(town.superuser().text("SELECT count(*) FROM media_attachments"), "1");
}

#[test]
fn a_temporary_table_with_the_trigger_is_not_a_table_of_tickets() {
    let town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let download = format!(
        "SELECT civic.download_and_upload_media('{url}', 'image/jpeg', '{FILE}', '{TENANT}')->>'bucket'"
    );
    let decoy = "CREATE TEMPORARY TABLE decoy (id uuid, tenant_id text, is_sensitive boolean);
                 CREATE TRIGGER tell AFTER INSERT ON decoy
                     FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()";
    let mut attacker = town.superuser();
    attacker.run(decoy);
    assert_eq!(town.service_role().text(&download), "evidence", "another session's");
    let mut own = town.superuser();
    own.run(decoy);
    own.run(&format!("INSERT INTO decoy VALUES ('{FILE}', '{TENANT}', true)"));
    assert_eq!(own.text(&download), "evidence", "the session's own");
}
