//! Crashes and shutdowns in every phase of a job: afterwards it is done, once, with nothing done by
//! hand.

use std::time::{Duration, Instant};

use civic_fake_services::{Answer, Options, Process, Storage};

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::TENANT;
use crate::pg_tests::support::cluster::Cluster;

/// Waits until the worker, or its helper, waits for a lock amid a transaction.
fn wait_until_blocked(town: &mut Town, what: &str) {
    wait_until(&format!("it waits for the lock in {what}"), || {
        town.session.text(
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                            WHERE backend_type LIKE 'pg_civic media%' AND NOT granted)",
        ) == "t"
    });
}

fn exists(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

impl Town {
    /// SIGKILL of the worker, which the server takes for a crash: it restarts all of its processes.
    pub fn kill_worker(&mut self) {
        let worker = self.worker();
        self.cluster.signal("KILL", &worker);
        wait_until("it is gone", || !exists(&worker));
        self.session = self.cluster.superuser_of("postgres");
    }

    pub fn postmaster(&mut self) -> String {
        self.session.text("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
    }

    /// SIGKILL of the postmaster. All of its processes notice.
    pub fn kill_postmaster(&mut self) {
        let worker = self.worker();
        let postmaster = self.postmaster();
        self.cluster.signal("KILL", &postmaster);
        wait_until("the worker notices", || !exists(&worker));
        wait_until("so do all others", || {
            self.session.client().is_closed()
                || self.session.client().batch_execute("SELECT 1").is_err()
        });
    }

    /// The job ends well, and there is one file.
    #[track_caller]
    fn is_done_once(&mut self, id: &str, what: &str) {
        assert_eq!(self.wait_for_end(id), "done", "{what}: {}", self.job(id, "last_error"));
        let path = self.job(id, "path");
        let objects = self.storage.objects();
        let own: Vec<_> = objects.iter().filter(|object| object.path == path).collect();
        assert_eq!(own.len(), 1, "{what}");
        assert_eq!(own[0].body, PHOTO, "{what}");
    }
}

#[test]
fn a_worker_that_is_killed_in_any_phase_of_a_job_loses_and_doubles_nothing() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    // It is claimed: whether the ticket is sensitive cannot be read.
    let mut holder = town.cluster.superuser();
    holder.run("BEGIN; LOCK TABLE public.tickets IN ACCESS EXCLUSIVE MODE");
    let id = town.add_by_hand(&url);
    wait_until_blocked(&mut town, "the look at its ticket");
    town.kill_worker();
    town.is_done_once(&id, "killed before its transfer");
    assert_eq!(town.job(&id, "attempts"), "2");

    // The file travels.
    let gate = town.twilio.holds();
    let asked = town.twilio.api().count();
    let id = town.enqueue(&url);
    town.twilio.api().wait_for(asked + 1);
    town.kill_worker();
    gate.open();
    town.is_done_once(&id, "killed in the transfer");
    assert_eq!(town.job(&id, "attempts"), "2");

    // It is stored, and about to be recorded.
    let mut holder = town.cluster.superuser();
    let id = town.enqueue_held(&url, &mut holder);
    wait_until_blocked(&mut town, "the record");
    assert_eq!(town.job(&id, "state"), "running");
    town.kill_worker();
    town.is_done_once(&id, "killed in its record");
    assert_eq!(town.job(&id, "attempts"), "2");
    assert!(!town.cluster.log().contains("panicked"));
}

impl Town {
    /// Adds a job without a look at its ticket, and has the worker look.
    fn add_by_hand(&mut self, url: &str) -> String {
        let mut session = self.cluster.superuser();
        let id = session.text(&format!(
            "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, bucket, path, file_id,
                 media_content_type, media_url)
             VALUES ('{TENANT}', '{TICKET}', false, 'evidence', '{TENANT}/{TICKET}/first.jpg',
                     gen_random_uuid(), 'image/jpeg', '{url}') RETURNING id"
        ));
        session.run("SELECT pg_reload_conf()");
        id
    }

    /// Has the server end the worker, and waits until it is gone.
    fn end_worker(&mut self) {
        let worker = self.worker();
        let begun = Instant::now();
        self.session.run(&format!("SELECT pg_terminate_backend({worker})"));
        wait_until("it is gone", || !exists(&worker));
        // A silent server would be given up after ten seconds.
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    }

    /// Adds a job whose file is stored and whose end cannot be recorded, for as long as `holder` stays in its
    /// transaction.
    fn enqueue_held(
        &mut self,
        url: &str,
        holder: &mut crate::pg_tests::support::Session,
    ) -> String {
        let gate = self.storage.holds();
        let id = self.enqueue(url);
        let path = self.job(&id, "path");
        wait_until("it is stored", || self.storage.object("evidence", &path).is_some());
        holder.run("BEGIN; LOCK TABLE civic.media_jobs IN SHARE MODE");
        gate.open();
        id
    }
}

