//! The metrics of media jobs add up with the table, also after faults.

use civic_fake_services::{Answer, Options, Storage};

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::TENANT;

impl Town {
    /// The metrics of a name that are not 0, each as its labels' texts and its value.
    fn metrics(&mut self, name: &str) -> Vec<String> {
        self.session.column(&format!(
            "SELECT concat_ws(' ', labels ->> 'kind', labels ->> 'class', labels ->> 'outcome',
                              labels ->> 'state', value)
             FROM civic.metrics WHERE name = '{name}' AND value > 0 ORDER BY 1"
        ))
    }

    /// Waits until the metrics of a name are these: others see a job's new state a moment before it counts.
    #[track_caller]
    fn wait_for_metrics(&mut self, name: &str, expected: &[String]) {
        wait_until(&format!("{name} is {expected:?}"), || self.metrics(name) == expected);
    }
}

#[test]
fn attempts_errors_bytes_and_ends_are_counted() {
    let mut town = Town::apart(Storage::start(Options::default()));
    // Of the job that has waited for the settings.
    town.wait_for_metrics("pg_civic_media_attempts_total", &["fetch stored 1".to_owned()]);
    town.session.run("DELETE FROM civic.media_jobs");
    let photo = town.twilio.offer("image/jpeg", PHOTO);
    let refused = town.twilio.offer_answer(Answer::new(403));
    let away = town.twilio.offer_answer(Answer::new(503));
    let done = town.enqueue(&photo);
    let failed = town.enqueue(&refused);
    town.wait_for_state(&done, "done");
    town.wait_for_state(&failed, "failed");
    let waits = town.enqueue(&away);
    wait_until("it has had an attempt", || town.job(&waits, "last_error IS NOT NULL") == "t");
    town.session.run(
        "UPDATE civic.media_jobs SET next_attempt_at = now() + '30 min'::interval
                      WHERE state = 'queued'",
    );
    wait_until("none runs", || {
        town.session.text("SELECT count(*) FROM civic.media_jobs WHERE state = 'running'") == "0"
    });
    let failures: u32 = town.job(&waits, "attempts").parse().expect("a number");
    town.session.run(&format!("SELECT civic.cancel_media_job('{waits}')"));
    town.session.run(&format!(
        "BEGIN; SELECT civic.retry_media_job('{failed}');
                               SELECT civic.cancel_media_job('{failed}'); ROLLBACK"
    ));

    town.wait_for_metrics(
        "pg_civic_media_attempts_total",
        &[format!("fetch failed {}", failures + 1), "fetch stored 2".to_owned()],
    );
    town.wait_for_metrics(
        "pg_civic_media_errors_total",
        &[format!("server_error {failures}"), "unauthorized 1".to_owned()],
    );
    town.wait_for_metrics(
        "pg_civic_media_ended_jobs_total",
        &["fetch cancelled 1", "fetch done 2", "fetch failed 1"].map(str::to_owned),
    );
    town.wait_for_metrics("pg_civic_media_stored_bytes_total", &[(2 * PHOTO.len()).to_string()]);
    let states = "SELECT concat_ws(' ', kind, state, count(*)) FROM civic.media_jobs
                  GROUP BY kind, state ORDER BY 1";
    let states = town.session.column(states);
    assert_eq!(town.metrics("pg_civic_media_jobs"), states);
}

#[test]
fn an_attempt_of_a_killed_worker_and_a_moved_file_are_counted() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let id = town.enqueue(&black_hole);
    town.wait_for_state(&id, "running");
    assert_eq!(town.metrics("pg_civic_media_jobs").last().unwrap(), "fetch running 1");
    let worker = town.worker();
    town.session.run("SELECT civic.metrics()");
    // A process that is killed takes the server down, and the counters with it: end it in good order.
    town.session.run(&format!("SELECT pg_terminate_backend({worker})"));
    wait_until("the attempt was released", || {
        town.metrics("pg_civic_media_attempts_total").contains(&"fetch released 1".to_owned())
    });
    wait_until("another worker has claimed it", || town.job(&id, "state") == "running");
    town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    town.wait_for_state(&id, "cancelled");

    let photo = town.twilio.offer("image/jpeg", PHOTO);
    town.session.run(&format!(
        "INSERT INTO tickets (id, tenant_id, tracking_number, category, status)
         VALUES ('{TICKET}', '{TENANT}', 'W-1', 'water', 'open')"
    ));
    let id = town.enqueue(&photo);
    town.wait_for_state(&id, "done");
    town.session.run(&format!("UPDATE tickets SET is_sensitive = true WHERE id = '{TICKET}'"));
    wait_until("the file is moved", || {
        !town.metrics("pg_civic_media_moved_files_total").is_empty()
    });
    wait_until("it is recorded", || {
        let attempts = town.metrics("pg_civic_media_attempts_total");
        attempts.iter().any(|it| it.starts_with("restrict moved"))
    });
}
