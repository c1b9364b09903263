//! Turns a change of a ticket into an event. It never fails the write (docs/architecture.md,
//! decision 4).

use std::cell::RefCell;

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;

use super::buffer::Flags;
use super::bulk::Change;
use super::channel::{Channel, channel};
use super::owner;
use super::payload::{self, ChangedAt, Column, Detail, Kind, Operation, PAYLOAD_LIMIT, Ticket};
use super::pending;
use super::publish::{self, Subject};
use crate::error::{Error, Report};
use crate::events::EventError;
use crate::pg::trigger::{Fired, Tables, TriggerCall};
use crate::tickets::transitions::{self, Transition};
use crate::{pg, settings};

mod version;

use version::{
    COUNTED, LISTED, TicketColumns, Version, changed_at, municipality_id, read_more, read_row,
};

thread_local! {
    /// Buffers that every row reuses.
    static SCRATCH: RefCell<(Ticket, Vec<u8>)> = RefCell::default();
    static TABLES: Tables<{ Column::ALL.len() }> =
        Tables::new(Column::ALL.map(|column| column.name().to_owned()));
}

/// Publishes the change of one row. Returns normally whatever the row holds; a change that cannot
/// be published gives one WARNING per transaction.
pub fn notify(call: &TriggerCall<'_>) {
    let Some(fired) = call.fired() else {
        return warn(
            call,
            "a statement trigger has no row to report",
            "Create the trigger FOR EACH ROW.",
        );
    };
    let operation = match fired {
        Fired::Insert => Operation::Insert,
        Fired::Update => Operation::Update,
        Fired::Delete => Operation::Delete,
    };
    let columns = TABLES.with(|tables| call.columns(tables));
    let row = call.row(&columns);
    SCRATCH.with_borrow_mut(|(ticket, buffer)| {
        read_row(&row, ticket, &COUNTED);
        // Decided here, because a counted change needs no more of the row.
        let is_counted = Version::of(&row, &columns, ticket).is_bulk();
        if !is_counted {
            read_more(&row, ticket, &LISTED);
        }
        let version = Version::of(&row, &columns, ticket);
        note(call, &columns, operation, &version, buffer);
        publish_departure(call, &columns, &version, buffer);
        if version.municipality_id.is_none() {
            let hint = "Give every ticket its municipality in the column tenant_id.";
            return warn(call, "a ticket has no municipality", hint);
        }
        if is_counted {
            return count(call, operation, &version, buffer);
        }
        publish(call, operation, &version, buffer);
        publish_to_owners(call, &columns, operation, &version, buffer);
    });
}

/// Records what the end of the transaction needs to know of this version.
fn note(
    call: &TriggerCall<'_>,
    columns: &TicketColumns,
    operation: Operation,
    version: &Version<'_>,
    buffer: &mut Vec<u8>,
) {
    let (ticket, table) = (version.ticket, call.table());
    let is_id_known = note_changed_id(call, columns, ticket);
    if version.is_sensitive {
        buffer.clear();
        ticket.write_id(buffer);
        if operation == Operation::Update && (!is_id_known || buffer == payload::NO_ID) {
            // Before the change it may have been any ticket of any municipality.
            pending::note_sensitive(table, "", payload::NO_ID);
        }
        pending::note_sensitive(table, version.municipality_id.unwrap_or_default(), buffer);
        if columns.is_known(Column::IsSensitive as usize) {
            note_transition(call, columns, operation, ticket);
        }
    } else if was_sensitive(call, columns) {
        buffer.clear();
        ticket.write_id(buffer);
        pending::note_was_sensitive(table, buffer);
    }
}

/// Whether an UPDATE replaces a sensitive version.
fn was_sensitive(call: &TriggerCall<'_>, columns: &TicketColumns) -> bool {
    call.replaced(columns, Column::IsSensitive as usize).is_some_and(|row| {
        let mut old = Ticket::default();
        read_row(&row, &mut old, &[Column::IsSensitive]);
        old.is_sensitive(columns.has(Column::IsSensitive as usize))
    })
}

