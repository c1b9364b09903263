//! Every privilege that pg_civic grants, needs or revokes, in one place.
//!
//! `sql/finalize.sql` and `sql/media.sql` grant, `setup()` and `teardown()` need and revoke, `check()`
//! compares. Tests compare these tables with the catalog and with docs/security.md.

use super::relation::Relation;
use crate::catalog;
use crate::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grantee {
    Public,
    /// Users who have logged in.
    Authenticated,
    /// The server's side of the application.
    ServiceRole,
    /// The roles that watch the server.
    Monitor,
    /// The owner of the database, who need not be a superuser.
    DatabaseOwner,
    /// Granted by `setup()`.
    TicketsOwner,
}

use Grantee::{Authenticated, DatabaseOwner, Monitor, Public, ServiceRole, TicketsOwner};

impl Grantee {
    pub const ROLES: [Grantee; 4] = [ServiceRole, Authenticated, Monitor, DatabaseOwner];

    pub fn role(self) -> &'static str {
        match self {
            Public => "PUBLIC",
            Authenticated => "authenticated",
            ServiceRole => "service_role",
            Monitor => "pg_monitor",
            DatabaseOwner => "pg_database_owner",
            TicketsOwner => "the owner of the table of tickets",
        }
    }
}

pub const TRIGGER_FUNCTION: &str = "civic.notify_ticket_update()";

/// EXECUTE on each function of schema `civic`.
pub const FUNCTIONS: [(&str, &[Grantee]); 48] = [
    ("bucket_for_media(boolean)", &[Public]),
    ("bucket_for_purpose(text)", &[Public]),
    ("can_join_channel(text)", &[Public]),
    ("can_read_object(text, text)", &[Public]),
    ("can_upload_object(text, text)", &[Public]),
    ("cancel_media_job(uuid)", &[ServiceRole]),
    ("check()", &[DatabaseOwner, Monitor]),
    ("confirm_upload(text, text, text)", &[Authenticated]),
    ("confirm_upload(uuid, text, uuid)", &[Authenticated]),
    ("dashboard_events(text)", &[Public]),
    ("download_and_upload_media(text, text, text, text, boolean)", &[ServiceRole]),
    ("download_and_upload_media(text, text, uuid, text, boolean)", &[ServiceRole]),
    ("enqueue_media(text, text, text, text, boolean)", &[ServiceRole]),
    ("enqueue_media(text, text, uuid, text, boolean)", &[ServiceRole]),
    ("file_extension(text)", &[Public]),
    ("generate_upload_url(text, text, text, text, text)", &[Public]),
    ("get_signed_url(text, text, bigint)", &[Authenticated, ServiceRole]),
    ("has_role(text[])", &[Public]),
    ("in_tenant_folder(text)", &[Public]),
    // The planner alone calls it.
    ("in_tenant_folder_support(internal)", &[]),
    ("list_bounds(text)", &[Public]),
    ("list_bounds_support(internal)", &[]),
    ("mark_sensitive(text)", &[Authenticated]),
    ("mark_sensitive(uuid)", &[Authenticated]),
    ("metrics()", &[Monitor]),
    ("notify_ticket_update()", &[TicketsOwner]),
    ("object_path(text, text, text)", &[Public]),
    ("protect(regclass, text, text[], text, text, text, text[], text)", &[DatabaseOwner]),
    ("publish(text, jsonb, boolean)", &[ServiceRole]),
    ("readable_buckets()", &[Public]),
    ("relay_stats()", &[DatabaseOwner, Monitor]),
    ("request_upload(text, text, bigint, text)", &[Public]),
    ("retry_media_job(uuid)", &[ServiceRole]),
    ("setup(regclass)", &[DatabaseOwner]),
    ("staff_floor()", &[Public]),
    ("staff_floor_uuid()", &[Public]),
    ("teardown()", &[DatabaseOwner]),
    ("tenant_folder_end()", &[Public]),
    ("tenant_folder_start()", &[Public]),
    ("tenant_id()", &[Public]),
    ("tenant_uuid()", &[Public]),
    ("ticket_channel(text)", &[Public]),
    ("ticket_payload(text, jsonb)", &[Public]),
    ("unprotect(regclass)", &[DatabaseOwner]),
    ("upload_file(text, text, bytea, text)", &[ServiceRole]),
    ("user_id()", &[Public]),
    ("user_role()", &[Public]),
    ("user_uuid()", &[Public]),
];

/// The qualified signatures of the functions that are granted to one role.
pub fn functions_of(grantee: Grantee) -> Vec<String> {
    let granted = FUNCTIONS.iter().filter(|(_, grantees)| grantees.contains(&grantee));
    granted.map(|(function, _)| format!("civic.{function}")).collect()
}

/// SELECT on `civic.media_jobs`, and the columns that it leaves out: the URL of a file opens it for some
/// time, without any policy.
pub const MEDIA_JOBS: [(Grantee, &[&str]); 2] =
    [(ServiceRole, &[]), (Authenticated, &["media_url"])];

/// What the owner of a table needs, as whom each statement runs: USAGE on the schema, and these. The
/// caller needs the rights of the owner.
pub struct Needed {
    pub schema: &'static str,
    pub table: &'static str,
    pub setup: &'static [&'static str],
    pub teardown: &'static [&'static str],
    /// Whether rows are read or written, so that row security must not be forced on the owner.
    pub uses_rows: bool,
}

/// Needed if Storage has no index on the bucket and the name in byte order.
pub const CREATE_ON_SCHEMA: &str = "CREATE on schema";

