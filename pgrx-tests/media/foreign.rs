//! Code of other people's tables that does not end, and ignores each cancellation.

use std::time::{Duration, Instant};

use civic_fake_services::{Options, Storage};

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::{OTHER_TENANT, TENANT};

/// A body of PL/pgSQL that a cancellation does not end.
const STUCK: &str =
    "LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP";
const OTHER_TICKET: &str = "8f14e45f-ceea-467f-a83c-6d8b04dd5d31";
/// Both limits, which are ten seconds, the restart of a process, and what a busy machine adds. Forty
/// jobs one after the other would take longer.
const BOTH_LIMITS: Duration = Duration::from_secs(100);

/// A town whose table of attachments has a trigger that stays for ever at each row of this tenant.
fn with_stuck_attachments(tenant: &str) -> Town {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run(&format!(
        "CREATE FUNCTION public.stuck() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.tenant_id = '{tenant}' THEN {STUCK}; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER stuck BEFORE INSERT ON media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.stuck()"
    ));
    town
}

/// Gives the type of is_sensitive a cast to text that does not end.
fn make_stuck_enum(town: &mut Town) {
    town.session.run(&format!(
        "CREATE TYPE public.answer AS ENUM ('false', 'true');
         CREATE FUNCTION public.stuck(public.answer) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN {STUCK}; RETURN 'false'; END $$;
         CREATE CAST (public.answer AS text) WITH FUNCTION public.stuck(public.answer) AS IMPLICIT;
         DROP TRIGGER ticket_update_notify ON public.tickets;
         ALTER TABLE public.tickets ALTER is_sensitive DROP DEFAULT;
         ALTER TABLE public.tickets ALTER is_sensitive TYPE public.answer USING 'false'::public.answer;
         INSERT INTO public.tickets (id, tenant_id, is_sensitive) VALUES ('{TICKET}', '{TENANT}', 'false');
         CREATE TRIGGER ticket_update_notify AFTER INSERT ON public.tickets
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
    ));
}

#[test]
fn a_trigger_that_ignores_cancellations_stops_its_own_job_alone() {
    let mut town = with_stuck_attachments(TENANT);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let worker = town.worker();
    let begun = Instant::now();
    let stuck = town.enqueue(&url);
    let enqueue = |town: &mut Town| town.enqueue_as(&url, OTHER_TICKET, OTHER_TENANT, false);
    let others: Vec<_> = (0..3).map(|_| enqueue(&mut town)).collect();
    for id in &others {
        wait_until("another municipality's job is done", || town.job(id, "state") == "done");
    }
    assert!(begun.elapsed() < BOTH_LIMITS, "{:?}", begun.elapsed());
    wait_until("the job says why", || town.job(&stuck, "last_error IS NOT NULL") == "t");
    let error = town.job(&stuck, "last_error");
    for part in ["public.media_attachments", "10 s", "ignored"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(town.worker(), worker, "the worker that transfers is the same");
    // The file is stored: only its row is missing.
    let path = town.job(&stuck, "path");
    assert!(town.storage.object("evidence", &path).is_some());
    town.session.run("DROP TRIGGER stuck ON media_attachments");
    assert_eq!(town.wait_for_end(&stuck), "done", "{}", town.job(&stuck, "last_error"));
}

#[test]
fn many_jobs_of_one_municipality_that_get_stuck_leave_room_for_others() {
    let mut town = with_stuck_attachments(TENANT);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let begun = Instant::now();
    town.session.run(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')
         FROM generate_series(1, 40)"
    ));
    let other = town.enqueue_as(&url, OTHER_TICKET, OTHER_TENANT, false);
    wait_until("another municipality's job is done", || town.job(&other, "state") == "done");
    assert!(begun.elapsed() < BOTH_LIMITS, "{:?}", begun.elapsed());
}

