//! The only way to publish an event.

use serde_json::{Map, Value};

use super::buffer::Flags;
use super::channel::{Channel, channel};
use super::payload::{self, Detail, PAYLOAD_LIMIT};
use super::transaction;
use crate::error::Error;
use crate::events::EventError;
use crate::pg;
use crate::settings::{self, EventTransport};

/// The subject of an event, for settling it at the end of the transaction.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// OID of the ticket's table; 0 for an event of the application.
    pub table: u32,
    /// Whether the event describes a sensitive version and is already redacted accordingly.
    pub is_sensitive: bool,
}

/// Publishes an event on a channel when the transaction commits, as `civic.event_transport` says:
/// by the relay or by NOTIFY, and to Supabase Realtime. If the transaction has a sensitive version
/// of the ticket, the event is published as one of a sensitive ticket.
///
/// Errors: the event is longer than NOTIFY accepts, the server's queue has no room, or there is not
/// enough memory.
pub fn send(channel: &Channel, event: &[u8], subject: Subject) -> Result<(), Error> {
    if event.len() > PAYLOAD_LIMIT {
        // The relay could not notify it either, and would block on it.
        return Err(EventError::PayloadTooLong { bytes: event.len(), limit: PAYLOAD_LIMIT }.into());
    }
    let mut flags = destinations();
    if flags == Flags::default() {
        return Ok(());
    }
    if !subject.is_sensitive {
        flags = flags.with(Flags::ORDINARY);
    }
    transaction::keep(flags, subject.table, channel.as_str().as_bytes(), event)
}

/// Where `civic.event_transport` sends events of a municipality; none if nothing is sent.
pub fn destinations() -> Flags {
    let transport = settings::access().event_transport;
    let flags = realtime(transport);
    if transport.has_notify() { flags.with(Flags::NOTIFY) } else { flags }
}

/// Publishes an event of an ordinary ticket to one of its owners: through Supabase Realtime only,
/// because any database user may LISTEN. If the ticket turns out to be sensitive, or to have been, the
/// event is not sent.
///
/// Errors: there is not enough memory.
pub fn send_to_owner(topic: &Channel, event: &[u8], table: u32) -> Result<(), Error> {
    let flags = realtime(settings::access().event_transport);
    if flags == Flags::default() {
        return Ok(());
    }
    let flags = flags.with(Flags::ORDINARY).with(Flags::OWNER);
    transaction::keep(flags, table, topic.as_str().as_bytes(), event)
}

fn realtime(transport: EventTransport) -> Flags {
    match transport {
        EventTransport::Auto => Flags::IF_INSTALLED,
        EventTransport::Listed { realtime: true, .. } => Flags::REALTIME,
        EventTransport::Listed { realtime: false, .. } => Flags::default(),
    }
}

/// Publishes an event of the application to its municipality. `civic.sensitive_events` decides
/// where a sensitive one goes (docs/architecture.md, decision 5).
///
/// Errors, before anything is sent: the event is not an object or has no `type`; the municipality
/// has no channel; the event is longer than NOTIFY accepts.
pub fn publish(municipality_id: &str, event: &Value, is_sensitive: bool) -> Result<(), Error> {
    let event = object("event", event)?;
    if pg::is_standby() {
        return Err(EventError::Standby.into());
    }
    if !event.get("type").is_some_and(Value::is_string) {
        return Err(EventError::WithoutType.into());
    }
    let whole = serde_json::to_vec(event).unwrap_or_default();
    if whole.len() > PAYLOAD_LIMIT {
        return Err(EventError::PayloadTooLong { bytes: whole.len(), limit: PAYLOAD_LIMIT }.into());
    }
    let deliveries = payload::deliveries(is_sensitive, settings::sensitive_events());
    let subject = Subject { table: 0, is_sensitive };
    let channels = deliveries.iter().map(|(audience, _)| channel(municipality_id, *audience));
    for (channel, (_, detail)) in channels.collect::<Result<Vec<_>, _>>()?.iter().zip(deliveries) {
        match detail {
            Detail::Whole => send(channel, &whole, subject)?,
            _ => send(channel, &payload::redacted(event), subject)?,
        }
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
    Err(EventError::NotAnObject { what, found }.into())
}
