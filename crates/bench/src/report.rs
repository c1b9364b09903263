//! The results as a table and as JSON.

use serde_json::{Value, json};

use crate::measure::median;
use crate::server::Facts;

/// The result of one side.
pub struct Figure {
    pub label: &'static str,
    /// Seconds per round.
    pub rounds: Vec<f64>,
}

impl Figure {
    pub fn new(label: &'static str, rounds: Vec<f64>) -> Figure {
        Figure { label, rounds }
    }

    fn seconds(&self) -> f64 {
        median(&self.rounds)
    }
}

/// How the two sides are compared, with an optional goal.
pub enum Ratio {
    /// The peer's time divided by ours.
    Faster { at_least: Option<f64> },
    /// Our time divided by the peer's.
    Share { at_most: Option<f64> },
    /// Our time minus the peer's, in seconds.
    More { at_most: f64 },
}

pub struct Comparison {
    pub case: String,
    pub ours: Figure,
    pub peer: Figure,
    pub ratio: Ratio,
}

impl Comparison {
    fn value(&self) -> f64 {
        match self.ratio {
            Ratio::Faster { .. } => self.peer.seconds() / self.ours.seconds(),
            Ratio::Share { .. } => self.ours.seconds() / self.peer.seconds(),
            Ratio::More { .. } => self.ours.seconds() - self.peer.seconds(),
        }
    }

    fn goal(&self) -> Option<String> {
        match self.ratio {
            Ratio::Faster { at_least } => at_least.map(|goal| format!("≥ {goal}×")),
            Ratio::Share { at_most } => at_most.map(|goal| format!("≤ {goal}×")),
            Ratio::More { at_most } => Some(format!("≤ {} more", duration(at_most))),
        }
    }

    fn is_met(&self) -> Option<bool> {
        match self.ratio {
            Ratio::Faster { at_least } => at_least.map(|goal| self.value() >= goal),
            Ratio::Share { at_most } => at_most.map(|goal| self.value() <= goal),
            Ratio::More { at_most } => Some(self.value() <= at_most),
        }
    }

    fn row(&self) -> [String; 6] {
        let figure = |figure: &Figure| format!("{} ({})", duration(figure.seconds()), figure.label);
        let verdict = match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        [
            self.case.clone(),
            figure(&self.ours),
            figure(&self.peer),
            match self.ratio {
                Ratio::More { .. } => format!("{} more", duration(self.value())),
                _ => format!("{}×", significant(self.value())),
            },
            self.goal().unwrap_or_default(),
            verdict.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let figure = |figure: &Figure| json!({"label": figure.label, "seconds": figure.seconds(), "rounds": figure.rounds});
        json!({
            "case": self.case,
            "ours": figure(&self.ours),
            "against": figure(&self.peer),
            "ratio": self.value(),
            "goal": self.goal(),
            "met": self.is_met(),
        })
    }
}

pub struct Report {
    facts: Facts,
    comparisons: Vec<Comparison>,
}

impl Report {
    pub fn new(facts: Facts) -> Report {
        Report { facts, comparisons: vec![] }
    }

    pub fn add(&mut self, comparisons: Vec<Comparison>) {
        self.comparisons.extend(comparisons);
    }

    /// A table that reads as plain text and as Markdown.
    pub fn table(&self) -> String {
        let header = ["case", "pg_civic", "against", "ratio", "goal", ""].map(str::to_owned);
        let rows: Vec<_> = self.comparisons.iter().map(Comparison::row).collect();
        let width = |column: usize| {
            let cells = rows.iter().chain([&header]);
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        let line = |row: &[String; 6]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!(" {cell:<width$} |"));
            format!("|{}\n", cells.collect::<String>())
        };
        let rule = format!("|{}\n", widths.map(|width| "-".repeat(width + 2) + "|").concat());
        let Facts { version, cores, fsync, claims_bytes } = &self.facts;
        format!(
            "PostgreSQL {version}, {cores} cores, fsync {fsync}, claims of {claims_bytes} bytes; \
             medians, warm\n\n{}{rule}{}",
            line(&header),
            rows.iter().map(line).collect::<String>()
        )
    }

    pub fn json(&self) -> String {
        let Facts { version, cores, fsync, claims_bytes } = &self.facts;
        let comparisons: Vec<_> = self.comparisons.iter().map(Comparison::json).collect();
        let report = json!({
            "server_version": version,
            "cores": cores,
            "fsync": fsync,
            "claims_bytes": claims_bytes,
            "comparisons": comparisons,
        });
        format!("{report:#}\n")
    }
}

/// A time in a suitable unit.
fn duration(seconds: f64) -> String {
    let (unit, factor) = match seconds.abs() {
        1.0.. => ("s", 1.0),
        1e-3.. => ("ms", 1e3),
        1e-6.. => ("µs", 1e6),
        _ => ("ns", 1e9),
    };
    format!("{} {unit}", significant(seconds * factor))
}

/// Three significant digits: the noise is larger than the rest.
fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(ratio: Ratio) -> Comparison {
        Comparison {
            case: "a case".to_owned(),
            ours: Figure::new("ours", vec![0.001, 0.002, 0.009]),
            peer: Figure::new("peer", vec![0.1]),
            ratio,
        }
    }

    #[test]
    fn a_missed_goal_is_reported() {
        let verdict = |ratio| comparison(ratio).row()[3..].join(" ");
        assert_eq!(verdict(Ratio::Faster { at_least: Some(40.0) }), "50.0× ≥ 40× met");
        assert_eq!(verdict(Ratio::Faster { at_least: Some(60.0) }), "50.0× ≥ 60× MISSED");
        assert_eq!(verdict(Ratio::Share { at_most: Some(0.3) }), "0.02× ≤ 0.3× met");
        assert_eq!(verdict(Ratio::Share { at_most: Some(0.01) }), "0.02× ≤ 0.01× MISSED");
        assert_eq!(verdict(Ratio::Share { at_most: None }), "0.02×  ");
    }

    #[test]
    fn a_result_that_is_not_a_number_meets_no_goal() {
        let mut broken = comparison(Ratio::Share { at_most: Some(1.0) });
        broken.peer.rounds.clear();
        assert_eq!(broken.is_met(), Some(false));
    }

    #[test]
    fn a_time_has_three_digits_and_a_suitable_unit() {
        assert_eq!(duration(3.3129), "3.31 s");
        assert_eq!(duration(0.00026), "260 µs");
        assert_eq!(duration(0.418), "418 ms");
        assert_eq!(duration(1.5e-7), "150 ns");
    }
}
