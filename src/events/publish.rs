//! The one door through which events leave.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use serde_json::{Map, Value};

use super::channel::channel;
use super::payload::{self, Detail, PAYLOAD_LIMIT};
use crate::error::Error;
use crate::{pg, settings};

/// Above this share of the server's notification queue nothing is sent any more: at the end of the
/// queue PostgreSQL would abort the transaction, ticket and all.
const QUEUE_SHARE: f64 = 0.9;
/// How long a look at the queue holds, in microseconds: the look takes a lock of all backends.
const LOOK_HOLDS: u64 = 1_000_000;
/// What the server stores beside an event's own bytes: header, terminators, alignment.
const ENTRY_OVERHEAD: usize = 32;

/// How much this backend may still send.
#[derive(Clone, Copy)]
struct Budget {
    bytes: usize,
    /// When the transaction that looked began, and the one that sent last.
    looked: i64,
    sent: i64,
}

thread_local! {
    static BUDGET: RefCell<Option<Budget>> = const { RefCell::new(None) };
}

/// Sends an event on a channel, when the transaction commits. The buffer is left as it was.
///
/// Errors: the server's queue has no room.
pub fn send(channel: &str, event: &mut Vec<u8>) -> Result<(), Error> {
    if !take_room(channel.len() + event.len() + ENTRY_OVERHEAD) {
        return Err(Error::NotificationQueueFull);
    }
    event.push(0);
    // Neither holds a NUL: a channel is made of text, and JSON escapes it.
    if let (Ok(channel), Ok(event)) = (CString::new(channel), CStr::from_bytes_with_nul(event)) {
        pg::notify::notify(&channel, event);
    }
    event.pop();
    Ok(())
}

fn take_room(size: usize) -> bool {
    BUDGET.with_borrow_mut(|budget| {
        let now = pg::transaction_start();
        // What a transaction has sent is not in the queue before it commits: one look for each.
        let is_current = |budget: &Budget| {
            budget.sent == now || (size <= budget.bytes && now.abs_diff(budget.looked) < LOOK_HOLDS)
        };
        let mut current = budget.filter(is_current).unwrap_or_else(|| Budget {
            bytes: free_bytes(),
            looked: now,
            sent: now,
        });
        let has_room = size <= current.bytes;
        if has_room {
            current.bytes -= size;
        }
        *budget = Some(Budget { sent: now, ..current });
        has_room
    })
}

fn free_bytes() -> usize {
    let free_share = (QUEUE_SHARE - pg::notify::queue_usage()).max(0.0);
    (free_share * pg::notify::queue_size() as f64) as usize
}

/// An event of the application's own goes to its municipality. A sensitive one goes where
/// `civic.sensitive_events` lets it (DESIGN, decision 5).
///
/// Errors, before anything is sent: an event that is no object or has no `type`, a municipality
/// without a channel, an event longer than NOTIFY takes.
pub fn publish(municipality_id: &str, event: &Value, is_sensitive: bool) -> Result<(), Error> {
    let event = object("event", event)?;
    if !event.get("type").is_some_and(Value::is_string) {
        return Err(Error::EventWithoutType);
    }
    let whole = serde_json::to_vec(event).unwrap_or_default();
    if whole.len() > PAYLOAD_LIMIT {
        return Err(Error::PayloadTooLong { bytes: whole.len(), limit: PAYLOAD_LIMIT });
    }
    let deliveries = payload::deliveries(is_sensitive, settings::sensitive_events());
    let channels = deliveries.iter().map(|(audience, _)| channel(municipality_id, *audience));
    for (channel, (_, detail)) in channels.collect::<Result<Vec<_>, _>>()?.iter().zip(deliveries) {
        let mut text = match detail {
            Detail::Whole => whole.clone(),
            _ => serde_json::to_vec(&payload::redact(event)).unwrap_or_default(),
        };
        send(channel, &mut text)?;
    }
    Ok(())
}

pub fn object<'a>(what: &'static str, value: &'a Value) -> Result<&'a Map<String, Value>, Error> {
    let found = match value {
        Value::Object(object) => return Ok(object),
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
    };
    Err(Error::NotAnObject { what, found })
}
