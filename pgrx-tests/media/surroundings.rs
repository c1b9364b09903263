//! What happens around the worker: maintenance, clocks, standbys, servers without room.

use civic_fake_services::{Answer, Options, Storage};

use super::{PHOTO, TICKET, Town, media_cluster, wait_until};
use crate::pg_tests::support::TENANT;
use crate::pg_tests::support::cluster::Cluster;

#[test]
fn a_reindex_of_the_queue_and_the_worker_do_not_deadlock() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.set("deadlock_timeout", "10ms");
    town.session.run("SELECT pg_reload_conf()");
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut maintainer = town.cluster.superuser();
    let over = std::sync::atomic::AtomicBool::new(false);
    let reindexed = std::thread::scope(|scope| {
        let maintainer = scope.spawn(|| {
            let mut reindexed = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                maintainer.run("REINDEX TABLE civic.media_jobs");
                reindexed += 1;
            }
            reindexed
        });
        for _ in 0..10 {
            let ids: Vec<_> = (0..10).map(|_| town.enqueue(&url)).collect();
            ids.iter().for_each(|id| town.wait_for_state(id, "done"));
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        maintainer.join().expect("no REINDEX fails")
    });
    assert!(reindexed > 1);
    let log = town.cluster.log();
    assert!(!log.contains("deadlock detected"), "{log}");
    let attempts = "SELECT count(*) FROM civic.media_jobs WHERE attempts <> 1";
    assert_eq!(town.session.text(attempts), "0");
}

#[test]
fn a_job_is_not_parked_for_days_by_a_clock_that_was_set_back() {
    let mut town = Town::new();
    let url = town.twilio.offer_answer(Answer::new(503));
    let id = town.enqueue(&url);
    wait_until("it waits for another attempt", || {
        town.session.run(&format!(
            "UPDATE civic.media_jobs SET next_attempt_at = next_attempt_at + '3 days'::interval
             WHERE id = '{id}' AND state = 'queued' AND attempts > 0"
        ));
        town.job(&id, "next_attempt_at > now() + '2 days'") == "t"
    });
    let attempts = town.job(&id, "attempts");
    // Else the worker notices within a minute.
    town.session.run("SELECT pg_reload_conf()");
    wait_until("it is tried again", || town.job(&id, "attempts") != attempts);
    town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
}

#[test]
fn an_absent_standby_holds_up_no_job() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run("SET synchronous_commit = local");
    town.set("synchronous_standby_names", "absent");
    town.session.run("SELECT pg_reload_conf()");
    wait_until("it counts", || {
        town.cluster.superuser().text("SHOW synchronous_standby_names") == "absent"
    });
    let url = town.twilio.offer("image/jpeg", PHOTO);
    for _ in 0..3 {
        let id = town.enqueue(&url);
        town.wait_for_state(&id, "done");
    }
}

#[test]
fn a_job_that_ends_leaves_one_line_in_the_log_and_a_failed_one_is_counted() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let refused = town.twilio.offer_answer(Answer::new(403));
    let (done, failed) = (town.enqueue(&url), town.enqueue(&refused));
    town.wait_for_state(&done, "done");
    town.wait_for_state(&failed, "failed");
    let log = town.cluster.log();
    for (id, state) in [(&done, "done"), (&failed, "failed")] {
        let message = format!("LOG:  media job {id} is {state}");
        assert_eq!(log.matches(&message).count(), 1, "{message}");
        let (_, rest) = log.split_once(&message).expect("it is there");
        let detail = rest.lines().nth(1).and_then(|line| line.split_once("DETAIL:  "));
        let (_, detail) = detail.expect("a detail");
        let detail: serde_json::Value = serde_json::from_str(detail).expect("JSON");
        assert_eq!(detail["job_id"], id.as_str());
        assert_eq!(detail["state"], state);
        assert!(!detail.to_string().contains(TENANT) && !detail.to_string().contains(TICKET));
    }
    let row =
        "SELECT ok || ': ' || detail FROM civic.check() WHERE component = 'failed media jobs'";
    let row = town.session.text(row);
    assert!(row.starts_with("false: 1 have failed") && row.contains("403"), "{row}");
}

fn found(cluster: &Cluster, component: &str) -> String {
    cluster.superuser().text(&format!(
        "SELECT detail || ' | ' || fix FROM civic.check() WHERE component = '{component}' AND NOT ok"
    ))
}

#[test]
fn where_a_slot_for_a_worker_is_missing_check_names_the_setting_and_the_others_run() {
    // The server itself takes one.
    let cluster = media_cluster(&["max_worker_processes=2"]);
    let mut session = cluster.superuser();
    wait_until("the relay runs", || session.text("SELECT running FROM civic.relay_stats()") == "t");
    let found = found(&cluster, "media worker");
    assert!(found.contains("max_worker_processes is 2"), "{found}");
    assert!(found.contains("SET max_worker_processes = 5; -- and restart the server"), "{found}");
}

