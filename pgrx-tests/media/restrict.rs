//! The files of a ticket that becomes sensitive are moved out of the open, whenever that happens.

use civic_fake_services::{Answer, Moves, Options, Storage};
use serde_json::Value;

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::{Database, OTHER_TENANT, TENANT};

const RESTRICT: &str = "SELECT id FROM civic.media_jobs WHERE kind = 'restrict'";
/// How many restrict jobs are unfinished.
const UNFINISHED: &str = "SELECT count(*) FROM civic.media_jobs
                          WHERE kind = 'restrict' AND state IN ('queued', 'running')";

impl Town {
    /// Adds an ordinary ticket of the first municipality.
    pub fn add_ticket(&mut self, id: &str) {
        self.session
            .run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{id}', '{TENANT}')"));
    }

    pub fn becomes_sensitive(&mut self, id: &str) {
        self.session.run(&format!("UPDATE tickets SET is_sensitive = true WHERE id = '{id}'"));
    }

    /// An ordinary ticket with a file that was fetched long ago; gives the file's path.
    fn with_old_file(&mut self, ticket: &str) -> String {
        self.add_ticket(ticket);
        let url = self.twilio.offer("image/jpeg", PHOTO);
        let id = self.enqueue_as(&url, ticket, TENANT, false);
        self.wait_for_state(&id, "done");
        let path = self.job(&id, "path");
        assert!(self.storage.object("evidence", &path).is_some());
        path
    }

    /// Waits until the file is out of the open, and where it belongs.
    #[track_caller]
    pub fn wait_until_restricted(&mut self, path: &str) {
        wait_until(&format!("{path} is restricted"), || {
            self.hurry();
            self.storage.object("evidence", path).is_none()
        });
    }

    /// Has jobs tried at once that wait for their next attempt, and not those that wait for their last look.
    pub fn hurry(&mut self) {
        let _ = self.session.client().batch_execute(
            "SELECT civic.retry_media_job(id) FROM civic.media_jobs
             WHERE kind = 'restrict' AND state = 'queued' AND attempts > 0 AND NOT last_look",
        );
    }

    /// Waits until restrict jobs only wait for their last look.
    #[track_caller]
    pub fn wait_for_clean_look(&mut self) {
        let open = "SELECT count(*) FROM civic.media_jobs
                    WHERE kind = 'restrict' AND state IN ('queued', 'running')
                      AND NOT (last_look AND state = 'queued' AND next_attempt_at > now() + interval '1 minute')";
        wait_until("a look finds nothing", || {
            self.hurry();
            self.session.text(open) == "0"
        });
    }

    /// The time of the last look has come.
    pub fn comes_to_the_last_look(&mut self) {
        self.session.run(
            "UPDATE civic.media_jobs SET next_attempt_at = now()
             WHERE kind = 'restrict' AND state = 'queued' AND last_look;
             SELECT pg_reload_conf()",
        );
    }

    /// Each attachment of a file names a place where the file is.
    #[track_caller]
    pub fn attachments_name_their_files(&mut self) {
        let places = "SELECT s3_bucket || '/' || s3_key FROM media_attachments";
        wait_until("each attachment names where its file is", || {
            self.session.column(places).iter().all(|place| {
                let (bucket, path) = place.split_once('/').expect("a bucket and a path");
                self.storage.object(bucket, path).is_some()
            })
        });
    }
}

#[test]
fn a_file_that_was_stored_long_before_its_ticket_became_sensitive_is_moved() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    town.becomes_sensitive(TICKET);
    town.wait_until_restricted(&path);
    let object = town.storage.object("gbv-evidence", &path).expect("it is restricted");
    assert_eq!((object.body.as_slice(), object.content_type.as_str()), (PHOTO, "image/jpeg"));
    town.wait_for_clean_look();
    let row = format!(
        "SELECT s3_bucket || ' ' || purpose FROM media_attachments WHERE s3_key = '{path}'"
    );
    assert_eq!(town.session.text(&row), "gbv-evidence gbv-evidence");
    let jobs = "SELECT count(*) FROM civic.media_jobs WHERE NOT is_sensitive";
    assert_eq!(town.session.text(jobs), "0", "nor does its job show");
}

