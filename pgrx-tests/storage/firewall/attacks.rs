//! Attacks with arbitrary SQL: other operators, names and functions.

use super::{own, seen, stocked};
use crate::pg_tests::support::{Database, OTHER_TENANT, TENANT};

const CARELESS: &str = "CREATE POLICY careless ON storage.objects USING (true)";

/// A schema in which `authenticated` can create anything.
fn with_a_writable_schema(database: &Database) {
    database
        .superuser()
        .run("CREATE SCHEMA evil; GRANT USAGE, CREATE ON SCHEMA evil TO authenticated, anon");
}

#[test]
fn no_search_path_changes_the_meaning_of_the_rules() {
    let database = stocked();
    with_a_writable_schema(&database);
    let mut session = database.person(TENANT, "citizen");
    session.run(
        "CREATE FUNCTION evil.yes(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.yes(text, text[]) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.yes(oid, oid) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.yes(name, name) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.can_read_object(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.can_upload_object(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.civic_firewall(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
         CREATE FUNCTION evil.readable_buckets() RETURNS text[] LANGUAGE sql
             AS $$ SELECT ARRAY['evidence', 'documents', 'gbv-evidence'] $$;
         CREATE FUNCTION evil.tenant_folder_start() RETURNS text LANGUAGE sql AS 'SELECT '''' ';
         CREATE FUNCTION evil.to_regprocedure(text) RETURNS regprocedure LANGUAGE sql AS 'SELECT 0';
         CREATE TABLE evil.pg_policy (polrelid oid, polname name);
         CREATE TABLE evil.pg_class (oid oid, relname name);
         CREATE TABLE evil.objects (bucket_id text, name text);
         CREATE TEMPORARY TABLE pg_policy (polrelid oid, polname name);
         CREATE TEMPORARY TABLE pg_policies (policyname name)",
    );
    for operator in ["=", "<>", "<", "<=", ">", ">=", "~", "^@"] {
        for kind in ["text", "oid", "name"] {
            session.run(&format!(
                "CREATE OPERATOR evil.{operator} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = evil.yes)"
            ));
        }
    }
    session.run("SET search_path = evil, pg_temp, pg_catalog");
    assert_eq!(session.text("SELECT 'a'::text = 'b'::text"), "t", "the path is taken");

    let all = "SELECT bucket_id || ' ' || name FROM storage.objects";
    let mut rows = session.column(all);
    rows.sort_unstable();
    assert_eq!(rows, own(TENANT, false));
    for (rule, answer) in [
        ("civic.can_read_object", "f"),
        ("civic.can_upload_object", "f"),
        ("storage.civic_firewall", "f"),
        ("storage.civic_firewall_upload", "f"),
    ] {
        let question = format!("SELECT {rule}('gbv-evidence', '{OTHER_TENANT}/id/a')");
        assert_eq!(session.text(&question), answer, "{question}");
    }
    for (bucket, tenant_id) in [("evidence", OTHER_TENANT), ("gbv-evidence", TENANT)] {
        let insert = format!(
            "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '{tenant_id}/id/new')"
        );
        assert_eq!(session.sqlstate(&insert), "42501", "{insert}");
    }

    // The same if the superuser runs setup with that search_path.
    let mut superuser = database.superuser();
    superuser.run("SET search_path = evil, pg_temp, pg_catalog; SELECT * FROM civic.teardown()");
    superuser.run("SELECT * FROM civic.setup()");
    superuser.run(CARELESS);
    let mut session = database.person(TENANT, "citizen");
    assert_eq!(seen(&mut session)[2..], own(TENANT, false));
}

/// The output of leaky functions and errors about objects that this municipality's citizen may not
/// see.
fn leaked(revealed: &[String]) -> Vec<&String> {
    let is_held_back = |text: &&String| {
        let is_others = |bucket: &str| {
            text.match_indices(OTHER_TENANT).any(|(at, _)| {
                text[at..].split_once(".jpg").is_some_and(|(name, _)| name.ends_with(bucket))
            })
        };
        text.contains("gbv-evidence.jpg") || is_others("/evidence") || is_others("/documents")
    };
    revealed.iter().filter(is_held_back).collect()
}

#[test]
fn a_leaky_function_never_sees_a_row_that_the_firewall_hides() {
    let database = stocked();
    with_a_writable_schema(&database);
    let mut superuser = database.superuser();
    superuser.run(
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT bucket_id, replace(name, '/id/', '/' || n || '/')
         FROM storage.objects, generate_series(1, 20) AS n",
    );
    superuser.run("ANALYZE storage.objects");
    let mut session = database.person(TENANT, "citizen");
    session.run(
        "SET storage.allow_delete_query = 'true';
         CREATE FUNCTION evil.leak(bucket text, name text) RETURNS boolean
             LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 0.0000001
             AS $$ BEGIN RAISE NOTICE '% %', bucket, name; RETURN true; END $$;
         CREATE OPERATOR evil.~~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.leak,
                                   RESTRICT = eqsel, JOIN = eqjoinsel);
         CREATE OPERATOR evil.<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.leak,
                                   RESTRICT = scalarltsel, JOIN = scalarltjoinsel)",
    );
    let statements = [
        "SELECT count(*) FROM storage.objects WHERE evil.leak(bucket_id, name)",
        "SELECT count(*) FROM storage.objects WHERE bucket_id = 'gbv-evidence' AND evil.leak(bucket_id, name)",
        "SELECT count(*) FROM storage.objects WHERE evil.leak(bucket_id, name) OR bucket_id = 'x'",
        "SELECT count(*) FROM storage.objects WHERE bucket_id OPERATOR(evil.~~~) name",
        "SELECT count(*) FROM storage.objects WHERE name OPERATOR(evil.~~~) 'a'",
        "SELECT count(*) FROM storage.objects WHERE name OPERATOR(evil.<<<) 'a'",
        "EXPLAIN SELECT count(*) FROM storage.objects WHERE bucket_id OPERATOR(evil.~~~) 'a'",
        "EXPLAIN SELECT count(*) FROM storage.objects WHERE name OPERATOR(evil.<<<) 'a'",
        "SELECT count(*) FROM (SELECT * FROM storage.objects OFFSET 0) AS o WHERE evil.leak(bucket_id, name)",
        "SELECT count(*) FROM storage.objects AS a JOIN storage.objects AS b ON evil.leak(a.bucket_id, b.name)
         WHERE a.name LIKE '%/1/%' AND b.name LIKE '%/2/%'",
        "SELECT max(name) FROM storage.objects GROUP BY evil.leak(bucket_id, name) ORDER BY 1",
        "SELECT name FROM storage.objects ORDER BY evil.leak(bucket_id, name) LIMIT 1",
        "SELECT count(*) FROM storage.objects WHERE name::integer = 1",
        "SELECT count(*) FROM storage.objects WHERE ('{' || bucket_id || name || '}')::jsonb IS NULL",
        "SELECT 1 FROM storage.objects WHERE evil.leak(bucket_id, name) FOR UPDATE",
        "UPDATE storage.objects SET version = 'x' WHERE evil.leak(bucket_id, name)",
        "UPDATE storage.objects SET version = evil.leak(bucket_id, name)::text RETURNING evil.leak(bucket_id, name)",
        "DELETE FROM storage.objects WHERE evil.leak(bucket_id, name)",
        "DELETE FROM storage.objects WHERE name::integer = 1",
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT bucket_id, name FROM storage.objects WHERE evil.leak(bucket_id, name)
         ON CONFLICT (bucket_id, name) DO UPDATE SET version = 'x'
         WHERE evil.leak(objects.bucket_id, objects.name)",
        "MERGE INTO storage.objects AS o USING (VALUES (1)) AS v (n) ON evil.leak(o.bucket_id, o.name)
         WHEN MATCHED AND evil.leak(o.bucket_id, o.name) THEN DO NOTHING",
    ];
    for careless in [false, true] {
        if careless {
            superuser.run(CARELESS);
        }
        for planner in ["enable_tidscan", "enable_seqscan", "enable_indexscan", "enable_material"] {
            let mut revealed_in_all = 0;
            for statement in statements {
                session.run(&format!("BEGIN; SET LOCAL {planner} = off"));
                let error = session.client().batch_execute(statement).err();
                session.run("ROLLBACK");
                let mut revealed: Vec<String> =
                    session.notices().iter().map(|notice| notice.message().to_owned()).collect();
                revealed.extend(error.map(|error| format!("{error:?}")));
                revealed_in_all += revealed.len();
                let leaked = leaked(&revealed);
                assert!(leaked.is_empty(), "{statement}, careless {careless}: {leaked:?}");
            }
            assert!(revealed_in_all > 100, "the leaky functions do reveal what they see");
        }
    }
    // They would reveal the rest if it were not hidden.
    superuser.run("SELECT evil.leak(bucket_id, name) FROM storage.objects");
    let revealed: Vec<_> = superuser.notices().iter().map(|notice| notice.to_string()).collect();
    assert!(!leaked(&revealed).is_empty());
}
