//! The Storage API's `list()` (storage.search) under row security: its statement asks for
//! `lower(name) COLLATE "C"` between two texts, and reads an index.

use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims, literal};

/// The statement that looks for the next entry of a folder.
const NEXT: &str = "SELECT o.name FROM storage.objects o
                    WHERE o.bucket_id = $1 AND lower(o.name) COLLATE \"C\" >= $2
                      AND lower(o.name) COLLATE \"C\" < $3
                    ORDER BY lower(o.name) COLLATE \"C\" ASC LIMIT 1";

/// 40 municipalities with 300 folders each. Some have capital letters in their id.
fn fill(database: &Database) {
    let mut superuser = database.superuser();
    superuser.run(
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT (ARRAY['evidence', 'documents', 'gbv-evidence'])[1 + n % 3],
                format('%s-%s/Folder-%s/Photo %s.JPG', (ARRAY['m', 'M'])[1 + tenant % 2],
                       to_char(tenant, 'FM00'), to_char(n, 'FM000'), n)
         FROM generate_series(1, 40) AS tenant, generate_series(1, 300) AS n",
    );
    superuser.run("VACUUM ANALYZE storage.objects");
}

fn prepare(session: &mut Session, plans: &str) {
    session.run(&format!(
        "SET plan_cache_mode = force_{plans}_plan; PREPARE next (text, text, text) AS {NEXT}"
    ));
}

fn next(session: &mut Session, bucket: &str, from: &str, to: &str) -> Option<String> {
    let call = format!("EXECUTE next ({}, {}, {})", literal(bucket), literal(from), literal(to));
    session.column(&call).into_iter().next()
}

fn explained(session: &mut Session, from: &str, to: &str) -> String {
    let sql = format!(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF)
         EXECUTE next ('evidence', {}, {})",
        literal(from),
        literal(to)
    );
    session.column(&sql).join("\n")
}

#[test]
fn the_next_entry_of_a_folder_is_one_row_of_the_index() {
    let database = Database::guarded();
    fill(&database);
    for plans in ["generic", "custom"] {
        for tenant in ["m-22", "M-21"] {
            let mut session = database.person(tenant, "citizen");
            prepare(&mut session, plans);
            let folder = tenant.to_lowercase();
            let plan =
                explained(&mut session, &format!("{folder}/folder-200"), &format!("{folder}0"));
            let part =
                |part: &str| plan.lines().find(|line| line.contains(part)).unwrap_or_default();
            let condition = part("Index Cond");
            assert!(condition.contains("lower(civic.tenant_folder_start())"), "{plans}:\n{plan}");
            assert!(plan.contains("idx_objects_bucket_id_name_lower"), "{plans}:\n{plan}");
            assert!(!plan.contains("Sort"), "{plans}:\n{plan}");
            assert!(!plan.contains("Rows Removed"), "{plans}:\n{plan}");
        }
    }
}

/// Old installations of Storage lack the index, and have a list that does not ask for it.
#[test]
fn without_the_index_the_folder_is_the_range_of_the_names() {
    let database = Database::guarded();
    fill(&database);
    for changed in [
        "DROP INDEX storage.idx_objects_bucket_id_name_lower",
        "CREATE INDEX ON storage.objects (bucket_id, lower(name))",
        "CREATE INDEX ON storage.objects (bucket_id, lower(name) COLLATE \"C\") WHERE name > 'x'",
        "CREATE INDEX ON storage.objects (bucket_id, lower(version) COLLATE \"C\")",
        "CREATE INDEX ON storage.objects (bucket_id, upper(name) COLLATE \"C\")",
    ] {
        database.superuser().run(changed);
        let mut session = database.person("m-22", "citizen");
        prepare(&mut session, "generic");
        let plan = explained(&mut session, "m-22/folder-200", "m-220");
        assert!(plan.contains("(name >= civic.tenant_folder_start())"), "{changed}:\n{plan}");
        let first = next(&mut session, "evidence", "m-22/", "m-220").expect("an entry");
        assert_eq!(first, "m-22/Folder-003/Photo 3.JPG", "{changed}");
    }
}

