//! Policies, and those on Storage's tables.
//!
//! Each expression stands here as the server prints it (`pg_get_expr`), so that `check()` can hold
//! what is in the catalog against it.

use pgrx::spi::quote_identifier;

use super::{ALREADY, DONE, REMOVED, SKIPPED, Step, catalog, step};
use crate::catalog::Owner;
use crate::error::Error;
use crate::pg;

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

/// Whoever logs in through the gateway.
pub const AUTHENTICATED: &str = "authenticated";
pub const PUBLIC: &str = "public";

/// The policy that shuts a table whose firewall was not restored.
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

pub const POLICIES: [Policy; 8] = [
    // As the range itself and not as a function over it: one that is inlined costs a parse at every
    // plan, and Storage's search plans a hundred times a call.
    Policy {
        schema: "storage",
        table: "objects",
        name: "civic read",
        is_permissive: true,
        command: "SELECT",
        role: AUTHENTICATED,
        using: Some(
            "((bucket_id = ANY (civic.readable_buckets())) \
             AND ((name COLLATE \"C\") >= civic.tenant_folder_start()) \
             AND ((name COLLATE \"C\") < civic.tenant_folder_end()))",
        ),
        check: None,
    },
    Policy {
        schema: "storage",
        table: "objects",
        name: "civic upload",
        is_permissive: true,
        command: "INSERT",
        role: AUTHENTICATED,
        using: None,
        check: Some("civic.can_upload_object(bucket_id, name)"),
    },
    // Permissive policies are OR-ed, so one careless USING (true) would open every bucket. This one
    // is AND-ed. Its functions are not the extension's: it outlives DROP EXTENSION … CASCADE, and
    // goes on deciding.
    Policy {
        schema: "storage",
        table: "objects",
        name: "civic firewall",
        is_permissive: false,
        command: "ALL",
        role: PUBLIC,
        using: Some("storage.civic_firewall(bucket_id, name)"),
        check: Some("storage.civic_firewall_upload(bucket_id, name)"),
    },
    // For a restore that could not make the firewall's functions: without them no row passes.
    Policy {
        schema: "storage",
        table: "objects",
        name: CLOSED,
        is_permissive: false,
        command: "ALL",
        role: PUBLIC,
        using: Some("storage.civic_firewall_exists()"),
        check: None,
    },
    // Evidence is neither changed nor removed by a person, whatever a permissive policy says.
    Policy {
        schema: "storage",
        table: "objects",
        name: "civic no update",
        is_permissive: false,
        command: "UPDATE",
        role: PUBLIC,
        using: Some(other_buckets!("bucket_id")),
        check: Some(other_buckets!("bucket_id")),
    },
    Policy {
        schema: "storage",
        table: "objects",
        name: "civic no delete",
        is_permissive: false,
        command: "DELETE",
        role: PUBLIC,
        using: Some(other_buckets!("bucket_id")),
        check: None,
    },
    // A public bucket is served without asking any policy.
    Policy {
        schema: "storage",
        table: "buckets",
        name: "civic no update",
        is_permissive: false,
        command: "UPDATE",
        role: PUBLIC,
        using: Some(other_buckets!("id")),
        check: Some(other_buckets!("id")),
    },
    Policy {
        schema: "storage",
        table: "buckets",
        name: "civic no delete",
        is_permissive: false,
        command: "DELETE",
        role: PUBLIC,
        using: Some(other_buckets!("id")),
        check: None,
    },
];

/// The extension's script makes it, where the role is there. `check()` tells where it is not.
pub const OF_MEDIA_JOBS: Policy = Policy {
    schema: "civic",
    table: "media_jobs",
    name: "civic read",
    is_permissive: true,
    command: "SELECT",
    role: AUTHENTICATED,
    using: Some("((tenant_id = civic.tenant_id()) AND (bucket = ANY (civic.readable_buckets())))"),
    check: None,
};

/// The policies of the application's own migrations, which these replace.
pub const OF_THE_MIGRATIONS: [&str; 6] = [
    "Authenticated users upload evidence",
    "Authenticated users read evidence",
    "Authenticated users upload documents",
    "Authenticated users read documents",
    "Authorized staff upload GBV evidence",
    "SAPS liaisons read GBV evidence",
];

