//! The one door through which events leave.

use std::cell::RefCell;
use std::ffi::CStr;

use serde_json::{Map, Value};

use super::channel::{Channel, channel};
use super::payload::{self, Detail, PAYLOAD_LIMIT};
use crate::error::Error;
use crate::{pg, settings};

/// Above this share of the server's notification queue nothing is sent any more: at the end of the
/// queue PostgreSQL would abort the transaction, ticket and all.
const QUEUE_SHARE: f64 = 0.9;
/// How long a look at the queue holds, in microseconds: the look takes a lock of all backends.
const LOOK_HOLDS: u64 = 1_000_000;
/// How much of the queue, one part in so many, this backend sends between two looks. A hundred
/// others that do the same, unseen, stay within what [`QUEUE_SHARE`] leaves free.
const LOOK_SHARE: usize = 1000;
/// What the server stores beside an event's own bytes: header, terminators, alignment.
const ENTRY_OVERHEAD: usize = 32;

/// What this backend knows of the queue.
#[derive(Default)]
struct Room {
    /// Free bytes at the last look.
    free: usize,
    /// When the transaction that looked began.
    looked: i64,
    /// Bytes that this backend may send before the next, and those that it has.
    allowance: usize,
    sent: usize,
    /// Bytes that it has sent, and that the look did not see: a transaction's events come into the
    /// queue at its commit.
    unseen: usize,
    /// The current transaction, and the bytes that it has sent.
    transaction: u32,
    pending: usize,
    /// Whether there was no room for the last event: the next transaction looks again.
    was_refused: bool,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Sends an event on a channel, when the transaction commits. The buffer is left as it was.
///
/// Errors: the server's queue has no room.
pub fn send(channel: &Channel, event: &mut Vec<u8>) -> Result<(), Error> {
    if !take_room(channel.as_str().len() + event.len() + ENTRY_OVERHEAD) {
        return Err(Error::NotificationQueueFull);
    }
    event.push(0);
    // Neither holds a NUL: a channel is made of text, and JSON escapes it.
    if let (Some(channel), Ok(event)) = (channel.as_c_str(), CStr::from_bytes_with_nul(event)) {
        pg::notify::notify(channel, event);
    }
    event.pop();
    Ok(())
}

fn take_room(size: usize) -> bool {
    // An event that does not fit what is left of a page starts the next one: it may take its size
    // twice.
    let size = 2 * size;
    ROOM.with_borrow_mut(|room| {
        let now = pg::transaction_start();
        let mut is_stale =
            now.abs_diff(room.looked) >= LOOK_HOLDS || room.sent + size > room.allowance;
        if room.transaction != pg::transaction_number() {
            room.transaction = pg::transaction_number();
            room.pending = 0;
            is_stale |= room.was_refused;
        }
        if is_stale {
            let queue = pg::notify::queue_size();
            let free_share = (QUEUE_SHARE - pg::notify::queue_usage()).max(0.0);
            room.free = (free_share * queue as f64) as usize;
            room.allowance = queue / LOOK_SHARE;
            room.looked = now;
            room.sent = 0;
            room.unseen = room.pending;
        }
        let has_room = room.unseen + size <= room.free;
        if has_room {
            room.sent += size;
            room.unseen += size;
            room.pending += size;
        }
        room.was_refused = !has_room;
        has_room
    })
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
