//! A version of a ticket, read from a row.

use serde_json::Value;

use crate::events::payload::{ChangedAt, Column, Kind, PAYLOAD_LIMIT, Ticket};
use crate::events::transaction;
use crate::pg;
use crate::pg::trigger::{Columns, Form, Row};

/// Longest JSON of a scalar that fits into an event, in bytes: each character can be written in up
/// to six. Longer ones are not parsed.
const SCALAR_LIMIT: usize = 6 * PAYLOAD_LIMIT;

/// The columns that a counted change needs, and the others.
pub const COUNTED: [Column; 3] = [Column::Id, Column::TenantId, Column::IsSensitive];
pub const LISTED: [Column; 6] = [
    Column::TrackingNumber,
    Column::Status,
    Column::Category,
    Column::WardId,
    Column::UpdatedAt,
    Column::CreatedAt,
];

pub type TicketColumns = Columns<{ Column::ALL.len() }>;
pub type TicketRow<'a> = Row<'a, { Column::ALL.len() }>;

/// A version of a ticket: the new row, or the one that a change replaces.
pub struct Version<'a> {
    pub ticket: &'a Ticket,
    /// `None` if the ticket has none, or one that no channel can name.
    pub municipality_id: Option<&'a str>,
    pub changed_at: ChangedAt,
    pub is_sensitive: bool,
}

impl<'a> Version<'a> {
    pub fn read(
        row: &TicketRow<'_>,
        columns: &TicketColumns,
        ticket: &'a mut Ticket,
    ) -> Version<'a> {
        read_row(row, ticket, &Column::ALL);
        Version::of(row, columns, ticket)
    }

    pub fn of(row: &TicketRow<'_>, columns: &TicketColumns, ticket: &'a Ticket) -> Version<'a> {
        Version {
            ticket,
            municipality_id: municipality_id(columns, ticket).filter(|id| !id.is_empty()),
            changed_at: changed_at(ticket, |column| row.micros(column as usize)),
            is_sensitive: ticket.is_sensitive(columns.has(Column::IsSensitive as usize)),
        }
    }

    /// Whether a change to this version is counted, and not listed.
    pub fn is_bulk(&self) -> bool {
        self.municipality_id.is_some_and(|id| transaction::is_bulk(id, self.is_sensitive))
    }
}

pub fn municipality_id<'a>(columns: &TicketColumns, ticket: &'a Ticket) -> Option<&'a str> {
    ticket.municipality_id().map(|id| {
        let is_padded = columns.is_padded(Column::TenantId as usize);
        if is_padded { id.trim_end_matches(' ') } else { id }
    })
}

pub fn read_row<const N: usize>(row: &Row<'_, N>, ticket: &mut Ticket, wanted: &[Column]) {
    ticket.clear();
    read_more(row, ticket, wanted);
}

/// Adds columns to those that were read.
pub fn read_more<const N: usize>(row: &Row<'_, N>, ticket: &mut Ticket, wanted: &[Column]) {
    for &column in wanted {
        let is_time = matches!(column, Column::UpdatedAt | Column::CreatedAt);
        if is_time && row.micros(column as usize).is_some() {
            continue;
        }
        let mut document = None;
        ticket.set(column, |text| {
            let start = text.len();
            match row.append(column as usize, text) {
                Form::Null => Kind::Null,
                Form::Boolean => Kind::Boolean,
                Form::Number => Kind::Number,
                Form::Text => Kind::Text,
                Form::Unreadable => Kind::Unreadable,
                Form::Json => {
                    document = Some(&text[start..])
                        .filter(|text| text.len() <= SCALAR_LIMIT)
                        .and_then(|text| serde_json::from_slice::<Value>(text).ok());
                    Kind::Text
                }
            }
        });
        // A scalar in a json column is that scalar; an object or array stays text.
        if let Some(document) = document.filter(|value| !value.is_object() && !value.is_array()) {
            ticket.set_json(column, &document, |_| String::new());
        }
    }
}

/// When the ticket changed: `updated_at`, which may be NULL after an INSERT, else `created_at`,
/// else the transaction's start. `micros` reads a column that is a date or time.
pub fn changed_at(ticket: &Ticket, micros: impl Fn(Column) -> Option<i64>) -> ChangedAt {
    for column in [Column::UpdatedAt, Column::CreatedAt] {
        if let Some(micros) = micros(column) {
            return ChangedAt::Micros(micros);
        }
        match ticket.kind(column) {
            Kind::Number => return ChangedAt::Column(column),
            Kind::Text => {
                let text = std::str::from_utf8(ticket.text(column)).unwrap_or_default();
                if let Some(micros) = pg::parse_timestamp(text) {
                    return ChangedAt::Micros(micros);
                }
            }
            Kind::Null | Kind::Boolean | Kind::Unreadable => {}
        }
    }
    ChangedAt::Micros(pg::transaction_start())
}
