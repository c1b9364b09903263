//! What a caller may do with the rows of protected tables. Without a tenant: nothing.

use super::Identity;
use crate::settings::Access;

fn is_of(identity: &Identity, roles: &[String]) -> bool {
    identity.tenant_id().is_some() && identity.has_any_role(roles)
}

/// Whether the caller reads every row of their municipality that the other rules leave.
pub fn reads_all(identity: &Identity, access: &Access) -> bool {
    is_of(identity, &access.staff_readers)
}

pub fn reads_sensitive(identity: &Identity, access: &Access) -> bool {
    is_of(identity, &access.sensitive_readers)
}

/// Whether the caller adds and changes rows that do not name them.
pub fn writes(identity: &Identity, access: &Access) -> bool {
    is_of(identity, &access.staff_writers)
}

pub fn deletes(identity: &Identity, access: &Access) -> bool {
    is_of(identity, &access.deleters)
}

/// Whether the caller sets the guarded columns.
pub fn writes_columns(identity: &Identity, access: &Access) -> bool {
    is_of(identity, &access.column_writers)
}
