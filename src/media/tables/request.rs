//! What the media worker asks of the process that works on other people's tables.

use std::time::Duration;

use pgrx::Uuid;
use serde_json::{Value, json};

use crate::media::job::{Attempt, Moved, Outcome};
use crate::pg::shared::counters::ErrorClass;

/// Longest message of an error that is handed over, in characters. As JSON it takes six times as many
/// bytes at most, which a request has room for.
const ERROR_LIMIT: usize = 1000;

/// One step of a job, in its attempt of this number.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: Uuid,
    pub attempts: i32,
    pub step: Step,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Look up what the transfer needs: whether the ticket is sensitive, or which files it has.
    Prepare,
    /// Record how the attempt ended.
    Record(Attempt),
}

impl Request {
    pub fn to_json(&self) -> String {
        let mut value = json!({"job": self.id.to_string(), "attempts": self.attempts});
        if let Step::Record(Attempt { outcome, stored, moved, error }) = &self.step {
            value["outcome"] = outcome_to_json(outcome);
            if let Some((content_type, size)) = stored {
                value["content_type"] = content_type.as_str().into();
                value["size"] = (*size).into();
            }
            let place = |it: &Moved| json!([it.bucket, it.path, it.target]);
            value["moved"] = moved.iter().map(place).collect();
            let error = error.as_ref().map(|it| it.chars().take(ERROR_LIMIT).collect::<String>());
            value["error"] = error.into();
        }
        value.to_string()
    }

    /// `None` for what is no request.
    pub fn from_json(text: &[u8]) -> Option<Request> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let id = Uuid::from_bytes(*uuid::Uuid::try_parse(value["job"].as_str()?).ok()?.as_bytes());
        let attempts = value["attempts"].as_i64()?.try_into().ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let moved = |it: &Value| {
            Some(Moved { bucket: text(&it[0])?, path: text(&it[1])?, target: text(&it[2])? })
        };
        let step = match &value["outcome"] {
            Value::Null => Step::Prepare,
            outcome => Step::Record(Attempt {
                outcome: outcome_from_json(outcome)?,
                stored: text(&value["content_type"]).zip(value["size"].as_u64()),
                moved: value["moved"].as_array()?.iter().map(moved).collect::<Option<_>>()?,
                error: text(&value["error"]),
            }),
        };
        Some(Request { id, attempts, step })
    }
}

/// The files of a ticket, as the table of attachments has them: the reply to [`Step::Prepare`] of a job
/// that restricts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Bucket and path of each.
    pub recorded: Vec<(String, String)>,
    /// Why they could not be read.
    pub error: Option<String>,
}

impl Files {
    /// Leaves out what a reply of so many bytes has no room for: the next look finds it.
    pub fn to_json(&self, limit: usize) -> String {
        let error = self.error.as_ref().map(|it| it.chars().take(ERROR_LIMIT).collect::<String>());
        let mut recorded = self.recorded.clone();
        loop {
            let text = json!({"recorded": recorded, "error": error}).to_string();
            if text.len() <= limit || recorded.is_empty() {
                return text;
            }
            recorded.truncate(recorded.len() / 2);
        }
    }

    pub fn from_json(text: &[u8]) -> Option<Files> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let file = |it: &Value| Some((it[0].as_str()?.to_owned(), it[1].as_str()?.to_owned()));
        let recorded = value["recorded"].as_array()?.iter().map(file).collect::<Option<_>>()?;
        Some(Files { recorded, error: value["error"].as_str().map(str::to_owned) })
    }
}

fn outcome_to_json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Stored => json!("stored"),
        Outcome::Moved => json!("moved"),
        Outcome::Clean => json!("clean"),
        Outcome::Cancelled => json!("cancelled"),
        Outcome::Released => json!("released"),
        Outcome::Interrupted => json!("interrupted"),
        Outcome::Postponed { delay } => json!({"postponed": delay.as_millis() as u64}),
        Outcome::Refused { is_transient, retry_after, class } => {
            let retry_after = retry_after.map(|time| time.as_millis() as u64);
            json!({"is_transient": is_transient, "retry_after": retry_after, "class": class.name()})
        }
    }
}

fn outcome_from_json(value: &Value) -> Option<Outcome> {
    Some(match value.as_str() {
        Some("stored") => Outcome::Stored,
        Some("moved") => Outcome::Moved,
        Some("clean") => Outcome::Clean,
        Some("cancelled") => Outcome::Cancelled,
        Some("released") => Outcome::Released,
        Some("interrupted") => Outcome::Interrupted,
        Some(_) => return None,
        None if let Some(delay) = value["postponed"].as_u64() => {
            Outcome::Postponed { delay: Duration::from_millis(delay) }
        }
        None => Outcome::Refused {
            is_transient: value["is_transient"].as_bool()?,
            retry_after: value["retry_after"].as_u64().map(Duration::from_millis),
            class: {
                let name = value["class"].as_str()?;
                ErrorClass::ALL.into_iter().find(|class| class.name() == name)?
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let class = proptest::sample::select(ErrorClass::ALL.to_vec());
        let refused = (any::<bool>(), any::<Option<u32>>(), class);
        let refused = refused.prop_map(|(is_transient, seconds, class)| {
            let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.into()));
            Outcome::Refused { is_transient, retry_after, class }
        });
        prop_oneof![
            Just(Outcome::Stored),
            Just(Outcome::Moved),
            Just(Outcome::Clean),
            Just(Outcome::Cancelled),
            Just(Outcome::Released),
            Just(Outcome::Interrupted),
            any::<u32>().prop_map(|seconds| {
                Outcome::Postponed { delay: Duration::from_secs(seconds.into()) }
            }),
            refused
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written_and_fits(
            bytes in any::<[u8; 16]>(), attempts: i32, outcome in outcomes(), size: Option<u64>,
            error in proptest::option::of("(?s).{0,1200}"), path in ".{0,40}"
        ) {
            let moved = vec![Moved { bucket: "evidence".to_owned(), target: path.clone(), path }];
            let stored = size.map(|size| ("image/jpeg".to_owned(), size));
            let id = Uuid::from_bytes(bytes);
            for step in [Step::Prepare, Step::Record(Attempt { outcome, stored, moved, error })] {
                let mut expected = Request { id, attempts, step };
                let text = expected.to_json();
                prop_assert!(text.len() <= crate::pg::mailbox::REQUEST_LIMIT);
                if let Step::Record(Attempt { error: Some(error), .. }) = &mut expected.step {
                    *error = error.chars().take(ERROR_LIMIT).collect();
                }
                prop_assert_eq!(Request::from_json(text.as_bytes()), Some(expected));
            }
        }
    }

    #[test]
    fn files_that_do_not_fit_are_left_for_the_next_look() {
        let file = |n| ("evidence".to_owned(), format!("t/{n}/photo.jpg"));
        let files = Files { recorded: (0..1000).map(file).collect(), error: None };
        let text = files.to_json(8192);
        let read = Files::from_json(text.as_bytes()).unwrap();
        assert!(text.len() <= 8192 && read.recorded.len() > 100);
        assert_eq!(read.recorded[..], files.recorded[..read.recorded.len()]);
    }

    #[test]
    fn what_is_no_request_is_none() {
        for text in ["", "{}", "{\"job\": \"x\", \"attempts\": 1}", "[]"] {
            assert_eq!(Request::from_json(text.as_bytes()), None, "{text}");
        }
    }
}