pub const BUCKETS: Needed = Needed {
    schema: "storage",
    table: "buckets",
    setup: &["SELECT", "INSERT", "UPDATE"],
    teardown: &["SELECT", "DELETE"],
    uses_rows: true,
};
pub const OBJECTS: Needed = Needed {
    schema: "storage",
    table: "objects",
    setup: &[CREATE_ON_SCHEMA],
    teardown: &["SELECT"],
    uses_rows: true,
};
pub const MESSAGES: Needed =
    Needed { schema: "realtime", table: "messages", setup: &[], teardown: &[], uses_rows: false };
pub const TICKETS: Needed = Needed {
    schema: "",
    table: "the table of tickets",
    setup: &["TRIGGER"],
    teardown: &[],
    uses_rows: false,
};

#[cfg(test)]
impl Needed {
    pub fn table_name(&self) -> String {
        format!("{}.{}", self.schema, self.table).trim_start_matches('.').to_owned()
    }
}

#[cfg(test)]
pub const NEEDED: [Needed; 4] = [BUCKETS, OBJECTS, MESSAGES, TICKETS];

/// What the caller and the owner of a table lack, in words.
pub fn missing(
    table: &Relation,
    privileges: &[&str],
    uses_rows: bool,
) -> Result<Vec<String>, Error> {
    let privileges: Vec<_> = privileges.iter().map(|privilege| privilege.to_string()).collect();
    catalog::texts(
        "SELECT l.lacks
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
         CROSS JOIN LATERAL (
             SELECT 1, 0, pg_catalog.format('ownership of table %I.%I (its owner is %s)',
                                            n.nspname, c.relname, o.rolname)
             WHERE NOT pg_catalog.pg_has_role(current_user, o.oid, 'USAGE')
             UNION ALL
             SELECT 2, 0, pg_catalog.format('USAGE on schema %I', n.nspname)
             WHERE NOT pg_catalog.has_schema_privilege(o.oid, n.oid, 'USAGE')
             UNION ALL
             SELECT 3, w.place, CASE w.privilege
                    WHEN $3 THEN pg_catalog.format('CREATE on schema %I', n.nspname)
                    ELSE pg_catalog.format('%s on table %I.%I', w.privilege, n.nspname, c.relname) END
             FROM pg_catalog.unnest($2::pg_catalog.text[]) WITH ORDINALITY w (privilege, place)
             WHERE NOT CASE w.privilege
                       WHEN $3 THEN pg_catalog.has_schema_privilege(o.oid, n.oid, 'CREATE')
                       ELSE pg_catalog.has_table_privilege(o.oid, c.oid, w.privilege) END
             UNION ALL
             SELECT 4, 0, pg_catalog.format('BYPASSRLS for %s, as row security is forced on %I.%I',
                                            o.rolname, n.nspname, c.relname)
             WHERE $4 AND c.relrowsecurity AND c.relforcerowsecurity
               AND NOT o.rolsuper AND NOT o.rolbypassrls
         ) l (place, within, lacks)
         WHERE c.oid = $1
         ORDER BY l.place, l.within",
        &[table.oid.into(), privileges.into(), CREATE_ON_SCHEMA.into(), uses_rows.into()],
    )
}

/// Privileges that no policy covers, on any table. TRUNCATE empties the table for every municipality,
/// TRIGGER runs the caller's code as the next role that writes, REFERENCES shows whether a row exists,
/// MAINTAIN locks the table.
pub const UNCOVERED: [&str; 4] = ["TRUNCATE", "TRIGGER", "REFERENCES", "MAINTAIN"];

/// On `realtime.messages` too. Realtime's authorization issues SELECT and INSERT as the user
/// (supabase/realtime, lib/realtime/tenants/authorization.ex). The others are only rights to lock the
/// table.
pub const UNCOVERED_ON_MESSAGES: [&str; 2] = ["UPDATE", "DELETE"];

/// The tables under the policies of `setup()`.
pub fn guarded() -> Vec<String> {
    [BUCKETS, OBJECTS, MESSAGES]
        .map(|needed| format!("{}.{}", needed.schema, needed.table))
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the tables in docs/security.md.
    fn rows() -> Vec<String> {
        let callers = [Public, Authenticated, ServiceRole, Monitor, DatabaseOwner, TicketsOwner]
            .map(|grantee| {
                let of_grantee =
                    FUNCTIONS.iter().filter(|(_, grantees)| grantees.contains(&grantee));
                let mut names: Vec<_> = of_grantee
                    .filter_map(|(function, _)| function.split('(').next())
                    .map(|name| format!("`{name}`"))
                    .collect();
                names.dedup();
                format!("| {} | {} |", grantee.role(), names.join(", "))
            });
        let jobs = MEDIA_JOBS.map(|(grantee, hidden)| {
            let without: String =
                hidden.iter().map(|column| format!(" without `{column}`")).collect();
            format!("| {} | SELECT{without} |", grantee.role())
        });
        let list = |privileges: &[&str]| match privileges {
            [] => "–".to_owned(),
            privileges => privileges.join(", "),
        };
        let needed = NEEDED.map(|needed| {
            let table = needed.table_name();
            format!("| {table} | {} | {} |", list(needed.setup), list(needed.teardown))
        });
        let revoked = [
            format!("| every table of the two owners | {} |", list(&UNCOVERED)),
            format!(
                "| `realtime.messages` | {} |",
                list(&[&UNCOVERED[..], &UNCOVERED_ON_MESSAGES].concat())
            ),
        ];
        [&callers[..], &jobs, &needed, &revoked].concat()
    }

    #[test]
    fn the_documentation_has_the_same_privileges() {
        let documented = include_str!("../../docs/security.md");
        for row in rows() {
            assert!(documented.contains(&row), "docs/security.md lacks the row\n{row}");
        }
    }
}
