//! The functions behind the policies of protected tables.
//!
//! `civic.protect()` declares them in schema `civic_firewall`, outside the extension
//! (`setup/firewall.rs`), so that the policies still decide after DROP EXTENSION. The names and the
//! meaning of these symbols are therefore frozen, like those in `storage/firewall.rs`.
//!
//! Each answers once per query. A policy's conditions are evaluated for each row.

use pgrx::Uuid;

use super::{Identity, access, ask};
use crate::pg::c_function::c_function_per_query;
use crate::settings::{self, Access};

/// The least UUID.
const NIL: [u8; 16] = [0; 16];

fn allows(rule: fn(&Identity, &Access) -> bool) -> Option<bool> {
    Some(ask(|identity| rule(identity, &settings::access())))
}

fn uuid(of: fn(&Identity) -> Option<[u8; 16]>) -> Option<Uuid> {
    ask(|identity| of(identity).map(Uuid::from_bytes))
}

c_function_per_query!(
    /// The caller's municipality.
    civic_firewall_tenant_id,
    pg_finfo_civic_firewall_tenant_id,
    tenant_id,
    || ask(|identity| identity.tenant_id().map(str::to_owned))
);

c_function_per_query!(
    /// The caller's municipality as a UUID; NULL if it is none.
    civic_firewall_tenant_uuid,
    pg_finfo_civic_firewall_tenant_uuid,
    tenant_uuid,
    || uuid(Identity::tenant_uuid)
);

c_function_per_query!(
    /// The caller's user id.
    civic_firewall_user_id,
    pg_finfo_civic_firewall_user_id,
    user_id,
    || ask(|identity| identity.user_id().map(str::to_owned))
);

c_function_per_query!(
    /// The caller's user id as a UUID; NULL if it is none.
    civic_firewall_user_uuid,
    pg_finfo_civic_firewall_user_uuid,
    user_uuid,
    || uuid(Identity::user_uuid)
);

c_function_per_query!(
    /// The least text for reading staff, NULL for everybody else.
    civic_firewall_staff_floor,
    pg_finfo_civic_firewall_staff_floor,
    staff_floor,
    || allows(access::reads_all).unwrap_or_default().then(String::new)
);

c_function_per_query!(
    /// The least UUID for reading staff, NULL for everybody else.
    civic_firewall_staff_floor_uuid,
    pg_finfo_civic_firewall_staff_floor_uuid,
    staff_floor_uuid,
    || allows(access::reads_all).unwrap_or_default().then(|| Uuid::from_bytes(NIL))
);

c_function_per_query!(
    /// Whether the caller reads sensitive rows.
    civic_firewall_reads_sensitive,
    pg_finfo_civic_firewall_reads_sensitive,
    reads_sensitive,
    || allows(access::reads_sensitive)
);

c_function_per_query!(
    /// Whether the caller changes rows that do not name them.
    civic_firewall_writes,
    pg_finfo_civic_firewall_writes,
    writes,
    || allows(access::writes)
);

c_function_per_query!(
    /// Whether the caller deletes rows.
    civic_firewall_deletes,
    pg_finfo_civic_firewall_deletes,
    deletes,
    || allows(access::deletes)
);
