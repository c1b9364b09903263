//! The worker does what it is asked, no more of it at once than it may, and tells when it is done.

use std::time::Duration;

use civic_fake_services::Answer;
use serde_json::Value;

use super::{MANY_JOBS, PHOTO, TICKET, Town, wait_until, wait_within};
use crate::pg_tests::support::{OTHER_TENANT, TENANT, extent};

#[test]
fn media_comes_from_twilio_into_storage() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    town.wait_for_state(&id, "done");
    let (path, file_id) = (town.job(&id, "path"), town.job(&id, "file_id"));
    assert_eq!(path, format!("{TENANT}/{TICKET}/{file_id}.jpg"));
    let object = town.storage.object("evidence", &path).expect("it is stored");
    assert_eq!(object.body, PHOTO);
    assert_eq!(object.content_type, "image/jpeg");
    assert_eq!(
        town.job(&id, "(content_type, file_size, attempts, last_error)::text"),
        format!("(image/jpeg,{},1,)", PHOTO.len())
    );
    assert_eq!(town.job(&id, "created_at <= started_at AND started_at <= finished_at"), "t");
}

#[test]
fn a_ticket_shows_its_media_without_anybodys_doing() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    town.wait_for_state(&id, "done");
    let recorded = town.session.text(&format!(
        "SELECT (m.ticket_id, m.tenant_id, m.s3_bucket, m.content_type, m.file_size, m.purpose,
                 m.source, m.file_id = j.file_id::text, m.s3_key = j.path)::text
         FROM civic.media_jobs j, media_attachments m WHERE j.id = '{id}' AND m.file_id = j.file_id::text"
    ));
    let size = PHOTO.len();
    assert_eq!(
        recorded,
        format!("({TICKET},{TENANT},evidence,image/jpeg,{size},evidence,whatsapp,t,t)")
    );
}

#[test]
fn a_table_of_attachments_that_refuses_a_row_costs_no_second_upload() {
    let mut town = Town::new();
    town.session.run(
        "ALTER TABLE media_attachments ADD CONSTRAINT shut CHECK (source <> 'whatsapp') NOT VALID",
    );
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    let error = town.job(&id, "last_error");
    assert!(error.contains("the file is stored") && error.contains("23514"), "{error}");
    let asked = (town.twilio.api().count(), town.storage.server().count());
    town.session.run("ALTER TABLE media_attachments DROP CONSTRAINT shut");
    assert_eq!(town.wait_for_end(&id), "done");
    assert_eq!((town.twilio.api().count(), town.storage.server().count()), asked);
    assert_eq!(town.job(&id, "file_size"), PHOTO.len().to_string());
    assert_eq!(
        town.session.text(&format!(
            "SELECT count(*) FROM media_attachments m, civic.media_jobs j
         WHERE j.id = '{id}' AND m.file_id = j.file_id::text"
        )),
        "1"
    );
}

#[test]
fn a_locked_or_absent_table_of_attachments_holds_no_other_job_back_for_long() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut holder = town.cluster.superuser();
    holder.run("BEGIN; LOCK TABLE media_attachments IN ACCESS EXCLUSIVE MODE");
    let id = town.enqueue(&url);
    wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    assert!(town.job(&id, "last_error").contains("55P03"), "{}", town.job(&id, "last_error"));
    holder.run("ROLLBACK");
    assert_eq!(town.wait_for_end(&id), "done");

    town.session.run("ALTER TABLE media_attachments RENAME TO elsewhere");
    let id = town.enqueue(&url);
    assert_eq!(town.wait_for_end(&id), "done");
    town.session.run("ALTER TABLE elsewhere RENAME TO media_attachments");
}

#[test]
fn sensitive_media_goes_behind_the_firewall() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue_as(&url, TICKET, TENANT, true);
    town.wait_for_state(&id, "done");
    let path = town.job(&id, "path");
    assert!(town.storage.object("gbv-evidence", &path).is_some());
    assert!(town.storage.object("evidence", &path).is_none());
}

