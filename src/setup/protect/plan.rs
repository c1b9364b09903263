//! The policies of a protected table, without PostgreSQL.
//!
//! Each expression is written as the server prints it (`pg_get_expr`), so that `check()` can compare it
//! with the catalog. A function without arguments keeps the index on the column beside it.

use super::rules::{Column, Kind, Readable, Rules, Table};
use crate::setup::SetupError;
use crate::setup::policy::{AUTHENTICATED, PUBLIC};

/// A policy of a protected table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPolicy {
    pub name: &'static str,
    pub is_permissive: bool,
    pub command: &'static str,
    pub using: Option<String>,
    pub check: Option<String>,
}

/// The name of every policy, in the order in which the server applies the restrictive ones: that of
/// their names.
pub const NAMES: [&str; 12] = [
    "civic 0 closed",
    TENANT,
    "civic 2 sensitive read",
    "civic 2 sensitive update",
    "civic 2 sensitive delete",
    "civic 3 ticket",
    "civic 4 update",
    "civic 5 delete",
    "civic read",
    "civic insert",
    "civic update",
    "civic delete",
];

/// The policy that every protected table has.
pub const TENANT: &str = "civic 1 tenant";

/// The table of tickets that rows of another table belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tickets {
    /// Qualified and quoted.
    pub name: String,
    pub id: Column,
}

/// What is true for every row.
const TRUE: &str = "true";
const WRITES: &str = "civic_firewall.writes()";
const DELETES: &str = "civic_firewall.deletes()";
const READS_SENSITIVE: &str = "civic_firewall.reads_sensitive()";

impl RowPolicy {
    pub fn role(&self) -> &'static str {
        if self.is_permissive { AUTHENTICATED } else { PUBLIC }
    }

    fn kind(&self) -> &'static str {
        if self.is_permissive { "PERMISSIVE" } else { "RESTRICTIVE" }
    }

    /// As `check()` reads it from the catalog, without white space.
    pub fn definition(&self) -> String {
        let parts = [self.kind(), self.command, self.role()].map(str::to_owned);
        let expressions = [&self.using, &self.check].map(|it| it.clone().unwrap_or_default());
        without_space(&[&parts[..], &expressions].concat().join("|"))
    }

    /// `table` is qualified and quoted.
    pub fn create_statement(&self, table: &str) -> String {
        let clause = |keyword: &str, expression: &Option<String>| {
            expression.as_ref().map(|it| format!(" {keyword} ({it})")).unwrap_or_default()
        };
        format!(
            "CREATE POLICY \"{}\" ON {table} AS {} FOR {} TO {}{}{}",
            self.name,
            self.kind(),
            self.command,
            self.role(),
            clause("USING", &self.using),
            clause("WITH CHECK", &self.check),
        )
    }
}

/// The server's white space around a subquery differs between versions.
pub fn without_space(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_whitespace()).collect()
}

impl Column {
    /// The column as a value of its kind's own type.
    fn value(&self) -> String {
        self.value_of(&self.quoted)
    }

    fn value_of(&self, reference: &str) -> String {
        let value = match (self.is_exact, self.kind) {
            (false, Kind::Uuid) => format!("({reference})::uuid"),
            (false, Kind::Text) => format!("({reference})::text"),
            (false, Kind::Boolean) => format!("({reference})::boolean"),
            _ => reference.to_owned(),
        };
        // Under another collation "T1" may equal "t1".
        if self.is_deterministic { value } else { format!("({value} COLLATE \"C\")") }
    }

    /// `civic_firewall.tenant_id()` or `civic_firewall.tenant_uuid()`, whichever is of the column's type.
    fn function(&self, text: &'static str, uuid: &'static str) -> String {
        let name = if self.kind == Kind::Uuid { uuid } else { text };
        format!("civic_firewall.{name}()")
    }

    fn is_of_tenant(&self) -> String {
        format!("({} = {})", self.value(), self.function("tenant_id", "tenant_uuid"))
    }

    fn is_user(&self) -> String {
        format!("({} = {})", self.value(), self.function("user_id", "user_uuid"))
    }

    fn is_null(&self) -> String {
        format!("({} IS NULL)", self.quoted)
    }

    /// True for reading staff. The planner evaluates the function while it estimates: staff get a scan in
    /// the index's order, everybody else the indexes of the columns that name them.
    fn is_staffs(&self) -> String {
        format!("({} >= {})", self.value(), self.function("staff_floor", "staff_floor_uuid"))
    }
}

fn any(terms: Vec<String>) -> String {
    joined(terms, " OR ")
}

fn all(terms: Vec<String>) -> String {
    joined(terms, " AND ")
}

fn joined(mut terms: Vec<String>, operator: &str) -> String {
    match terms.len() {
        1 => terms.remove(0),
        _ => format!("({})", terms.join(operator)),
    }
}

fn restrictive(
    name: &'static str,
    command: &'static str,
    using: impl Into<String>,
    check: Option<&str>,
) -> RowPolicy {
    let (using, check) = (Some(using.into()), check.map(str::to_owned));
    RowPolicy { name, is_permissive: false, command, using, check }
}

fn permissive(
    name: &'static str,
    command: &'static str,
    using: Option<String>,
    check: Option<String>,
) -> RowPolicy {
    RowPolicy { name, is_permissive: true, command, using, check }
}