#[test]
fn every_file_of_the_ticket_is_moved_and_no_other() {
    let mut town = Town::new();
    town.add_ticket(TICKET);
    let other = "8f14e45f-ceea-467f-a83c-6d8b04dd5d31";
    let own = [
        ("evidence", format!("{TENANT}/{TICKET}/a.jpg")),
        ("evidence", format!("{TENANT}/{TICKET}/folder/b.jpg")),
        ("evidence", format!("{TENANT}/10000000-0000-0000-0000-000000000001/upload.jpg")),
        ("documents", format!("{TENANT}/10000000-0000-0000-0000-000000000002/proof.pdf")),
    ];
    let others = [
        ("evidence", format!("{TENANT}/{other}/a.jpg")),
        ("evidence", format!("{OTHER_TENANT}/{TICKET}/a.jpg")),
        ("evidence", format!("{TENANT}/{TICKET}0/a.jpg")),
    ];
    for (bucket, path) in own.iter().chain(&others) {
        town.storage.keep(bucket, path, "image/jpeg", PHOTO);
    }
    // A row of the ticket that names another municipality's file moves nothing.
    for (bucket, path) in own[2..].iter().chain(&others[1..2]) {
        town.session.run(&format!(
            "INSERT INTO media_attachments (id, ticket_id, tenant_id, s3_bucket, s3_key, file_id)
             VALUES (gen_random_uuid(), '{TICKET}', '{TENANT}', '{bucket}', '{path}',
                     gen_random_uuid()::text)"
        ));
    }
    town.becomes_sensitive(TICKET);
    for (bucket, path) in &own {
        wait_until(path, || town.storage.object(bucket, path).is_none());
        assert!(town.storage.object("gbv-evidence", path).is_some(), "{path}");
    }
    town.wait_for_clean_look();
    for (bucket, path) in &others {
        assert!(town.storage.object(bucket, path).is_some(), "{path}");
    }
    town.attachments_name_their_files();
}

#[test]
fn a_ticket_whose_municipality_names_a_folder_of_another_moves_nothing_of_it() {
    let mut town = Town::new();
    let (tenant, path) = (format!("{OTHER_TENANT}/a"), format!("{OTHER_TENANT}/a/photo.jpg"));
    town.storage.keep("evidence", &path, "image/jpeg", PHOTO);
    town.session.run(&format!(
        "INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{tenant}');
         INSERT INTO media_attachments (id, ticket_id, tenant_id, s3_bucket, s3_key, file_id)
         VALUES (gen_random_uuid(), '{TICKET}', '{tenant}', 'evidence', '{path}', 'a')"
    ));
    town.becomes_sensitive(TICKET);
    town.wait_for_clean_look();
    assert!(town.storage.object("evidence", &path).is_some());
    assert!(town.storage.object("gbv-evidence", &path).is_none());
}

#[test]
fn more_files_than_one_attempt_moves_are_all_moved() {
    let mut town = Town::new();
    town.add_ticket(TICKET);
    let path = |n: usize| format!("{TENANT}/{TICKET}/{n}.jpg");
    (0..150).for_each(|n| town.storage.keep("evidence", &path(n), "image/jpeg", PHOTO));
    town.becomes_sensitive(TICKET);
    (0..150).for_each(|n| town.wait_until_restricted(&path(n)));
    assert!((0..150).all(|n| town.storage.object("gbv-evidence", &path(n)).is_some()));
}

#[test]
fn a_server_that_cannot_move_across_buckets_copies_and_one_that_cannot_copy_is_served_by_hand() {
    for moves in [Moves::CopyOnly, Moves::WithinBucket, Moves::Missing] {
        let storage = Storage::start(Options { moves, ..Options::default() });
        let mut town = Town::with_storage(storage);
        let path = town.with_old_file(TICKET);
        town.becomes_sensitive(TICKET);
        town.wait_until_restricted(&path);
        let object = town.storage.object("gbv-evidence", &path).expect("it is restricted");
        assert_eq!((object.body.as_slice(), object.content_type.as_str()), (PHOTO, "image/jpeg"));
        town.attachments_name_their_files();
    }
}

