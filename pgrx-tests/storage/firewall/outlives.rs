//! The firewall still decides after the extension is dropped: in plans made before and after, in
//! old and new sessions, whatever another policy says.

use super::{object, own, seen, stocked};
use crate::pg_tests::events::realtime::insert;
use crate::pg_tests::support::installation::{SETUP, TEARDOWN, action_of};
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

const CASCADE: &str = "DROP EXTENSION pg_civic CASCADE";
const CARELESS: &str = "CREATE POLICY careless ON storage.objects USING (true)";

fn with_a_careless_policy() -> Database {
    let database = stocked();
    database.superuser().run(CARELESS);
    database
}

/// A user with a prepared read.
fn prepared(database: &Database, role: &str) -> Session {
    let mut session = database.superuser();
    session.acts_as("authenticated", &claims(TENANT, role));
    session.run(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE everything AS SELECT bucket_id || ' ' || name FROM storage.objects ORDER BY 1",
    );
    session.column("EXECUTE everything");
    session
}

/// The objects that a user of the municipality sees through a careless policy: all of the other
/// bucket, and of ours what the rule allows.
fn visible(reads_sensitive: bool) -> Vec<String> {
    let mut visible: Vec<_> =
        [TENANT, OTHER_TENANT].map(|tenant| object("avatars", tenant)).to_vec();
    visible.extend(own(TENANT, reads_sensitive));
    visible
}

#[test]
fn after_a_cascade_old_plans_and_new_sessions_decide_as_before() {
    for (role, reads_sensitive) in
        [("citizen", false), ("manager", false), ("saps_liaison", true), ("admin", true)]
    {
        let database = with_a_careless_policy();
        let mut old = prepared(&database, role);
        database.superuser().run(CASCADE);
        assert_eq!(old.column("EXECUTE everything"), visible(reads_sensitive), "{role}");
        let mut new = database.person(TENANT, role);
        assert_eq!(seen(&mut new), visible(reads_sensitive), "{role}");
        let mut anonymous = database.superuser();
        anonymous.run("SET ROLE anon");
        assert_eq!(seen(&mut anonymous), visible(false)[..2], "{role}");
    }
}

#[test]
fn after_a_cascade_no_additional_upload_change_or_removal_is_possible() {
    let database = with_a_careless_policy();
    database.superuser().run(CASCADE);
    let insert = |bucket: &str, tenant: &str| {
        format!(
            "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '{tenant}/id/new')"
        )
    };
    let mut citizen = database.person(TENANT, "citizen");
    assert_eq!(citizen.sqlstate(&insert("evidence", OTHER_TENANT)), "42501");
    assert_eq!(citizen.sqlstate(&insert("gbv-evidence", TENANT)), "42501");
    citizen.run(&insert("evidence", TENANT));
    citizen.run("SET storage.allow_delete_query = 'true'; BEGIN");
    assert_eq!(citizen.affected("UPDATE storage.objects SET version = 'x'"), 2, "only avatars");
    assert_eq!(citizen.affected("DELETE FROM storage.objects"), 2, "only avatars");
    citizen.run("ROLLBACK");
}

#[test]
fn a_transaction_with_an_older_snapshot_sees_no_more_after_a_cascade() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let database = with_a_careless_policy();
        let mut session = prepared(&database, "citizen");
        session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        session.text("SELECT count(*) FROM pg_class");
        database.superuser().run(CASCADE);
        assert_eq!(session.column("EXECUTE everything"), visible(false), "{level}");
        assert_eq!(seen(&mut session), visible(false), "{level}");
        session.run("COMMIT");
        assert_eq!(session.column("EXECUTE everything"), visible(false), "{level}, afterwards");
    }
}