#[test]
fn a_list_has_exactly_the_callers_entries() {
    let database = Database::guarded();
    fill(&database);
    for plans in ["generic", "custom"] {
        for (tenant, role, bucket, expected) in [
            ("m-22", "citizen", "evidence", 100),
            ("M-21", "citizen", "documents", 100),
            ("m-22", "manager", "gbv-evidence", 0),
            ("m-22", "saps_liaison", "gbv-evidence", 100),
        ] {
            let mut session = database.person(tenant, role);
            prepare(&mut session, plans);
            let (mut found, mut from) = (vec![], String::new());
            // From the root, as somebody could ask: every bucket has other municipalities' names.
            while let Some(name) = next(&mut session, bucket, &from, "\u{10ffff}") {
                from = format!("{}0", name.to_lowercase());
                found.push(name);
            }
            assert_eq!(found.len(), expected, "{tenant} {role} {bucket}");
            assert!(found.iter().all(|name| name.starts_with(&format!("{tenant}/"))), "{found:?}");
        }
    }
}

/// The bounds of the query narrow the policy's range, and never widen it.
#[test]
fn no_bounds_show_a_row_of_another_folder() {
    let database = Database::guarded();
    fill(&database);
    for plans in ["generic", "custom"] {
        let mut session = database.person("m-22", "citizen");
        prepare(&mut session, plans);
        for (from, to) in
            [("m-20/", "m-200"), ("", "m-22/"), ("m-220", "z"), ("M-22/", "M-220"), ("z", "a")]
        {
            assert_eq!(next(&mut session, "evidence", from, to), None, "{from:?} {to:?}");
        }
        // A municipality whose id differs in the case of a letter only is another one.
        database.superuser().run(
            "INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', 'M-22/a/b.jpg')
             ON CONFLICT DO NOTHING",
        );
        let first = next(&mut session, "evidence", "m-22/", "m-220").expect("an entry");
        assert!(first.starts_with("m-22/Folder-"), "{first}");
    }
}

/// A policy of others opens more, and a list then shows it.
#[test]
fn beside_a_careless_policy_a_list_is_not_confined_to_the_folder() {
    let database = Database::guarded();
    fill(&database);
    let mut superuser = database.superuser();
    superuser.run(
        "INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars');
         INSERT INTO storage.objects (bucket_id, name) VALUES ('avatars', 'Anybody/A.jpg')",
    );
    let mut sessions = ["generic", "custom"].map(|plans| {
        let mut session = database.person("m-22", "citizen");
        prepare(&mut session, plans);
        // The plan from before the policy.
        assert_eq!(next(&mut session, "avatars", "anybody/", "anybody0"), None, "{plans}");
        session
    });
    superuser.run("CREATE POLICY careless ON storage.objects FOR SELECT USING (true)");
    for session in &mut sessions {
        let found = next(session, "avatars", "anybody/", "anybody0");
        assert_eq!(found.as_deref(), Some("Anybody/A.jpg"));
        assert_eq!(next(session, "evidence", "m-20/", "m-200"), None);
        assert!(next(session, "evidence", "m-22/", "m-220").is_some());
    }
}

#[test]
fn without_a_tenant_nothing_is_listed() {
    let database = Database::guarded();
    fill(&database);
    for plans in ["generic", "custom"] {
        for claims in ["", "{}", &claims("", "admin"), &claims("m-22/", "admin")] {
            let mut session = database.authenticated(claims);
            prepare(&mut session, plans);
            assert_eq!(next(&mut session, "evidence", "", "z"), None, "{claims}");
        }
    }
}

