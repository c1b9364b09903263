//! civic.setup() and civic.teardown() beside other sessions, and in transactions that do not last.

use std::thread;

use crate::pg_tests::support::installation::{
    SETUP, TEARDOWN, action_of, actions, wait_until_blocked,
};
use crate::pg_tests::support::{Database, TENANT};

#[test]
fn a_second_setup_waits_for_the_first_and_finds_all_there() {
    for database in [Database::supabase(), Database::guarded()] {
        let (mut first, mut second) = (database.superuser(), database.superuser());
        second.run("SELECT count(*) FROM tickets");
        first.run("BEGIN");
        first.run(SETUP);
        let process = second.process();
        let waiting = thread::spawn(move || second.steps(SETUP));
        wait_until_blocked(&database, &process);
        first.run("COMMIT");
        let steps = waiting.join().expect("the second succeeds");
        assert_eq!(actions(&steps), ["already there", "skipped"], "{steps:?}");
    }
}

#[test]
fn a_setup_waits_for_a_teardown_and_makes_all_anew() {
    let database = Database::guarded();
    let (mut first, mut second) = (database.superuser(), database.superuser());
    first.run("BEGIN");
    first.run(TEARDOWN);
    let process = second.process();
    let waiting = thread::spawn(move || second.steps(SETUP));
    wait_until_blocked(&database, &process);
    first.run("COMMIT");
    let steps = waiting.join().expect("setup succeeds");
    assert_eq!(action_of(&steps, "bucket evidence"), "done");
    assert_eq!(action_of(&steps, "trigger ticket_update_notify on public.tickets"), "done");
    assert_eq!(first.wrong(), []);
}

#[test]
fn a_setup_that_finds_all_there_keeps_no_writer_waiting() {
    let database = Database::guarded();
    let (mut setting_up, mut writer) = (database.superuser(), database.superuser());
    setting_up.run("BEGIN");
    setting_up.run(SETUP);
    writer.run(&format!(
        "SET lock_timeout = '1min';
         INSERT INTO tickets (tenant_id) VALUES ('{TENANT}');
         INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', '{TENANT}/a/b');
         UPDATE storage.buckets SET updated_at = now()"
    ));
    setting_up.run("COMMIT");
}

#[test]
fn setup_waits_for_an_upload_and_the_upload_for_setup() {
    let database = Database::supabase();
    let (mut setting_up, mut uploader) = (database.superuser(), database.superuser());
    uploader.run("INSERT INTO storage.buckets (id, name) VALUES ('evidence', 'evidence')");
    let upload = |name: &str| {
        format!(
            "INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', '{TENANT}/{name}/f')"
        )
    };
    uploader.run("BEGIN");
    uploader.run(&upload("1"));
    let process = setting_up.process();
    let waiting = thread::spawn(move || {
        setting_up.run("BEGIN");
        setting_up.run(SETUP);
        setting_up
    });
    wait_until_blocked(&database, &process);
    uploader.run(&upload("2"));
    uploader.run("COMMIT");
    let mut setting_up = waiting.join().expect("setup succeeds");

    let process = uploader.process();
    let third = upload("3");
    let waiting = thread::spawn(move || {
        uploader.run(&third);
        uploader
    });
    wait_until_blocked(&database, &process);
    setting_up.run("COMMIT");
    let mut uploader = waiting.join().expect("the upload succeeds");
    assert_eq!(uploader.text("SELECT count(*) FROM storage.objects"), "3");
    let mut citizen = database.person(TENANT, "citizen");
    assert_eq!(citizen.text("SELECT count(*) FROM storage.objects"), "3");
    assert_eq!(uploader.wrong(), []);
}

#[test]
fn a_setup_or_teardown_that_is_rolled_back_leaves_nothing() {
    for (database, sql) in [(Database::supabase(), SETUP), (Database::guarded(), TEARDOWN)] {
        let mut session = database.superuser();
        let before = session.traces();
        session.run("BEGIN");
        session.run(sql);
        session.run("ROLLBACK");
        assert_eq!(session.traces(), before, "{sql}");
        session.run("BEGIN; SAVEPOINT s");
        session.run(sql);
        session.run("ROLLBACK TO s; COMMIT");
        assert_eq!(session.traces(), before, "{sql} in a savepoint");
    }
}

#[test]
fn setup_and_teardown_see_what_their_own_transaction_did() {
    let mut session = Database::supabase().superuser();
    let before = session.traces();
    session.run("BEGIN");
    session.run(SETUP);
    assert_eq!(session.wrong(), []);
    assert_eq!(actions(&session.steps(SETUP)), ["already there", "skipped"]);
    session.run(TEARDOWN);
    session.run("COMMIT");
    assert_eq!(session.traces(), before);
}
