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

impl Town {
    /// Waits until the file is not in the open any more.
    #[track_caller]
    fn wait_until_swept(&mut self, path: &str) {
        wait_until("it is removed", || self.storage.object("evidence", path).is_none());
    }

    /// Has the worker sweep, whatever the time.
    fn sweep_now(&mut self, id: &str) {
        self.session.run(&format!(
            "UPDATE civic.media_jobs SET sweep_at = now() WHERE id = '{id}' AND former_bucket IS NOT NULL;
             SELECT pg_reload_conf()"
        ));
    }
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
    town.wait_until_swept(&path);
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
    town.wait_until_swept(&path);
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
    let ids = town.session.column("SELECT id FROM civic.media_jobs");
    assert!(ids.iter().all(|id| town.wait_for_end(id) == "done"));
    town.session.run("DROP TRIGGER dawdle ON media_attachments; DROP FUNCTION public.dawdle()");
    let open = "SELECT count(*) FROM civic.media_jobs WHERE bucket = 'evidence'";
    assert_eq!(town.session.text(open), "1", "the one that was recorded by then");
    let rows =
        "SELECT count(*) FROM media_attachments a JOIN tickets t ON a.ticket_id::text = t.id::text
                WHERE s3_bucket = 'evidence'";
    assert_eq!(town.session.text(rows), "1");
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
    town.wait_until_swept(&path);
}

#[test]
fn a_job_that_is_cancelled_leaves_nothing_of_a_sensitive_ticket_in_the_open() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    town.storage.fails_first([Answer::new(500)]);
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 2") == "t");
    assert_eq!(town.job(&id, "former_bucket"), "evidence");
    // Nor where it cannot be removed at once.
    town.storage.fails_first([Answer::new(500)]);
    town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    assert_eq!(town.job(&id, "state"), "cancelled");
    let log = "could not be removed from bucket evidence";
    wait_until("it is told", || town.cluster.log().contains(&format!("{path}, of media job {id}")));
    assert!(town.cluster.log().contains(log));
    assert!(town.storage.object("evidence", &path).is_some());
    town.sweep_now(&id);
    town.wait_until_swept(&path);
    assert!(town.storage.object("gbv-evidence", &path).is_none());
}

#[test]
fn a_cancellation_looks_once_more_at_the_ticket() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    // No try notices.
    town.session.run(&format!(
        "UPDATE civic.media_jobs SET next_attempt_at = now() + interval '1 hour' WHERE id = '{id}';
         UPDATE tickets SET is_sensitive = true;
         SELECT civic.cancel_media_job('{id}')"
    ));
    town.wait_for_state(&id, "cancelled");
    town.wait_until_swept(&path);
    assert!(town.storage.object("gbv-evidence", &path).is_none());
}

#[test]
fn a_file_that_arrives_in_the_open_after_its_job_is_done_is_removed_too() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(town.wait_for_end(&id), "done");
    town.wait_until_swept(&path);
    // The Storage API goes on with an upload whose client has hung up.
    town.storage.keep("evidence", &path, "image/jpeg", PHOTO);
    town.sweep_now(&id);
    town.wait_until_swept(&path);
    assert_eq!(town.job(&id, "former_bucket || ' ' || (sweep_at > now())"), "evidence true");
    assert!(town.storage.object("gbv-evidence", &path).is_some());
    // Until no upload can be under way any more.
    town.session.run("UPDATE civic.media_jobs SET finished_at = now() - interval '16 minutes'");
    town.sweep_now(&id);
    wait_until("that is the last time", || town.job(&id, "former_bucket IS NULL") == "t");
    assert_eq!(town.job(&id, "sweep_at"), "NULL");
}

#[test]
fn what_cannot_be_removed_from_the_open_for_long_is_told() {
    let mut town = Town::new();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(town.wait_for_end(&id), "done");
    town.wait_until_swept(&path);
    let told = "SELECT count(*) FROM civic.check() WHERE component = 'media worker' AND NOT ok";
    assert_eq!(town.session.text(told), "0");
    town.session.run("UPDATE civic.media_jobs SET finished_at = now() - interval '1 hour'");
    assert_eq!(town.session.text(told), "1");
}

#[test]
fn a_ticket_that_becomes_sensitive_during_the_last_try_is_noticed_though_it_fails() {
    let mut town = Town::new();
    town.set("civic.media_attempts", "2");
    town.reload();
    let (id, path) = stored_and_waiting(&mut town);
    town.twilio.fails_first([Answer::new(500).after(Duration::from_millis(500))]);
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    wait_until("it travels", || town.job(&id, "state = 'running' AND attempts = 2") == "t");
    town.session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(town.wait_for_end(&id), "failed");
    assert_eq!(town.job(&id, "former_bucket"), "evidence");
    assert!(town.cluster.log().contains(&format!("remove {path} from bucket evidence")));
    assert_eq!(town.retry(&id), "done");
    town.wait_until_swept(&path);
}

#[test]
fn what_may_be_left_in_the_open_is_told_and_not_forgotten() {
    let mut town = Town::new();
    town.set("civic.media_attempts", "2");
    town.reload();
    let (id, path) = stored_and_waiting(&mut town);
    town.session.run("UPDATE tickets SET is_sensitive = true");
    town.storage.fails_first([Answer::new(500)]);
    assert_eq!(town.wait_for_end(&id), "failed");
    assert_eq!(town.job(&id, "former_bucket"), "evidence");
    let log = town.cluster.log();
    assert!(log.contains(&format!("remove {path} from bucket evidence")), "{log}");
    let told = "SELECT detail FROM civic.check() WHERE component = 'media worker' AND NOT ok";
    assert!(town.session.text(told).contains("may be in bucket evidence"));
    // However long ago it was: another old job goes, and it stays.
    town.session.run(&format!(
        "UPDATE civic.media_jobs SET finished_at = now() - interval '1 year' WHERE id = '{id}';
         INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, state, finished_at,
             next_attempt_at, bucket, path, file_id, media_content_type, media_url)
         VALUES ('t', 'another', false, 'failed', now() - interval '1 year', NULL, 'evidence', 'p',
                 gen_random_uuid(), 'image/jpeg', 'u');
         SELECT pg_reload_conf()"
    ));
    let another = "SELECT count(*) FROM civic.media_jobs WHERE ticket_id = 'another'";
    wait_until("old jobs are removed", || town.session.text(another) == "0");
    assert_eq!(town.job(&id, "state"), "failed");
    assert!(town.storage.object("evidence", &path).is_some(), "it may be the only copy");
    // And once it is retried it is removed.
    assert_eq!(town.retry(&id), "done");
    town.wait_until_swept(&path);
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
