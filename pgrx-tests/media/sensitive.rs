//! Media of tickets that are sensitive, or become so on the way: nothing of it stays in the open.

use std::time::Duration;

use civic_fake_services::{Answer, Options, Storage};

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::TENANT;

/// A job whose first try stored the file and lost the answer.
fn stored_and_waiting(town: &mut Town) -> (String, String) {
    town.session
        .run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    town.storage.answers_instead([Answer::new(500)]);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    let path = town.job(&id, "path");
    assert!(town.storage.object("evidence", &path).is_some());
    (id, path)
}

#[test]
fn a_ticket_that_becomes_sensitive_takes_its_waiting_media_behind_the_firewall() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(town.wait_for_end(&id), "done");
    assert_eq!(town.job(&id, "bucket || ' ' || is_sensitive"), "gbv-evidence true");
    assert_eq!(town.job(&id, "path"), path);
    assert!(town.storage.object("gbv-evidence", &path).is_some());
    town.wait_until_restricted(&path);
    let attached = format!("SELECT s3_bucket FROM media_attachments WHERE s3_key = '{path}'");
    assert_eq!(town.session.text(&attached), "gbv-evidence");
}

#[test]
fn a_ticket_that_becomes_sensitive_while_its_media_travels_takes_it_behind_the_firewall() {
    let mut town = Town::new();
    town.session
        .run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    let url = town
        .twilio
        .offer_answer(Answer::file("image/jpeg", PHOTO).after(Duration::from_millis(500)));
    let asked = town.twilio.api().count();
    let id = town.enqueue(&url);
    // It is on its way: what came before it is over.
    town.twilio.api().wait_for(asked + 1);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(town.wait_for_end(&id), "done");
    let path = town.job(&id, "path");
    assert_eq!(town.job(&id, "bucket || ' ' || attempts"), "gbv-evidence 2");
    assert!(town.storage.object("gbv-evidence", &path).is_some());
    town.wait_until_restricted(&path);
}

#[test]
fn a_slow_table_of_attachments_keeps_no_old_view_of_the_tickets() {
    let mut town = Town::new();
    town.session.run(&format!(
        "INSERT INTO tickets (id, tenant_id) SELECT gen_random_uuid(), '{TENANT}' FROM generate_series(1, 5);
         CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
         CREATE TRIGGER dawdle BEFORE INSERT ON media_attachments FOR EACH ROW
             WHEN (NEW.s3_bucket = 'evidence') EXECUTE FUNCTION public.dawdle()"
    ));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.session.run(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', id::text, tenant_id::text) FROM tickets"
    ));
    // While the first is recorded, the others arrive.
    let done = "SELECT count(*) FROM civic.media_jobs WHERE state = 'done'";
    wait_until("one is done", || town.session.text(done) == "1");
    let sleeps = "SELECT count(*) FROM pg_stat_activity
                  WHERE backend_type = 'pg_civic media tables' AND wait_event = 'PgSleep'";
    wait_until("another is recorded", || town.session.text(sleeps) == "1");
    town.session.run("UPDATE tickets SET is_sensitive = true");
    let ids = town.session.column("SELECT id FROM civic.media_jobs WHERE kind = 'fetch'");
    assert!(ids.iter().all(|id| town.wait_for_end(id) == "done"));
    town.session.run("DROP TRIGGER dawdle ON media_attachments; DROP FUNCTION public.dawdle()");
    for (what, open) in [
        (
            "no job",
            "SELECT count(*) FROM civic.media_jobs j JOIN tickets t ON j.ticket_id = t.id::text
             WHERE bucket = 'evidence'",
        ),
        (
            "no attachment",
            "SELECT count(*) FROM media_attachments a JOIN tickets t ON a.ticket_id = t.id
             WHERE s3_bucket = 'evidence'",
        ),
    ] {
        wait_until(&format!("{what} is in the open"), || town.session.text(open) == "0");
    }
    let tickets = town.session.column("SELECT id FROM tickets");
    let in_the_open = |town: &Town| {
        let is_open = |path: &str| tickets.iter().any(|ticket| path.contains(ticket));
        town.storage.objects().iter().any(|it| it.bucket == "evidence" && is_open(&it.path))
    };
    wait_until("no file is in the open", || !in_the_open(&town));
    town.attachments_name_their_files();
}

#[test]
fn a_source_that_has_lost_the_file_does_not_leave_it_in_the_open() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    let lost = town.twilio.offer_answer(Answer::new(404));
    town.session
        .run(&format!("UPDATE civic.media_jobs SET media_url = '{lost}' WHERE id = '{id}'"));
    assert_eq!(town.wait_for_end(&id), "done", "{}", town.job(&id, "last_error"));
    let object = town.storage.object("gbv-evidence", &path).expect("it is behind the firewall");
    assert_eq!((object.body.as_slice(), object.content_type.as_str()), (PHOTO, "image/jpeg"));
    town.wait_until_restricted(&path);
}

