//! Whether a ticket is sensitive.

use super::TicketError;
use super::tables::{Table, tables};
use super::ticket::TicketId;
use crate::error::Error;

/// Whether a ticket's media is sensitive: where the caller says so, and where a ticket of this id is
/// found that is not plainly not. Where none is found the caller is believed. Tickets are read as others
/// have committed them by now, however old the caller's snapshot is.
///
/// Errors: the ticket is another municipality's (22023); a table cannot be read whole, or there is none
/// to look into (55000). No answer is better than one that opens the firewall.
pub fn is_sensitive(
    tenant_id: &str,
    ticket_id: &str,
    declared_sensitive: bool,
) -> Result<bool, Error> {
    let ticket = TicketId::new(ticket_id);
    let mut found = vec![];
    let tables = tables()?;
    // What is behind the firewall anyway needs no ticket.
    if !declared_sensitive && !tables.iter().any(Table::has_ids) {
        return Err(TicketError::NoTable.into());
    }
    for table in tables {
        found.extend(table.find(&ticket)?);
    }
    if !found.is_empty() && !found.iter().any(|found| found.is_of(tenant_id)) {
        return Err(TicketError::OfAnother { ticket_id: ticket_id.to_owned() }.into());
    }
    Ok(declared_sensitive || found.iter().any(|found| found.is_sensitive))
}
