//! A ticket that turns out to be sensitive.
//!
//! Under row security nobody can write a row that they may not read, so a manager cannot set
//! `is_sensitive` with a WHERE. This does it as the owner of the table, after its own check.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::TicketError;
use super::tables::tables;
use super::ticket::TicketId;
use crate::claims::{self, Identity, access};
use crate::error::{Error, for_browsers};
use crate::pg::http_status::answers_http;
use crate::pg::{self, Given};
use crate::settings::{self, Access};

/// Whether the caller sees every ticket of their municipality, but for sensitive ones.
fn is_staff(identity: &Identity, access: &Access) -> bool {
    access::reads_all(identity, access) || access::writes(identity, access)
}

/// Marks a ticket that the caller sees as staff, or that is assigned to them. Of a ticket that is sensitive
/// already only who reads sensitive tickets learns that it exists.
///
/// Errors: P0002 if the caller sees no such ticket as staff; 55000 if a table of tickets cannot be read.
fn mark_sensitive(ticket_id: &str) -> Result<(), Error> {
    let (identity, access) = (claims::identity()?, settings::access());
    let not_found = || Error::from(TicketError::NotFound { ticket_id: ticket_id.to_owned() });
    let tenant_id = identity.tenant_id().ok_or_else(not_found)?;
    let user_id = identity.user_id();
    let assigned =
        if is_staff(&identity, &access) { None } else { Some(user_id.ok_or_else(not_found)?) };
    let reads_sensitive = access::reads_sensitive(&identity, &access);
    let ticket = TicketId::new(ticket_id);
    let mut is_found = false;
    for table in tables()? {
        is_found |= table.mark_sensitive(&ticket, tenant_id, assigned, reads_sensitive)?;
    }
    if is_found { Ok(()) } else { Err(not_found()) }
}

/// The HTTP status of an error, where PostgREST would answer its SQLSTATE with 500.
fn status(error: &Error) -> Option<u16> {
    if let Some(pg::Error::ArgumentTooLong { .. }) = error.downcast_ref() {
        return Some(400);
    }
    matches!(error.downcast_ref(), Some(TicketError::NotFound { .. })).then_some(404)
}

#[pg_schema]
mod civic {
    use super::*;

    answers_http!(civic_mark_sensitive, pg_finfo_civic_mark_sensitive, mark_sensitive_wrapper);

    /// Marks a ticket as sensitive. A caller who may not read sensitive tickets does not see it afterwards.
    ///
    /// Errors: PT404 if the caller sees no such ticket as staff.
    #[pg_extern(sql = r#"
CREATE FUNCTION civic.mark_sensitive(ticket_id text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000 SET search_path TO pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'civic_mark_sensitive';
"#)]
    fn mark_sensitive(ticket_id: Option<Given<'_>>) -> Result<(), ErrorReport> {
        let mark = || super::mark_sensitive(Given::required("ticket_id", ticket_id)?);
        for_browsers(status, mark).map(drop)
    }
}
