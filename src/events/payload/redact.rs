//! Redacts events of sensitive tickets for the shared channel, and finds the ticket of an event.

use serde_json::{Map, Value};

use super::{IDENTIFYING, KEYS, PAYLOAD_LIMIT, write_string};

/// A sensitive event of the application as the shared channel may receive it. Identifying keys keep
/// their value unless it is nested. The other keys are null, or omitted if the nulls are too long
/// for NOTIFY.
pub fn redacted(event: &Map<String, Value>) -> Vec<u8> {
    let is_kept = |key: &str, value: &Value| {
        IDENTIFYING.contains(&key) && !value.is_object() && !value.is_array()
    };
    let text = |event: Map<String, Value>| serde_json::to_vec(&event).unwrap_or_default();
    let with_nulls = event.iter().map(|(key, value)| {
        (key.clone(), if is_kept(key, value) { value.clone() } else { Value::Null })
    });
    let redacted = text(with_nulls.collect());
    if redacted.len() <= PAYLOAD_LIMIT {
        return redacted;
    }
    let kept = event.iter().filter(|(key, value)| is_kept(key, value));
    text(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// The redacted form of an event that [`super::write()`] made of an ordinary version whose ticket
/// turned out to be sensitive: it names the ticket and says that it is sensitive. `None` for other
/// text.
pub fn redact_written(event: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(event)) = serde_json::from_slice(event) else { return None };
    let mut out = vec![b'{'];
    let mut add = |key: &str, value: &Value| {
        let separator = if out.len() > 1 { "," } else { "" };
        out.extend_from_slice(format!("{separator}\"{key}\":{value}").as_bytes());
    };
    for key in KEYS {
        match key {
            "is_sensitive" => add(key, &Value::Bool(true)),
            _ if IDENTIFYING.contains(&key) => add(key, event.get(key)?),
            _ => add(key, &Value::Null),
        }
    }
    // The redacted form is truncated only if the event lacks an identifying value.
    if event.contains_key("truncated") && event.get("ticket_id")?.is_null() {
        add("truncated", &Value::Bool(true));
    }
    out.push(b'}');
    Some(out)
}

/// The same for an event of the application. If it has `is_sensitive`, that becomes true.
pub fn redact_published(event: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(mut event)) = serde_json::from_slice(event) else { return None };
    if let Some(is_sensitive) = event.get_mut("is_sensitive") {
        *is_sensitive = Value::Bool(true);
    }
    Some(redacted(&event))
}

/// The ticket's id, as JSON, in an event that [`super::write()`] made.
pub fn written_ticket_id(event: &[u8]) -> Option<&[u8]> {
    const TYPE: &[u8] = b"{\"type\":\"";
    const ID: &[u8] = b"\",\"ticket_id\":";
    let event = event.strip_prefix(TYPE)?;
    let operation = event.iter().position(|byte| *byte == b'"')?;
    let id = event[operation..].strip_prefix(ID)?;
    if id.first() != Some(&b'"') {
        return id.split(|byte| *byte == b',').next();
    }
    let mut is_escaped = false;
    let end = id[1..].iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })?;
    id.get(..end + 2)
}

/// The ticket's id in an event of the application, in the form of [`super::write()`]; `None` if the
/// event names no ticket.
pub fn published_ticket_id(event: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(mut event)) = serde_json::from_slice(event) else { return None };
    let text = match event.remove("ticket_id")? {
        Value::Null => return None,
        Value::String(text) => text,
        value => value.to_string(),
    };
    let mut id = vec![];
    write_string(text.as_bytes(), &mut id);
    Some(id)
}

/// The id in the server's form of a UUID, if it is a UUID in another form. Both are JSON.
pub fn canonical_uuid(id: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(id.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()?;
    // PostgreSQL accepts a hyphen after any four digits, and braces around the whole.
    let digits: String = text.trim().chars().filter(|c| !"-{}".contains(*c)).collect();
    let uuid = uuid::Uuid::try_parse(&digits).ok()?.to_string();
    (uuid != text).then(|| format!("\"{uuid}\"").into_bytes())
}