#[test]
fn an_answer_that_is_lost_loses_no_file() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    // Of the two lists and two looks, the move, the look after it, and the removal.
    for lost in 0..7 {
        let good = (0..lost).map(|_| None).collect::<Vec<Option<Answer>>>();
        town.storage.answers_instead_at(good.len(), Answer::hang_up());
        town.session.run("UPDATE tickets SET is_sensitive = NOT is_sensitive");
        town.wait_until_restricted(&path);
        assert!(town.storage.object("gbv-evidence", &path).is_some(), "{lost}");
        town.wait_for_clean_look();
        town.session.run("UPDATE tickets SET is_sensitive = false");
        let object = town.storage.object("gbv-evidence", &path).expect("it is there");
        town.storage.keep("evidence", &path, &object.content_type, object.body);
        if lost % 2 == 0 {
            town.storage.forget("gbv-evidence", &path);
        }
    }
}

#[test]
fn a_file_whose_place_is_taken_by_another_is_kept_beside_it() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    town.storage.keep("gbv-evidence", &path, "image/jpeg", "another file");
    town.becomes_sensitive(TICKET);
    town.wait_until_restricted(&path);
    let other = town.storage.object("gbv-evidence", &path).expect("it stays");
    assert_eq!(other.body, b"another file");
    town.wait_for_clean_look();
    let beside = path.replace(".jpg", &format!("-{}.jpg", PHOTO.len()));
    assert_eq!(town.storage.object("gbv-evidence", &beside).expect("it is beside").body, PHOTO);
    let key = town.session.text(&format!(
        "SELECT s3_key FROM media_attachments WHERE s3_key IN ('{path}', '{beside}')"
    ));
    assert_eq!(key, beside);
}

#[test]
fn an_upload_that_comes_late_is_found_by_the_last_look() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    town.becomes_sensitive(TICKET);
    town.wait_for_clean_look();
    let due =
        "SELECT next_attempt_at - now() BETWEEN interval '14 minutes' AND interval '15 minutes'
               FROM civic.media_jobs WHERE kind = 'restrict'";
    assert_eq!(town.session.text(due), "t");
    // The Storage API goes on with an upload whose client has hung up.
    let late = format!("{TENANT}/{TICKET}/late.jpg");
    town.storage.keep("evidence", &late, "image/jpeg", PHOTO);
    town.comes_to_the_last_look();
    town.wait_until_restricted(&late);
    // Which was not the last look, as it has found something.
    town.wait_for_clean_look();
    assert_eq!(town.session.text(UNFINISHED), "1");
    town.comes_to_the_last_look();
    wait_until("it is done", || town.session.text(UNFINISHED) == "0");
    for path in [&path, &late] {
        assert!(town.storage.object("gbv-evidence", path).is_some());
    }
}

#[test]
fn a_ticket_that_ceases_to_be_sensitive_takes_nothing_back() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    town.becomes_sensitive(TICKET);
    town.wait_for_clean_look();
    town.session.run("UPDATE tickets SET is_sensitive = false");
    town.comes_to_the_last_look();
    wait_until("it is done", || town.session.text(UNFINISHED) == "0");
    assert!(town.storage.object("evidence", &path).is_none());
    assert!(town.storage.object("gbv-evidence", &path).is_some());
    assert_eq!(town.session.column(RESTRICT).len(), 1, "and adds no job");
}

#[test]
fn only_a_change_to_sensitive_that_is_committed_adds_a_job() {
    let town = Town::new();
    let name = town.database_without_worker();
    let mut session = town.cluster.superuser_of(&name);
    let jobs = "SELECT count(*) FROM civic.media_jobs";
    session.run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    for nothing in [
        "UPDATE tickets SET status = 'open'",
        "BEGIN; UPDATE tickets SET is_sensitive = true; ROLLBACK",
        "BEGIN; SAVEPOINT s; UPDATE tickets SET is_sensitive = true; ROLLBACK TO s; COMMIT",
        "BEGIN; SAVEPOINT a; SAVEPOINT b; UPDATE tickets SET is_sensitive = true; RELEASE b;
         ROLLBACK TO a; COMMIT",
        "DO $$ BEGIN UPDATE tickets SET is_sensitive = true; RAISE 'x';
         EXCEPTION WHEN OTHERS THEN NULL; END $$",
    ] {
        session.run(nothing);
        assert_eq!(session.text(jobs), "0", "{nothing}");
    }
    session.run(
        "BEGIN; SAVEPOINT s; UPDATE tickets SET is_sensitive = true; RELEASE s;
         UPDATE tickets SET status = 'closed'; COMMIT",
    );
    let row = "SELECT (kind, tenant_id, ticket_id, is_sensitive, state, attempts, bucket, path, last_look)::text
               FROM civic.media_jobs";
    assert_eq!(
        session.column(row),
        [format!("(restrict,{TENANT},{TICKET},t,queued,0,gbv-evidence,,f)")]
    );
    // A ticket that is sensitive already adds nothing, and one that becomes so again has one job.
    session.run("UPDATE tickets SET status = 'open'");
    session.run("UPDATE tickets SET is_sensitive = false");
    session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(session.text(jobs), "1");
    // A new ticket that is sensitive from the start may have files.
    session
        .run(&format!("INSERT INTO tickets (tenant_id, is_sensitive) VALUES ('{TENANT}', true)"));
    assert_eq!(session.text(jobs), "2");
    session.run("UPDATE tickets SET id = gen_random_uuid() WHERE status IS NULL");
    assert_eq!(session.text(jobs), "4", "of the old id and of the new one");
}

