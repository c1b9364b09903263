//! Each hole of the application's own policies, as an attack that works against them and not against
//! `civic.protect()`.

use super::{CITIZEN, WORKER, numbers, outcome, session_of, tickets, would_change};
use crate::pg_tests::support::{
    Database, OTHER_TENANT, PROTECT, ROW_POLICIES, Session, TENANT, claims,
};

/// The application's policies alone.
fn by_hand() -> Database {
    let database = Database::rows();
    database.superuser().run(ROW_POLICIES);
    database
}

/// The result of an attack, against the policies by hand and against the rules.
#[track_caller]
fn both<R: std::fmt::Debug + PartialEq>(role: &str, attack: impl Fn(&mut Session) -> R) -> (R, R) {
    let on = |database: &Database| attack(&mut session_of(database, CITIZEN, role));
    (on(&by_hand()), on(&Database::protected()))
}

#[test]
fn a_citizen_closes_every_ticket_by_a_statement_without_where() {
    let close = |session: &mut Session| session.affected("UPDATE tickets SET status = 'closed'");
    assert_eq!(both("citizen", close), (7, 0));
}

#[test]
fn a_citizen_deletes_every_ticket_by_a_statement_without_where() {
    let delete = |session: &mut Session| {
        session.reset_role();
        session.run("DELETE FROM ticket_assignments; SET ROLE authenticated");
        session.affected("DELETE FROM tickets")
    };
    assert_eq!(both("citizen", delete), (7, 0));
}

