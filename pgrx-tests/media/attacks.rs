//! Roles that own a table which the worker writes to, or something of its name.

use std::time::Duration;

use civic_fake_services::{Options, Storage};

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::TENANT;

#[test]
fn a_trigger_on_the_table_of_attachments_runs_as_its_owner() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run(
        "CREATE ROLE attachments_owner;
         GRANT CREATE, USAGE ON SCHEMA public TO attachments_owner;
         ALTER TABLE media_attachments OWNER TO attachments_owner;
         SET ROLE attachments_owner;
         CREATE FUNCTION public.who() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             NEW.updated_by := current_user;
             BEGIN
                 RESET ROLE;
                 ALTER ROLE attachments_owner SUPERUSER;
             EXCEPTION WHEN OTHERS THEN
                 NEW.created_by := SQLSTATE;
             END;
             RETURN NEW;
         END $$;
         CREATE TRIGGER who BEFORE INSERT ON media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.who();
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON media_attachments
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.who();
         RESET ROLE",
    );
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    assert_eq!(town.wait_for_end(&id), "done", "{}", town.job(&id, "last_error"));
    let who = "SELECT updated_by || ' ' || created_by FROM media_attachments m, civic.media_jobs j
               WHERE m.file_id = j.file_id::text";
    assert_eq!(town.session.text(who), "attachments_owner 42501");
    assert_eq!(
        town.session.text("SELECT rolsuper FROM pg_roles WHERE rolname = 'attachments_owner'"),
        "f"
    );
}

#[test]
fn nothing_of_that_owner_waits_for_the_end_of_the_workers_transaction() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run(
        "CREATE ROLE patient_owner;
         GRANT CREATE, USAGE ON SCHEMA public TO patient_owner;
         ALTER TABLE media_attachments OWNER TO patient_owner;
         SET ROLE patient_owner;
         CREATE TABLE public.bait (n int);
         CREATE FUNCTION public.spring() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             ALTER ROLE patient_owner SUPERUSER;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON bait
             DEFERRABLE FOR EACH ROW EXECUTE FUNCTION public.spring();
         CREATE FUNCTION public.lay() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             SET CONSTRAINTS public.trap DEFERRED;
             INSERT INTO public.bait VALUES (1);
             RETURN NEW;
         END $$;
         CREATE TRIGGER lay BEFORE INSERT ON media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.lay();
         RESET ROLE",
    );
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    wait_until("it is refused", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
    assert!(town.job(&id, "last_error").contains("42501"), "{}", town.job(&id, "last_error"));
    let is_superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = 'patient_owner'";
    assert_eq!(town.session.text(is_superuser), "f");
    town.session.run("DROP TRIGGER lay ON media_attachments");
    assert_eq!(town.wait_for_end(&id), "done");
}

#[test]
fn a_trigger_that_sleeps_or_feigns_a_cancellation_stops_its_own_job_alone() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let worker = town.worker();
    for (harm, reason) in
        [("RAISE query_canceled", "57014"), ("PERFORM pg_sleep(3600)", "took longer than 5 s")]
    {
        town.session.run(&format!(
            "CREATE OR REPLACE FUNCTION public.harm() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.ticket_id::text = '{TICKET}' THEN {harm}; END IF;
                 RETURN NEW;
             END $$;
             CREATE OR REPLACE TRIGGER harm BEFORE INSERT ON media_attachments
                 FOR EACH ROW EXECUTE FUNCTION public.harm()"
        ));
        let harmed = town.enqueue(&url);
        let other = "8f14e45f-ceea-467f-a83c-6d8b04dd5d31";
        let others: Vec<_> = (0..3).map(|_| town.enqueue_as(&url, other, TENANT, false)).collect();
        wait_until(harm, || town.job(&harmed, "last_error").contains(reason));
        for id in others {
            assert_eq!(town.wait_for_end(&id), "done", "{harm}");
        }
        assert_eq!(town.worker(), worker, "{harm}: it is still the same");
        town.session.run("DROP TRIGGER harm ON media_attachments");
        assert_eq!(town.wait_for_end(&harmed), "done", "{harm}");
    }
}

#[test]
fn a_table_that_somebody_else_has_made_is_not_served() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run("DROP EXTENSION pg_civic CASCADE");
    town.session.run(
        "CREATE ROLE attacker LOGIN;
         GRANT CREATE ON DATABASE postgres TO attacker;
         SET ROLE attacker;
         CREATE SCHEMA civic",
    );
    let script = include_str!("../../sql/media.sql");
    let table = &script[script.find("CREATE TABLE").unwrap()..script.find("CREATE INDEX").unwrap()];
    town.session.run(table);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let stored = town.storage.objects().len();
    town.session.run(&format!(
        "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, bucket, path, file_id,
             media_content_type, media_url)
         VALUES ('{TENANT}', '{TICKET}', false, 'evidence', 'x', gen_random_uuid(), 'image/jpeg', '{url}');
         RESET ROLE; SELECT pg_reload_conf()"
    ));
    // Where the worker has looked by then, it has looked away.
    let worker = town.worker();
    town.session.run(&format!("SELECT pg_terminate_backend({worker})"));
    wait_until("another runs", || !std::path::Path::new("/proc").join(&worker).exists());
    town.worker();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(town.session.text("SELECT state FROM civic.media_jobs"), "queued");
    assert_eq!(town.storage.objects().len(), stored);
}

#[test]
fn a_trigger_of_the_tables_owner_does_no_more_than_he_could() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run(
        "CREATE ROLE lesser; GRANT CREATE ON SCHEMA public TO lesser;
         ALTER TABLE civic.media_jobs OWNER TO lesser;
         GRANT USAGE ON SCHEMA civic TO lesser;
         SET ROLE lesser;
         CREATE FUNCTION public.escalate() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN
                 EXECUTE 'ALTER ROLE lesser SUPERUSER';
             EXCEPTION WHEN OTHERS THEN
                 NEW.last_error := SQLSTATE;
             END;
             BEGIN
                 EXECUTE 'RESET ROLE';
                 EXECUTE 'ALTER ROLE lesser SUPERUSER';
             EXCEPTION WHEN OTHERS THEN
                 NEW.last_error := NEW.last_error || SQLSTATE;
             END;
             RETURN NEW;
         END $$;
         CREATE TRIGGER escalate BEFORE UPDATE ON civic.media_jobs
             FOR EACH ROW EXECUTE FUNCTION public.escalate();
         RESET ROLE",
    );
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    town.wait_for_state(&id, "done");
    assert_eq!(town.job(&id, "last_error"), "4250142501");
    let is_superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = 'lesser'";
    assert_eq!(town.session.text(is_superuser), "f");
}
