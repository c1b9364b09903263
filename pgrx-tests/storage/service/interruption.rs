//! Waiting for a server that never answers: the backend can be interrupted at once.

use std::time::{Duration, Instant};

use civic_fake_services::Answer;

use super::downloads::download;
use super::{Town, wait_until};
use crate::pg_tests::support::Session;

/// Long for a busy machine, and well below any timeout of the transfer, which
/// [`with_long_timeout`] makes long.
const AT_ONCE: Duration = Duration::from_secs(60);

/// Services for which functions wait far longer than [`AT_ONCE`].
fn with_long_timeout(town: Town) -> Town {
    town.configure(&[("civic.http_timeout", "10min")]);
    town
}

/// An answer that takes an hour. A silent server would time out after ten seconds.
fn drip() -> Answer {
    Answer::file("image/jpeg", vec![b' '; 3600]).dripping(1, Duration::from_secs(1))
}

/// Each function that waits, with a server whose answer does not end.
fn waiting(town: &Town) -> Vec<String> {
    let url = town.twilio.offer_answer(drip());
    town.storage.fails_first((0..20).map(|_| drip()));
    vec![
        download(&url),
        "SELECT civic.upload_file('evidence', 't/f/a.jpg', 'x'::bytea, 'image/jpeg')".to_owned(),
    ]
}

/// The result of a statement, the time it ended, and its session.
type Ended = (Result<(), postgres::Error>, Instant, Session);

/// Starts a statement in its own session; returns the process id, and a thread with the result.
fn begin(mut session: Session, sql: &str) -> (String, std::thread::JoinHandle<Ended>) {
    let process = session.process();
    let sql = sql.to_owned();
    let thread = std::thread::spawn(move || {
        let result = session.client().batch_execute(&sql);
        (result, Instant::now(), session)
    });
    (process, thread)
}

fn wait_until_it_waits(town: &Town, process: &str) {
    let mut session = town.superuser();
    let waits = format!(
        "SELECT coalesce((SELECT wait_event_type = 'Extension' FROM pg_stat_activity
                          WHERE pid = {process}), false)"
    );
    wait_until("it waits", || session.text(&waits) == "t");
}

#[test]
fn a_cancelled_statement_ends_at_once_and_its_session_continues() {
    let town = with_long_timeout(Town::new());
    for sql in waiting(&town) {
        let (process, thread) = begin(town.service_role(), &sql);
        wait_until_it_waits(&town, &process);
        let asked = Instant::now();
        town.superuser().run(&format!("SELECT pg_cancel_backend({process})"));
        let (result, ended, mut session) = thread.join().expect("no panic");
        let error = result.expect_err("cancelled");
        assert_eq!(error.code().expect("a state").code(), "57014", "{sql}");
        assert!(ended - asked < AT_ONCE, "{sql}: {:?}", ended - asked);
        assert_eq!(session.text("SELECT current_user"), "service_role");
    }
}

#[test]
fn the_wait_for_an_answer_ends_within_a_tenth_of_a_second() {
    let town = with_long_timeout(Town::new());
    // On a busy machine the fastest of several runs shows what the code does.
    wait_until("one ends within a tenth of a second", || {
        let url = town.twilio.offer_answer(Answer::black_hole());
        let (process, thread) = begin(town.service_role(), &download(&url));
        wait_until_it_waits(&town, &process);
        let mut session = town.superuser();
        let asked = Instant::now();
        session.run(&format!("SELECT pg_cancel_backend({process})"));
        thread.join().expect("no panic").1 - asked < Duration::from_millis(100)
    });
}

#[test]
fn statement_timeout_ends_the_wait() {
    let town = with_long_timeout(Town::new());
    for sql in waiting(&town) {
        let mut session = town.service_role();
        session.run("SET statement_timeout = '300ms'");
        let before = Instant::now();
        assert_eq!(session.sqlstate(&sql), "57014", "{sql}");
        let took = before.elapsed();
        assert!(took >= Duration::from_millis(290) && took < AT_ONCE, "{sql}: {took:?}");
        assert_eq!(session.text("SELECT 1"), "1");
    }
}

#[test]
fn a_terminated_backend_is_gone_at_once() {
    let town = with_long_timeout(Town::new());
    for sql in waiting(&town) {
        let (process, thread) = begin(town.service_role(), &sql);
        wait_until_it_waits(&town, &process);
        let asked = Instant::now();
        let mut session = town.superuser();
        session.run(&format!("SELECT pg_terminate_backend({process})"));
        let (result, ended, _) = thread.join().expect("no panic");
        assert!(result.is_err());
        assert!(ended - asked < AT_ONCE, "{sql}: {:?}", ended - asked);
        let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
        wait_until("it is gone", || session.text(&gone) == "0");
    }
    let log = town.cluster.log();
    assert!(!log.contains("was terminated by signal") && !log.contains("panicked"), "{log}");
}

#[test]
fn the_server_can_stop_while_a_session_waits() {
    let town = with_long_timeout(Town::apart(&[]));
    let url = town.twilio.offer_answer(drip());
    let (process, thread) = begin(town.service_role(), &download(&url));
    wait_until_it_waits(&town, &process);
    let asked = Instant::now();
    town.cluster.stop("fast");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert!(thread.join().expect("no panic").0.is_err());
}

#[test]
fn an_abandoned_transfer_ends_by_itself_and_closes_its_connection() {
    let town = with_long_timeout(Town::new());
    let url = town.twilio.offer_answer(drip());
    let mut session = town.service_role();
    let threads =
        |process: &str| std::fs::read_dir(format!("/proc/{process}/task")).expect("Linux").count();
    let process = session.process();
    let before = threads(&process);
    session.run("SET statement_timeout = '200ms'");
    for _ in 0..3 {
        assert_eq!(session.sqlstate(&download(&url)), "57014");
    }
    // Long before any timeout of its own.
    let left = Instant::now();
    wait_until("its threads are gone", || threads(&process) <= before);
    assert!(left.elapsed() < AT_ONCE, "{:?}", left.elapsed());
}

#[test]
fn signals_reach_the_backend_while_a_thread_works() {
    let town = with_long_timeout(Town::new());
    let url = town.twilio.offer_answer(Answer::black_hole());
    let mut session = town.service_role();
    let before = blocked_signals(&session.process());
    let (process, thread) = begin(session, &download(&url));
    wait_until_it_waits(&town, &process);
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).expect("Linux") {
        let task = task.expect("a thread").file_name().into_string().expect("a number");
        if task == process {
            continue;
        }
        let blocked = blocked_signals(&format!("{process}/task/{task}"));
        // All except KILL (9), STOP (19) and two of the C library.
        let expected: u64 = !(1 << 8 | 1 << 18 | 1 << 31 | 1 << 32);
        assert_eq!(blocked & expected, expected, "{blocked:x}");
        threads += 1;
    }
    assert!(threads > 0, "there is a thread");
    town.superuser().run(&format!("SELECT pg_cancel_backend({process})"));
    let (_, _, mut session) = thread.join().expect("no panic");
    // The main thread takes them as before.
    assert_eq!(blocked_signals(&session.process()), before);
}

/// The signals that a process's main thread, or one of its threads, blocks.
fn blocked_signals(of: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{of}/status")).expect("it lives");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
    u64::from_str_radix(blocked.expect("a mask"), 16).expect("hexadecimal")
}
