//! What civic.protect() refuses, and what it says.

use crate::pg_tests::support::Database;

/// SQLSTATE, message and hint of each statement that is refused.
#[test]
fn what_is_refused_says_what_to_do() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(
        "CREATE TABLE plain (id int);
         CREATE VIEW shown AS SELECT * FROM tickets;
         CREATE MATERIALIZED VIEW held AS SELECT * FROM tickets;
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE far (tenant_id text) SERVER nowhere;
         CREATE TABLE whole (tenant_id text, day date) PARTITION BY RANGE (day);
         CREATE TABLE part PARTITION OF whole FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         CREATE TABLE parent (tenant_id text); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE typed (tenant_id jsonb, owner int, secret text, town text);
         CREATE TEMPORARY TABLE brief (tenant_id text);
         CREATE TABLE child_of_none (tenant_id text, ticket_id uuid);
         CREATE TABLE by_number (tenant_id text, ticket_id bigint);
         CREATE TABLE thread (id int PRIMARY KEY, tenant_id text, ticket_id int REFERENCES thread (id))",
    );
    for (arguments, sqlstate, message, hint) in [
        ("'plain'", "42703", "table public.plain has no column \"tenant_id\"", "tenant_column"),
        ("'shown'", "42809", "public.shown is a view", "Give a table"),
        ("'held'", "42809", "public.held is a materialized view", "Give a table"),
        ("'far'", "42809", "public.far is a foreign table", "Give a table"),
        (
            "'pg_class'",
            "42809",
            "pg_catalog.pg_class is not a table of the application",
            "application",
        ),
        ("'storage.objects'", "42809", "is not a table of the application", "civic.setup()"),
        ("'civic.protected_tables'", "42809", "is not a table of the application", "application"),
        ("'brief'", "42809", "is a temporary table", "every session"),
        (
            "'part'",
            "42809",
            "public.part is a part of table public.whole",
            "civic.protect('public.whole')",
        ),
        (
            "'child'",
            "42809",
            "public.child is a part of table public.parent",
            "civic.protect('public.parent')",
        ),
        ("99999999", "42P01", "there is no relation with OID 99999999", "Give a table"),
        ("NULL", "22023", "target must not be empty", ""),
        ("'tickets', NULL", "22023", "tenant_column must not be empty", ""),
        (
            "'tickets', readable => 'all'",
            "22023",
            "readable is 'staff' or 'tenant', not 'all'",
            "tenant",
        ),
        ("'tickets', readable => NULL", "22023", "readable must not be empty", ""),
        (
            "'tickets', tenant_column => 'town'",
            "42703",
            "no column \"town\" (tenant_column)",
            "tenant_column",
        ),
        (
            "'tickets', owner_columns => '{user_id,owner}'",
            "42703",
            "no column \"owner\" (owner_columns)",
            "owner_columns",
        ),
        (
            "'tickets', assigned_column => 'worker'",
            "42703",
            "no column \"worker\" (assigned_column)",
            "",
        ),
        (
            "'tickets', sensitive_column => 'secret'",
            "42703",
            "no column \"secret\" (sensitive_column)",
            "",
        ),
        (
            "'tickets', ticket_column => 'ticket'",
            "42703",
            "no column \"ticket\" (ticket_column)",
            "",
        ),
        (
            "'tickets', guarded_columns => '{role}'",
            "42703",
            "no column \"role\" (guarded_columns)",
            "",
        ),
        ("'typed'", "42804", "column \"tenant_id\" of table public.typed is of type jsonb", "none"),
        (
            "'typed', 'town', owner_columns => '{owner}'",
            "42804",
            "\"owner\" of table public.typed is of type integer",
            "none",
        ),
        (
            "'typed', 'town', assigned_column => 'owner'",
            "42804",
            "\"owner\" of table public.typed is of type integer",
            "",
        ),
        (
            "'typed', 'town', sensitive_column => 'secret'",
            "42804",
            "\"secret\" of table public.typed is of type text, not boolean",
            "",
        ),
        (
            "'child_of_none'",
            "55000",
            "no protected table has a sensitive column",
            "civic.protect('public.tickets')",
        ),
        (
            "'ticket_assignments'",
            "55000",
            "table public.tickets is not protected",
            "civic.protect('public.tickets')",
        ),
    ] {
        let before = session.traces();
        let error = session.error(&format!("SELECT civic.protect({arguments})"));
        assert_eq!(error.code().code(), sqlstate, "{arguments}: {}", error.message());
        assert!(error.message().contains(message), "{arguments}: {}", error.message());
        assert!(error.hint().unwrap_or_default().contains(hint), "{arguments}: {:?}", error.hint());
        assert_eq!(session.traces(), before, "{arguments}: nothing is half done");
    }
    session.run("SELECT count(*) FROM civic.protect('tickets')");
    let error = session.error("SELECT civic.protect('by_number')");
    assert_eq!(error.code().code(), "42804", "{}", error.message());
    assert!(error.message().contains("\"ticket_id\" of table public.by_number is of type bigint"));
    let error = session.error("SELECT civic.protect('thread')");
    assert_eq!(error.code().code(), "55000", "{}", error.message());
    assert!(error.hint().is_some_and(|hint| hint.contains("ticket_column => ''")), "{error:?}");
    session.run("SELECT count(*) FROM civic.protect('thread', ticket_column => '')");
}

