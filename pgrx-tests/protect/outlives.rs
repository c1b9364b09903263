//! Protected tables after the extension is dropped, and after a restore.

use super::{CITIZEN, NEIGHBOUR, outcome, session_of, tickets, would_change};
use crate::pg_tests::support::{Database, OTHER_TENANT, PROTECT, Session, TENANT, claims, literal};

const CASCADE: &str = "DROP EXTENSION pg_civic CASCADE";
const CARELESS: &str = "CREATE POLICY careless ON tickets USING (true);
                        CREATE POLICY careless ON users USING (true)";

#[track_caller]
fn decides_as_before(database: &Database) {
    for (role, expected) in [("citizen", vec![1, 2, 4, 6]), ("admin", vec![1, 2, 3, 4, 5, 6, 7])] {
        let mut session = session_of(database, CITIZEN, role);
        assert_eq!(tickets(&mut session), expected, "{role}, with a careless policy");
        let update = format!("UPDATE users SET role = 'ADMIN' WHERE id = '{CITIZEN}'");
        let changed = outcome(&mut session, &update);
        assert_eq!(changed, None, "{role}: no row, or an admin's own change");
    }
    let mut citizen = session_of(database, CITIZEN, "citizen");
    assert_eq!(would_change(&mut citizen, "UPDATE users SET role = 'ADMIN'"), 0);
    assert_eq!(would_change(&mut citizen, "DELETE FROM tickets"), 0);
    let mut manager = session_of(database, NEIGHBOUR, "manager");
    let promote = "UPDATE users SET role = 'ADMIN'";
    assert_eq!(outcome(&mut manager, promote).as_deref(), Some("42501"));
    let mut stranger = database.authenticated(&claims(OTHER_TENANT, "admin"));
    assert_eq!(tickets(&mut stranger), [11, 12, 13, 14, 15, 16, 17]);
}

#[test]
fn after_a_cascade_the_policies_go_on_deciding() {
    let database = Database::protected();
    let mut old = session_of(&database, CITIZEN, "citizen");
    old.run(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE mine AS SELECT count(*) FROM tickets",
    );
    assert_eq!(old.text("EXECUTE mine"), "2");
    let mut superuser = database.superuser();
    superuser.run(CASCADE);
    assert_eq!(old.text("EXECUTE mine"), "2");
    superuser.run(CARELESS);
    assert_eq!(old.text("EXECUTE mine"), "4");
    decides_as_before(&database);
}

#[test]
fn an_older_snapshot_sees_no_more_after_a_cascade() {
    let database = Database::protected();
    let mut superuser = database.superuser();
    superuser.run(CARELESS);
    let mut session = session_of(&database, CITIZEN, "citizen");
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    superuser.run(CASCADE);
    assert_eq!(tickets(&mut session), [1, 2, 4, 6]);
}

#[test]
fn the_extension_can_be_created_again_over_protected_tables() {
    let database = Database::protected();
    let mut superuser = database.superuser();
    superuser.run(CASCADE);
    superuser.run(CARELESS);
    superuser.run("CREATE EXTENSION pg_civic");
    decides_as_before(&database);
    // They are not recorded any more: found, and repaired by the call.
    let wrong = superuser.wrong();
    let lost: Vec<_> =
        wrong.iter().filter(|(_, detail, _)| detail.contains("not recorded")).collect();
    assert_eq!(lost.len(), 5, "{wrong:?}");
    superuser.run(PROTECT);
    let wrong = superuser.wrong();
    assert!(!wrong.iter().any(|(_, detail, _)| detail.contains("not recorded")), "{wrong:?}");
    decides_as_before(&database);
}

#[test]
fn without_the_library_every_query_is_an_error() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.run(&format!("SET dynamic_library_path = '/nonexistent'; {CASCADE}"));
    let mut session = database.superuser();
    session.run("SET dynamic_library_path = '/nonexistent'");
    session.acts_as("authenticated", &claims(TENANT, "admin"));
    for statement in ["SELECT FROM tickets", "UPDATE tickets SET status = 'x'", "DELETE FROM users"]
    {
        assert_eq!(session.sqlstate(statement), "58P01", "{statement}");
    }
}

#[test]
fn dump_and_restore_keep_rules_and_record() {
    let restored = Database::protected().restored();
    let mut superuser = restored.superuser();
    let wrong = superuser.wrong();
    assert!(wrong.iter().all(|(name, ..)| name == "media worker" || name == "relay"), "{wrong:?}");
    superuser.run(CARELESS);
    decides_as_before(&restored);
}