/// The policies of a table, or of one of its partitions. `tickets` is the table that the column of the
/// ticket refers to.
///
/// Errors: 42703 for a column that does not exist, 42804 for one whose type does not fit.
pub fn policies(
    rules: &Rules,
    table: &Table,
    tickets: Option<&Tickets>,
) -> Result<Vec<RowPolicy>, SetupError> {
    rules.check(table)?;
    let column = |name: &String| table.column(name);
    let tenant = column(&rules.tenant);
    let owners: Vec<_> = rules.owners.iter().filter_map(column).collect();
    let assigned = rules.assigned.as_ref().and_then(column);
    let sensitive = rules.sensitive.as_ref().and_then(column);
    let ticket = rules.ticket.as_ref().and_then(column);
    let Some(tenant) = tenant else { return Ok(vec![]) };

    let mut policies = vec![
        restrictive(NAMES[0], "ALL", "civic_firewall.is_restored()", None),
        restrictive(TENANT, "ALL", tenant.is_of_tenant(), None),
    ];
    if let Some(sensitive) = sensitive {
        let passes = format!("(({} IS FALSE) OR {READS_SENSITIVE})", sensitive.value());
        // The new row of an UPDATE may be sensitive, and so may the row of an INSERT.
        policies.push(restrictive(NAMES[2], "SELECT", passes.clone(), None));
        policies.push(restrictive(NAMES[3], "UPDATE", passes.clone(), Some(TRUE)));
        policies.push(restrictive(NAMES[4], "DELETE", passes, None));
    }
    if let (Some(ticket), Some(tickets)) = (ticket, tickets) {
        policies.push(restrictive(NAMES[5], "ALL", follows(table, ticket, tickets)?, None));
    }
    let writers = any([WRITES.to_owned()]
        .into_iter()
        .chain(assigned.map(|assigned| assigned.is_user()))
        .collect());
    policies.push(restrictive(NAMES[6], "UPDATE", writers.clone(), Some(TRUE)));
    policies.push(restrictive(NAMES[7], "DELETE", DELETES, None));

    let names_user = owners.iter().copied().chain(assigned).map(Column::is_user);
    let reads = match rules.readable {
        Readable::Tenant => tenant.is_of_tenant(),
        Readable::Staff => any([tenant.is_staffs()].into_iter().chain(names_user).collect()),
    };
    policies.push(permissive(NAMES[8], "SELECT", Some(reads), None));
    policies.push(permissive(NAMES[9], "INSERT", None, Some(inserts(&owners, assigned))));
    // As the restrictive ones. The server evaluates equal conditions once.
    policies.push(permissive(NAMES[10], "UPDATE", Some(writers), Some(TRUE.to_owned())));
    policies.push(permissive(NAMES[11], "DELETE", Some(DELETES.to_owned()), None));
    Ok(policies)
}

/// Writing staff, or oneself: an owner column names the caller, none names anybody else, and the row is
/// assigned to nobody.
fn inserts(owners: &[&Column], assigned: Option<&Column>) -> String {
    if owners.is_empty() {
        return WRITES.to_owned();
    }
    let mut own = vec![any(owners.iter().map(|owner| owner.is_user()).collect())];
    if owners.len() > 1 {
        own.extend(owners.iter().map(|owner| any(vec![owner.is_null(), owner.is_user()])));
    }
    own.extend(assigned.map(Column::is_null));
    any(vec![WRITES.to_owned(), all(own)])
}

/// Whether a row's ticket is visible to the caller: the policies of the table of tickets decide.
fn follows(table: &Table, ticket: &Column, tickets: &Tickets) -> Result<String, SetupError> {
    let id = &tickets.id;
    let fits = match (ticket.kind, id.kind) {
        (Kind::Uuid, Kind::Uuid) | (Kind::Text, Kind::Text) => true,
        (Kind::Other(own), Kind::Other(other)) => own == other && ticket.is_exact && id.is_exact,
        _ => false,
    };
    if !fits {
        return Err(SetupError::TicketKind {
            table: table.name.clone(),
            column: ticket.name.clone(),
            type_name: ticket.type_name.clone(),
            tickets: tickets.name.clone(),
            id: id.type_name.clone(),
        });
    }
    let alias = if table.short_name == "civic_ticket" { "civic_parent" } else { "civic_ticket" };
    let own = format!("{}.{}", table.short_name, ticket.quoted);
    Ok(format!(
        "({} OR (EXISTS ( SELECT FROM {} {alias} WHERE ({} = {}))))",
        ticket.is_null(),
        tickets.name,
        id.value_of(&format!("{alias}.{}", id.quoted)),
        ticket.value_of(&own),
    ))
}

/// The arguments of the trigger that guards columns: `t:` the tenant's column, `o:` each that names an
/// owner, `g:` each that is guarded. No guarded column: no trigger.
pub fn guard(rules: &Rules) -> Option<Vec<String>> {
    if rules.guarded.is_empty() {
        return None;
    }
    let list = |prefix: &str, names: &[String]| -> Vec<String> {
        names.iter().map(|name| format!("{prefix}:{name}")).collect()
    };
    let tenant = std::slice::from_ref(&rules.tenant);
    Some([list("t", tenant), list("o", &rules.owners), list("g", &rules.guarded)].concat())
}

#[cfg(test)]
mod tests;