#[test]
fn a_job_that_is_cancelled_leaves_nothing_of_a_sensitive_ticket_in_the_open() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    // No attempt notices, and a file is not moved at once.
    town.storage.fails_first([Answer::new(500)]);
    town.session.run(&format!(
        "UPDATE civic.media_jobs SET next_attempt_at = now() + interval '1 hour' WHERE id = '{id}';
         UPDATE tickets SET is_sensitive = true;
         SELECT civic.cancel_media_job('{id}')"
    ));
    town.wait_for_state(&id, "cancelled");
    town.wait_until_restricted(&path);
    assert!(town.storage.object("gbv-evidence", &path).is_some(), "it may be the only copy");
    assert_eq!(town.job(&id, "bucket"), "gbv-evidence");
}

#[test]
fn a_cancellation_looks_once_more_at_a_ticket_whose_trigger_did_not_fire() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run(&format!(
        "UPDATE civic.media_jobs SET next_attempt_at = now() + interval '1 hour' WHERE id = '{id}';
         SET session_replication_role = replica;
         UPDATE tickets SET is_sensitive = true;
         RESET session_replication_role;
         SELECT civic.cancel_media_job('{id}')"
    ));
    town.wait_for_state(&id, "cancelled");
    town.wait_until_restricted(&path);
}

#[test]
fn an_attempt_notices_a_ticket_whose_trigger_did_not_fire() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run(
        "SET session_replication_role = replica;
         UPDATE tickets SET is_sensitive = true;
         RESET session_replication_role",
    );
    assert_eq!(town.wait_for_end(&id), "done");
    assert_eq!(town.job(&id, "bucket"), "gbv-evidence");
    town.wait_until_restricted(&path);
    let jobs = "SELECT count(*) FROM civic.media_jobs WHERE kind = 'restrict'";
    assert_eq!(town.session.text(jobs), "1");
}

#[test]
fn a_ticket_that_becomes_sensitive_during_the_last_attempt_is_noticed_though_it_fails() {
    let mut town = Town::new();
    town.set("civic.media_attempts", "2");
    town.reload();
    let (id, path) = stored_and_waiting(&mut town);
    town.twilio.fails_first([Answer::new(500).after(Duration::from_millis(500))]);
    let asked = town.twilio.api().count();
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    town.twilio.api().wait_for(asked + 1);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    let end = town.wait_for_end(&id);
    assert!(end == "failed" || end == "done", "{end}");
    town.wait_until_restricted(&path);
    assert!(town.storage.object("gbv-evidence", &path).is_some());
    if end == "failed" {
        assert_eq!(town.retry(&id), "done");
    }
    town.attachments_name_their_files();
}

#[test]
fn what_an_earlier_try_has_stored_counts_though_the_source_has_lost_it() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    // Nor does it matter where retry_media_job() has given the job all its tries again.
    let lost = town.twilio.offer_answer(Answer::new(401));
    town.session.run(&format!(
        "UPDATE civic.media_jobs SET media_url = '{lost}', attempts = 0
         WHERE id = '{id}' AND state = 'queued'"
    ));
    assert_eq!(town.wait_for_end(&id), "done", "{}", town.job(&id, "last_error"));
    assert_eq!(
        town.job(&id, "content_type || ' ' || file_size"),
        format!("image/jpeg {}", PHOTO.len())
    );
    let attached = format!("SELECT count(*) FROM media_attachments WHERE s3_key = '{path}'");
    assert_eq!(town.session.text(&attached), "1");
}

#[test]
fn media_waits_while_nobody_can_tell_whether_its_ticket_is_sensitive() {
    let mut town = Town::new();
    town.session
        .run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    town.twilio.fails_first([Answer::new(500)]);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    town.session.run("ALTER TABLE tickets RENAME COLUMN tenant_id TO municipality");
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 2") == "t");
    let error = town.job(&id, "last_error");
    assert!(error.contains("cannot be told"), "{error}");
    assert_eq!(
        town.storage.objects().iter().filter(|object| object.path.contains(TICKET)).count(),
        town.storage.objects().len()
    );
    // Other jobs go on meanwhile, where there is no such ticket.
    town.session.run("ALTER TABLE tickets RENAME COLUMN municipality TO tenant_id");
    assert_eq!(town.wait_for_end(&id), "done");
}

#[test]
fn media_waits_while_no_table_of_tickets_is_known() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session
        .run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    town.twilio.fails_first([Answer::new(500)]);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    town.session.run("DROP TRIGGER ticket_update_notify ON tickets");
    town.session.run("UPDATE tickets SET is_sensitive = true");
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 2") == "t");
    assert!(town.job(&id, "last_error").contains("no table of tickets"));
    town.session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    assert_eq!(town.wait_for_end(&id), "done");
    assert_eq!(town.job(&id, "bucket"), "gbv-evidence");
}
