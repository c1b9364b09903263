//! A cancelled transfer ends at once.

use std::time::{Duration, Instant};

use civic_fake_services::{Answer, FakeServer, Gate, sequence};

use super::*;
use crate::Kind;

const LARGE: usize = 32 * 1024 * 1024;

/// How long a transfer goes on after it was cancelled, which happens when `is_under_way` returns.
fn time_to_end(
    transfer: impl FnOnce(&Cancel) -> Error + Send,
    is_under_way: impl FnOnce(),
) -> Duration {
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let error = transfer(&cancel);
            (error, Instant::now())
        });
        is_under_way();
        let cancelled = Instant::now();
        cancel.cancel();
        let (error, ended) = running.join().unwrap();
        assert_eq!(error.kind(), Kind::Cancelled);
        assert!(!error.is_transient());
        ended.saturating_duration_since(cancelled)
    })
}

/// The best of several measurements counts, because other programs use the processors too.
#[track_caller]
fn assert_ends_within_100_ms(measure: impl Fn() -> Duration) {
    let best = (0..5).map(|_| measure()).min().unwrap();
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn resolving_a_name_is_cancelled() {
    // Like a getaddrinfo that hangs: a blocking call that nothing can stop.
    assert_ends_within_100_ms(|| {
        let (started, is_started) = std::sync::mpsc::channel();
        let (_end, ended) = std::sync::mpsc::channel::<()>();
        let resolve = |cancel: &Cancel| {
            let hang = async |_: &transfer::Progress| {
                let call = tokio::task::spawn_blocking(move || {
                    started.send(()).unwrap();
                    let _ = ended.recv();
                });
                call.await.unwrap();
                Ok(())
            };
            transfer::run(&LIMITS, cancel, hang).unwrap_err()
        };
        time_to_end(resolve, || is_started.recv().unwrap())
    });
}

#[test]
fn a_handshake_is_cancelled() {
    assert_ends_within_100_ms(|| {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = silent.local_addr().unwrap().to_string();
        let source = source(&host, LIMITS);
        let fetch =
            |cancel: &Cancel| source.fetch(&format!("https://{host}/x"), cancel).unwrap_err();
        time_to_end(fetch, || drop(silent.accept().map(std::mem::forget)))
    });
}

#[test]
fn waiting_for_a_response_is_cancelled() {
    assert_ends_within_100_ms(|| {
        let server = FakeServer::start(sequence([Answer::black_hole()]));
        let source = source(&server.host(), LIMITS);
        let fetch = |cancel: &Cancel| source.fetch(&server.url("/x"), cancel).unwrap_err();
        time_to_end(fetch, || server.wait_for(1))
    });
}

#[test]
fn receiving_a_body_is_cancelled() {
    let drip = Answer::file("image/jpeg", vec![7; 1_000_000]).dripping(1, Duration::from_millis(1));
    assert_ends_within_100_ms(|| {
        let server = FakeServer::start(sequence([drip.clone()]));
        let source = source(&server.host(), LIMITS);
        let fetch = |cancel: &Cancel| source.fetch(&server.url("/x"), cancel).unwrap_err();
        time_to_end(fetch, || server.wait_for(1))
    });
}

#[test]
fn sending_a_body_is_cancelled() {
    assert_ends_within_100_ms(|| {
        let server = FakeServer::impatient(sequence([Answer::black_hole()]));
        let api = api_of(&server, Limits { max_size: LARGE as u64, ..LIMITS });
        let upload = |cancel: &Cancel| {
            let body = vec![0; LARGE];
            api.upload("evidence", PATH, "image/jpeg", body, cancel).unwrap_err()
        };
        time_to_end(upload, || server.wait_for(1))
    });
}

#[test]
fn a_transfer_that_is_already_cancelled_does_not_begin() {
    let server = FakeServer::start(sequence([Answer::new(200)]));
    let cancel = Cancel::new();
    cancel.clone().cancel();
    let error = source(&server.host(), LIMITS).fetch(&server.url("/x"), &cancel).unwrap_err();
    assert_eq!((error.kind(), server.connections()), (Kind::Cancelled, 0));
}

#[test]
fn the_connection_is_closed_with_the_transfer() {
    // The server sees the end of the stream, so nothing goes on in the background.
    let (sender, receiver) = std::sync::mpsc::channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().unwrap();
        sender.send(()).unwrap();
        let mut rest = vec![];
        stream.read_to_end(&mut rest).map(|_| ())
    });
    let cancel = Cancel::new();
    let transfer = std::thread::spawn({
        let (cancel, host) = (cancel.clone(), host.clone());
        move || source(&host, LIMITS).fetch(&format!("http://{host}/x"), &cancel)
    });
    receiver.recv().unwrap();
    cancel.cancel();
    assert_eq!(transfer.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
    let _ = promptly(|| server.join()).unwrap();
}

#[test]
fn many_transfers_run_side_by_side() {
    let gate = Gate::new();
    let server = FakeServer::start({
        let gate = gate.clone();
        move |_| {
            gate.wait();
            Answer::file("image/jpeg", "bytes")
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| fetch(&server, LIMITS).unwrap());
        }
        server.wait_for(16);
        gate.open();
    });
    assert_eq!(server.most_at_once(), 16);
}