/// psql continues after an error: without superuser rights the functions in C are not restored, and neither
/// are the policies that call them. Those of others are.
fn restored_without_functions(database: &Database) -> Database {
    let restored = Database::empty("");
    let dump = database.program("pg_dump").output().expect("it runs");
    assert!(dump.status.success());
    let dump = String::from_utf8(dump.stdout).expect("text").replace("LANGUAGE c", "LANGUAGE none");
    restored.run_script(&dump);
    restored
}

#[test]
fn a_restore_without_the_functions_is_closed_until_protect_repairs_every_table() {
    let database = Database::protected();
    database.superuser().run(CARELESS);
    let restored = restored_without_functions(&database);
    let mut superuser = restored.superuser();
    assert_eq!(superuser.text("SELECT count(*) FROM tickets"), "14");
    let count =
        |session: &mut Session, table: &str| session.text(&format!("SELECT count(*) FROM {table}"));
    for role in ["citizen", "admin"] {
        let mut session = session_of(&restored, CITIZEN, role);
        for table in ["tickets", "users"] {
            assert_eq!(count(&mut session, table), "0", "{role} {table}");
            assert_eq!(session.affected(&format!("DELETE FROM {table}")), 0, "{role} {table}");
        }
    }
    // With the functions the other tables would open to the careless policies.
    superuser.run("SELECT count(*) FROM civic.protect('teams', readable => 'tenant')");
    decides_as_before(&restored);
    let wrong = superuser.wrong();
    assert!(!wrong.iter().any(|(name, ..)| name.contains("policies of")), "{wrong:?}");
}

#[test]
fn who_may_not_repair_the_other_tables_opens_none() {
    let database = Database::protected();
    database.superuser().run(CARELESS);
    let restored = restored_without_functions(&database);
    let owner = restored.operator("owner", "");
    let mut session = restored.superuser();
    session.run(&format!(
        "ALTER TABLE teams OWNER TO {owner}; GRANT USAGE ON SCHEMA public TO {owner}; SET ROLE {owner}"
    ));
    let error = session.error("SELECT civic.protect('teams', readable => 'tenant')");
    assert_eq!(error.code().code(), "42501");
    assert!(error.message().contains("ownership of table public.tickets"), "{}", error.message());
    let mut citizen = restored.authenticated(&claims(TENANT, "citizen"));
    assert_eq!(citizen.text("SELECT count(*) FROM tickets"), "0");
}

#[test]
fn a_table_that_was_renamed_stays_protected_and_is_found() {
    let database = Database::protected();
    let mut superuser = database.superuser();
    superuser.run("ALTER TABLE teams RENAME TO crews");
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    assert_eq!(citizen.text("SELECT count(*) FROM crews"), "2");
    let wrong = superuser.wrong();
    let details: Vec<_> = wrong
        .iter()
        .filter(|(name, ..)| name == "table public.crews" || name == "table public.teams")
        .map(|(_, detail, _)| detail.as_str())
        .collect();
    assert_eq!(details.len(), 2, "{wrong:?}");
    superuser.run(&format!(
        "SELECT count(*) FROM civic.protect({}, readable => 'tenant')",
        literal("crews")
    ));
    let left = "SELECT count(*) FROM civic.check() WHERE NOT ok AND component ~ 'crews|teams'";
    assert_eq!(superuser.text(left), "0");
}

/// Who drops a table leaves its record behind; another table of the name may be somebody else's.
#[test]
fn a_record_of_a_dropped_table_says_nothing_of_another_table() {
    let database = Database::rows();
    let mut superuser = database.superuser();
    superuser.run(
        "CREATE TABLE notes (tenant_id text, stranger text);
         SELECT count(*) FROM civic.protect('notes', owner_columns => '{stranger}', readable => 'tenant');
         DROP TABLE notes; CREATE TABLE notes (tenant_id text, stranger text, user_id uuid)",
    );
    let fixes = superuser.column(
        "SELECT DISTINCT fix FROM civic.check() WHERE NOT ok AND component = 'policies of public.notes'",
    );
    assert_eq!(fixes.len(), 1, "{fixes:?}");
    assert!(fixes[0].contains("ARRAY['user_id']") && fixes[0].contains("'staff'"), "{fixes:?}");
}

#[test]
fn without_the_role_of_users_only_the_restrictive_policies_are_created() {
    let database = Database::plain();
    // The role belongs to the whole server, so it is hidden rather than dropped.
    let mut superuser = database.superuser();
    superuser.run("CREATE TABLE notes (tenant_id text)");
    superuser.run("BEGIN; ALTER ROLE authenticated RENAME TO authenticated_elsewhere");
    superuser.run("SELECT count(*) FROM civic.protect('notes')");
    let kinds = superuser
        .column("SELECT DISTINCT polpermissive FROM pg_policy WHERE polrelid = 'notes'::regclass");
    superuser.run("ROLLBACK");
    assert_eq!(kinds, ["f"]);
}
