//! A Storage API in a process of its own, to be killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The process; it is killed with this value, its files stay.
pub struct Process {
    child: Child,
    url: String,
    port: u16,
}

impl Process {
    /// Starts one over a directory, with [`Options::default`](crate::Options)'s secret and key, at a
    /// port; 0 means any that is free.
    pub fn start(directory: &Path, port: u16) -> Process {
        let mut child = Command::new(program())
            .arg("storage")
            .arg(directory)
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("civic_fake_services can be run: cargo build --package civic_fake_services");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it is");
        let url = line.trim().to_owned();
        let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()?.parse().ok());
        Process { port: port.unwrap_or_else(|| panic!("{url} has a port")), child, url }
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

/// The program stands beside the tests' own, or where `CIVIC_FAKE_SERVICES` says.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("CIVIC_FAKE_SERVICES") {
        return program.into();
    }
    let test = std::env::current_exe().expect("a program knows where it is");
    let directories = test.ancestors().skip(1).take(2);
    let mut candidates = directories.map(|directory| directory.join("civic_fake_services"));
    candidates.find(|program| program.is_file()).unwrap_or_else(|| "civic_fake_services".into())
}
