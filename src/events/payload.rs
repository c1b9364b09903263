//! The JSON of an event for one change of a ticket, without PostgreSQL.

use std::ops::Range;

use serde_json::Value;

use super::channel::Audience;
use crate::settings::SensitiveEvents;
use crate::tickets::ticket::is_plainly_no;

mod redact;

pub use redact::{
    canonical_uuid, published_ticket_id, redact_published, redact_written, redacted,
    written_ticket_id,
};

/// Longest payload that NOTIFY accepts, in bytes.
pub const PAYLOAD_LIMIT: usize = 7999;

/// The operation on the ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

impl Operation {
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }

    pub fn from_name(name: &str) -> Option<Operation> {
        [Operation::Insert, Operation::Update, Operation::Delete]
            .into_iter()
            .find(|operation| operation.name().eq_ignore_ascii_case(name))
    }
}

/// A column of the tickets table that events use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Id,
    TrackingNumber,
    Status,
    Category,
    TenantId,
    WardId,
    IsSensitive,
    UpdatedAt,
    CreatedAt,
}

impl Column {
    pub const ALL: [Column; 9] = [
        Column::Id,
        Column::TrackingNumber,
        Column::Status,
        Column::Category,
        Column::TenantId,
        Column::WardId,
        Column::IsSensitive,
        Column::UpdatedAt,
        Column::CreatedAt,
    ];

    /// The column's name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Column::Id => "id",
            Column::TrackingNumber => "tracking_number",
            Column::Status => "status",
            Column::Category => "category",
            Column::TenantId => "tenant_id",
            Column::WardId => "ward_id",
            Column::IsSensitive => "is_sensitive",
            Column::UpdatedAt => "updated_at",
            Column::CreatedAt => "created_at",
        }
    }

    /// Identifiers are strings whatever the column's type: JavaScript has no 64-bit integers.
    const fn is_identifier(self) -> bool {
        matches!(self, Column::Id | Column::TenantId | Column::WardId)
    }

    /// Whether the column only identifies the ticket and reveals nothing else.
    pub const fn is_identifying(self) -> bool {
        matches!(self, Column::Id | Column::TenantId | Column::IsSensitive)
    }
}

/// The JSON type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// NULL, or a column that the table lacks.
    Null,
    /// `true` or `false`.
    Boolean,
    /// A number in JSON's grammar.
    Number,
    /// Any other text.
    Text,
    /// A value that cannot be sent: longer than any payload, or not readable.
    Unreadable,
}

/// The values of one ticket, in one buffer that is reused.
#[derive(Debug)]
pub struct Ticket {
    text: Vec<u8>,
    values: [(Kind, Range<usize>); Column::ALL.len()],
}

impl Default for Ticket {
    fn default() -> Self {
        Ticket { text: Vec::new(), values: [const { (Kind::Null, 0..0) }; Column::ALL.len()] }
    }
}

impl Ticket {
    pub fn clear(&mut self) {
        self.text.clear();
        self.values.fill((Kind::Null, 0..0));
    }

    /// Sets the value of a column: `write` appends its text and returns its kind.
    pub fn set(&mut self, column: Column, write: impl FnOnce(&mut Vec<u8>) -> Kind) {
        let start = self.text.len();
        let kind = write(&mut self.text);
        self.values[column as usize] = (kind, start..self.text.len());
    }

    /// Sets a value from a JSON document, with the same meaning as the column. `nested` converts an
    /// object or array to text.
    pub fn set_json(&mut self, column: Column, value: &Value, nested: impl Fn(&Value) -> String) {
        self.set(column, |text| match value {
            Value::Null => Kind::Null,
            Value::Bool(_) => {
                text.extend_from_slice(value.to_string().as_bytes());
                Kind::Boolean
            }
            Value::Number(_) => {
                text.extend_from_slice(value.to_string().as_bytes());
                Kind::Number
            }
            Value::String(string) => {
                text.extend_from_slice(string.as_bytes());
                Kind::Text
            }
            Value::Array(_) | Value::Object(_) => {
                text.extend_from_slice(nested(value).as_bytes());
                Kind::Text
            }
        });
    }

    pub fn kind(&self, column: Column) -> Kind {
        self.values[column as usize].0
    }

    /// The value's text; empty for NULL.
    pub fn text(&self, column: Column) -> &[u8] {
        &self.text[self.values[column as usize].1.clone()]
    }

    /// The municipality, if any. JSON can hold a NUL, a channel cannot.
    pub fn municipality_id(&self) -> Option<&str> {
        let id = std::str::from_utf8(self.text(Column::TenantId)).ok()?;
        (!id.is_empty() && !id.contains('\0')).then_some(id)
    }

