//! Faults of both services: a job that may succeed later is tried again, one that cannot fails at once,
//! and no file is stored twice. `crates/http` tests which fault is which.

use std::time::Duration;

use civic_fake_services::Answer;
use serde_json::json;

use super::{PHOTO, TOKEN, Town, wait_until};

/// A job whose first tries go wrong, and which is then done.
fn heals(what: &str, tries: usize, go_wrong: impl FnOnce(&Town)) {
    let mut town = Town::new();
    go_wrong(&town);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    assert_eq!(town.wait_for_end(&id), "done", "{what}: {}", town.job(&id, "last_error"));
    assert_eq!(town.job(&id, "attempts"), (tries + 1).to_string(), "{what}");
    assert_eq!(town.job(&id, "last_error"), "NULL", "{what}");
    let path = town.job(&id, "path");
    assert_eq!(town.storage.object("evidence", &path).expect(what).body, PHOTO);
}

#[test]
fn twilios_404_just_after_the_webhook_heals() {
    heals("404", 2, |town| town.twilio.fails_first([Answer::new(404), Answer::new(404)]));
}

#[test]
fn what_twilio_cannot_do_for_a_while_heals() {
    heals("500, hanging up, garbage", 3, |town| {
        town.twilio.fails_first([
            Answer::new(500),
            Answer::hang_up(),
            Answer::raw("garbage\r\n\r\n"),
        ]);
    });
}

#[test]
fn what_storage_cannot_do_for_a_while_heals() {
    let unavailable = json!({"statusCode": "503", "error": "Busy", "message": "try later"});
    heals("500, 503 in the body, hanging up, no JSON", 4, |town| {
        town.storage.fails_first([
            Answer::new(500),
            Answer::json(400, &unavailable),
            Answer::hang_up(),
            Answer::new(200).body("<html>a proxy's page</html>"),
        ]);
    });
}

#[test]
fn a_server_that_asks_to_be_left_alone_is() {
    for (who, is_twilio) in [("Twilio", true), ("Storage", false)] {
        let mut town = Town::new();
        let busy = Answer::new(429).header("retry-after", "600");
        if is_twilio {
            town.twilio.fails_first([busy])
        } else {
            town.storage.fails_first([busy])
        };
        let url = town.twilio.offer("image/jpeg", PHOTO);
        let id = town.enqueue(&url);
        wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
        let wait =
            "next_attempt_at - clock_timestamp() BETWEEN interval '590 s' AND interval '661 s'";
        assert_eq!(town.job(&id, wait), "t", "{who}: {}", town.job(&id, "next_attempt_at"));
        assert!(town.job(&id, "last_error").contains("429"), "{who}");
        assert_eq!(town.wait_for_end(&id), "done");
    }
}

#[test]
fn a_job_waits_longer_after_each_try_and_fails_after_the_last() {
    let mut town = Town::new();
    town.set("civic.media_attempts", "3");
    town.reload();
    let url = town.twilio.offer_answer(Answer::new(500));
    let id = town.enqueue(&url);
    for tries in 1..3 {
        let waits = format!("state = 'queued' AND attempts = {tries}");
        wait_until("it waits", || town.job(&id, &waits) == "t");
        // The longest that it may be, and half of that, less the time that has passed since.
        let longest = 3_i32.pow(tries - 1);
        let wait = format!(
            "next_attempt_at - started_at BETWEEN interval '{longest} s' * 0.5 AND interval '{longest} s' * 1.0 + interval '1 s'"
        );
        assert_eq!(town.job(&id, &wait), "t", "try {tries}");
        town.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    }
    town.wait_for_state(&id, "failed");
    assert_eq!(town.job(&id, "attempts"), "3");
    assert!(town.job(&id, "last_error").contains("500"));
    assert_eq!(town.job(&id, "finished_at IS NOT NULL AND next_attempt_at IS NULL"), "t");
}

#[test]
fn a_job_comes_back_by_itself_when_its_time_has_come() {
    let mut town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    // Well before the worker would look for its own sake. On a busy machine the fastest of some jobs
    // shows it.
    wait_until("one is back in time", || {
        town.twilio.fails_first([Answer::new(503)]);
        let id = town.enqueue(&url);
        let begun = std::time::Instant::now();
        town.wait_for_state(&id, "done");
        assert_eq!(town.job(&id, "attempts"), "2");
        begun.elapsed() < Duration::from_secs(8)
    });
}

#[test]
fn what_cannot_heal_fails_at_the_first_try() {
    let mut town = Town::new();
    let storage_says = |code: &str, error: &str| {
        Answer::json(400, &json!({"statusCode": code, "error": error, "message": "no"}))
    };
    let file = || Answer::file("image/jpeg", PHOTO);
    for (what, source, storage, told) in [
        ("401", Answer::new(401), None, "401"),
        ("a page", Answer::file("text/html", "<html>"), None, "text/html"),
        ("the metadata", Answer::redirect("https://169.254.169.254/x"), None, "169.254.169.254"),
        ("403 of Storage", file(), Some(storage_says("403", "Unauthorized")), "403"),
        ("413 of Storage", file(), Some(storage_says("413", "Payload too large")), "413"),
        ("no bucket", file(), Some(storage_says("404", "Bucket not found")), "404"),
    ] {
        town.storage.fails_first(storage);
        let url = town.twilio.offer_answer(source);
        let id = town.enqueue(&url);
        wait_until(what, || !matches!(town.job(&id, "state").as_str(), "queued" | "running"));
        assert_eq!(town.job(&id, "state || ' ' || attempts"), "failed 1", "{what}");
        let error = town.job(&id, "last_error");
        assert!(error.contains(told), "{what}: {error}");
        assert_eq!(town.job(&id, "file_size"), "NULL", "{what}");
    }
}

