//! An error while one job is recorded costs neither the worker nor another job anything.

use std::time::Duration;

use civic_fake_services::{Answer, Options, Storage};

use super::{PHOTO, TICKET, Town, wait_until};
use crate::pg_tests::support::TENANT;

const OTHER_TICKET: &str = "8f14e45f-ceea-467f-a83c-6d8b04dd5d31";

#[test]
fn an_error_while_one_job_is_recorded_leaves_the_worker_and_the_other_transfers_alone() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let slow = town.twilio.offer_answer(Answer::black_hole());
    let travelling = town.enqueue(&slow);
    town.wait_for_state(&travelling, "running");
    let worker = town.worker();
    // What the media tables process records, and what the worker records itself.
    for (error, is_sensitive) in [
        ("deadlock_detected", false),
        ("disk_full", false),
        ("lock_not_available", true),
        ("query_canceled", true),
    ] {
        town.session.run(&format!(
            "CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE {error}; END $$;
             CREATE TRIGGER fail BEFORE UPDATE ON civic.media_jobs FOR EACH ROW
                 WHEN (NEW.ticket_id = '{OTHER_TICKET}' AND NEW.state <> 'running')
                 EXECUTE FUNCTION public.fail()"
        ));
        let lost = town.twilio.offer_answer(Answer::new(404));
        let source = if is_sensitive { &lost } else { &url };
        let unrecorded = town.enqueue_as(source, OTHER_TICKET, TENANT, is_sensitive);
        wait_until("it says why", || town.cluster.log().contains("media jobs are recorded later"));
        // Others are done meanwhile.
        let others: Vec<_> = (0..3).map(|_| town.enqueue(&url)).collect();
        for id in others {
            town.wait_for_state(&id, "done");
            assert_eq!(town.job(&id, "attempts"), "1", "{error}");
        }
        assert_eq!(town.job(&unrecorded, "state || ' ' || attempts"), "running 1", "{error}");
        town.session.run("DROP TRIGGER fail ON civic.media_jobs");
        let is_recorded =
            if is_sensitive { "state = 'queued' AND attempts = 1" } else { "state = 'done'" };
        wait_until("it is recorded", || town.job(&unrecorded, is_recorded) == "t");
        assert_eq!(town.job(&unrecorded, "attempts"), "1", "{error}");
        assert_eq!(town.worker(), worker, "{error}: the worker is the same");
        assert_eq!(town.job(&travelling, "state || ' ' || attempts"), "running 1", "{error}");
        town.session.run(&format!("DELETE FROM civic.media_jobs WHERE id = '{unrecorded}'"));
    }
    town.session.run(&format!("SELECT civic.cancel_media_job('{travelling}')"));
    town.wait_for_state(&travelling, "cancelled");
}

#[test]
fn timeouts_that_are_set_for_the_whole_server_end_no_job() {
    let mut town = Town::apart(Storage::start(Options::default()));
    let timeouts =
        "SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout',
                        'transaction_timeout', 'idle_in_transaction_session_timeout')";
    town.session.run(
        "CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$;
         CREATE TRIGGER dawdle BEFORE INSERT ON media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.dawdle()",
    );
    for name in town.session.column(timeouts) {
        town.session.run(&format!("SET {name} = 0"));
        town.session.run(&format!("ALTER SYSTEM SET {name} = '100ms'"));
    }
    town.reload();
    let worker = town.worker();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue_as(&url, TICKET, TENANT, false);
    town.wait_for_state(&id, "done");
    assert_eq!(town.job(&id, "attempts || ' ' || COALESCE(last_error, '')"), "1 ");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(town.worker(), worker);
}