#[test]
fn a_caller_who_does_not_own_the_table_is_told_who_does() {
    let database = Database::rows();
    let owner = database.operator("owner", "");
    let caller = database.operator("caller", "");
    let mut session = database.superuser();
    session.run(&format!("ALTER TABLE tickets OWNER TO {owner}; SET ROLE {caller}"));
    for (statement, action) in [
        ("SELECT civic.protect('tickets')", "protect the table"),
        ("SELECT civic.unprotect('tickets')", "unprotect the table"),
    ] {
        let error = session.error(statement);
        assert_eq!(error.code().code(), "42501");
        assert_eq!(
            error.message(),
            format!(
                "role \"{caller}\" cannot {action}: it lacks ownership of table public.tickets \
                 (its owner is {owner})"
            )
        );
    }
}

#[test]
fn the_owner_needs_no_superuser() {
    let database = Database::rows();
    let owner = database.operator("owner", "");
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE tickets OWNER TO {owner}; ALTER TABLE users OWNER TO {owner};
         GRANT USAGE ON SCHEMA public TO {owner}; SET ROLE {owner}"
    ));
    session.run("SELECT count(*) FROM civic.protect('tickets')");
    session.run("SELECT count(*) FROM civic.protect('users', owner_columns => '{id}')");
    let mut citizen = super::session_of(&database, super::CITIZEN, "citizen");
    assert_eq!(super::tickets(&mut citizen), [1, 2]);
    session.run("SELECT count(*) FROM civic.unprotect('users')");
}

/// Creates the collation `folded`, which ignores case, if this build of the server has one. Debian's has.
fn folds_case(session: &mut crate::pg_tests::support::Session) -> bool {
    let create = "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    match session.client().batch_execute(create) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{error}");
            false
        }
    }
}

#[test]
fn odd_names_and_types_of_columns_are_protected_alike() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(
        "CREATE DOMAIN town AS uuid; CREATE DOMAIN word AS varchar(40); CREATE DOMAIN yes AS boolean",
    );
    let folds = folds_case(&mut session);
    for (number, columns) in [
        "\"tenant_id\" town, \"user_id\" uuid, is_sensitive yes",
        "\"tenant_id\" word, \"user_id\" word, is_sensitive boolean",
        "\"tenant_id\" varchar(36), \"user_id\" varchar, is_sensitive boolean",
        "\"tenant_id\" text COLLATE \"C\", \"user_id\" text, is_sensitive boolean",
        "\"tenant_id\" text COLLATE folded, \"user_id\" varchar COLLATE folded, is_sensitive boolean",
    ]
    .iter()
    .filter(|columns| folds || !columns.contains("folded"))
    .enumerate()
    {
        let table = format!("public.\"odd \"\"table\"\" {number}\"");
        session.run(&format!(
            "CREATE TABLE {table} (\"the id\" int, {columns});
             INSERT INTO {table} VALUES
                 (1, '{0}', '{1}', false), (2, '{0}', '{1}', true), (3, '{0}', NULL, false), (4, NULL, '{1}', false);
             GRANT ALL ON {table} TO authenticated",
            crate::pg_tests::support::TENANT,
            super::CITIZEN
        ));
        let protect = format!("SELECT action FROM civic.protect({})", crate::pg_tests::support::literal(&table));
        session.run(&protect);
        let again = session.column(&protect);
        assert!(!again.contains(&"done".to_owned()), "{columns}: {again:?}");
        for (role, expected) in [("citizen", vec![1]), ("manager", vec![1, 3]), ("admin", vec![1, 2, 3])] {
            let mut person = super::session_of(&database, super::CITIZEN, role);
            let seen = super::numbers(&mut person, &format!("SELECT \"the id\" FROM {table}"));
            assert_eq!(seen, expected, "{columns}: {role}");
        }
    }
    assert_eq!(session.wrong().iter().filter(|(name, ..)| name.contains("policies of")).count(), 0);
}

/// An id that differs only in case is another one, whatever the column's collation says.
#[test]
fn a_collation_that_ignores_case_does_not_join_two_municipalities() {
    let database = Database::rows();
    let mut session = database.superuser();
    if !folds_case(&mut session) {
        return;
    }
    session.run(
        "CREATE TABLE folded (id int, tenant_id text COLLATE folded, user_id text COLLATE folded);
         INSERT INTO folded VALUES (1, 'town', 'ann'), (2, 'TOWN', 'ann'), (3, 'town', 'ANN');
         GRANT ALL ON folded TO authenticated; SELECT count(*) FROM civic.protect('folded')",
    );
    let mut person =
        database.authenticated(&crate::pg_tests::support::claims_of("ann", "town", "citizen"));
    assert_eq!(super::numbers(&mut person, "SELECT id FROM folded"), [1]);
}