#[test]
fn many_jobs_of_one_municipality_that_stay_just_under_the_limit_leave_room_for_others() {
    let mut town = Town::apart(Storage::start(Options::default()));
    town.session.run(&format!(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.tenant_id = '{TENANT}' THEN PERFORM pg_sleep(4); END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER slow BEFORE INSERT ON media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.slow()"
    ));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let begun = Instant::now();
    town.session.run(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')
         FROM generate_series(1, 40)"
    ));
    let other = town.enqueue_as(&url, OTHER_TICKET, OTHER_TENANT, false);
    wait_until("another municipality's job is done", || town.job(&other, "state") == "done");
    assert!(begun.elapsed() < BOTH_LIMITS, "{:?}", begun.elapsed());
}

#[test]
fn check_names_the_job_and_the_table_whose_code_stands() {
    let mut town = with_stuck_attachments(TENANT);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    let detail = "SELECT detail FROM civic.check() WHERE component = 'media worker' AND NOT ok";
    wait_until("check() names them", || {
        town.session
            .column(detail)
            .iter()
            .any(|it| it.contains(&id) && it.contains("public.media_attachments"))
    });
}

#[test]
fn code_that_ignores_cancellations_holds_up_neither_drop_extension_nor_a_shutdown() {
    let mut town = with_stuck_attachments(TENANT);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let stuck = "SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid <> pg_backend_pid()
                     AND relation = 'public.media_attachments'::regclass AND mode = 'RowExclusiveLock')";
    let id = town.enqueue(&url);
    wait_until("the trigger runs", || town.session.text(stuck) == "t");
    let begun = Instant::now();
    town.session.run("SET statement_timeout = '100s'; DROP EXTENSION pg_civic CASCADE");
    assert!(begun.elapsed() < BOTH_LIMITS, "{:?}", begun.elapsed());
    drop(id);

    town.session
        .run("CREATE EXTENSION pg_civic; SELECT count(*) FROM civic.setup('public.tickets')");
    town.enqueue(&url);
    wait_until("the trigger runs", || town.session.text(stuck) == "t");
    let begun = Instant::now();
    town.cluster.stop("fast");
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
}

#[test]
fn a_cast_of_is_sensitive_is_not_executed_and_opens_nothing() {
    let mut town = Town::apart(Storage::start(Options::default()));
    make_stuck_enum(&mut town);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let begun = Instant::now();
    let mut session = town.cluster.superuser();
    session.run("SET statement_timeout = '1min'");
    let asked = std::thread::spawn(move || {
        let sql = format!(
            "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')::text"
        );
        session.client().query_one(&sql, &[]).map(|row| row.get::<_, String>(0))
    });
    wait_until("enqueue_media() returns", || asked.is_finished());
    let id = asked.join().expect("no panic").expect("the job is added");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(town.job(&id, "bucket"), "gbv-evidence");
    assert_eq!(town.wait_for_end(&id), "done", "{}", town.job(&id, "last_error"));
}