/// Tells the municipality that a ticket leaves that it has lost the ticket: a DELETE of the version that it
/// knows.
fn publish_departure(
    call: &TriggerCall<'_>,
    columns: &TicketColumns,
    version: &Version<'_>,
    buffer: &mut Vec<u8>,
) {
    if call.replaced(columns, Column::TenantId as usize).is_none() {
        return;
    }
    let Some(row) = call.old_row(columns) else { return };
    let mut old = Ticket::default();
    let old = Version::read(&row, columns, &mut old);
    if old.municipality_id.is_some() && old.municipality_id != version.municipality_id {
        if old.is_bulk() {
            count(call, Operation::Delete, &old, buffer);
        } else {
            publish(call, Operation::Delete, &old, buffer);
        }
    }
}

/// Publishes an event of a version to its municipality.
fn publish(
    call: &TriggerCall<'_>,
    operation: Operation,
    version: &Version<'_>,
    buffer: &mut Vec<u8>,
) {
    let Some(municipality_id) = version.municipality_id else { return };
    let subject = Subject { table: call.table(), is_sensitive: version.is_sensitive };
    let deliveries = payload::deliveries(version.is_sensitive, settings::sensitive_events());
    let mut is_listed = false;
    for (audience, detail) in deliveries {
        let sent = channel(municipality_id, *audience).and_then(|channel| {
            write_fitting(buffer, operation, version.ticket, version.changed_at, *detail)?;
            publish::send(&channel, buffer, subject)
        });
        is_listed |= sent.is_ok();
        if let Err(error) = sent {
            warn(call, &error.message(), &error.hint().unwrap_or_default());
        }
    }
    if is_listed && settings::bulk_after() > 0 && publish::destinations() != Flags::default() {
        pending::note_listed(municipality_id, version.is_sensitive);
    }
}

/// Counts a version of a municipality of which this transaction has listed enough. Owners of the ticket
/// receive nothing: an event for each would be as many broadcasts as changes.
fn count(
    call: &TriggerCall<'_>,
    operation: Operation,
    version: &Version<'_>,
    buffer: &mut Vec<u8>,
) {
    let Some(municipality_id) = version.municipality_id else { return };
    let flags = publish::destinations();
    if flags == Flags::default() {
        return;
    }
    buffer.clear();
    version.ticket.write_id(buffer);
    let counted = pending::count(Change {
        municipality: municipality_id.as_bytes(),
        table: call.table(),
        flags,
        sensitive: version.is_sensitive.then(settings::sensitive_events),
        operation,
        id: buffer,
    });
    if let Err(error) = counted {
        warn(call, &error.message(), &error.hint().unwrap_or_default());
    }
}

/// Sends an event of an ordinary ticket to each of its owners, and a DELETE of the version that they know to
/// those who no longer are. At the end of the transaction these events are dropped if the ticket is or was
/// sensitive.
fn publish_to_owners(
    call: &TriggerCall<'_>,
    columns: &TicketColumns,
    operation: Operation,
    version: &Version<'_>,
    buffer: &mut Vec<u8>,
) {
    if version.is_sensitive {
        return;
    }
    let Some(owner_columns) = owner::columns(call) else { return };
    let mut send = |topics: &[Channel], operation, version: &Version<'_>| {
        if topics.is_empty() {
            return;
        }
        let sent =
            write_fitting(buffer, operation, version.ticket, version.changed_at, Detail::Whole)
                .and_then(|()| {
                    // Without an id nobody could tell at the end which ticket it is.
                    if payload::written_ticket_id(buffer) == Some(payload::NO_ID) {
                        return Ok(());
                    }
                    let send = |topic| publish::send_to_owner(topic, buffer, call.table());
                    topics.iter().try_for_each(send)
                });
        if let Err(error) = sent {
            warn(call, &error.message(), &error.hint().unwrap_or_default());
        }
    };
    let owners = owner::topics(&call.row(&owner_columns), &owner_columns);
    if owner::may_have_changed(call, &owner_columns)
        && let Some(row) = call.old_row(&owner_columns)
        && let Some(old_row) = call.old_row(columns)
    {
        let mut former = owner::topics(&row, &owner_columns);
        former.retain(|topic| !owners.contains(topic));
        let mut old = Ticket::default();
        send(&former, Operation::Delete, &Version::read(&old_row, columns, &mut old));
    }
    send(&owners, operation, version);
}