/// Only constants and parameters become a condition that is tested before the policy has hidden a row: a
/// function of the user's would see every name of the bucket.
#[test]
fn a_function_of_the_user_sees_no_hidden_name() {
    let database = Database::guarded();
    fill(&database);
    let mut superuser = database.superuser();
    superuser.run(
        "GRANT CREATE ON SCHEMA public TO authenticated;
         CREATE TABLE public.leaked (name text); GRANT ALL ON public.leaked TO authenticated",
    );
    let mut session = database.person("m-22", "citizen");
    session.run(
        "CREATE FUNCTION public.leak(name text) RETURNS text LANGUAGE plpgsql COST 0.0001 AS $$
         BEGIN RAISE NOTICE 'leaked %', name; RETURN name; END $$;
         CREATE FUNCTION public.less(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
         BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
         CREATE OPERATOR public.< (LEFTARG = text, RIGHTARG = text, FUNCTION = public.less)",
    );
    for condition in [
        "lower(o.name) COLLATE \"C\" >= public.leak(o.name)",
        "lower(public.leak(o.name)) COLLATE \"C\" >= 'a'",
        "lower(o.name) COLLATE \"C\" >= lower(public.leak(o.name))",
        "lower(o.name) COLLATE \"C\" OPERATOR(public.<) 'z'",
        "lower(o.name) COLLATE \"C\" >= 'a' AND public.leak(o.name) > ''",
        "(lower(o.name) COLLATE \"C\" >= 'a' OR public.leak(o.name) > '')",
    ] {
        let sql = format!("SELECT o.name FROM storage.objects o WHERE {condition}");
        let seen = session.column(&sql);
        assert!(seen.iter().all(|name| name.starts_with("m-22/")), "{condition}");
        for notice in session.notices() {
            assert!(notice.message().contains("m-22/"), "{condition}: {notice:?}");
        }
    }
}

/// A new version of a row need not be what WHERE asks of the old one.
#[test]
fn the_bounds_of_a_query_are_not_asked_of_rows_that_it_writes() {
    let database = Database::guarded();
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars');
         DROP POLICY \"civic read\" ON storage.objects;
         CREATE POLICY folder ON storage.objects USING (civic.in_tenant_folder(name));
         INSERT INTO storage.objects (bucket_id, name)
         VALUES ('avatars', '{TENANT}/z/a.jpg'), ('avatars', '{OTHER_TENANT}/z/a.jpg')"
    ));
    let mut session = database.person(TENANT, "citizen");
    let moved = format!(
        "UPDATE storage.objects SET name = '{TENANT}/a/a.jpg'
         WHERE bucket_id = 'avatars' AND lower(name) COLLATE \"C\" >= '{TENANT}/z'"
    );
    assert_eq!(session.affected(&moved), 1);
    let away =
        format!("UPDATE storage.objects SET name = '{OTHER_TENANT}/b' WHERE bucket_id = 'avatars'");
    assert_eq!(session.sqlstate(&away), "42501");
}

/// The function answers as the range does, wherever the planner leaves it as a call.
#[test]
fn the_folder_is_the_same_as_a_range_and_as_a_call() {
    let database = Database::guarded();
    let mut session = database.person("m", "citizen");
    session.run(
        "CREATE TEMPORARY TABLE names (name text);
         INSERT INTO names VALUES ('m/a'), ('m/'), ('m'), ('M/a'), ('m0'), ('n/a'), (''), (NULL), ('m//'), ('m/é')",
    );
    let as_range = "SELECT name FROM names WHERE civic.in_tenant_folder(name) ORDER BY name";
    let as_call = "SELECT name FROM names WHERE civic.in_tenant_folder(name || '') ORDER BY name";
    let plan = session.column(&format!("EXPLAIN {as_range}")).join("\n");
    assert!(plan.contains("civic.tenant_folder_start()"), "{plan}");
    let plan = session.column(&format!("EXPLAIN {as_call}")).join("\n");
    assert!(plan.contains("in_tenant_folder("), "{plan}");
    assert_eq!(session.column(as_range), ["m/", "m//", "m/a", "m/é"]);
    assert_eq!(session.column(as_call), ["m/", "m//", "m/a", "m/é"]);
    let values = "SELECT count(*) FROM names
                  WHERE civic.in_tenant_folder(name) IS DISTINCT FROM civic.in_tenant_folder(name || '')";
    assert_eq!(session.text(values), "0");
    session.acts_as("authenticated", "");
    assert_eq!(session.text(values), "0");
}
