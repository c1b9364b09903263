//! Settings take effect when they are reloaded, and what is not configured says so.

use super::{PHOTO, TICKET, TOKEN, Town, job, wait_until};
use crate::pg_tests::support::{Database, TENANT};

#[test]
fn without_its_settings_nothing_is_queued_and_the_error_names_them() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let enqueue =
        format!("SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')");
    for setting in [
        "civic.supabase_url",
        "civic.service_key",
        "civic.twilio_account_sid",
        "civic.twilio_auth_token",
    ] {
        town.session.run(&format!("ALTER SYSTEM SET {setting} = ''"));
        town.session.run("SELECT pg_reload_conf()");
        let mut session = town.cluster.superuser();
        wait_until("the setting counts", || session.client().batch_execute(&enqueue).is_err());
        let error = session.error(&enqueue);
        assert_eq!(error.code().code(), "55000", "{setting}");
        assert_eq!(error.message(), "storage service is not configured");
        assert!(error.hint().is_some_and(|hint| hint.contains(setting)), "{:?}", error.hint());
        let value = match setting {
            "civic.supabase_url" => town.storage.project_url(),
            "civic.service_key" => town.storage.service_key().to_owned(),
            "civic.twilio_account_sid" => super::ACCOUNT.to_owned(),
            _ => TOKEN.to_owned(),
        };
        town.set(setting, &value);
    }
    town.reload();
}

#[test]
fn jobs_wait_while_the_service_is_not_configured_and_go_on_afterwards() {
    let mut town = Town::new();
    town.twilio.fails_first([civic_fake_services::Answer::new(500)]);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    let key = town.storage.service_key().to_owned();
    town.session.run("ALTER SYSTEM RESET civic.service_key");
    town.session.run("SELECT pg_reload_conf()");
    // The worker has read it when it has done what it does at each reload: it removes old jobs.
    let old =
        "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, state, finished_at,
                   next_attempt_at, bucket, path, file_id, media_content_type, media_url)
               VALUES ('t', 't', false, 'failed', now() - interval '1 year', NULL, 'evidence', 'p',
                       gen_random_uuid(), 'image/jpeg', 'u')";
    town.session.run(old);
    town.session.run("SELECT pg_reload_conf()");
    let rest = "SELECT count(*) FROM civic.media_jobs WHERE ticket_id = 't'";
    wait_until("old jobs are removed", || town.session.text(rest) == "0");
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(town.job(&id, "state || ' ' || attempts"), "queued 1");
    town.set("civic.service_key", &key);
    town.session.run("SELECT pg_reload_conf()");
    assert_eq!(town.wait_for_end(&id), "done");
}

#[test]
fn wrong_secrets_fail_a_job_which_is_retried_when_they_are_right() {
    for (setting, right) in [("civic.service_key", None), ("civic.twilio_auth_token", Some(TOKEN))]
    {
        let mut town = Town::new();
        let right = right.map_or_else(|| town.storage.service_key().to_owned(), str::to_owned);
        town.set(setting, "a-wrong-secret");
        town.session.run("SELECT pg_reload_conf()");
        let mut failed = String::new();
        wait_until("the worker uses the wrong secret", || {
            let url = town.twilio.offer("image/jpeg", PHOTO);
            failed = town.enqueue(&url);
            town.wait_for_end(&failed) == "failed"
        });
        let error = town.job(&failed, "last_error");
        assert!(error.contains("40"), "{setting}: {error}");
        assert!(!error.contains("a-wrong-secret"), "{setting}: {error}");
        assert_eq!(town.job(&failed, "attempts"), "1");
        town.set(setting, &right);
        town.session.run("SELECT pg_reload_conf()");
        wait_until("it is done with the right one", || {
            let _ = town.session.client().batch_execute(&format!(
                "SELECT civic.retry_media_job(id) FROM civic.media_jobs
                 WHERE id = '{failed}' AND state = 'failed'"
            ));
            town.job(&failed, "state") == "done"
        });
    }
}