#[test]
fn a_look_at_tickets_that_does_not_end_fails_the_job_and_not_the_worker() {
    let mut town = Town::apart(Storage::start(Options::default()));
    // The planner computes such a constant at each query of the table.
    town.session.run(&format!(
        "CREATE TABLE public.armed ();
         CREATE FUNCTION public.constant(int) RETURNS uuid IMMUTABLE LANGUAGE plpgsql AS $$
         BEGIN
             IF EXISTS (SELECT FROM public.armed) THEN {STUCK}; END IF;
             RETURN '{TICKET}';
         END $$;
         CREATE INDEX trap ON public.tickets ((id = public.constant(1)))"
    ));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let gate = town.twilio.holds();
    let stuck = town.enqueue(&url);
    // The first look is over by then.
    town.twilio.api().wait_for(1);
    let worker = town.worker();
    town.session.run("INSERT INTO public.armed DEFAULT VALUES");
    // A process that still has a snapshot from before would compute the harmless constant once more.
    let snapshots = "SELECT count(*) FROM pg_stat_activity
                     WHERE backend_type LIKE 'pg_civic media%' AND backend_xmin IS NOT NULL";
    wait_until("no snapshot is older", || town.session.text(snapshots) == "0");
    // Which drops what each process has computed before.
    town.session.run("ALTER INDEX public.trap SET (fillfactor = 90)");
    gate.open();
    let begun = Instant::now();
    let mut caller = town.cluster.superuser();
    let sql = format!("SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')");
    let asked = std::thread::spawn(move || caller.client().batch_execute(&sql));
    wait_until("the job says why it waits", || town.job(&stuck, "last_error IS NOT NULL") == "t");
    let error = town.job(&stuck, "last_error");
    assert!(error.contains("public.tickets") && error.contains("10 s"), "{error}");
    assert!(begun.elapsed() < BOTH_LIMITS, "{:?}", begun.elapsed());
    assert_eq!(town.worker(), worker, "the worker that transfers is the same");

    wait_until("a session that calls enqueue_media() ends", || asked.is_finished());
    let error = asked.join().expect("no panic").expect_err("it is given up");
    // The driver may see the closed connection before the message.
    match error.as_db_error() {
        Some(error) => {
            assert_eq!((error.severity(), error.code().code()), ("FATAL", "57P01"));
            assert!(error.detail().is_some_and(|it| it.contains("public.tickets")), "{error:?}");
        }
        None => assert!(error.is_closed(), "{error:?}"),
    }
    let log = town.cluster.log();
    assert!(log.contains("FATAL:  terminating connection due to administrator command"), "{log}");
    assert!(log.contains("Code on table public.tickets ran longer than 10 s"), "{log}");

    town.session.run("DELETE FROM public.armed");
    assert_eq!(town.wait_for_end(&stuck), "done", "{}", town.job(&stuck, "last_error"));
}

#[test]
fn without_the_process_for_tables_jobs_wait_and_check_says_so() {
    // One slot is the server's own, one the relay's, one the worker's.
    let cluster = super::media_cluster(&["max_worker_processes=3"]);
    let mut session = cluster.superuser();
    for (setting, value) in [
        ("civic.supabase_url", "http://127.0.0.1:1"),
        ("civic.service_key", "key"),
        ("civic.twilio_account_sid", "AC1"),
        ("civic.twilio_auth_token", "token"),
        ("civic.media_hosts", "127.0.0.1:1"),
    ] {
        session.run(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
    }
    session.run("SELECT pg_reload_conf()");
    let enqueue = format!(
        "SELECT civic.enqueue_media('http://127.0.0.1:1/x', 'image/jpeg', '{TICKET}', '{TENANT}')"
    );
    wait_until("the settings are taken", || session.client().batch_execute(&enqueue).is_ok());
    let detail = "SELECT detail FROM civic.check() WHERE component = 'media worker' AND NOT ok";
    wait_until("check() says so", || {
        let said = session.column(detail).concat();
        said.contains("\"pg_civic media tables\" is not started") && said.contains("jobs wait")
    });
    let waits = "SELECT DISTINCT state || ' ' || attempts FROM civic.media_jobs";
    assert_eq!(session.column(waits), ["queued 0"]);
}

#[test]
fn a_process_for_tables_that_is_ended_by_a_person_costs_one_try_and_comes_back() {
    let mut town = with_stuck_attachments(TENANT);
    let helper = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_civic media tables'";
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    let stuck = format!("{helper} AND wait_event = 'PgSleep'");
    wait_until("the trigger runs", || !town.session.column(&stuck).is_empty());
    town.session.run(&format!("SELECT pg_terminate_backend(pid) FROM ({helper}) h"));
    wait_until("the job says why", || town.job(&id, "last_error IS NOT NULL") == "t");
    let error = town.job(&id, "last_error");
    assert!(error.contains("public.media_attachments") && error.contains("ended"), "{error}");
    town.session.run("DROP TRIGGER stuck ON media_attachments");
    assert_eq!(town.wait_for_end(&id), "done");
    assert_eq!(town.session.column(helper).len(), 1);
}
