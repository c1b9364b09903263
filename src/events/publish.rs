//! The one door through which events leave.

use std::ffi::CStr;

use serde_json::{Map, Value};

use super::channel::{Channel, channel};
use super::payload::{self, Detail, PAYLOAD_LIMIT};
use super::realtime;
use crate::error::Error;
use crate::relay::transaction as relay;
use crate::{pg, settings};

/// Sends an event on a channel when the transaction commits, as `civic.event_transport` says: by the
/// relay or by NOTIFY, and to Supabase Realtime. The buffer is left as it was.
///
/// Errors: the server's queue has no room.
pub fn send(channel: &Channel, event: &mut Vec<u8>) -> Result<(), Error> {
    event.push(0);
    // Neither holds a NUL: a channel is made of text, and JSON escapes it.
    let sent = match (channel.as_c_str(), CStr::from_bytes_with_nul(event)) {
        (Some(channel), Ok(event)) => {
            let transport = settings::access().event_transport;
            realtime::accept(transport, channel, event);
            !transport.has_notify()
                || relay::accept(channel, event)
                || pg::notify::notify_if_room(channel, event)
        }
        _ => true,
    };
    event.pop();
    if sent { Ok(()) } else { Err(Error::NotificationQueueFull) }
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
