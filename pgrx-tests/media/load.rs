//! Many jobs, crashes in between: none is lost, none is doubled.

use std::collections::HashSet;

use civic_fake_services::{Options, Storage};

use super::{MANY_JOBS, PHOTO, TICKET, Town, wait_until, wait_within};
use crate::pg_tests::support::{TENANT, extent};

#[test]
fn of_many_jobs_under_crashes_none_is_lost_and_none_is_doubled() {
    let jobs = extent(100, 1000);
    let mut town = Town::apart(Storage::start(Options::default()));
    town.set("civic.media_concurrency", "8");
    town.reload();
    let stored = town.storage.objects().len();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.session.run(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}', n % 2 = 0)
         FROM generate_series(1, {jobs}) n"
    ));
    let done = "SELECT count(*) FROM civic.media_jobs WHERE state = 'done'";
    for (crash, until) in [("worker", jobs / 5), ("server", jobs / 2), ("ended", jobs * 4 / 5)] {
        wait_within(MANY_JOBS, crash, || {
            town.session.text(done).parse::<usize>().expect("a number") >= until
        });
        let worker = town.worker();
        match crash {
            "worker" => town.cluster.signal("KILL", &worker),
            "server" => {
                town.cluster.stop("immediate");
                town.cluster.start_again();
            }
            _ => town.session.run(&format!("SELECT pg_terminate_backend({worker})")),
        }
        wait_until("it is gone", || !std::path::Path::new("/proc").join(&worker).exists());
        town.session = town.cluster.superuser_of("postgres");
    }
    wait_within(MANY_JOBS, "all are done", || {
        let _ = town.session.client().batch_execute(
            "SELECT civic.retry_media_job(id) FROM civic.media_jobs WHERE state = 'queued' AND attempts > 0",
        );
        town.session.text(done) == jobs.to_string()
    });
    let recorded = town.session.column("SELECT bucket || '/' || path FROM civic.media_jobs");
    let recorded: HashSet<String> = recorded.into_iter().collect();
    let objects = town.storage.objects();
    let found: HashSet<String> =
        objects.iter().map(|object| format!("{}/{}", object.bucket, object.path)).collect();
    assert_eq!(recorded.len(), jobs);
    assert!(recorded.is_subset(&found), "none is lost");
    assert_eq!(objects.len(), stored + jobs, "none is doubled");
    assert!(objects.iter().all(|object| object.body == PHOTO));
}