#[test]
fn an_older_snapshot_reads_no_sensitive_messages_after_a_cascade() {
    let database = Database::realtime();
    let mut superuser = database.superuser();
    superuser.run(&insert(TENANT, 1, true));
    superuser.run("CREATE POLICY chat ON realtime.messages FOR SELECT USING (true)");
    let mut session = database.person(TENANT, "manager");
    let topics = "SELECT topic FROM realtime.messages";
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    superuser.run(CASCADE);
    assert_eq!(session.column(topics), [format!("ticket_updates:{TENANT}")]);
    session.run("COMMIT");
    assert_eq!(session.column(topics), [format!("ticket_updates:{TENANT}")]);
    let mut stranger = database.person(OTHER_TENANT, "admin");
    assert_eq!(stranger.column(topics), Vec::<String>::new());
}

#[test]
fn a_rolled_back_cascade_changes_nothing() {
    let database = with_a_careless_policy();
    let mut session = prepared(&database, "admin");
    session.run("RESET ROLE; BEGIN");
    session.run(CASCADE);
    session.run("SET LOCAL ROLE authenticated");
    assert_eq!(session.column("EXECUTE everything"), visible(true));
    session.run("ROLLBACK; SET ROLE authenticated");
    assert_eq!(session.column("EXECUTE everything"), visible(true));
}

#[test]
fn without_the_library_every_query_on_the_table_is_an_error() {
    let database = with_a_careless_policy();
    let mut session = database.superuser();
    session.run(&format!("SET dynamic_library_path = '/nonexistent'; {CASCADE}"));
    let mut session = database.superuser();
    session.run("SET dynamic_library_path = '/nonexistent'");
    session.acts_as("authenticated", &claims(TENANT, "admin"));
    for statement in [
        "SELECT count(*) FROM storage.objects",
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('avatars', 'x')",
        "UPDATE storage.objects SET version = 'x'",
    ] {
        assert_eq!(session.sqlstate(statement), "58P01", "{statement}");
    }
}

#[test]
fn extension_and_setup_can_be_reinstalled_over_a_remaining_firewall() {
    let database = with_a_careless_policy();
    let mut session = prepared(&database, "admin");
    let mut superuser = database.superuser();
    superuser.run(CASCADE);
    superuser.run("DROP POLICY careless ON storage.objects");
    assert_eq!(session.column("EXECUTE everything"), Vec::<String>::new());
    superuser.run("CREATE EXTENSION pg_civic");
    let steps = superuser.steps(SETUP);
    let function = "function storage.civic_firewall(text, text)";
    assert_eq!(action_of(&steps, function), "already there");
    assert_eq!(action_of(&steps, "policy \"civic firewall\" on storage.objects"), "already there");
    assert_eq!(superuser.wrong(), []);
    assert_eq!(session.column("EXECUTE everything"), own(TENANT, true));
}

#[test]
fn a_reader_through_a_view_needs_no_right_on_the_schema() {
    let database = stocked();
    let role = database.role("reader", "");
    let mut session = database.superuser();
    session.run(&format!(
        "CREATE VIEW files AS SELECT bucket_id, name FROM storage.objects;
         ALTER VIEW files OWNER TO authenticated;
         GRANT SELECT ON files TO {role}"
    ));
    session.acts_as(&role, &claims(TENANT, "citizen"));
    assert_eq!(session.sqlstate("SELECT count(*) FROM storage.objects"), "42501");
    assert_eq!(session.text("SELECT count(*) FROM files"), "2");
}

