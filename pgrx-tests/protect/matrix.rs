//! Who does what in the protected tables: the matrix of docs/security.md, measured.

use super::{CITIZEN, WORKER, outcome, session_of};
use crate::pg_tests::support::{Database, Session, TENANT};

const TABLES: [&str; 5] = ["tickets", "media_attachments", "ticket_assignments", "users", "teams"];

/// Each role with the person who has it.
const ROLES: [(&str, &str); 7] = [
    ("citizen", CITIZEN),
    ("field_worker", WORKER),
    ("ward_councillor", CITIZEN),
    ("executive_mayor", CITIZEN),
    ("manager", CITIZEN),
    ("saps_liaison", CITIZEN),
    ("admin", CITIZEN),
];

/// The rows of the person's municipality: all, those that are not sensitive or follow a sensitive ticket,
/// and of these the ones that name the person.
struct Rows {
    all: Vec<String>,
    open: Vec<String>,
    own: Vec<String>,
    assigned: Vec<String>,
}

fn ids(session: &mut Session, sql: &str) -> Vec<String> {
    let mut ids = session.column(sql);
    ids.sort();
    ids
}

impl Rows {
    fn of(superuser: &mut Session, table: &str, person: &str) -> Rows {
        let (sensitive, names, assigned) = match table {
            "tickets" => (
                "is_sensitive".to_owned(),
                format!("'{person}' IN (user_id::text, created_by, assigned_to::text)"),
                format!("assigned_to = '{person}'"),
            ),
            "media_attachments" => (
                "ticket_id IN (SELECT id FROM tickets WHERE is_sensitive)".to_owned(),
                format!("created_by = '{person}'"),
                "false".to_owned(),
            ),
            "ticket_assignments" => (
                "ticket_id IN (SELECT id FROM tickets WHERE is_sensitive)".to_owned(),
                // The ticket must be visible as well.
                format!(
                    "assigned_to = '{person}' AND ticket_id IN
                         (SELECT id FROM tickets WHERE assigned_to = '{person}')"
                ),
                format!(
                    "assigned_to = '{person}' AND ticket_id IN
                         (SELECT id FROM tickets WHERE assigned_to = '{person}')"
                ),
            ),
            "users" => ("false".to_owned(), format!("id = '{person}'"), "false".to_owned()),
            _ => ("false".to_owned(), "false".to_owned(), "false".to_owned()),
        };
        let rows = format!("SELECT id FROM {table} WHERE tenant_id = '{TENANT}'");
        Rows {
            all: ids(superuser, &rows),
            open: ids(superuser, &format!("{rows} AND NOT {sensitive}")),
            own: ids(superuser, &format!("{rows} AND NOT {sensitive} AND {names}")),
            assigned: ids(superuser, &format!("{rows} AND NOT {sensitive} AND {assigned}")),
        }
    }

    fn word(&self, found: &[String]) -> &'static str {
        match found {
            [] => "–",
            found if found == self.all => "all",
            found if found == self.open => "not sensitive",
            found if found == self.own && self.all == self.open => "own",
            found if found == self.own => "own, not sensitive",
            found if found == self.assigned => "assigned, not sensitive",
            _ => panic!("{found:?}"),
        }
    }
}

/// The rows that a statement without WHERE reaches.
fn reached(database: &Database, person: &str, role: &str, table: &str, sql: &str) -> Vec<String> {
    let mut session = session_of(database, person, role);
    session.run("BEGIN");
    session.run(sql);
    session.run("RESET ROLE");
    // What the statement has written has a newer row version; what it has deleted is missing.
    let left = ids(
        &mut session,
        &format!(
            "SELECT id FROM {table} WHERE tenant_id = '{TENANT}'
                 AND xmin::text <> (pg_current_xact_id()::xid)::text"
        ),
    );
    session.run("ROLLBACK");
    let all = ids(&mut session, &format!("SELECT id FROM {table} WHERE tenant_id = '{TENANT}'"));
    all.into_iter().filter(|id| !left.contains(id)).collect()
}