#[test]
fn where_the_database_of_the_workers_does_not_exist_check_says_so_and_the_log_stays_short() {
    let cluster = media_cluster(&["civic.database=postgers"]);
    wait_until("they have tried", || cluster.log().contains("\"postgers\" does not exist"));
    for component in ["relay", "media worker"] {
        let found = found(&cluster, component);
        assert!(found.contains("database \"postgers\", which civic.database names"), "{found}");
        assert!(found.contains("SET civic.database = 'postgres'; -- and restart"), "{found}");
    }
    std::thread::sleep(std::time::Duration::from_secs(8));
    let lines = cluster.log().matches("database \"postgers\" does not exist").count();
    assert!(lines <= 3, "{lines} lines, of three workers");
    // A reload ends the wait between two starts.
    let mut session = cluster.superuser();
    session.run("CREATE DATABASE postgers");
    wait_until("it runs", || {
        session.run("SELECT pg_reload_conf()");
        session.text("SELECT running FROM civic.relay_stats()") == "t"
    });
    wait_until("it says so", || cluster.log().contains("works again, after"));
}

#[test]
fn the_served_database_can_be_renamed_without_a_restart() {
    let cluster = media_cluster(&["civic.database=town"]);
    let mut admin = cluster.superuser();
    admin.run("CREATE DATABASE town TEMPLATE postgres");
    let workers =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_civic %' AND datname =";
    wait_until("the workers serve it", || {
        admin.run("SELECT pg_reload_conf()");
        admin.text(&format!("{workers} 'town'")) == "3"
    });
    admin.run("ALTER SYSTEM SET civic.relay = off");
    admin.run("ALTER SYSTEM SET civic.media_concurrency = 0");
    admin.run("SELECT pg_reload_conf()");
    wait_until("it can be renamed", || {
        admin.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE backend_type LIKE 'pg_civic %' AND datname = 'town'",
        );
        admin.client().batch_execute("ALTER DATABASE town RENAME TO city").is_ok()
    });
    admin.run("ALTER SYSTEM RESET civic.relay");
    admin.run("ALTER SYSTEM RESET civic.media_concurrency");
    admin.run("SELECT pg_reload_conf()");
    wait_until("the workers serve it again", || admin.text(&format!("{workers} 'city'")) == "3");
}

#[test]
fn on_a_full_disk_the_worker_waits_logs_it_once_and_does_every_job_afterwards() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    // Full pages, more of them than a segment of the WAL has, which must not fail.
    town.session.run(&format!(
        "ALTER TABLE civic.media_jobs ALTER media_url SET STORAGE PLAIN;
         INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, state, next_attempt_at,
             finished_at, bucket, path, file_id, content_type, file_size, media_content_type, media_url)
         SELECT '{TENANT}', '{TICKET}', false, 'done', NULL, now(), 'evidence', 'x', gen_random_uuid(),
             'image/jpeg', 1, 'image/jpeg', repeat('x', 1730) FROM generate_series(1, 8801)"
    ));
    let bytes = town.session.text("SELECT pg_relation_size('civic.media_jobs')");
    town.worker();
    let mut processes = town.session.column(
        "SELECT pid FROM pg_stat_activity
         WHERE backend_type LIKE 'pg_civic media%' OR pid = pg_backend_pid()",
    );
    processes.push(town.postmaster());
    processes.iter().for_each(|pid| town.cluster.limit_files(pid, &bytes));
    // As many jobs as the last page holds.
    town.session.run(&format!(
        "DO $$ BEGIN
             LOOP
                 BEGIN
                     PERFORM civic.enqueue_media({}, 'image/jpeg', '{TICKET}', '{TENANT}');
                 EXCEPTION WHEN OTHERS THEN EXIT;
                 END;
             END LOOP;
         END $$",
        crate::pg_tests::support::literal(&url)
    ));
    let waiting = "SELECT count(*) FROM civic.media_jobs WHERE state <> 'done'";
    assert_ne!(town.session.text(waiting), "0");
    let failures = |town: &Town| town.cluster.log().matches("could not extend file").count();
    wait_until("the worker meets the full disk", || failures(&town) > 0);
    std::thread::sleep(std::time::Duration::from_secs(8));
    let lines = failures(&town);
    assert!(lines <= 3, "{lines} lines in 8 s: {}", town.cluster.log());
    processes.iter().for_each(|pid| town.cluster.limit_files(pid, "unlimited"));
    wait_until("every job is done", || town.session.text(waiting) == "0");
    let attempts = "SELECT count(*) FROM civic.media_jobs WHERE attempts > 1";
    assert_eq!(town.session.text(attempts), "0", "no attempt is lost");
}