impl Policy {
    pub fn component(&self) -> String {
        format!("policy \"{}\" on {}.{}", self.name, self.schema, self.table)
    }

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

    fn as_in_catalog(&self) -> String {
        let permissive = if self.is_permissive { "PERMISSIVE" } else { "RESTRICTIVE" };
        let roles = format!("{{{}}}", self.role);
        let parts = [Some(permissive), Some(self.command), Some(&roles), self.using, self.check];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    /// Whether the catalog has the policy, and whether it is this one.
    pub fn state(&self) -> Result<State, Error> {
        Ok(match self.in_catalog()? {
            None => State::Missing,
            Some(found) if found == self.as_in_catalog() => State::Installed,
            Some(_) => State::Different,
        })
    }

    /// What makes it.
    pub fn statement(&self) -> String {
        let clause = |keyword: &str, expression: Option<&str>| {
            expression.map(|expression| format!(" {keyword} ({expression})")).unwrap_or_default()
        };
        format!(
            "CREATE POLICY {} ON {}.{} AS {} FOR {} TO {}{}{}",
            quote_identifier(self.name),
            self.schema,
            self.table,
            if self.is_permissive { "PERMISSIVE" } else { "RESTRICTIVE" },
            self.command,
            self.role,
            clause("USING", self.using),
            clause("WITH CHECK", self.check),
        )
    }

    pub fn create(&self) -> Result<(), Error> {
        as_owner_of(self.schema, self.table, &self.statement())
    }

    pub fn drop(&self) -> Result<(), Error> {
        drop_policy(self.schema, self.table, self.name)
    }
}

/// Makes those policies that are missing or different.
pub fn set_up(policies: &[Policy]) -> Result<Vec<Step>, Error> {
    let has_authenticated = has_role(AUTHENTICATED)?;
    let set_up = |policy: &Policy| {
        if policy.role == AUTHENTICATED && !has_authenticated {
            return Ok(step(policy.component(), SKIPPED, "there is no role authenticated"));
        }
        let state = policy.state()?;
        if state == State::Different {
            policy.drop()?;
        }
        if state != State::Installed {
            policy.create()?;
        }
        Ok(match state {
            State::Installed => step(policy.component(), ALREADY, "as pg_civic makes it"),
            State::Missing => step(policy.component(), DONE, "created"),
            State::Different => step(policy.component(), DONE, "was another, created anew"),
        })
    };
    policies.iter().map(set_up).collect()
}

pub fn tear_down(policies: &[Policy]) -> Result<Vec<Step>, Error> {
    let tear_down = |policy: &Policy| {
        if policy.state()? == State::Missing {
            return Ok(step(policy.component(), SKIPPED, "there is none"));
        }
        policy.drop()?;
        Ok(step(policy.component(), REMOVED, "dropped"))
    };
    policies.iter().map(tear_down).collect()
}

pub fn has_role(role: &str) -> Result<bool, Error> {
    catalog::holds(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)",
        &[role.into()],
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Missing,
    Installed,
    /// Of this name, but not as pg_civic makes it.
    Different,
}

pub fn drop_policy(schema: &str, table: &str, name: &str) -> Result<(), Error> {
    let statement = format!("DROP POLICY {} ON {schema}.{table}", quote_identifier(name));
    as_owner_of(schema, table, &statement)
}

/// Runs a statement on a table as the table's owner.
pub fn as_owner_of(schema: &str, table: &str, statement: &str) -> Result<(), Error> {
    match Owner::of_table(schema, table)? {
        Some(owner) => owner.execute(statement, &[]),
        None => {
            Err(pg::Error::Catalog { why: format!("there is no table {schema}.{table}") }.into())
        }
    }
}

/// Which of the migrations' policies are still there.
pub fn left_by_migrations() -> Result<Vec<String>, Error> {
    catalog::texts(
        "SELECT policyname FROM pg_catalog.pg_policies
         WHERE schemaname = 'storage' AND tablename = 'objects' AND policyname = ANY ($1)
         ORDER BY policyname",
        &[OF_THE_MIGRATIONS.map(str::to_owned).to_vec().into()],
    )
}