#[test]
fn a_citizen_makes_sensitive_tickets_their_own_and_reads_them() {
    let (before, after) = both("citizen", |session| {
        session.run(&format!("UPDATE tickets SET is_sensitive = false, created_by = '{CITIZEN}'"));
        tickets(session)
    });
    assert_eq!(before, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(after, [1, 2]);
}

#[test]
fn a_citizen_becomes_an_admin() {
    let promote = |session: &mut Session| {
        session.affected(&format!("UPDATE users SET role = 'ADMIN' WHERE id = '{CITIZEN}'"))
    };
    assert_eq!(both("citizen", promote), (1, 0));
    let add = |session: &mut Session| {
        outcome(
            session,
            &format!("INSERT INTO users (tenant_id, role) VALUES ('{TENANT}', 'ADMIN')"),
        )
    };
    assert_eq!(both("citizen", add), (None, Some("42501".to_owned())));
    // Their own account, had it not been there yet.
    let add_own = |session: &mut Session| {
        session.reset_role();
        session.run(&format!("DELETE FROM users WHERE id = '{CITIZEN}'; SET ROLE authenticated"));
        let add = |role: &str| {
            format!(
                "INSERT INTO users (id, tenant_id, role) VALUES ('{CITIZEN}', '{TENANT}', '{role}')"
            )
        };
        (outcome(session, &add("ADMIN")), outcome(session, &add("CITIZEN")))
    };
    assert_eq!(both("citizen", add_own), ((None, None), (Some("42501".to_owned()), None)));
}

#[test]
fn a_manager_becomes_an_admin_by_swapping_ids() {
    let swap = |session: &mut Session| {
        let admin = "8f14e45f-0000-4000-8000-000000000004";
        outcome(
            session,
            &format!(
                "UPDATE users SET id = gen_random_uuid() WHERE id = '{CITIZEN}';
                 UPDATE users SET id = '{CITIZEN}' WHERE id = '{admin}'"
            ),
        )
    };
    assert_eq!(both("manager", swap), (None, Some("42501".to_owned())));
}

#[test]
fn a_member_lists_the_paths_of_sensitive_evidence() {
    let paths = |session: &mut Session| {
        session
            .column("SELECT s3_key FROM media_attachments WHERE s3_bucket = 'gbv-evidence'")
            .len()
    };
    assert_eq!(both("citizen", paths), (3, 0));
    let assignments = |session: &mut Session| {
        numbers(session, "SELECT right(ticket_id::text, 1) FROM ticket_assignments").len()
    };
    assert_eq!(both("citizen", assignments), (7, 0));
}

#[test]
fn roles_in_capitals_and_the_mayor_see_their_municipality() {
    for (role, before, after) in
        [("ADMIN", 0, 7), ("MANAGER", 0, 4), ("executive_mayor", 0, 4), ("saps_liaison", 3, 7)]
    {
        let counts = both(role, |session| tickets(session).len());
        assert_eq!(counts, (before, after), "{role}");
    }
}

#[test]
fn one_careless_policy_opens_every_municipality() {
    let careless = "RESET ROLE; CREATE POLICY careless ON tickets USING (true);
                    CREATE POLICY careless ON media_attachments USING (true); SET ROLE authenticated";
    let (before, after) = both("citizen", |session| {
        session.run(careless);
        let media = session.column("SELECT id FROM media_attachments").len();
        let updated = would_change(session, "UPDATE tickets SET status = 'x'");
        (tickets(session), media, updated, would_change(session, "DELETE FROM media_attachments"))
    });
    assert_eq!(before.0.len(), 14);
    assert_eq!((before.1, before.2, before.3), (14, 14, 14));
    assert_eq!(after, (vec![1, 2, 4, 6], 4, 0, 0));
}

#[test]
fn a_careless_policy_does_not_let_a_row_move_to_another_municipality() {
    let database = Database::protected();
    database.superuser().run("CREATE POLICY careless ON tickets USING (true)");
    for role in ["manager", "admin"] {
        let mut session = session_of(&database, CITIZEN, role);
        for statement in [
            format!("UPDATE tickets SET tenant_id = '{OTHER_TENANT}'"),
            format!("UPDATE tickets SET tenant_id = '{OTHER_TENANT}' WHERE id = ticket(1, 1)"),
            format!("INSERT INTO tickets (tenant_id) VALUES ('{OTHER_TENANT}')"),
        ] {
            assert_eq!(outcome(&mut session, &statement).as_deref(), Some("42501"), "{statement}");
        }
    }
}

#[test]
fn a_user_empties_the_table() {
    let truncate = |session: &mut Session| outcome(session, "TRUNCATE ticket_assignments");
    assert_eq!(both("citizen", truncate), (None, Some("42501".to_owned())));
}

#[test]
fn a_user_puts_code_on_the_table() {
    let create = |session: &mut Session| {
        outcome(
            session,
            "CREATE FUNCTION pg_temp.bite() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER bite AFTER INSERT ON tickets EXECUTE FUNCTION pg_temp.bite()",
        )
    };
    assert_eq!(both("citizen", create), (None, Some("42501".to_owned())));
}

#[test]
fn a_policy_that_reads_the_assignments_recurses() {
    let database = by_hand();
    let mut superuser = database.superuser();
    superuser.run(PROTECT);
    let mut worker = session_of(&database, WORKER, "field_worker");
    assert_eq!(tickets(&mut worker), [6]);
    // The same policy under another name is found.
    superuser.run(
        "CREATE POLICY again ON tickets FOR SELECT TO authenticated
             USING (id IN (SELECT ticket_id FROM ticket_assignments))",
    );
    assert_eq!(worker.sqlstate("SELECT FROM tickets"), "42P17");
    let wrong = superuser.rows("SELECT component, detail FROM civic.check() WHERE NOT ok");
    let found: Vec<_> = wrong.iter().flat_map(|row| row[0].as_deref()).collect();
    assert!(found.contains(&"query of public.tickets as authenticated"), "{found:?}");
}

#[test]
fn hidden_rows_cannot_be_reached_by_any_command() {
    let database = Database::protected();
    let mut session = session_of(&database, CITIZEN, "manager");
    for (statement, expected) in [
        ("SELECT FROM tickets WHERE id = ticket(1, 3)", 0),
        ("SELECT FROM tickets WHERE id = ticket(2, 1)", 0),
        ("SELECT FROM tickets WHERE id = ticket(1, 1) FOR UPDATE", 1),
        ("SELECT FROM tickets WHERE id = ticket(1, 3) FOR UPDATE", 0),
        ("UPDATE tickets SET status = 'x' WHERE id = ticket(1, 3)", 0),
        ("UPDATE tickets SET is_sensitive = false", 4),
        (
            "MERGE INTO tickets t USING (SELECT ticket(1, 3) AS id) s ON t.id = s.id
             WHEN MATCHED THEN UPDATE SET status = 'x'",
            0,
        ),
        ("UPDATE tickets t SET status = 'x' FROM tickets o WHERE o.id = t.id", 4),
        ("DELETE FROM tickets WHERE id = ticket(1, 1)", 0),
    ] {
        assert_eq!(would_change(&mut session, statement), expected, "{statement}");
    }
    let upsert = format!(
        "INSERT INTO tickets (id, tenant_id) VALUES (ticket(1, 3), '{TENANT}')
             ON CONFLICT (id) DO UPDATE SET status = 'x'"
    );
    assert_eq!(outcome(&mut session, &upsert).as_deref(), Some("42501"));
    assert_eq!(session.sqlstate("COPY tickets FROM STDIN"), "0A000");
    assert_eq!(session.column("SELECT 1 FROM tickets TABLESAMPLE SYSTEM (100)").len(), 4);
}

#[test]
fn a_function_that_leaks_its_argument_sees_no_hidden_row() {
    let database = Database::protected();
    let mut session = session_of(&database, CITIZEN, "citizen");
    session.run(
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
             $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$",
    );
    session.notices();
    session.run("SELECT FROM tickets WHERE pg_temp.leak(tracking_number)");
    let mut leaked: Vec<_> =
        session.notices().iter().map(|notice| notice.message().to_owned()).collect();
    leaked.sort();
    assert_eq!(leaked, ["TKT-1-1", "TKT-1-2"]);
}

#[test]
fn prepared_statements_follow_changing_claims() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.run(
        "SET ROLE authenticated; SET plan_cache_mode = force_generic_plan;
         PREPARE mine AS SELECT right(id::text, 1) FROM tickets WHERE status = 'open'",
    );
    for _ in 0..3 {
        for (tenant, role, expected) in [
            (TENANT, "admin", 7),
            (TENANT, "citizen", 2),
            ("", "admin", 0),
            (OTHER_TENANT, "manager", 4),
        ] {
            session.acts_as("authenticated", &claims(tenant, role));
            assert_eq!(numbers(&mut session, "EXECUTE mine").len(), expected, "{tenant} {role}");
        }
    }
}

