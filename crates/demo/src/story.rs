//! How the story is told: each step with what was expected and what happened.

use std::process::ExitCode;

#[derive(Default)]
pub struct Story {
    steps: usize,
    surprises: usize,
}

/// A refusal with this SQLSTATE.
pub fn refused(sqlstate: &str) -> String {
    format!("refused ({sqlstate})")
}

/// What an error says, behind its SQLSTATE.
pub fn told(error: &postgres::Error) -> String {
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

    /// Tells a step. What happened is as expected when it starts so: a refusal's words come behind.
    pub fn step(&mut self, what: &str, expected: &str, happened: &str, event: Option<&str>) {
        self.steps += 1;
        let is_expected = match happened.strip_prefix(expected) {
            Some(rest) => rest.is_empty() || rest.starts_with(": "),
            None => false,
        };
        self.surprises += usize::from(!is_expected);
        println!("  {} {what}", if is_expected { "ok" } else { "NO" });
        println!("       expected: {expected}");
        println!("       happened: {happened}");
        if let Some(event) = event {
            println!("       event:    {event}");
        }
    }

    pub fn end(&self) -> ExitCode {
        let Story { steps, surprises } = self;
        println!("\n{steps} steps, {surprises} not as expected.");
        if *surprises > 0 {
            return ExitCode::FAILURE;
        }
        println!("Look around with: make psql");
        ExitCode::SUCCESS
    }
}
