//! The program as a test of the extension uses it.

use std::io::{Read, Write};
use std::net::TcpStream;

use civic_standin::{Options, Process, Storage};

/// Asks with the default key; gives status and body.
fn ask(port: u16, method: &str, path: &str, body: &str) -> String {
    let key = Storage::start(Options::default()).service_key().to_owned();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    write!(
        stream,
        "{method} /storage/v1/object/{path} HTTP/1.1\r\nauthorization: Bearer {key}\r\n\
         apikey: {key}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn files_outlive_a_killed_process() {
    let directory = std::env::temp_dir().join(format!("civic_standin.{}", std::process::id()));
    let mut process = Process::start(&directory, 0);
    let port = process.port();
    assert!(ask(port, "POST", "evidence/t/f/a.txt", "first").starts_with("HTTP/1.1 200"));
    process.kill();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());

    let process = Process::start(&directory, port);
    assert_eq!(process.url(), format!("http://127.0.0.1:{port}/storage/v1"));
    assert!(ask(port, "POST", "evidence/t/f/a.txt", "second").contains(r#""statusCode":"409""#));
    assert!(ask(port, "GET", "info/evidence/t/f/a.txt", "").contains(r#""size":5"#));
    std::fs::remove_dir_all(&directory).expect("it can be removed");
}