    /// Whether the ticket is sensitive. Every value that is not plainly "no" means yes, including
    /// NULL if the table has the column. A table without the column has no sensitive tickets.
    pub fn is_sensitive(&self, table_has_column: bool) -> bool {
        match self.kind(Column::IsSensitive) {
            Kind::Null => table_has_column,
            _ => !is_plainly_no(self.text(Column::IsSensitive)),
        }
    }

    /// Appends the id in the form of an event: a JSON string, or null if it is not readable.
    pub fn write_id(&self, out: &mut Vec<u8>) {
        self.write_value(Column::Id, out);
    }

    fn write_value(&self, column: Column, out: &mut Vec<u8>) {
        let text = self.text(column);
        match self.kind(column) {
            Kind::Null | Kind::Unreadable => out.extend_from_slice(b"null"),
            Kind::Boolean | Kind::Number if !column.is_identifier() => out.extend_from_slice(text),
            Kind::Boolean | Kind::Number | Kind::Text => write_string(text, out),
        }
    }
}

/// Writes a JSON string. Invalid UTF-8, which a row can hold, becomes U+FFFD.
///
/// Identifiers and codes are printable ASCII without characters to escape; these are copied
/// directly.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    // Checks every byte without an early exit, so that the compiler vectorizes the loop.
    let is_plain = text.iter().fold(true, |is_plain, byte| {
        is_plain & matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\')
    });
    if is_plain {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    let text = String::from_utf8_lossy(text);
    serde_json::to_writer(out, text.as_ref()).expect("writing to memory does not fail");
}

/// Appends microseconds as seconds, with six decimals.
pub(super) fn write_seconds(micros: i64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 19];
    let mut rest = micros.unsigned_abs();
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    let (seconds, decimals) = digits.split_at(13);
    let zeros = seconds[..12].iter().take_while(|digit| **digit == b'0').count();
    if micros < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&seconds[zeros..]);
    out.push(b'.');
    out.extend_from_slice(decimals);
}

/// When the ticket changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangedAt {
    /// Microseconds since 1970-01-01 UTC.
    Micros(i64),
    /// A column that holds Unix seconds as a number.
    Column(Column),
}

/// How much of a ticket an event contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Whole,
    /// Only that there was a change, and of which ticket; other keys are null.
    Identifying,
    /// [`Detail::Identifying`] with `"truncated": true`, for events that NOTIFY would refuse.
    Truncated,
}

/// Keys that only identify the changed ticket.
pub const IDENTIFYING: [&str; 5] =
    ["type", "ticket_id", "municipality_id", "is_sensitive", "updated_at"];

/// The id in an event if the ticket has no readable id.
pub const NO_ID: &[u8] = b"null";

/// The keys of a ticket event, in order.
const KEYS: [&str; 9] = [
    "type",
    "ticket_id",
    "tracking_number",
    "status",
    "category",
    "municipality_id",
    "ward_id",
    "is_sensitive",
    "updated_at",
];

/// Appends the event of one change to `out`.
pub fn write(
    out: &mut Vec<u8>,
    operation: Operation,
    ticket: &Ticket,
    changed_at: ChangedAt,
    detail: Detail,
) {
    const COLUMNS: [(&[u8], Column); 7] = [
        (b",\"ticket_id\":", Column::Id),
        (b",\"tracking_number\":", Column::TrackingNumber),
        (b",\"status\":", Column::Status),
        (b",\"category\":", Column::Category),
        (b",\"municipality_id\":", Column::TenantId),
        (b",\"ward_id\":", Column::WardId),
        (b",\"is_sensitive\":", Column::IsSensitive),
    ];
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(operation.name().as_bytes());
    out.push(b'"');
    for (key, column) in COLUMNS {
        out.extend_from_slice(key);
        if column.is_identifying() || detail == Detail::Whole {
            ticket.write_value(column, out);
        } else {
            out.extend_from_slice(b"null");
        }
    }
    out.extend_from_slice(b",\"updated_at\":");
    match changed_at {
        ChangedAt::Column(column) => ticket.write_value(column, out),
        ChangedAt::Micros(micros) => write_seconds(micros, out),
    }
    if detail == Detail::Truncated {
        out.extend_from_slice(b",\"truncated\":true");
    }
    out.push(b'}');
}

/// Which channels receive an event of a ticket, and how much of it (docs/architecture.md, decision 5).
pub fn deliveries(is_sensitive: bool, mode: SensitiveEvents) -> &'static [(Audience, Detail)] {
    match (is_sensitive, mode) {
        (false, _) | (true, SensitiveEvents::Full) => &[(Audience::Shared, Detail::Whole)],
        (true, SensitiveEvents::Redacted) => {
            &[(Audience::Shared, Detail::Identifying), (Audience::Sensitive, Detail::Whole)]
        }
        (true, SensitiveEvents::Restricted) => &[(Audience::Sensitive, Detail::Whole)],
    }
}

#[cfg(test)]
mod tests;
