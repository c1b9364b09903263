//! One session, many users: cached plans, functions and cursors keep no user's rights.

use super::{own, seen, stocked};
use crate::pg_tests::support::{OTHER_TENANT, Session, TENANT, claims, literal};

/// Users that take turns on a pooled connection, and whether they read GBV evidence.
const PEOPLE: [(&str, &str, bool); 6] = [
    (TENANT, "admin", true),
    (TENANT, "citizen", false),
    (OTHER_TENANT, "saps_liaison", true),
    (OTHER_TENANT, "manager", false),
    (TENANT, "saps_liaison", true),
    (OTHER_TENANT, "citizen", false),
];

#[test]
fn a_prepared_read_is_decided_again_at_each_execution() {
    let database = stocked();
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        let mut session = database.superuser();
        session.run(&format!(
            "SET plan_cache_mode = {mode};
             PREPARE everything AS
                SELECT bucket_id || ' ' || name FROM storage.objects ORDER BY 1;
             PREPARE of_a_bucket (text) AS
                SELECT count(*) FROM storage.objects WHERE bucket_id = $1"
        ));
        assert_eq!(session.column("EXECUTE everything").len(), 8);
        for _ in 0..3 {
            for (tenant_id, role, reads) in PEOPLE {
                session.acts_as("authenticated", &claims(tenant_id, role));
                let case = format!("{role} of {tenant_id}, {mode}");
                assert_eq!(session.column("EXECUTE everything"), own(tenant_id, reads), "{case}");
                let count = session.text("EXECUTE of_a_bucket ('gbv-evidence')");
                assert_eq!(count, if reads { "1" } else { "0" }, "{case}");
            }
            session.acts_as("anon", &claims(TENANT, "admin"));
            assert_eq!(session.column("EXECUTE everything").len(), 0, "anon, {mode}");
            session.acts_as("authenticated", "");
            assert_eq!(session.column("EXECUTE everything").len(), 0, "no claims, {mode}");
            session.acts_as("authenticated", "[]");
            assert_eq!(session.sqlstate("EXECUTE everything"), "28000", "{mode}");
            session.acts_as("service_role", "");
            assert_eq!(session.column("EXECUTE everything").len(), 8, "service_role, {mode}");
        }
    }
}

#[test]
fn a_prepared_upload_is_decided_again_at_each_execution() {
    let database = stocked();
    for mode in ["auto", "force_generic_plan"] {
        let mut session = database.superuser();
        session.run(&format!(
            "SET plan_cache_mode = {mode};
             PREPARE upload (text, text) AS
                INSERT INTO storage.objects (bucket_id, name) VALUES ($1, $2)"
        ));
        for _ in 0..3 {
            for (tenant_id, role, _) in PEOPLE {
                session.acts_as("authenticated", &claims(tenant_id, role));
                for bucket in ["evidence", "gbv-evidence"] {
                    let upload = format!("EXECUTE upload ('{bucket}', '{TENANT}/id/new.jpg')");
                    let may = tenant_id == TENANT && (bucket == "evidence" || role != "citizen");
                    session.run("BEGIN");
                    match may {
                        true => session.run(&upload),
                        false => assert_eq!(session.sqlstate(&upload), "42501", "{role} {upload}"),
                    }
                    session.run("ROLLBACK");
                }
            }
        }
    }
}

#[test]
fn a_changed_list_of_readers_applies_at_the_next_execution() {
    let database = stocked();
    let mut session = database.person(TENANT, "manager");
    session.run(
        "SET plan_cache_mode = force_generic_plan; PREPARE everything AS TABLE storage.objects",
    );
    for (readers, count) in [("saps_liaison", 2), ("manager", 3), ("", 2), ("Manager, admin", 3)] {
        session.run(&format!(
            "RESET ROLE; SET civic.sensitive_readers = '{readers}'; SET ROLE authenticated"
        ));
        assert_eq!(session.rows("EXECUTE everything").len(), count, "{readers:?}");
        assert_eq!(seen(&mut session), own(TENANT, count == 3), "{readers:?}");
    }
}