#[test]
fn a_function_of_another_role_in_the_firewalls_place_is_refused() {
    let database = Database::supabase();
    let stranger = database.role("stranger", "");
    let mut superuser = database.superuser();
    superuser.run(&format!("GRANT USAGE, CREATE ON SCHEMA storage TO {stranger}"));
    for function in [
        "civic_firewall(bucket_id text, name text) RETURNS boolean",
        "civic_firewall(bucket_id anyelement, name text) RETURNS boolean",
        "civic_firewall(bucket_id varchar, name varchar) RETURNS integer",
        "civic_firewall_upload(bucket_id text, name text) RETURNS boolean",
    ] {
        superuser.run(&format!(
            "SET ROLE {stranger};
             CREATE FUNCTION storage.{function} LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             RESET ROLE"
        ));
        let before = superuser.traces();
        let error = superuser.error(SETUP);
        assert_eq!(error.code().code(), "42710", "{function}: {}", error.message());
        assert!(error.message().ends_with("exists and is not pg_civic's"), "{}", error.message());
        assert_eq!(superuser.traces(), before, "{function}: nothing is half done");
        let wrong = superuser.wrong();
        assert!(wrong.iter().any(|(_, detail, _)| detail == "is not pg_civic's"), "{wrong:?}");
        let (name, _) = function.split_once('(').expect("a name");
        superuser.run(&format!("DROP FUNCTION storage.{name}"));
    }
    superuser.run(SETUP);
    assert_eq!(superuser.wrong(), []);
}

#[test]
fn only_a_superuser_changes_the_functions_of_the_firewall() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run("SET ROLE service_role");
    for statement in [
        "CREATE OR REPLACE FUNCTION storage.civic_firewall(bucket_id text, name text)
             RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "DROP FUNCTION storage.civic_firewall(text, text) CASCADE",
        "ALTER FUNCTION storage.civic_firewall(text, text) VOLATILE",
        "ALTER FUNCTION storage.civic_firewall_upload(text, text) OWNER TO service_role",
    ] {
        assert_eq!(session.sqlstate(statement), "42501", "{statement}");
    }
}

/// Its migration of 2024-10-30 does that.
#[test]
fn realtime_can_drop_and_recreate_its_table() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run("DROP TABLE realtime.messages");
    session.run(SETUP);
    session.run(&insert(TENANT, 1, false));
}

#[test]
fn teardown_removes_the_functions_of_the_firewall() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(TEARDOWN);
    let left = "SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'civic_firewall%'";
    assert_eq!(session.column(left), Vec::<String>::new());
    session.run("DROP EXTENSION pg_civic");
}

/// A role that owns it could replace it later, and each reader would run that role's code.
#[test]
fn the_function_in_pl_pgsql_is_refused_if_another_role_owns_it() {
    let mut session = Database::realtime().superuser();
    let owner =
        |role: &str| format!("ALTER FUNCTION storage.civic_firewall_exists() OWNER TO {role}");
    session.run("GRANT CREATE ON SCHEMA storage TO anon");
    session.run(&owner("anon"));
    assert_eq!(session.sqlstate(SETUP), "42710");
    session.run(&owner("supabase_storage_admin"));
    session.run(SETUP);
}

/// psql and pg_restore continue after an error. Without the library, or without superuser rights,
/// creating the firewall's functions fails, and so do the policies that call them.
#[test]
fn a_restore_without_the_firewalls_functions_shows_nothing_through_a_careless_policy() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(CARELESS);
    session.run("CREATE POLICY careless ON realtime.messages USING (true)");
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{TENANT}/a/1')"
    ));
    session.run(&insert(TENANT, 1, true));
    for without in ["", "LANGUAGE c"] {
        let restored = Database::empty("");
        let dump = database.program("pg_dump").output().expect("it runs");
        assert!(dump.status.success());
        let dump = String::from_utf8(dump.stdout).expect("text");
        // With the server's own error.
        let dump = match without {
            "" => dump,
            language => dump.replace(language, "LANGUAGE none").replace("EXTENSION", "NOTHING"),
        };
        restored.run_script(&dump);
        let mut session = restored.superuser();
        assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "1");
        assert_ne!(session.text("SELECT count(*) FROM realtime.messages"), "0");
        session.acts_as("authenticated", &claims(OTHER_TENANT, "citizen"));
        for table in ["storage.objects", "realtime.messages"] {
            let seen = format!("SELECT count(*) FROM {table}");
            assert_eq!(session.text(&seen), "0", "{table} {without}");
        }
    }
}
