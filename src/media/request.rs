//! What the media worker asks of the process that works on other people's tables.

use std::time::Duration;

use pgrx::Uuid;
use serde_json::{Value, json};

use super::job::{Outcome, Report};

/// Longest message of an error that is handed over, in characters. As JSON it takes six times as many
/// bytes at most, which a request has room for.
const ERROR_LIMIT: usize = 1000;

/// One step of a job, in its try of this number.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: Uuid,
    pub tries: i32,
    pub step: Step,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Look whether the ticket is sensitive, before the transfer.
    Prepare,
    /// Record how the try ended.
    Record(Report),
}

impl Request {
    pub fn to_json(&self) -> String {
        let mut value = json!({"job": self.id.to_string(), "tries": self.tries});
        if let Step::Record(Report { outcome, stored, error }) = &self.step {
            value["outcome"] = outcome_to_json(outcome);
            if let Some((content_type, size)) = stored {
                value["content_type"] = content_type.as_str().into();
                value["size"] = (*size).into();
            }
            let error = error.as_ref().map(|it| it.chars().take(ERROR_LIMIT).collect::<String>());
            value["error"] = error.into();
        }
        value.to_string()
    }

    /// `None` for what is no request.
    pub fn from_json(text: &[u8]) -> Option<Request> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let id = Uuid::from_bytes(*uuid::Uuid::try_parse(value["job"].as_str()?).ok()?.as_bytes());
        let tries = value["tries"].as_i64()?.try_into().ok()?;
        let step = match &value["outcome"] {
            Value::Null => Step::Prepare,
            outcome => Step::Record(Report {
                outcome: outcome_from_json(outcome)?,
                stored: value["content_type"]
                    .as_str()
                    .map(str::to_owned)
                    .zip(value["size"].as_u64()),
                error: value["error"].as_str().map(str::to_owned),
            }),
        };
        Some(Request { id, tries, step })
    }
}

fn outcome_to_json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Stored => json!("stored"),
        Outcome::Cancelled => json!("cancelled"),
        Outcome::Released => json!("released"),
        Outcome::Interrupted => json!("interrupted"),
        Outcome::Postponed { delay } => json!({"postponed": delay.as_millis() as u64}),
        Outcome::Refused { may_heal, retry_after } => {
            let retry_after = retry_after.map(|time| time.as_millis() as u64);
            json!({"may_heal": may_heal, "retry_after": retry_after})
        }
    }
}

fn outcome_from_json(value: &Value) -> Option<Outcome> {
    Some(match value.as_str() {
        Some("stored") => Outcome::Stored,
        Some("cancelled") => Outcome::Cancelled,
        Some("released") => Outcome::Released,
        Some("interrupted") => Outcome::Interrupted,
        Some(_) => return None,
        None if let Some(delay) = value["postponed"].as_u64() => {
            Outcome::Postponed { delay: Duration::from_millis(delay) }
        }
        None => Outcome::Refused {
            may_heal: value["may_heal"].as_bool()?,
            retry_after: value["retry_after"].as_u64().map(Duration::from_millis),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let refused = (any::<bool>(), any::<Option<u32>>()).prop_map(|(may_heal, seconds)| {
            let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.into()));
            Outcome::Refused { may_heal, retry_after }
        });
        prop_oneof![
            Just(Outcome::Stored),
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
            bytes in any::<[u8; 16]>(), tries: i32, outcome in outcomes(), size: Option<u64>,
            error in proptest::option::of("(?s).{0,1200}")
        ) {
            let stored = size.map(|size| ("image/jpeg".to_owned(), size));
            let id = Uuid::from_bytes(bytes);
            for step in [Step::Prepare, Step::Record(Report { outcome, stored, error })] {
                let mut expected = Request { id, tries, step };
                let text = expected.to_json();
                prop_assert!(text.len() <= crate::pg::mailbox::REQUEST_LIMIT);
                if let Step::Record(Report { error: Some(error), .. }) = &mut expected.step {
                    *error = error.chars().take(ERROR_LIMIT).collect();
                }
                prop_assert_eq!(Request::from_json(text.as_bytes()), Some(expected));
            }
        }
    }

    #[test]
    fn what_is_no_request_is_none() {
        for text in ["", "{}", "{\"job\": \"x\", \"tries\": 1}", "[]"] {
            assert_eq!(Request::from_json(text.as_bytes()), None, "{text}");
        }
    }
}