#[test]
fn a_job_starts_when_it_is_committed_and_not_before() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let asked = town.twilio.api().count();
    let mut session = town.cluster.superuser();
    session.run("BEGIN");
    let enqueue = |url: &str| {
        format!("SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')")
    };
    let id = session.text(&enqueue(&url));
    session.run("SAVEPOINT s");
    session.text(&enqueue(&url));
    session.run("ROLLBACK TO s");
    // Another job that comes later is done meanwhile.
    let other = town.enqueue(&url);
    town.wait_for_state(&other, "done");
    assert_eq!(town.twilio.api().count(), asked + 1);
    session.run("COMMIT");
    town.wait_for_state(&id, "done");
    assert_eq!(town.twilio.api().count(), asked + 2);
    // The commit wakes the worker, well before it would have looked by itself. On a busy machine the
    // fastest of some jobs shows it.
    wait_until("a job is done soon after its commit", || {
        session.run("BEGIN");
        let id = session.text(&enqueue(&url));
        session.run("COMMIT");
        let committed = std::time::Instant::now();
        town.wait_for_state(&id, "done");
        committed.elapsed() < Duration::from_secs(5)
    });
}

#[test]
fn no_more_files_travel_at_once_than_the_setting_says() {
    let mut town = Town::new();
    town.set("civic.media_concurrency", "3");
    town.set("civic.media_tenant_concurrency", "3");
    town.reload();
    town.twilio.takes(Duration::from_millis(100));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let ids: Vec<_> = (0..12).map(|_| town.enqueue(&url)).collect();
    for id in &ids {
        town.wait_for_state(id, "done");
    }
    assert_eq!(town.twilio.api().most_at_once().max(town.twilio.media().most_at_once()), 3);
}

#[test]
fn a_slow_job_does_not_hold_the_others_back() {
    let mut town = Town::new();
    town.set("civic.media_concurrency", "2");
    town.set("civic.media_tenant_concurrency", "2");
    town.reload();
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let slow = town.enqueue(&black_hole);
    town.wait_for_state(&slow, "running");
    let url = town.twilio.offer("image/jpeg", PHOTO);
    for _ in 0..5 {
        let id = town.enqueue(&url);
        town.wait_for_state(&id, "done");
    }
    assert_eq!(town.job(&slow, "state"), "running");
    town.session.run(&format!("SELECT civic.cancel_media_job('{slow}')"));
    town.wait_for_state(&slow, "cancelled");
}

#[test]
fn somebody_who_locks_a_job_holds_no_other_back() {
    let mut town = Town::new();
    let slow_url = town
        .twilio
        .offer_answer(Answer::file("image/jpeg", PHOTO).after(Duration::from_millis(300)));
    let locked = town.enqueue(&slow_url);
    town.wait_for_state(&locked, "running");
    let mut holder = town.cluster.superuser();
    holder.run(&format!("BEGIN; SELECT FROM civic.media_jobs WHERE id = '{locked}' FOR UPDATE"));
    let path = town.job(&locked, "path");
    wait_until("its file is stored", || town.storage.object("evidence", &path).is_some());
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    town.wait_for_state(&id, "done");
    assert_eq!(town.job(&locked, "state"), "running");
    holder.run("COMMIT");
    town.wait_for_state(&locked, "done");
    assert_eq!(town.job(&locked, "attempts"), "1");
}

#[test]
fn a_job_that_runs_is_cancelled_at_once() {
    let mut town = Town::new();
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let mut id = String::new();
    // A silent server would be given up after ten seconds.
    wait_until("one is cancelled at once", || {
        id = town.enqueue(&black_hole);
        town.wait_for_state(&id, "running");
        let asked = std::time::Instant::now();
        town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
        town.wait_for_state(&id, "cancelled");
        asked.elapsed() < Duration::from_secs(3)
    });
    let path = town.job(&id, "path");
    assert!(town.storage.object("evidence", &path).is_none());
    // Its target stays, so that it can still be retried.
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.session.run(&format!("UPDATE civic.media_jobs SET media_url = '{url}' WHERE id = '{id}'"));
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    town.wait_for_state(&id, "done");
    assert_eq!(town.job(&id, "path"), path);
    assert_eq!(town.job(&id, "attempts"), "1");
}

