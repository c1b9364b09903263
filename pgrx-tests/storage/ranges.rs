//! A read is an index range: its cost does not depend on other municipalities.

use crate::pg_tests::support::{Database, Session, claims};

/// Municipalities `m-001` … `m-100`, 200 objects each.
fn fill(database: &Database) {
    let mut superuser = database.superuser();
    superuser.run(
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT (ARRAY['evidence', 'documents', 'gbv-evidence'])[1 + n % 3],
                format('m-%s/%s/photo.jpg', to_char(tenant, 'FM000'), to_char(n, 'FM0000'))
         FROM generate_series(1, 100) AS tenant, generate_series(1, 200) AS n",
    );
    superuser.run("VACUUM ANALYZE storage.objects");
}

fn without_the_index_of_storage() -> Database {
    let database = Database::supabase();
    let mut superuser = database.superuser();
    superuser.run("DROP INDEX storage.idx_objects_bucket_id_name");
    superuser.run("SELECT * FROM civic.setup()");
    database
}

const COUNT: &str = "SELECT count(*) FROM storage.objects";
const LISTING: &str = "SELECT name FROM storage.objects WHERE bucket_id = 'evidence'
                       ORDER BY name COLLATE \"C\" LIMIT 100";

fn plan(session: &mut Session, query: &str) -> String {
    session.column(&format!("EXPLAIN {query}")).join("\n")
}

/// The index condition of a plan.
#[track_caller]
fn condition(plan: &str) -> &str {
    let condition = plan.lines().find(|line| line.contains("Index Cond"));
    condition.unwrap_or_else(|| panic!("no index condition:\n{plan}"))
}

#[test]
fn a_read_is_an_index_condition_on_bucket_and_name() {
    for (case, database) in
        [("of Storage", Database::guarded()), ("of setup", without_the_index_of_storage())]
    {
        fill(&database);
        for (role, count) in [("citizen", "133"), ("admin", "200")] {
            let mut session = database.person("m-042", role);
            for query in [
                COUNT,
                LISTING,
                "SELECT count(*) FROM storage.objects WHERE bucket_id = 'evidence'",
                "SELECT * FROM storage.objects WHERE name LIKE '%photo.jpg'",
                "SELECT id FROM storage.objects
                 WHERE bucket_id = 'documents' AND name COLLATE \"C\" > 'm-042/0100'",
            ] {
                let plan = plan(&mut session, query);
                let parts =
                    ["(bucket_id =", "(name", "tenant_folder_start()", "tenant_folder_end()"];
                for part in parts {
                    let has = condition(&plan).contains(part);
                    assert!(has, "{part} of {query}, index {case}:\n{plan}");
                }
                assert!(!plan.contains("Seq Scan on objects"), "{query}, index {case}:\n{plan}");
            }
            assert_eq!(session.text(COUNT), count, "{role}, index {case}");
        }
    }
}

#[test]
fn a_listing_in_byte_order_needs_no_sort() {
    let database = Database::guarded();
    fill(&database);
    let plan = plan(&mut database.person("m-042", "citizen"), LISTING);
    assert!(!plan.contains("Sort"), "{plan}");
}

#[test]
fn a_read_touches_only_the_callers_own_folder() {
    let database = Database::guarded();
    fill(&database);
    let mut session = database.person("m-042", "admin");
    let plan = plan(&mut session, &format!("(ANALYZE, COSTS OFF, TIMING OFF) {COUNT}"));
    let (_, scan) = plan.split_once(" on objects ").expect("a scan");
    assert!(scan.starts_with("(actual rows=200") && !scan.contains("Rows Removed"), "{plan}");
}

#[test]
fn a_generic_plan_is_also_a_range() {
    let database = Database::guarded();
    fill(&database);
    let mut session = database.superuser();
    session.run(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE listing (text) AS SELECT count(*) FROM storage.objects WHERE bucket_id = $1",
    );
    session.acts_as("authenticated", &claims("m-042", "citizen"));
    let plan = plan(&mut session, "EXECUTE listing ('evidence')");
    assert!(condition(&plan).contains("civic.tenant_folder_start()"), "{plan}");
}

/// A policy that opens everything removes the range, because there may be more rows to read. The
/// Storage API filters by folder name, and that stays a range.
#[test]
fn a_query_by_folder_name_stays_a_range_beside_a_careless_policy() {
    let database = Database::guarded();
    fill(&database);
    database.superuser().run("CREATE POLICY careless ON storage.objects USING (true)");
    let plan = plan(
        &mut database.person("m-042", "citizen"),
        "SELECT name FROM storage.objects
         WHERE bucket_id = 'evidence' AND name COLLATE \"C\" >= 'm-042/' AND name COLLATE \"C\" < 'm-0420'
         ORDER BY name COLLATE \"C\" LIMIT 100",
    );
    for part in ["(bucket_id =", "(name >=", "(name <"] {
        assert!(condition(&plan).contains(part), "{part}:\n{plan}");
    }
    assert!(!plan.contains("Sort"), "{plan}");
}