#[test]
fn parallel_workers_decide_as_the_session_does() {
    let database = Database::protected();
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "INSERT INTO tickets (tenant_id, is_sensitive)
         SELECT CASE WHEN i % 2 = 0 THEN '{TENANT}' ELSE '{OTHER_TENANT}' END, i % 4 = 0
         FROM generate_series(1, 20000) i; ANALYZE tickets"
    ));
    let mut session = session_of(&database, CITIZEN, "manager");
    session.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off",
    );
    let plan = session.column("EXPLAIN SELECT count(*) FROM tickets").join("\n");
    assert!(plan.contains("Parallel"), "{plan}");
    assert_eq!(session.text("SELECT count(*) FROM tickets"), "5004");
}

#[test]
fn a_user_cannot_make_themselves_staff_by_a_setting() {
    let database = Database::protected();
    for setting in ["staff_readers", "staff_writers", "column_writers", "deleters"] {
        let set = format!("SET civic.{setting} = 'citizen'");
        // Before the library is loaded the setting is any name.
        let role = database.role(setting, "");
        database.superuser().run(&format!("GRANT authenticated TO {role}"));
        let mut session = database.session_of(&role);
        session.run(&set);
        session.acts_as("authenticated", &claims(TENANT, "citizen"));
        assert_eq!(tickets(&mut session), [1, 2], "{setting}");
        assert_eq!(would_change(&mut session, "UPDATE tickets SET status = 'x'"), 0, "{setting}");
        assert_eq!(session.sqlstate(&set), "42501", "{setting}");
    }
}

#[test]
fn only_a_superuser_changes_the_functions_behind_the_policies() {
    let database = Database::protected();
    let role = database.role("builder", "");
    let mut session = database.superuser();
    session
        .run(&format!("GRANT CREATE ON DATABASE {} TO {role}; SET ROLE {role}", database.name()));
    for statement in [
        "CREATE FUNCTION civic_firewall.tenant_id(int) RETURNS text LANGUAGE sql AS 'SELECT NULL'",
        "CREATE OR REPLACE FUNCTION civic_firewall.writes() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "DROP FUNCTION civic_firewall.is_restored() CASCADE",
        "ALTER FUNCTION civic_firewall.writes() RENAME TO other",
        "DROP SCHEMA civic_firewall CASCADE",
        "ALTER SCHEMA civic_firewall RENAME TO other",
        "SELECT count(*) FROM civic.protected_tables",
    ] {
        assert_eq!(session.sqlstate(statement), "42501", "{statement}");
    }
}

/// A role that may create schemas would own the functions behind everybody's policies.
#[test]
fn a_schema_of_another_role_in_the_firewalls_place_is_refused() {
    let database = Database::rows();
    let role = database.role("squatter", "");
    let mut session = database.superuser();
    session.run(&format!("CREATE SCHEMA civic_firewall AUTHORIZATION {role}"));
    let before = session.traces();
    let error = session.error("SELECT civic.protect('tickets')");
    assert_eq!(error.code().code(), "42710", "{}", error.message());
    assert_eq!(session.traces(), before, "nothing is half done");
}