#[test]
fn a_postmaster_that_is_killed_or_stopped_loses_and_doubles_nothing() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    for how in ["KILL", "immediate", "fast"] {
        let gate = town.twilio.holds();
        let ids: Vec<_> = (0..6).map(|_| town.enqueue(&url)).collect();
        town.wait_for_state(&ids[0], "running");
        let begun = Instant::now();
        match how {
            "KILL" => town.kill_postmaster(),
            mode => town.cluster.stop(mode),
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{how}: {:?}", begun.elapsed());
        wait_until("it can be started", || town.cluster.try_start_again());
        gate.open();
        town.session = town.cluster.superuser_of("postgres");
        for id in &ids {
            town.is_done_once(id, how);
        }
        let tries = town.session.text("SELECT max(attempts) FROM civic.media_jobs");
        // In good order a try that was called off does not count.
        assert_eq!(tries, if how == "fast" { "1" } else { "2" }, "{how}");
        town.session.run("DELETE FROM civic.media_jobs");
    }
}

#[test]
fn a_worker_that_is_ended_by_a_person_comes_back_and_costs_no_try() {
    let mut town = Town::new();
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let id = town.enqueue(&black_hole);
    town.wait_for_state(&id, "running");
    let worker = town.worker();
    town.end_worker();
    town.wait_for_state(&id, "running");
    assert_ne!(town.worker(), worker);
    assert_eq!(town.job(&id, "attempts"), "1");
    town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    town.wait_for_state(&id, "cancelled");
}

#[test]
fn a_worker_that_waits_for_a_lock_can_be_ended() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut holder = town.cluster.superuser();
    let id = town.enqueue_held(&url, &mut holder);
    let worker = town.worker();
    wait_until("it waits for the lock", || {
        town.session.text(&format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {worker} AND NOT granted)"
        )) == "t"
    });
    town.session.run(&format!("SELECT pg_terminate_backend({worker})"));
    wait_until("it is gone", || !exists(&worker));
    holder.run("COMMIT");
    town.is_done_once(&id, "ended in its record");
}

#[test]
fn a_job_over_which_the_worker_is_killed_again_and_again_is_given_up() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.set("civic.media_attempts", "2");
    town.reload();
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let id = town.enqueue(&black_hole);
    for tries in 1..=2 {
        let runs = format!("state = 'running' AND attempts = {tries}");
        wait_until("it runs", || town.job(&id, &runs) == "t");
        town.kill_worker();
    }
    town.wait_for_state(&id, "failed");
    assert!(town.job(&id, "last_error").contains("was killed"));
}

#[test]
fn a_cancellation_outlives_the_worker() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let id = town.enqueue(&black_hole);
    town.wait_for_state(&id, "running");
    let worker = town.worker();
    town.cluster.hold(&worker);
    town.session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    assert_eq!(town.job(&id, "state || ' ' || cancel_requested"), "running true");
    town.cluster.signal("KILL", &worker);
    wait_until("it is gone", || !exists(&worker));
    town.session = town.cluster.superuser_of("postgres");
    town.wait_for_state(&id, "cancelled");
}