#[test]
fn the_end_of_a_job_is_heard_in_its_municipality() {
    let mut town = Town::new();
    let mut listener = town.cluster.superuser();
    for channel in ["", ":sensitive"] {
        listener.run(&format!("LISTEN \"media_jobs:{TENANT}{channel}\""));
    }
    let good = town.twilio.offer("image/jpeg", PHOTO);
    let bad = town.twilio.offer("text/html", "<html>");
    let done = town.enqueue(&good);
    town.wait_for_state(&done, "done");
    let failed = town.enqueue(&bad);
    town.wait_for_state(&failed, "failed");
    let elsewhere = town.enqueue_as(&good, TICKET, OTHER_TENANT, false);
    town.wait_for_state(&elsewhere, "done");
    let sensitive = town.enqueue_as(&good, TICKET, TENANT, true);
    town.wait_for_state(&sensitive, "done");

    // The relay notifies when the worker's transaction is over: of these jobs later, and perhaps only now of those
    // before.
    let jobs = [&done, &failed, &elsewhere, &sensitive];
    let mut notifications = Vec::new();
    wait_until("three ends are heard", || {
        notifications.extend(listener.heard());
        notifications
            .retain(|(_, event): &(String, String)| jobs.iter().any(|id| event.contains(*id)));
        notifications.len() >= 3
    });
    let heard: Vec<(String, Value)> = notifications
        .into_iter()
        .map(|(channel, payload)| (channel, serde_json::from_str(&payload).expect("JSON")))
        .collect();
    let told: Vec<_> = heard
        .iter()
        .map(|(channel, event)| {
            let text = |key: &str| event[key].as_str().unwrap_or_default();
            (channel.as_str(), text("job_id"), text("state"))
        })
        .collect();
    let shared = format!("media_jobs:{TENANT}");
    let hidden = format!("media_jobs:{TENANT}:sensitive");
    assert_eq!(
        told,
        [
            (shared.as_str(), done.as_str(), "done"),
            (&shared, &failed, "failed"),
            (&hidden, &sensitive, "done"),
        ]
    );
    let event = &heard[0].1;
    assert_eq!(event["type"], "media_job");
    assert_eq!(event["ticket_id"], TICKET);
    assert_eq!(event["path"].as_str(), Some(town.job(&done, "path").as_str()));
    assert_eq!(event["file_size"], PHOTO.len());
    assert_eq!(event.get("media_url"), None);
}

#[test]
fn the_worker_sleeps_with_no_transaction_open_while_files_travel() {
    let mut town = Town::new();
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let id = town.enqueue(&black_hole);
    town.wait_for_state(&id, "running");
    let worker = town.worker();
    let idle = format!(
        "SELECT xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL
         FROM pg_stat_activity WHERE pid = {worker}"
    );
    wait_until("no transaction is open", || town.session.text(&idle) == "t");
    // Each time that it wakes, it goes to sleep again, which the system counts.
    let slept = || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).expect("a count")
    };
    let before = slept();
    std::thread::sleep(Duration::from_secs(3));
    assert!(slept() - before <= 4, "it woke {} times in 3 s", slept() - before);
    town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    town.wait_for_state(&id, "cancelled");
}

#[test]
fn many_jobs_of_one_transaction_are_done_once_each() {
    let jobs = extent(200, 1000);
    let mut town = Town::new();
    town.set("civic.media_concurrency", "8");
    town.reload();
    let stored = town.storage.objects().len();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.session.run(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')
         FROM generate_series(1, {jobs})"
    ));
    let done = "SELECT count(*) FROM civic.media_jobs WHERE state = 'done' AND attempts = 1";
    wait_within(MANY_JOBS, "all are done", || town.session.text(done) == jobs.to_string());
    assert_eq!(town.storage.objects().len(), stored + jobs);
    let paths = town.session.text("SELECT count(DISTINCT path) FROM civic.media_jobs");
    assert_eq!(paths, jobs.to_string());
}
