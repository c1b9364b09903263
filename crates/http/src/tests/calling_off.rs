//! A transfer that is called off ends at once.

use std::time::{Duration, Instant};

use civic_fake_services::{Answer, FakeServer, Gate, sequence};

use super::*;
use crate::Kind;

/// How long a transfer goes on after it was called off, when the server has the request.
fn time_to_end(server: &FakeServer, transfer: impl FnOnce(&Cancel) -> Error + Send) -> Duration {
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let error = transfer(&cancel);
            (error, Instant::now())
        });
        server.wait_for_connections(1);
        let called_off = Instant::now();
        cancel.cancel();
        let (error, ended) = running.join().unwrap();
        assert_eq!(error.kind(), Kind::Cancelled);
        assert!(!error.may_heal());
        ended.saturating_duration_since(called_off)
    })
}

#[test]
fn a_transfer_is_called_off_within_a_tenth_of_a_second() {
    let api_upload = |server: &FakeServer, cancel: &Cancel| {
        api_of(server, LIMITS)
            .upload("evidence", PATH, "image/jpeg", vec![0; 900_000], cancel)
            .unwrap_err()
    };
    let fetch = |server: &FakeServer, cancel: &Cancel| {
        source(&server.host(), LIMITS).fetch(&server.url("/x"), cancel).unwrap_err()
    };
    let drip =
        || Answer::file("image/jpeg", vec![7; 100_000]).dripping(1, Duration::from_millis(1));
    // The best of a few, as other programs have the processors too.
    let best = |servers: &dyn Fn() -> FakeServer,
                transfer: &(dyn Fn(&FakeServer, &Cancel) -> Error + Sync)| {
        let once = |_| {
            let server = servers();
            time_to_end(&server, |cancel| transfer(&server, cancel))
        };
        (0..5).map(once).min().unwrap()
    };
    let black_hole = || FakeServer::start(sequence([Answer::black_hole()]));
    let deaf = || FakeServer::impatient(sequence([Answer::black_hole()]));
    let dripping = move || FakeServer::start(sequence([drip()]));
    for (what, took) in [
        ("waiting for an answer", best(&black_hole, &fetch)),
        ("reading", best(&dripping, &fetch)),
        ("uploading", best(&deaf, &api_upload)),
    ] {
        assert!(took < Duration::from_millis(100), "{what}: {took:?}");
    }
}

#[test]
fn a_transfer_that_was_called_off_before_is_not_begun() {
    let server = FakeServer::start(sequence([Answer::new(200)]));
    let cancel = Cancel::new();
    cancel.clone().cancel();
    let error = source(&server.host(), LIMITS).fetch(&server.url("/x"), &cancel).unwrap_err();
    assert_eq!((error.kind(), server.connections()), (Kind::Cancelled, 0));
}

#[test]
fn the_connection_is_closed_with_the_transfer() {
    // The server sees its client hang up: nothing is left to run on behind the caller's back.
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
    let _ = server.join().unwrap();
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