#[test]
fn a_storage_server_that_is_killed_loses_and_doubles_nothing() {
    let directory = std::env::temp_dir().join(format!("civic_media_{}", std::process::id()));
    let mut process = Process::start(&directory, 0);
    let port = process.port();
    let mut town = Town::new();
    let storage_url = process.url().to_owned();
    let stored = || {
        let files = std::fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        files.filter(|file| !file.file_name().to_string_lossy().starts_with('.')).count()
    };
    town.set("civic.storage_url", &storage_url);
    wait_until("the worker stores there", || {
        town.reload();
        stored() > 0
    });
    let before = stored();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.session.run(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')
         FROM generate_series(1, 100)"
    ));
    let done = "SELECT count(*) FROM civic.media_jobs WHERE state = 'done'";
    wait_until("some are done", || town.session.text(done) != "0");
    process.kill();
    let waits =
        "SELECT EXISTS (SELECT FROM civic.media_jobs WHERE state = 'queued' AND attempts > 0)";
    wait_until("some cannot be done", || town.session.text(waits) == "t");
    let process = Process::start(&directory, port);
    assert_eq!(process.port(), port);
    wait_until("all are done", || {
        let _ = town.session.client().batch_execute(
            "SELECT civic.retry_media_job(id) FROM civic.media_jobs WHERE state = 'queued' AND attempts > 0",
        );
        town.session.text(done) == "100"
    });
    assert_eq!(stored() - before, 100, "one file a job");
    let paths = town.session.text("SELECT count(DISTINCT path) FROM civic.media_jobs");
    assert_eq!(paths, "100");
    std::fs::remove_dir_all(&directory).expect("it can be removed");
}

#[test]
fn the_extension_can_be_dropped_while_files_travel_and_made_anew() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let asked = town.twilio.api().count();
    let id = town.enqueue(&black_hole);
    wait_until("it travels", || town.twilio.api().count() > asked);
    assert_eq!(town.job(&id, "state"), "running");
    let worker = town.worker();
    town.session.run("SET statement_timeout = '15s'");
    town.session.run("DROP EXTENSION pg_civic CASCADE");
    town.session.run("SELECT pg_reload_conf()");
    town.session.run("CREATE EXTENSION pg_civic");
    town.session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    town.is_done_once(&id, "after another CREATE EXTENSION");
    let log = town.cluster.log();
    assert_eq!(town.worker(), worker, "it has not even been started anew: {log}");
}

#[test]
fn a_database_that_does_not_exist_yet_is_served_once_it_does() {
    let cluster = Cluster::start(&["shared_preload_libraries=pg_civic", "civic.database=later"]);
    let mut session = cluster.superuser();
    session.run("CREATE DATABASE later");
    super::install(&mut cluster.superuser_of("later"));
    let runs = "SELECT count(*) FROM pg_stat_activity
                WHERE backend_type = 'pg_civic media' AND datname = 'later'";
    wait_until("the worker is there", || session.text(runs) == "1");
    session.run("SET statement_timeout = '15s'");
    session.run("DROP DATABASE later WITH (FORCE)");
    wait_until("the worker has left", || session.text(runs) == "0");
}

#[test]
fn a_worker_that_is_ended_amid_a_transaction_costs_no_try() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let black_hole = town.twilio.offer_answer(Answer::black_hole());
    let travelling = town.enqueue(&black_hole);
    town.wait_for_state(&travelling, "running");
    let mut holder = town.cluster.superuser();
    holder.run("BEGIN; LOCK TABLE public.tickets IN ACCESS EXCLUSIVE MODE");
    let claimed = town.add_by_hand(&url);
    wait_until_blocked(&mut town, "the claim");
    town.end_worker();
    for id in [&travelling, &claimed] {
        assert_eq!(town.job(id, "state"), "queued");
        assert_eq!(town.job(id, "attempts"), "0");
        assert_eq!(town.job(id, "last_error"), "NULL");
    }
    holder.run("COMMIT");
    town.is_done_once(&claimed, "ended in its claim");
    assert_eq!(town.job(&claimed, "attempts"), "1");
    town.wait_for_state(&travelling, "running");
    assert_eq!(town.job(&travelling, "attempts"), "1");
    town.session.run(&format!("SELECT civic.cancel_media_job('{travelling}')"));
    town.wait_for_state(&travelling, "cancelled");
}

#[test]
fn a_worker_that_is_ended_does_not_wait_for_a_session_that_has_locked_the_jobs() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut holder = town.cluster.superuser();
    let id = town.enqueue_held(&url, &mut holder);
    wait_until_blocked(&mut town, "the record");
    town.end_worker();
    assert_eq!(town.job(&id, "state"), "running", "nobody could say otherwise");
    holder.run("COMMIT");
    // Where its helper was asked to record the job by then, it does, and the try is not lost.
    town.is_done_once(&id, "ended in its record");
}
