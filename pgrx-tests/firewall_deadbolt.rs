//! Without the firewall the buckets are shut: in plans of before as in those made afterwards.

use super::firewall::{object, seen, stocked};
use super::support::{Database, OTHER_TENANT, Session, TENANT, claims};

const CASCADE: &str = "DROP EXTENSION pg_civic CASCADE";
const ALONE: &str = "DROP POLICY \"civic firewall\" ON storage.objects";

fn with_a_careless_policy() -> Database {
    let database = stocked();
    database.superuser().run("CREATE POLICY careless ON storage.objects USING (true)");
    database
}

/// An admin of a municipality whose reading is planned once.
fn prepared(database: &Database) -> Session {
    let mut session = database.superuser();
    session.acts_as("authenticated", &claims(TENANT, "admin"));
    session.run(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE everything AS SELECT bucket_id || ' ' || name FROM storage.objects ORDER BY 1",
    );
    assert_eq!(session.column("EXECUTE everything").len(), 5);
    session
}

/// The objects of a bucket that is nobody's of ours.
fn of_other_buckets() -> [String; 2] {
    [TENANT, OTHER_TENANT].map(|tenant| object("avatars", tenant))
}

#[test]
fn a_plan_from_before_the_firewall_went_opens_nothing() {
    for dropped in [CASCADE, ALONE] {
        let database = with_a_careless_policy();
        let mut session = prepared(&database);
        database.superuser().run(dropped);
        assert_eq!(session.column("EXECUTE everything"), of_other_buckets(), "{dropped}");
    }
}

#[test]
fn a_transaction_with_an_older_snapshot_opens_nothing_after_a_cascade() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let database = with_a_careless_policy();
        let mut session = prepared(&database);
        session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        session.text("SELECT count(*) FROM pg_class");
        database.superuser().run(CASCADE);
        assert_eq!(session.column("EXECUTE everything"), of_other_buckets(), "{level}");
        assert_eq!(seen(&mut session), of_other_buckets(), "{level}");
        session.run("COMMIT");
        assert_eq!(session.column("EXECUTE everything"), of_other_buckets(), "{level}, afterwards");
    }
}

#[test]
fn a_plan_from_a_transaction_that_dropped_the_firewall_and_rolled_back_is_not_kept() {
    let database = with_a_careless_policy();
    let mut session = prepared(&database);
    session.run("RESET ROLE; BEGIN");
    session.run(CASCADE);
    session.run("SET LOCAL ROLE authenticated");
    assert_eq!(session.column("EXECUTE everything"), of_other_buckets());
    session.run("ROLLBACK; SET ROLE authenticated");
    assert_eq!(session.column("EXECUTE everything").len(), 5);
}

#[test]
fn setup_after_a_cascade_opens_the_plans_of_before() {
    let database = with_a_careless_policy();
    let mut session = prepared(&database);
    let mut superuser = database.superuser();
    superuser.run(CASCADE);
    assert_eq!(session.column("EXECUTE everything").len(), 2);
    superuser.run("CREATE EXTENSION pg_civic; SELECT civic.setup()");
    assert_eq!(session.column("EXECUTE everything").len(), 5);
}

#[test]
fn whoever_reads_through_a_view_needs_no_right_on_the_schema() {
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
fn a_function_that_somebody_put_in_the_deadbolts_place_is_replaced() {
    let database = Database::supabase();
    let stranger = database.role("stranger", "");
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "GRANT USAGE, CREATE ON SCHEMA storage TO {stranger};
         SET ROLE {stranger};
         CREATE FUNCTION storage.civic_firewall_stands(objects regclass) RETURNS integer
             LANGUAGE sql AS 'SELECT 1';
         RESET ROLE;
         SELECT civic.setup()"
    ));
    assert_eq!(superuser.wrong_components(), ["trigger"]);
    superuser.run(&format!("SET ROLE {stranger}"));
    for statement in [
        "CREATE OR REPLACE FUNCTION storage.civic_firewall_stands(objects regclass)
             RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "DROP FUNCTION storage.civic_firewall_stands(regclass) CASCADE",
        "ALTER FUNCTION storage.civic_firewall_stands(regclass) VOLATILE",
    ] {
        assert_eq!(superuser.sqlstate(statement), "42501", "{statement}");
    }
}

#[test]
fn a_prepared_read_does_not_look_for_the_firewall_again() {
    let database = with_a_careless_policy();
    let mut session = prepared(&database);
    let plan = session.column("EXPLAIN EXECUTE everything").join("\n");
    assert!(plan.contains("passes_firewall"), "{plan}");
    assert!(!plan.contains("civic_firewall_stands") && !plan.contains("pg_policy"), "{plan}");
}