#[test]
fn a_session_that_has_locked_the_waiting_job_holds_up_no_ticket() {
    let town = Town::new();
    let name = town.database_without_worker();
    let (mut session, mut holder) =
        (town.cluster.superuser_of(&name), town.cluster.superuser_of(&name));
    session.run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    session.run("UPDATE tickets SET is_sensitive = true");
    session.run("UPDATE tickets SET is_sensitive = false");
    holder.run("BEGIN; SELECT FROM civic.media_jobs FOR UPDATE");
    session.run("SET statement_timeout = '5s'");
    session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(session.text("SELECT count(*) FROM civic.media_jobs"), "2", "merged by the worker");
    // Nor does an old snapshot.
    session.run("UPDATE tickets SET is_sensitive = false");
    let mut old = town.cluster.superuser_of(&name);
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tickets");
    holder.run("COMMIT; UPDATE civic.media_jobs SET last_look = true");
    old.run("UPDATE tickets SET is_sensitive = true; COMMIT");
    let waits = "SELECT count(*) > 0 FROM civic.media_jobs WHERE NOT last_look";
    assert_eq!(session.text(waits), "t");
}

#[test]
fn a_queue_that_takes_no_job_fails_no_ticket() {
    let town = Town::new();
    let name = town.database_without_worker();
    let mut session = town.cluster.superuser_of(&name);
    session.run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    session.run("ALTER TABLE civic.media_jobs ADD CONSTRAINT shut CHECK (kind <> 'restrict')");
    session.warnings();
    session.run("UPDATE tickets SET is_sensitive = true");
    assert_eq!(session.text("SELECT is_sensitive FROM tickets"), "t");
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "01000");
    assert!(warnings[0].message().contains("are not moved"), "{warnings:?}");
}

#[test]
fn without_the_service_a_ticket_is_written_and_its_job_waits_and_is_reported() {
    // Not preloaded.
    let mut session = Database::guarded().superuser();
    session.run(&format!("INSERT INTO tickets (id, tenant_id) VALUES ('{TICKET}', '{TENANT}')"));
    session.all_warnings();
    session.run("UPDATE tickets SET is_sensitive = true");
    let warnings = session.all_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "01000");
    let hint = warnings[0].hint().unwrap_or_default();
    for setting in ["shared_preload_libraries", "civic.supabase_url", "civic.service_key"] {
        assert!(hint.contains(setting), "{hint}");
    }
    assert_eq!(session.text(UNFINISHED), "1");
    session.run("UPDATE civic.media_jobs SET next_attempt_at = now() - interval '2 minutes'");
    let detail = "SELECT detail FROM civic.check() WHERE component = 'files of sensitive tickets' AND NOT ok";
    let detail = session.text(detail);
    assert!(detail.contains("files of 1 tickets") && detail.contains("since 20"), "{detail}");

    // Preloaded, and not configured: the job is done once it is.
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    let key = town.storage.service_key().to_owned();
    town.session.run("ALTER SYSTEM RESET civic.service_key");
    town.session.run("SELECT pg_reload_conf()");
    let mut other = town.cluster.superuser();
    wait_until("the setting counts", || {
        other.text(
            "SELECT count(*) FROM civic.check()
                    WHERE component = 'media worker' AND detail LIKE '%not configured%'",
        ) == "1"
    });
    town.session.run("SELECT 1");
    town.session.all_warnings();
    town.becomes_sensitive(TICKET);
    let warnings = town.session.all_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].hint().is_some_and(|hint| hint.contains("civic.service_key")));
    assert_eq!(town.session.text(UNFINISHED), "1");
    assert!(town.storage.object("evidence", &path).is_some());
    town.set("civic.service_key", &key);
    town.session.run("SELECT pg_reload_conf()");
    town.wait_until_restricted(&path);
}