/// Calls a PL/pgSQL function that sets several claims within one statement, and runs one query
/// after each.
fn answers(session: &mut Session, expression: &str, people: &[String]) -> String {
    session.run(&format!(
        "CREATE OR REPLACE FUNCTION pg_temp.answers(people text[]) RETURNS text[]
         LANGUAGE plpgsql AS $$
         DECLARE
             person text;
             answers text[] := '{{}}';
             answer text;
         BEGIN
             FOREACH person IN ARRAY people LOOP
                 PERFORM set_config('request.jwt.claims', person, true);
                 answer := {expression};
                 answers := answers || answer;
             END LOOP;
             RETURN answers;
         END
         $$"
    ));
    let people: Vec<_> = people.iter().map(|claims| literal(claims)).collect();
    session.text(&format!("SELECT pg_temp.answers(ARRAY[{}])", people.join(", ")))
}

#[test]
fn claims_that_change_within_a_function_apply_at_its_next_query() {
    let database = stocked();
    let people: Vec<_> = PEOPLE.iter().map(|(tenant, role, _)| claims(tenant, role)).collect();
    let mut session = database.person(TENANT, "citizen");
    let sensitive = |rule: &str| format!("civic.{rule}('gbv-evidence', '{TENANT}/id/a')");
    for (expression, expected) in [
        ("(SELECT count(*) FROM storage.objects)", "{3,2,3,2,3,2}"),
        ("civic.user_role()", "{admin,citizen,saps_liaison,manager,saps_liaison,citizen}"),
        ("civic.has_role('admin', 'manager')", "{true,false,false,true,false,false}"),
        ("cardinality(civic.readable_buckets())", "{3,2,3,2,3,2}"),
        (&sensitive("can_read_object"), "{true,false,false,false,true,false}"),
        (&sensitive("can_upload_object"), "{true,false,false,false,true,false}"),
    ] {
        assert_eq!(answers(&mut session, expression, &people), expected, "{expression}");
    }
}

#[test]
fn a_cursor_returns_only_what_its_opener_may_read() {
    let database = stocked();
    for scan in ["enable_seqscan", "enable_indexscan", "enable_bitmapscan"] {
        let mut session = database.superuser();
        session.run(&format!("SET {scan} = off; BEGIN"));
        session.acts_as("authenticated", &claims(TENANT, "citizen"));
        session.run(
            "DECLARE kept CURSOR WITH HOLD FOR
                SELECT bucket_id || ' ' || name FROM storage.objects;
             COMMIT; BEGIN;
             DECLARE listing CURSOR FOR SELECT bucket_id || ' ' || name FROM storage.objects;
             MOVE 1 FROM listing",
        );
        session.acts_as("authenticated", &claims(OTHER_TENANT, "saps_liaison"));
        for cursor in ["listing", "kept"] {
            let rows = session.column(&format!("FETCH ALL FROM {cursor}"));
            let opened = own(TENANT, false);
            assert!(rows.iter().all(|row| opened.contains(row)), "{cursor}: {rows:?}");
        }
    }
}

#[test]
fn a_parallel_worker_decides_like_its_leader() {
    let database = stocked();
    database.superuser().run(
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT bucket_id, replace(name, '/id/', '/' || n || '/')
         FROM storage.objects, generate_series(1, 500) AS n;
         CREATE POLICY careless ON storage.objects USING (true)",
    );
    let mut session = database.superuser();
    session.run(
        "SELECT set_config(name, 'on', false) FROM pg_settings
         WHERE name IN ('debug_parallel_query', 'force_parallel_mode');
         SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0;
         SET parallel_tuple_cost = 0; SET enable_indexscan = off; SET enable_indexonlyscan = off;
         SET enable_bitmapscan = off; SET civic.sensitive_readers = 'field_worker'",
    );
    let query = "SELECT count(*) FROM storage.objects WHERE bucket_id <> 'avatars'";
    for (tenant_id, role, folders) in
        [(TENANT, "field_worker", 3), (OTHER_TENANT, "admin", 2), (TENANT, "citizen", 2)]
    {
        session.acts_as("authenticated", &claims(tenant_id, role));
        let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
        assert!(plan.contains("Gather"), "{plan}");
        assert_eq!(session.text(query), (folders * 501).to_string(), "{role}");
    }
}
