//! Tickets that become sensitive in every phase of their media, while what works on it is killed: at rest
//! nothing of a sensitive ticket is in the open.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use civic_fake_services::{Options, Process, Storage};
use serde_json::Value;

use super::{MANY_JOBS, PHOTO, Town, wait_until, wait_within};
use crate::pg_tests::support::TENANT;

fn ticket(number: usize) -> String {
    format!("{number:08}-0000-4000-8000-000000000000")
}

/// The half of the tickets that become sensitive, one in four in each wave.
fn is_flipped(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// A Storage API that can be killed, over a directory.
struct Files {
    directory: PathBuf,
    process: Process,
}

impl Files {
    fn start() -> Files {
        let directory = std::env::temp_dir().join(format!("civic_storm_{}", std::process::id()));
        let process = Process::start(&directory, 0);
        Files { directory, process }
    }

    fn kill_and_restart(&mut self) {
        let port = self.process.port();
        self.process.kill();
        std::thread::sleep(Duration::from_millis(300));
        self.process = Process::start(&self.directory, port);
    }

    /// `bucket/path` of every file.
    fn places(&self) -> HashSet<String> {
        let files = std::fs::read_dir(&self.directory).into_iter().flatten();
        files.filter_map(|file| place(&file.ok()?.path())).collect()
    }
}

fn place(file: &Path) -> Option<String> {
    let bytes = std::fs::read(file).ok()?;
    let head = bytes.split(|byte| *byte == b'\n').next()?;
    let head: Value = serde_json::from_slice(head).ok()?;
    Some(format!("{}/{}", head["bucket"].as_str()?, head["path"].as_str()?))
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

const TICKETS: usize = 48;

#[test]
fn at_rest_no_file_of_a_sensitive_ticket_is_in_the_open_whatever_was_killed_between() {
    let mut files = Files::start();
    let mut town = Town::apart(Storage::start(Options::default()));
    town.set("civic.storage_url", files.process.url());
    wait_until("the worker stores there", || {
        town.reload();
        !files.places().is_empty()
    });
    town.session.run("DELETE FROM media_attachments");
    for number in 0..TICKETS {
        town.add_ticket(&ticket(number));
    }
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let enqueue = |town: &mut Town, numbers: std::ops::Range<usize>| {
        for number in numbers {
            town.enqueue_as(&url, &ticket(number), TENANT, false);
        }
    };
    // Done long ago; and uploaded by a person, and confirmed.
    enqueue(&mut town, 0..12);
    let done = "SELECT count(*) FROM civic.media_jobs WHERE kind = 'fetch' AND state = 'done'";
    wait_until("the first are done", || town.session.text(done) == "12");
    for number in 12..20 {
        let (file_id, ticket) = (ticket(1000 + number), ticket(number));
        let path = format!("{TENANT}/{file_id}/photo.jpg");
        town.session.run(&format!(
            "SELECT civic.upload_file('evidence', '{path}', 'photo', 'image/jpeg');
             INSERT INTO media_attachments (id, ticket_id, tenant_id, s3_bucket, s3_key, file_id, purpose)
             VALUES (gen_random_uuid(), '{ticket}', '{TENANT}', 'evidence', '{path}', '{file_id}', 'evidence')"
        ));
    }
    // Queued, in transfer, stored and being recorded.
    town.twilio.takes(Duration::from_millis(60));
    enqueue(&mut town, 20..TICKETS);
    for (wave, killed) in
        ["worker", "storage", "postmaster", "storage", "worker", "nothing"].into_iter().enumerate()
    {
        let flipped = (0..TICKETS).filter(|number| is_flipped(*number) && number / 2 % 6 == wave);
        for number in flipped.collect::<Vec<_>>() {
            town.becomes_sensitive(&ticket(number));
        }
        match killed {
            "worker" => town.kill_worker(),
            "storage" => files.kill_and_restart(),
            "postmaster" => {
                town.kill_postmaster();
                wait_until("it can be started", || town.cluster.try_start_again());
                town.session = town.cluster.superuser_of("postgres");
            }
            _ => {}
        }
        // More comes for those that are sensitive by now, and for others.
        enqueue(&mut town, 0..6);
        enqueue(&mut town, 30..34);
    }
    let sensitive = (0..TICKETS).filter(|number| is_flipped(*number)).map(ticket);
    let sensitive: HashSet<String> = sensitive.collect();
    let unfinished = "SELECT count(*) FROM civic.media_jobs
                      WHERE state IN ('queued', 'running') AND NOT last_look";
    wait_within(MANY_JOBS, "all is at rest", || {
        let _ = town.session.client().batch_execute(
            "SELECT civic.retry_media_job(id) FROM civic.media_jobs
             WHERE state = 'queued' AND attempts > 0 AND NOT last_look",
        );
        town.session.text(unfinished) == "0"
    });
    town.comes_to_the_last_look();
    let all = "SELECT count(*) FROM civic.media_jobs WHERE state IN ('queued', 'running')";
    wait_within(MANY_JOBS, "the last looks are over", || town.session.text(all) == "0");
    let failed = "SELECT count(*) FROM civic.media_jobs WHERE state <> 'done'";
    assert_eq!(town.session.text(failed), "0");

    let places = files.places();
    let of_sensitive = |place: &str| sensitive.iter().any(|ticket| place.contains(ticket));
    let open: Vec<_> = places
        .iter()
        .filter(|place| place.starts_with("evidence/") && of_sensitive(place))
        .collect();
    assert!(open.is_empty(), "{open:?}");
    let rows = town.session.rows(
        "SELECT s3_bucket || '/' || s3_key, s3_bucket, ticket_id::text FROM media_attachments",
    );
    for row in &rows {
        let [place, bucket, ticket] =
            [0, 1, 2].map(|column| row[column].clone().unwrap_or_default());
        assert!(places.contains(&place), "{place} is where its row says");
        let is_sensitive = sensitive.contains(&ticket);
        assert_eq!(bucket == "gbv-evidence", is_sensitive, "{place}");
    }
    let jobs = "SELECT bucket || '/' || path FROM civic.media_jobs WHERE kind = 'fetch'";
    for place in town.session.column(jobs) {
        assert!(places.contains(&place), "{place} is where its job says");
    }
    assert_eq!(rows.len(), 12 + 8 + (TICKETS - 20) + 6 * 10, "no file is lost");
}
