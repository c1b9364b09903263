//! Policies, and those on Storage's tables.
//!
//! Each expression is written as the server prints it (`pg_get_expr`), so that `check()` can compare it
//! with the catalog.

use pgrx::spi::quote_identifier;

use super::plan::{AS_MADE, Component, REMOVED, State, Step, step};
use super::relation::Relation;
use crate::catalog;
use crate::error::Error;
use crate::pg;

#[derive(Clone, Copy)]
pub struct Policy {
    pub schema: &'static str,
    pub table: &'static str,
    pub name: &'static str,
    pub is_permissive: bool,
    pub command: &'static str,
    /// A database role, or PUBLIC.
    pub role: &'static str,
    pub using: Option<&'static str>,
    pub check: Option<&'static str>,
}

/// The database role of users who have logged in.
pub const AUTHENTICATED: &str = "authenticated";
pub const PUBLIC: &str = "public";

/// The policy that closes a table whose firewall was not restored.
pub const CLOSED: &str = "civic closed";

macro_rules! other_buckets {
    ($column:literal) => {
        concat!(
            "(",
            $column,
            " <> ALL (ARRAY['evidence'::text, 'documents'::text, 'gbv-evidence'::text]))"
        )
    };
}

/// A table, by schema and name.
type Table = (&'static str, &'static str);

pub const fn permissive(
    (schema, table): Table,
    name: &'static str,
    command: &'static str,
    using: Option<&'static str>,
    check: Option<&'static str>,
) -> Policy {
    Policy { schema, table, name, is_permissive: true, command, role: AUTHENTICATED, using, check }
}

pub const fn restrictive(
    (schema, table): Table,
    name: &'static str,
    command: &'static str,
    using: Option<&'static str>,
    check: Option<&'static str>,
) -> Policy {
    Policy { schema, table, name, is_permissive: false, command, role: PUBLIC, using, check }
}

const BUCKETS: Table = ("storage", "buckets");
const OBJECTS: Table = ("storage", "objects");

pub const POLICIES: [Policy; 9] = [
    // The planner makes the folder a range of the index (`pg/planner.rs`). A function in SQL would be inlined,
    // which costs a parse at every plan, and Storage's search plans a hundred times a call.
    permissive(
        OBJECTS,
        "civic read",
        "SELECT",
        Some("((bucket_id = ANY (civic.readable_buckets())) AND civic.in_tenant_folder(name))"),
        None,
    ),
    permissive(
        OBJECTS,
        "civic upload",
        "INSERT",
        None,
        Some("civic.can_upload_object(bucket_id, name)"),
    ),
    // Permissive policies are OR-ed, so one careless USING (true) would open every bucket. This one
    // is AND-ed. Its functions do not belong to the extension: it outlives DROP EXTENSION … CASCADE, and
    // goes on deciding.
    restrictive(
        OBJECTS,
        "civic firewall",
        "ALL",
        Some("storage.civic_firewall(bucket_id, name)"),
        Some("storage.civic_firewall_upload(bucket_id, name)"),
    ),
    // For the Storage API's list (`pg/planner.rs`). Without a query that needs it, the planner drops it. The
    // first of the restrictive policies by its name: what an index is to serve has to be tested first.
    Policy {
        role: AUTHENTICATED,
        ..restrictive(OBJECTS, "civic bounds", "SELECT", Some("civic.list_bounds(name)"), None)
    },
    // For a restore that could not create the firewall's functions: without them no row passes.
    restrictive(OBJECTS, CLOSED, "ALL", Some("storage.civic_firewall_exists()"), None),
    // No user changes or removes evidence, whatever a permissive policy says.
    restrictive(
        OBJECTS,
        "civic no update",
        "UPDATE",
        Some(other_buckets!("bucket_id")),
        Some(other_buckets!("bucket_id")),
    ),
    restrictive(OBJECTS, "civic no delete", "DELETE", Some(other_buckets!("bucket_id")), None),
    // A public bucket is served without checking any policy.
    restrictive(
        BUCKETS,
        "civic no update",
        "UPDATE",
        Some(other_buckets!("id")),
        Some(other_buckets!("id")),
    ),
    restrictive(BUCKETS, "civic no delete", "DELETE", Some(other_buckets!("id")), None),
];

