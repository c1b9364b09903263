//! No municipality keeps the others waiting.

use std::time::Duration;

use civic_fake_services::Answer;

use super::{MANY_JOBS, PHOTO, TICKET, Town, wait_until, wait_within};
use crate::pg_tests::support::extent;

const OTHER: &str = "33333333-3333-3333-3333-333333333333";

impl Town {
    /// Jobs wait until [`Town::go_on`].
    fn hold(&mut self) {
        self.set("civic.media_concurrency", "0");
        self.session.run("SELECT pg_reload_conf()");
        wait_until("the worker has read the settings", || {
            self.session.run("SELECT pg_sleep(0.05)");
            self.check("media worker").contains("media_concurrency is 0")
        });
    }

    fn go_on(&mut self, concurrency: &str) {
        self.set("civic.media_concurrency", concurrency);
        self.session.run("SELECT pg_reload_conf()");
    }

    /// What check() says about a component.
    fn check(&mut self, component: &str) -> String {
        let sql = format!("SELECT detail FROM civic.check() WHERE component = '{component}'");
        self.session.column(&sql).concat()
    }

    fn enqueue_many(&mut self, url: &str, tenant: &str, jobs: usize) {
        self.session.run(&format!(
            "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{tenant}')
             FROM generate_series(1, {jobs})"
        ));
    }
}

#[test]
fn jobs_are_claimed_in_turn_and_the_oldest_of_a_municipality_first() {
    let mut town = Town::new();
    town.session.run("ALTER TABLE civic.media_jobs ADD COLUMN number serial");
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.go_on("1");
    town.reload();
    // The worker claims nothing before the whole queue is visible.
    let mut session = town.cluster.superuser();
    session.run("BEGIN");
    for tenant in ["a", "a", "a", "b", "c", "b", "c", "a"] {
        session.run(&format!(
            "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{tenant}');
             UPDATE civic.media_jobs SET next_attempt_at = now() - '1 hour'::interval
                                                                 + number * '1 second'::interval
             WHERE state = 'queued'"
        ));
    }
    session.run("COMMIT");
    let unfinished = "SELECT count(*) FROM civic.media_jobs WHERE state <> 'done'";
    wait_until("all are done", || town.session.text(unfinished) == "0");
    let order = "SELECT tenant_id || number - (SELECT min(number) FROM civic.media_jobs)
                 FROM civic.media_jobs ORDER BY started_at";
    let order = town.session.column(order);
    town.session.run("ALTER TABLE civic.media_jobs DROP COLUMN number");
    // It goes on after the municipality whose job was claimed last, whichever that was.
    let tenants: String = order.iter().map(|job| &job[..1]).collect();
    assert!(["abcabcaa", "bcabcaaa", "cabcabaa"].contains(&tenants.as_str()), "{order:?}");
    for tenant in ["a", "b", "c"] {
        let own: Vec<_> = order.iter().filter(|job| job.starts_with(tenant)).collect();
        assert!(own.is_sorted(), "{order:?}");
    }
}

#[test]
fn a_job_does_not_wait_for_the_many_of_another_municipality() {
    let mut town = Town::new();
    let jobs = extent(1_000, 100_000);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.twilio.takes(Duration::from_millis(50));
    town.hold();
    town.enqueue_many(&url, OTHER, jobs);
    town.go_on("4");
    let done = format!(
        "SELECT count(*) FROM civic.media_jobs WHERE tenant_id = '{OTHER}' AND state = 'done'"
    );
    wait_within(MANY_JOBS, "some are done", || town.session.text(&done) != "0");
    let id = town.enqueue(&url);
    town.wait_for_state(&id, "done");
    let started_before = format!(
        "SELECT count(*) FROM civic.media_jobs it, civic.media_jobs own
         WHERE own.id = '{id}' AND it.tenant_id = '{OTHER}'
           AND it.started_at > own.created_at AND it.started_at < own.started_at"
    );
    // The municipality has two of four transfers at a time.
    let before = town.session.text(&started_before).parse::<usize>().expect("a number");
    assert!(before <= 4, "{before} jobs of another municipality were started first");
    town.session.run("TRUNCATE civic.media_jobs");
}

#[test]
fn jobs_of_a_municipality_whose_source_hangs_leave_room_for_others() {
    let mut town = Town::new();
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    for _ in 0..8 {
        town.enqueue_as(&black_hole, TICKET, OTHER, false);
    }
    let running = "SELECT count(*) FROM civic.media_jobs WHERE state = 'running'";
    wait_until("as many run as may", || town.session.text(running) == "2");
    let url = town.twilio.offer("image/jpeg", PHOTO);
    for _ in 0..5 {
        let id = town.enqueue(&url);
        town.wait_for_state(&id, "done");
    }
    assert_eq!(town.session.text(running), "2", "its share is half of four");
    town.set("civic.media_tenant_concurrency", "3");
    town.session.run("SELECT pg_reload_conf()");
    wait_until("one more runs", || town.session.text(running) == "3");
    town.session
        .run("SELECT civic.cancel_media_job(id) FROM civic.media_jobs WHERE state <> 'done'");
}

#[test]
fn a_claim_reads_a_few_rows_however_many_jobs_wait() {
    let mut town = Town::apart(civic_fake_services::Storage::start(Default::default()));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    // Half of them are not due: nothing that waits may be read to find what is due.
    town.hold();
    town.enqueue_many(&url, OTHER, extent(5_000, 100_000));
    town.session.run(
        "UPDATE civic.media_jobs SET next_attempt_at = now() + '30 min'::interval;
         ANALYZE civic.media_jobs",
    );
    town.go_on("4");
    let id = town.enqueue(&url);
    town.wait_for_state(&id, "done");
    let reads = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'media_jobs'";
    let scans = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'media_jobs'";
    let read = |town: &mut Town| -> i64 {
        // A process reports what it has read at the end of its transactions.
        std::thread::sleep(Duration::from_millis(1500));
        let mut session = town.cluster.superuser();
        let number = |text: String| text.parse::<i64>().expect("a number");
        number(session.text(reads)) + number(session.text(scans))
    };
    let before = read(&mut town);
    for _ in 0..20 {
        let id = town.enqueue(&url);
        town.wait_for_state(&id, "done");
    }
    let rows = read(&mut town) - before;
    assert!(rows < 25_000, "{rows} rows were read for 20 jobs");
}
