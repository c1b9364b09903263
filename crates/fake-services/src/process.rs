//! A Storage API in a process of its own, to be killed.
//!
//! The process is the test program itself, run again for one of its tests: no other program has to be
//! built first.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Options, Storage};

/// Directory and port of the process, as `port:directory`.
const VARIABLE: &str = "CIVIC_FAKE_STORAGE";
/// The test that a test program runs to be the process.
const ENTRY: &str = "fake_storage_process";
/// What stands before the URL in the line that reports it.
const REPORT: &str = "fake Storage API at ";

/// The process; it is killed with this value, its files stay.
pub struct Process {
    child: Child,
    url: String,
    port: u16,
}

impl Process {
    /// Starts one over a directory, with [`Options::default`]'s secret and key, at a port; 0 means any
    /// that is free. The calling test program has an ignored test `fake_storage_process`, which calls
    /// [`Process::serve`].
    pub fn start(directory: &Path, port: u16) -> Process {
        let program = std::env::current_exe().expect("a program knows where it is");
        let mut child = Command::new(program)
            .args([ENTRY, "--ignored", "--nocapture"])
            .env(VARIABLE, format!("{port}:{}", directory.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test program can be run again");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        // The test harness prints lines of its own, and does not end each before the test's.
        let report = |line: String| line.split_once(REPORT).map(|(_, url)| url.trim().to_owned());
        let url = stdout.lines().map_while(Result::ok).find_map(report);
        let url = url.unwrap_or_else(|| panic!("no ignored test {ENTRY} serves"));
        let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()?.parse().ok());
        Process { port: port.unwrap_or_else(|| panic!("{url} has a port")), child, url }
    }

    /// Serves until the process is killed, or its parent is gone. Returns at once in a process that
    /// [`Process::start`] has not started.
    pub fn serve() {
        let Ok(options) = std::env::var(VARIABLE) else { return };
        let (port, directory) = options.split_once(':').expect("port:directory");
        let port = port.parse().expect("a port");
        let directory = Some(directory.into());
        let storage = Storage::start(Options { port, directory, ..Options::default() });
        println!("{REPORT}{}", storage.url());
        // The other end of the pipe is closed with the parent.
        let _ = std::io::stdin().read(&mut [0]);
    }

    /// The API's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