/// Created by the extension's script, if the role exists then. `check()` reports where it is missing.
pub const OF_MEDIA_JOBS: Policy = permissive(
    ("civic", "media_jobs"),
    "civic read",
    "SELECT",
    Some("((tenant_id = civic.tenant_id()) AND (bucket = ANY (civic.readable_buckets())))"),
    None,
);

impl Policy {
    /// What the catalog says of the policy, or `None` where there is none.
    fn in_catalog(&self) -> Result<Option<String>, Error> {
        let found = catalog::texts(
            "SELECT pg_catalog.concat_ws(E'\\n', permissive, cmd, roles, qual, with_check)
             FROM pg_catalog.pg_policies
             WHERE schemaname = $1 AND tablename = $2 AND policyname = $3",
            &[self.schema.into(), self.table.into(), self.name.into()],
        )?;
        Ok(found.into_iter().next())
    }

    fn kind(&self) -> &'static str {
        if self.is_permissive { "PERMISSIVE" } else { "RESTRICTIVE" }
    }

    fn as_in_catalog(&self) -> String {
        let roles = format!("{{{}}}", self.role);
        let parts = [Some(self.kind()), Some(self.command), Some(&roles), self.using, self.check];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    pub fn create_statement(&self) -> String {
        let clause = |keyword: &str, expression: Option<&str>| {
            expression.map(|expression| format!(" {keyword} ({expression})")).unwrap_or_default()
        };
        format!(
            "CREATE POLICY {} ON {}.{} AS {} FOR {} TO {}{}{}",
            quote_identifier(self.name),
            self.schema,
            self.table,
            self.kind(),
            self.command,
            self.role,
            clause("USING", self.using),
            clause("WITH CHECK", self.check),
        )
    }

    pub fn drop_statement(&self) -> String {
        format!("DROP POLICY {} ON {}.{}", quote_identifier(self.name), self.schema, self.table)
    }

    /// Runs a statement as the owner of the table.
    fn execute(&self, statement: &str) -> Result<(), Error> {
        match Relation::named(self.schema, self.table)? {
            Some(table) => table.execute(statement),
            None => {
                let why = format!("there is no table {}.{}", self.schema, self.table);
                Err(pg::Error::Catalog { why }.into())
            }
        }
    }
}

impl Component for Policy {
    fn name(&self) -> String {
        format!("policy \"{}\" on {}.{}", self.name, self.schema, self.table)
    }

    fn state(&self) -> Result<State, Error> {
        if self.role == AUTHENTICATED && !has_role(AUTHENTICATED)? {
            return Ok(State::Unneeded("there is no role authenticated".to_owned()));
        }
        Ok(match self.in_catalog()? {
            None => State::Missing("missing".to_owned()),
            Some(found) if found == self.as_in_catalog() => State::Installed(AS_MADE.to_owned()),
            Some(_) => State::Different(format!("not {AS_MADE}")),
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        if !was.is_missing() {
            self.execute(&self.drop_statement())?;
        }
        self.execute(&self.create_statement())?;
        Ok(self.made(was))
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        self.execute(&self.drop_statement())?;
        Ok(self.dropped())
    }
}

pub fn has_role(role: &str) -> Result<bool, Error> {
    catalog::holds(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)",
        &[role.into()],
    )
}

/// A policy of the application's own migrations, which those of `setup()` replace.
pub struct Migrated(Policy);

const MIGRATED: [&str; 6] = [
    "Authenticated users upload evidence",
    "Authenticated users read evidence",
    "Authenticated users upload documents",
    "Authenticated users read documents",
    "Authorized staff upload GBV evidence",
    "SAPS liaisons read GBV evidence",
];

impl Migrated {
    /// Those that still exist.
    pub fn find() -> Result<Vec<Migrated>, Error> {
        let migrated = MIGRATED.map(|name| Migrated(Policy { name, ..POLICIES[0] }));
        let mut found = vec![];
        for policy in migrated {
            if policy.0.in_catalog()?.is_some() {
                found.push(policy);
            }
        }
        Ok(found)
    }
}

impl Component for Migrated {
    fn name(&self) -> String {
        self.0.name()
    }

    fn state(&self) -> Result<State, Error> {
        Ok(State::Different("of the application's migrations: slow, and replaced".to_owned()))
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        self.0.execute(&self.0.drop_statement())?;
        Ok(vec![step(self.name(), REMOVED, "of the application's migrations, replaced")])
    }
}