#[test]
fn a_restrict_job_is_never_given_up_and_cannot_be_cancelled() {
    let mut town = Town::new();
    town.set("civic.media_attempts", "2");
    town.reload();
    let path = town.with_old_file(TICKET);
    // Two lists and a look each.
    town.storage.fails_first((0..6).map(|_| Answer::new(401)));
    town.becomes_sensitive(TICKET);
    let failed = |times| {
        format!(
            "SELECT count(*) FROM civic.media_jobs
             WHERE kind = 'restrict' AND state = 'queued' AND attempts = {times}"
        )
    };
    wait_until("it has failed once", || town.session.text(&failed(1)) == "1");
    town.hurry();
    wait_until("it has failed twice", || town.session.text(&failed(2)) == "1");
    let id = town.session.text(RESTRICT);
    let waits = "next_attempt_at - now() BETWEEN interval '50 minutes' AND interval '1 hour'";
    assert_eq!(town.job(&id, waits), "t");
    assert!(town.cluster.log().contains(&format!("media job {id} has failed 2 times")));
    let detail = "SELECT detail FROM civic.check() WHERE component = 'files of sensitive tickets' AND NOT ok";
    assert!(town.session.text(detail).contains("401"));
    let error = town.session.error(&format!("SELECT civic.cancel_media_job('{id}')"));
    assert_eq!(error.code().code(), "55000");
    town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    town.wait_until_restricted(&path);
}

#[test]
fn the_end_of_a_restrict_job_is_published_to_those_who_may_read_the_files() {
    let mut town = Town::new();
    town.with_old_file(TICKET);
    let mut listener = town.cluster.superuser();
    for channel in ["", ":sensitive"] {
        listener.run(&format!("LISTEN \"media_jobs:{TENANT}{channel}\""));
    }
    town.becomes_sensitive(TICKET);
    town.wait_for_clean_look();
    town.comes_to_the_last_look();
    wait_until("it is done", || town.session.text(UNFINISHED) == "0");
    let job = town.session.text("SELECT id FROM civic.media_jobs WHERE kind = 'restrict'");
    let mut heard = vec![];
    wait_until("its end is published", || {
        heard.extend(listener.heard());
        // The relay may notify of jobs before it only now.
        heard.retain(|(_, event): &(String, String)| event.contains(&job));
        !heard.is_empty()
    });
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].0, format!("media_jobs:{TENANT}:sensitive"));
    let event: Value = serde_json::from_str(&heard[0].1).expect("JSON");
    assert_eq!(
        (event["state"].as_str(), event["ticket_id"].as_str()),
        (Some("done"), Some(TICKET))
    );
}

#[test]
fn a_table_of_attachments_that_refuses_the_change_keeps_no_file_in_the_open() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    town.session.run(
        "ALTER TABLE media_attachments ADD CONSTRAINT shut CHECK (s3_bucket <> 'gbv-evidence') NOT VALID",
    );
    town.becomes_sensitive(TICKET);
    town.wait_until_restricted(&path);
    let id = town.session.text(RESTRICT);
    wait_until("it says why", || town.job(&id, "last_error").contains("23514"));
    town.session.run("ALTER TABLE media_attachments DROP CONSTRAINT shut");
    town.wait_for_clean_look();
    town.attachments_name_their_files();
    let bucket = town.session.text("SELECT DISTINCT s3_bucket FROM media_attachments");
    assert_eq!(bucket, "gbv-evidence");
}

#[test]
fn a_ticket_becomes_sensitive_while_the_attachments_are_locked() {
    let mut town = Town::new();
    let path = town.with_old_file(TICKET);
    let mut holder = town.cluster.superuser();
    holder.run("BEGIN; LOCK TABLE media_attachments IN ACCESS EXCLUSIVE MODE");
    // The write does not wait: the lock is held until the end of the test.
    town.becomes_sensitive(TICKET);
    town.wait_until_restricted(&path);
    holder.run("ROLLBACK");
    town.wait_for_clean_look();
    town.attachments_name_their_files();
}