#[test]
fn a_file_over_the_limit_of_the_setting_fails() {
    let mut town = Town::new();
    town.set("civic.media_max_size", "64kB");
    town.reload();
    let url = town.twilio.offer("image/jpeg", vec![7; 64 * 1024 + 1]);
    let id = town.enqueue(&url);
    assert_eq!(town.wait_for_end(&id), "failed");
    assert_eq!(town.job(&id, "file_size"), "NULL");
    let url = town.twilio.offer("image/jpeg", vec![7; 64 * 1024]);
    let id = town.enqueue(&url);
    assert_eq!(town.wait_for_end(&id), "done");
}

#[test]
fn an_empty_file_and_a_large_one_arrive_whole() {
    let mut town = Town::new();
    for size in [0, 20 * 1024 * 1024] {
        let body: Vec<u8> = (0..size).map(|place: usize| (place * 31 % 251) as u8).collect();
        let url = town.twilio.offer("video/mp4", body.clone());
        let id = town.enqueue(&url);
        assert_eq!(town.wait_for_end(&id), "done", "{size}: {}", town.job(&id, "last_error"));
        let path = town.job(&id, "path");
        assert!(
            town.storage.object("evidence", &path).expect("it is stored").body == body,
            "{size}"
        );
        assert_eq!(town.job(&id, "file_size"), size.to_string());
    }
}

#[test]
fn what_drips_for_hours_or_says_nothing_ends_in_time() {
    let mut town = Town::new();
    town.set("civic.http_timeout", "500ms");
    town.set("civic.media_attempts", "1");
    town.reload();
    for answer in [
        Answer::black_hole(),
        Answer::file("image/jpeg", vec![7; 1000]).dripping(1, Duration::from_millis(100)),
    ] {
        let what = format!("{answer:?}");
        let url = town.twilio.offer_answer(answer);
        let begun = std::time::Instant::now();
        let id = town.enqueue(&url);
        town.wait_for_state(&id, "failed");
        // A thousand bytes would drip for 100 s.
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", begun.elapsed());
    }
}

#[test]
fn an_upload_whose_answer_was_lost_is_not_repeated() {
    let mut town = Town::new();
    let stored = town.storage.objects().len();
    town.storage.answers_instead([Answer::hang_up()]);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let id = town.enqueue(&url);
    assert_eq!(town.wait_for_end(&id), "done", "{}", town.job(&id, "last_error"));
    assert_eq!(
        town.job(&id, "(attempts, content_type, file_size)::text"),
        format!("(2,image/jpeg,{})", PHOTO.len())
    );
    assert_eq!(town.storage.objects().len(), stored + 1);
    let path = town.job(&id, "path");
    assert_eq!(town.storage.object("evidence", &path).expect("it is there").body, PHOTO);
}

#[test]
fn somebody_elses_object_in_the_jobs_place_is_not_taken_for_its_own() {
    let mut town = Town::new();
    for (content_type, body) in [("image/jpeg", &PHOTO[1..]), ("image/png", PHOTO)] {
        // The first try leaves one object there, the next has another file.
        town.storage.answers_instead([Answer::new(500)]);
        let url = town.twilio.offer(content_type, body);
        let id = town.enqueue(&url);
        wait_until("it waits", || town.job(&id, "state = 'queued' AND attempts = 1") == "t");
        let other = town.twilio.offer("image/jpeg", PHOTO);
        town.session
            .run(&format!("UPDATE civic.media_jobs SET media_url = '{other}' WHERE id = '{id}'"));
        assert_eq!(town.wait_for_end(&id), "failed", "{content_type}");
        let error = town.job(&id, "last_error");
        assert!(error.contains("at the job's path"), "{error}");
        let path = town.job(&id, "path");
        assert_eq!(town.storage.object("evidence", &path).expect("it is there").body, body);
    }
}

#[test]
fn no_secret_gets_into_a_job_or_the_log() {
    let mut town = Town::new();
    let key = town.storage.service_key().to_owned();
    let echo =
        json!({"statusCode": "403", "error": "Unauthorized", "message": format!("bad {key}")});
    town.storage.fails_first([Answer::json(400, &echo)]);
    let good = town.twilio.offer("image/jpeg", PHOTO);
    let first = town.enqueue(&good);
    town.wait_for_end(&first);
    town.twilio.fails_first([Answer::new(401).body(format!("{TOKEN} is wrong"))]);
    let second = town.enqueue(&good);
    town.wait_for_end(&second);
    let signed = Answer::redirect("https://example.com/x?Signature=a-signature");
    let url = town.twilio.offer_answer(signed);
    let third = town.enqueue(&url);
    town.wait_for_end(&third);
    let jobs = town.session.column("SELECT to_jsonb(j)::text FROM civic.media_jobs j").join("\n");
    assert_eq!(
        town.session.text("SELECT count(*) FROM civic.media_jobs WHERE state = 'failed'"),
        "3"
    );
    let log = town.cluster.log();
    for secret in [key.as_str(), TOKEN, "a-signature"] {
        assert!(!jobs.contains(secret), "{jobs}");
        // The statements with which the tests set them are not logged.
        assert!(!log.contains(secret), "{log}");
    }
}
