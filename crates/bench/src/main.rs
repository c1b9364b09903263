//! Measures pg_civic against the plain SQL that it replaces: `pg_civic_bench SOCKET RESULTS
//! [WORD]`. WORD selects the cases whose name contains it.
//!
//! The sides of each case run in turn on the same server, and the results are medians. A missed
//! goal is reported; only a case that cannot run is an error.

mod cases;
mod measure;
mod report;
mod server;

use std::path::Path;
use std::process::ExitCode;

use measure::Progress;
use report::Report;
use server::Server;

/// An error stops the bench with a message; no code handles it.
type Error = Box<dyn std::error::Error>;

fn run(socket: &str, results: &Path, word: &str) -> Result<(), Error> {
    let server = Server::new(socket);
    let mut report = Report::new(server.facts()?);
    let picked: Vec<_> = cases::ALL.iter().filter(|(name, _)| name.contains(word)).collect();
    let mut progress = Progress::new(picked.len());
    for (name, case) in picked {
        progress.begin(name);
        report.add(case(&server, &mut progress)?);
    }
    print!("{}", report.table());
    std::fs::write(results, report.json())?;
    progress.report(&format!("written to {}", results.display()));
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (socket, results, word) = match arguments.as_slice() {
        [socket, results] => (socket, results, ""),
        [socket, results, word] => (socket, results, word.as_str()),
        _ => {
            eprintln!("usage: pg_civic_bench SOCKET_DIRECTORY RESULTS_FILE [WORD]");
            return ExitCode::FAILURE;
        }
    };
    match run(socket, Path::new(results), word) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", server::explained(&*error));
            ExitCode::FAILURE
        }
    }
}