/// Adds jobs that ended so long ago.
fn ended(town: &mut Town, state: &str, interval: &str) {
    town.session.run(&format!(
        "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, state, finished_at,
             next_attempt_at, bucket, path, file_id, media_content_type, media_url, content_type,
             file_size)
         VALUES ('t', '{state} {interval}', false, '{state}', now() - interval '{interval}', NULL,
                 'evidence', 'p', gen_random_uuid(), 'image/jpeg', 'u', 'image/jpeg', 1)"
    ));
}

fn left(town: &mut Town) -> Vec<String> {
    town.session.column("SELECT ticket_id FROM civic.media_jobs WHERE tenant_id = 't' ORDER BY 1")
}

#[test]
fn finished_jobs_are_removed_when_their_time_is_over_and_others_are_not() {
    let mut town = Town::new();
    for state in ["done", "failed", "cancelled"] {
        ended(&mut town, state, "6 days");
        ended(&mut town, state, "8 days");
    }
    town.session.run(
        "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, bucket, path, file_id,
             media_content_type, media_url, created_at, next_attempt_at)
         VALUES ('t', 'queued', false, 'evidence', 'p', gen_random_uuid(), 'image/jpeg', 'u',
                 now() - interval '1 year', now() + interval '50 minutes')",
    );
    town.session.run("SELECT pg_reload_conf()");
    let expected = ["cancelled 6 days", "done 6 days", "failed 6 days", "queued"];
    wait_until("the old ones are removed", || left(&mut town) == expected);
    town.set("civic.media_retention", "-1");
    town.reload_keeping();
    ended(&mut town, "done", "100 years");
    town.session.run("SELECT pg_reload_conf()");
    // Jobs that come and go meanwhile show that the worker has looked.
    for _ in 0..3 {
        let url = town.twilio.offer("image/jpeg", PHOTO);
        let id = town.enqueue(&url);
        town.wait_for_state(&id, "done");
    }
    assert_eq!(left(&mut town)[1], "done 100 years");
    town.set("civic.media_retention", "0");
    town.session.run("SELECT pg_reload_conf()");
    wait_until("all are removed", || left(&mut town) == ["queued"]);
}

#[test]
fn more_old_jobs_than_go_at_once_all_go() {
    let mut town = Town::new();
    town.session.run(
        "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, state, finished_at,
             next_attempt_at, bucket, path, file_id, media_content_type, media_url)
         SELECT 't', 't', false, 'failed', now() - interval '1 year', NULL, 'evidence', 'p',
                gen_random_uuid(), 'image/jpeg', 'u'
         FROM generate_series(1, 2500)",
    );
    town.session.run("SELECT pg_reload_conf()");
    let count = "SELECT count(*) FROM civic.media_jobs";
    wait_until("all are removed", || town.session.text(count) == "0");
}

#[test]
fn the_number_of_tries_can_be_changed_while_jobs_wait() {
    let mut town = Town::new();
    let url = town.twilio.offer_answer(civic_fake_services::Answer::new(500));
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    town.set("civic.media_attempts", "2");
    town.reload_keeping();
    assert_eq!(town.wait_for_end(&id), "failed");
    assert_eq!(town.job(&id, "attempts"), "2");
}

#[test]
fn a_database_that_the_worker_does_not_serve_keeps_its_jobs() {
    let town = Town::new();
    let name = town.database_without_worker();
    let mut session = town.cluster.superuser_of(&name);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = session.text(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')"
    ));
    let mut served = town;
    let other = served.enqueue(&url);
    served.wait_for_state(&other, "done");
    assert_eq!(job(&mut session, &id, "state"), "queued");
    let wrong =
        session.rows("SELECT ok, detail FROM civic.check() WHERE component = 'media worker'");
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0][0].as_deref(), Some("f"), "{wrong:?}");
    assert!(wrong[0][1].as_deref().is_some_and(|detail| detail.contains("postgres")), "{wrong:?}");
}

#[test]
fn without_preloading_nothing_is_queued() {
    let mut session = Database::supabase().superuser();
    let enqueue = format!(
        "SELECT civic.enqueue_media('https://api.twilio.com/x', 'image/jpeg', '{TICKET}', '{TENANT}')"
    );
    assert_eq!(session.sqlstate(&enqueue), "55000");
}
