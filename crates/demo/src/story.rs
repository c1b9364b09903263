//! The output of the demo: each step with the expected and the actual result.

use std::process::ExitCode;

#[derive(Default)]
pub struct Story {
    steps: usize,
    failures: usize,
}

/// The result of a statement that was refused with this SQLSTATE.
pub fn refused(sqlstate: &str) -> String {
    format!("refused ({sqlstate})")
}

/// An error as SQLSTATE and message.
pub fn described(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", refused(db.code().code()), db.message()),
        None => error.to_string(),
    }
}

impl Story {
    pub fn title(&self, title: &str) {
        println!("\n{title}");
    }

    pub fn chapter(&self, title: &str) {
        println!("\n{title}\n{}", "-".repeat(title.chars().count()));
    }

    pub fn note(&self, note: &str) {
        println!("      {note}");
    }

    pub fn statement(&self, statement: &str) {
        println!("    > {statement};");
    }

    pub fn row(&self, [component, action, detail]: &[String; 3]) {
        println!("      {component:<48} {action:<14} {detail}");
    }

    /// Prints a step. It passes if the actual result equals the expected one; a refusal may add its
    /// message.
    pub fn step(&mut self, what: &str, expected: &str, happened: &str, event: Option<&str>) {
        self.steps += 1;
        let is_expected = match happened.strip_prefix(expected) {
            Some(rest) => rest.is_empty() || rest.starts_with(": "),
            None => false,
        };
        self.failures += usize::from(!is_expected);
        println!("  {} {what}", if is_expected { "ok" } else { "NO" });
        println!("       expected: {expected}");
        println!("       happened: {happened}");
        if let Some(event) = event {
            println!("       event:    {event}");
        }
    }

    pub fn end(&self) -> ExitCode {
        let Story { steps, failures } = self;
        println!("\n{steps} steps, {failures} failed.");
        if *failures > 0 {
            return ExitCode::FAILURE;
        }
        println!("Explore the database with: make psql");
        ExitCode::SUCCESS
    }
}