/// Records a sensitive ticket whose files may be in the open: a new one, one that was not sensitive, and
/// one that had another id or municipality.
fn note_transition(
    call: &TriggerCall<'_>,
    columns: &TicketColumns,
    operation: Operation,
    ticket: &Ticket,
) {
    let note = |ticket: &Ticket, was_open| {
        let id = Some(ticket.text(Column::Id)).filter(|id| !id.is_empty());
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        if let (Some(tenant_id), Some(ticket_id)) = (municipality_id(columns, ticket), id) {
            let (tenant_id, ticket_id) = (tenant_id.to_owned(), ticket_id.to_owned());
            let transition = Transition { tenant_id, ticket_id, was_open };
            transitions::note(pg::transaction::level(), transition);
        }
    };
    match operation {
        Operation::Insert => note(ticket, false),
        Operation::Delete => {}
        Operation::Update => {
            let mut old = Ticket::default();
            let is_new = |old: &mut Ticket, column: Column| {
                let row = call.replaced(columns, column as usize);
                row.map(|row| read_row(&row, old, &[column])).is_some()
            };
            let was_open = is_new(&mut old, Column::IsSensitive)
                && !old.is_sensitive(columns.has(Column::IsSensitive as usize));
            let is_renamed = is_new(&mut old, Column::Id) || is_new(&mut old, Column::TenantId);
            if was_open || is_renamed {
                note(ticket, was_open);
            }
            if is_renamed && let Some(row) = call.old_row(columns) {
                read_row(&row, &mut old, &[Column::Id, Column::TenantId]);
                note(&old, was_open);
            }
        }
    }
}

/// Records an id that this UPDATE changes, because events under the old id are about the same
/// ticket. Returns whether the old id is readable.
fn note_changed_id(call: &TriggerCall<'_>, columns: &TicketColumns, ticket: &Ticket) -> bool {
    let Some(old_row) = call.replaced(columns, Column::Id as usize) else { return true };
    let (mut old, mut before, mut now) = (Ticket::default(), vec![], vec![]);
    read_row(&old_row, &mut old, &[Column::Id]);
    old.write_id(&mut before);
    ticket.write_id(&mut now);
    if before != now {
        pending::note_renamed(call.table(), &before, &now);
    }
    before != payload::NO_ID
}

/// Writes the event, in its truncated form if NOTIFY would refuse the whole one.
fn write_fitting(
    buffer: &mut Vec<u8>,
    operation: Operation,
    ticket: &Ticket,
    changed_at: ChangedAt,
    detail: Detail,
) -> Result<(), Error> {
    buffer.clear();
    let is_included = |column: Column| detail == Detail::Whole || column.is_identifying();
    let is_readable = |column: Column| ticket.kind(column) != Kind::Unreadable;
    if Column::ALL.into_iter().filter(|column| is_included(*column)).all(is_readable) {
        payload::write(buffer, operation, ticket, changed_at, detail);
        if buffer.len() <= PAYLOAD_LIMIT {
            return Ok(());
        }
        buffer.clear();
    }
    payload::write(buffer, operation, ticket, changed_at, Detail::Truncated);
    if buffer.len() > PAYLOAD_LIMIT {
        return Err(EventError::PayloadTooLong { bytes: buffer.len(), limit: PAYLOAD_LIMIT }.into());
    }
    Ok(())
}

fn warn(call: &TriggerCall<'_>, why: &str, hint: &str) {
    pg::shared::counters::count_at_commit(|counters| &counters.notify_lost, 1);
    if pg::notify::first_warning_of_transaction() {
        let message = format!("change of table \"{}\" was not notified: {why}", call.table_name());
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "notify_ticket_update")
            .set_hint(hint)
            .report(PgLogLevel::WARNING);
    }
}

/// The event that the trigger would send for this ticket, given as a JSON object of its columns.
pub fn payload_of(operation: &str, ticket: &Value) -> Result<String, Error> {
    let operation = Operation::from_name(operation)
        .ok_or_else(|| EventError::UnknownOperation { operation: operation.to_owned() })?;
    let object = publish::object("ticket", ticket)?;
    let mut row = Ticket::default();
    for column in Column::ALL {
        if let Some(value) = object.get(column.name()) {
            row.set_json(column, value, pg::jsonb_text);
        }
    }
    let changed_at = changed_at(&row, |_| None);
    let mut buffer = Vec::new();
    write_fitting(&mut buffer, operation, &row, changed_at, Detail::Whole)?;
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}
