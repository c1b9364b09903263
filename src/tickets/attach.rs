//! To which tickets a user attaches files.
//!
//! Row security shows a citizen's sensitive report to nobody but liaisons and admins, so the citizen could
//! not attach a file to it. The table of attachments is written as its owner, after this check.

use super::tables::tables;
use super::ticket::{Found, Names, TicketId};
use crate::claims::{Identity, access};
use crate::error::Error;
use crate::settings::Access;

/// A ticket to which the caller attaches files.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachable {
    /// As the server writes it.
    pub id: String,
    pub is_sensitive: bool,
}

/// Their own report, also a sensitive one; every ticket of their municipality that they see.
fn may_attach(identity: &Identity, access: &Access, found: &Found, names: Names) -> bool {
    let is_staff = access::reads_all(identity, access) || access::writes(identity, access);
    let is_in_sight = !found.is_sensitive || access::reads_sensitive(identity, access);
    identity.tenant_id().is_some_and(|tenant_id| found.is_of(tenant_id))
        && (names.as_owner || is_in_sight && (is_staff || names.as_assigned))
}

/// The ticket, if the caller attaches files to it. Another municipality's and one that does not exist are
/// the same answer.
///
/// Errors: 55000 if a table of tickets cannot be read.
pub fn attachable(
    ticket_id: &str,
    identity: &Identity,
    access: &Access,
) -> Result<Option<Attachable>, Error> {
    let ticket = TicketId::new(ticket_id);
    let Some(user_id) = identity.user_id() else { return Ok(None) };
    let mut attachable: Option<Attachable> = None;
    for table in tables()? {
        for (found, names) in table.find_for(&ticket, user_id, &access.ticket_owner_columns)? {
            if may_attach(identity, access, &found, names) {
                let was_sensitive = attachable.is_some_and(|it| it.is_sensitive);
                let is_sensitive = found.is_sensitive || was_sensitive;
                attachable = Some(Attachable { id: ticket.canonical().to_owned(), is_sensitive });
            }
        }
    }
    Ok(attachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: &str) -> Identity {
        let claims = format!(r#"{{"sub": "u", "tenant": "t", "role": "{role}"}}"#);
        let path = |key: &str| vec![key.to_owned()];
        Identity::parse(claims.as_bytes(), &path("tenant"), &path("role"), |_| None).unwrap()
    }

    fn access() -> Access {
        let list = |roles: &[&str]| roles.iter().map(|role| role.to_string()).collect();
        Access {
            staff_readers: list(&["manager", "admin"]),
            staff_writers: list(&["manager", "admin"]),
            sensitive_readers: list(&["admin"]),
            ..Access::default()
        }
    }

    fn found(tenant: &str, sensitive: &str) -> Found {
        Found::from_row(vec![Some(tenant.to_owned()), Some(sensitive.to_owned())])
    }

    #[test]
    fn a_file_goes_to_ones_own_report_or_to_a_ticket_in_sight() {
        let nobody = Names::default();
        let owner = Names { as_owner: true, ..nobody };
        let assigned = Names { as_assigned: true, ..nobody };
        for (role, tenant, sensitive, names, expected) in [
            ("citizen", "t", "false", owner, true),
            ("citizen", "t", "true", owner, true),
            ("citizen", "t", "false", nobody, false),
            ("citizen", "t2", "false", owner, false),
            ("field_worker", "t", "false", assigned, true),
            ("field_worker", "t", "true", assigned, false),
            ("manager", "t", "false", nobody, true),
            ("manager", "t", "true", nobody, false),
            ("manager", "t2", "false", nobody, false),
            ("admin", "t", "true", nobody, true),
        ] {
            let may = may_attach(&caller(role), &access(), &found(tenant, sensitive), names);
            assert_eq!(may, expected, "{role} {tenant} {sensitive} {names:?}");
        }
    }
}
