//! The trigger behind the guarded columns of protected tables.

use super::{ClaimsError, Identity, access, identity};
use crate::error::Report;
use crate::pg::c_function::c_trigger;
use crate::pg::trigger::{Fired, Named, TriggerCall};
use crate::settings;

c_trigger!(
    /// `civic_firewall.guard_columns(…)`: only the roles in `civic.column_writers` set the guarded columns.
    /// For AFTER triggers: a BEFORE trigger may still change the row.
    ///
    /// Arguments: `t:` and the tenant's column, `o:` and each column that names an owner, `g:` and each
    /// guarded column.
    civic_firewall_guard_columns,
    pg_finfo_civic_firewall_guard_columns,
    |call: Option<TriggerCall<'_>>| match call {
        Some(call) => guard(&call),
        None => ClaimsError::NotATrigger.raise(),
    }
);

/// Errors: 42501 for a guarded column that the caller has set, 42703 for one that the table does not have.
fn guard(call: &TriggerCall<'_>) {
    let fired = call.fired();
    if !matches!(fired, Some(Fired::Insert | Fired::Update)) || call.is_by_owner() {
        return;
    }
    let identity = identity().unwrap_or_else(|error| error.raise());
    if access::writes_columns(&identity, &settings::access()) {
        return;
    }
    for column in arguments(call, b"g:") {
        let name = || String::from_utf8_lossy(column).into_owned();
        let Some(value) = call.named(column) else {
            ClaimsError::NoGuardedColumn { table: call.table_name(), column: name() }.raise()
        };
        let is_set = match fired {
            Some(Fired::Update) => value.is_changed(),
            _ => !is_harmless(call, column, &value, &identity),
        };
        if is_set {
            ClaimsError::GuardedColumn { table: call.table_name(), column: name() }.raise()
        }
    }
}

/// Whether anybody may insert this value: no value, the column's constant default, the caller's own
/// municipality or the caller's own id.
fn is_harmless(
    call: &TriggerCall<'_>,
    column: &[u8],
    value: &Named<'_>,
    identity: &Identity,
) -> bool {
    let is = |prefix: &[u8]| arguments(call, prefix).any(|name| name == column);
    value.is_null()
        || value.is_default()
        || is(b"t:") && value.is_id(identity.tenant_id(), identity.tenant_uuid())
        || is(b"o:") && value.is_id(identity.user_id(), identity.user_uuid())
}

fn arguments<'a>(call: &'a TriggerCall<'_>, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    call.arguments().filter_map(move |argument| argument.strip_prefix(prefix))
}