/// Whose rows a person inserts: anybody's, their own, or none.
fn inserts(database: &Database, person: &str, role: &str, table: &str) -> &'static str {
    let stranger = "8f14e45f-0000-4000-8000-0000000000ff";
    let statement = |user: &str| match table {
        "tickets" => {
            format!("INSERT INTO tickets (tenant_id, user_id) VALUES ('{TENANT}', '{user}')")
        }
        "media_attachments" => format!(
            "INSERT INTO media_attachments (id, tenant_id, created_by)
                 VALUES (gen_random_uuid(), '{TENANT}', '{user}')"
        ),
        // Of ticket 1, which the citizen and all staff see.
        "ticket_assignments" => format!(
            "INSERT INTO ticket_assignments (tenant_id, ticket_id, assigned_to)
                 VALUES ('{TENANT}', ticket(1, 1), '{user}')"
        ),
        "users" => format!("INSERT INTO users (id, tenant_id) VALUES ('{user}', '{TENANT}')"),
        _ => format!("INSERT INTO teams (tenant_id, name) VALUES ('{TENANT}', 'new')"),
    };
    let mut session = session_of(database, person, role);
    // The person's own account exists already.
    session.run("RESET ROLE");
    session.run(&format!("DELETE FROM users WHERE id = '{person}'"));
    session.run("SET ROLE authenticated");
    let mut may = |user: &str| match outcome(&mut session, &statement(user)).as_deref() {
        None => true,
        Some("42501") => false,
        Some(other) => panic!("{other}"),
    };
    match (may(person), may(stranger)) {
        (_, true) => "all",
        (true, false) => "own",
        (false, false) => "–",
    }
}

/// The rows of the matrix.
fn matrix() -> Vec<String> {
    let database = Database::protected();
    let mut superuser = database.superuser();
    let mut lines = vec![];
    for table in TABLES {
        for (role, person) in ROLES {
            let rows = Rows::of(&mut superuser, table, person);
            let read =
                ids(&mut session_of(&database, person, role), &format!("SELECT id FROM {table}"));
            let column = if table == "teams" { "name" } else { "tenant_id" };
            let update = format!("UPDATE {table} SET {column} = {column} || ''");
            let changed = reached(&database, person, role, table, &update);
            let deleted = reached(&database, person, role, table, &format!("DELETE FROM {table}"));
            let inserts = inserts(&Database::protected(), person, role, table);
            lines.push(format!(
                "| `{table}` | {role} | {} | {inserts} | {} | {} |",
                rows.word(&read),
                rows.word(&changed),
                rows.word(&deleted),
            ));
        }
    }
    lines
}

#[test]
fn the_documentation_has_the_matrix_as_it_is_measured() {
    let documented = include_str!("../../docs/security.md");
    let matrix = matrix();
    let missing: Vec<_> = matrix.iter().filter(|line| !documented.contains(*line)).collect();
    assert!(missing.is_empty(), "docs/security.md lacks some of\n{}", matrix.join("\n"));
}

#[test]
fn anon_reads_and_changes_nothing() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.acts_as("anon", &crate::pg_tests::support::claims(TENANT, "admin"));
    for table in TABLES {
        assert_eq!(session.text(&format!("SELECT count(*) FROM {table}")), "0", "{table}");
        assert_eq!(session.affected(&format!("UPDATE {table} SET tenant_id = 'x'")), 0, "{table}");
        assert_eq!(session.affected(&format!("DELETE FROM {table}")), 0, "{table}");
    }
    assert_eq!(session.sqlstate("INSERT INTO teams (tenant_id) VALUES ('x')"), "42501");
}

#[test]
fn the_owner_and_service_role_go_on_as_before() {
    let database = Database::protected();
    let owner = database.role("app", "");
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE tickets OWNER TO {owner}; GRANT USAGE ON SCHEMA public TO {owner}"
    ));
    for role in [owner.as_str(), "service_role"] {
        session.run(&format!("SET ROLE {role}"));
        assert_eq!(session.text("SELECT count(*) FROM tickets"), "14", "{role}");
        session.run("BEGIN");
        assert_eq!(session.affected("UPDATE tickets SET status = 'closed'"), 14, "{role}");
        session.run("ROLLBACK; RESET ROLE");
    }
}
