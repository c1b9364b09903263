//! A Storage API in a process of its own, as a test of the extension uses it.

use civic_fake_services::{Client, Options, Process, Storage};

/// Asks with the default key; gives status and body.
fn ask(process: &Process, method: &str, path: &str, body: &str) -> (u16, String) {
    let key = Storage::start(Options::default()).service_key().to_owned();
    let url = format!("{}/object/{path}", process.url());
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", &*authorization), ("apikey", &key)];
    let mut client = Client::connect(&url).expect("it listens");
    let (status, body) = client.ask(method, &url, &headers, body.as_bytes()).expect("it answers");
    (status, String::from_utf8(body).expect("UTF-8"))
}

#[test]
#[ignore = "the process that the other test starts"]
fn fake_storage_process() {
    Process::serve();
}

#[test]
fn files_outlive_a_killed_process() {
    let directory =
        std::env::temp_dir().join(format!("civic_fake_services.{}", std::process::id()));
    let mut process = Process::start(&directory, 0);
    assert_eq!(ask(&process, "POST", "evidence/t/f/a.txt", "first").0, 200);
    process.kill();
    assert!(Client::connect(process.url()).is_err());

    let process = Process::start(&directory, process.port());
    let (status, told) = ask(&process, "POST", "evidence/t/f/a.txt", "second");
    assert!(status == 400 && told.contains(r#""statusCode":"409""#), "{told}");
    let (status, told) = ask(&process, "GET", "info/authenticated/evidence/t/f/a.txt", "");
    assert!(status == 200 && told.contains(r#""size":5"#), "{told}");
    std::fs::remove_dir_all(&directory).expect("it can be removed");
}
