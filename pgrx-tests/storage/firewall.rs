//! Access to objects: every role, bucket and command, with and without a careless policy.

mod attacks;
mod commands;
mod outlives;
mod restored;
mod sessions;

use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

/// A bucket that pg_civic does not guard.
const FOREIGN: &str = "avatars";
const GUARDED: [&str; 3] = ["documents", "evidence", "gbv-evidence"];
/// Role, whether it reads GBV evidence, whether it uploads it.
const ROLES: [(&str, bool, bool); 12] = [
    ("citizen", false, false),
    ("manager", false, true),
    ("MANAGER", false, true),
    ("saps_liaison", true, true),
    ("SAPS_LIAISON", true, true),
    ("admin", true, true),
    ("Admin", true, true),
    ("ward_councillor", false, false),
    ("field_worker", false, false),
    ("executive_mayor", false, false),
    ("administrator", false, false),
    ("", false, false),
];

/// A guarded database with an object of each of two municipalities in each of our buckets and in
/// another one.
pub fn stocked() -> Database {
    let database = Database::guarded();
    stock(&mut database.superuser());
    database
}

pub fn stock(superuser: &mut Session) {
    superuser.run(&format!(
        "INSERT INTO storage.buckets (id, name) VALUES ('{FOREIGN}', '{FOREIGN}');
         INSERT INTO storage.objects (bucket_id, name)
         SELECT id, tenant || '/id/' || id || '.jpg'
         FROM storage.buckets, unnest(ARRAY['{TENANT}', '{OTHER_TENANT}']) AS tenant"
    ));
}

/// Every object that the session sees, in the order of bucket and name.
pub fn seen(session: &mut Session) -> Vec<String> {
    session.column("SELECT bucket_id || ' ' || name FROM storage.objects ORDER BY 1")
}

/// The objects in our buckets that a user of this municipality sees.
pub fn own(tenant_id: &str, reads_sensitive: bool) -> Vec<String> {
    let visible = if reads_sensitive { &GUARDED[..] } else { &GUARDED[..2] };
    visible.iter().map(|bucket| object(bucket, tenant_id)).collect()
}

pub fn object(bucket: &str, tenant_id: &str) -> String {
    format!("{bucket} {tenant_id}/id/{bucket}.jpg")
}

/// Checks every command of every role against the rules; a careless policy opens the unguarded
/// bucket.
fn assert_rules(session: &mut Session, careless: bool) {
    session.run("SET storage.allow_delete_query = 'true'");
    for ((role, reads, files), tenant_id, other_tenant) in
        ROLES.iter().flat_map(|role| [(role, TENANT, OTHER_TENANT), (role, OTHER_TENANT, TENANT)])
    {
        let case = format!("{role:?} of {tenant_id}, careless: {careless}");
        session.acts_as("authenticated", &claims(tenant_id, role));

        let mut visible = own(tenant_id, *reads);
        if careless {
            visible.splice(0..0, [TENANT, OTHER_TENANT].map(|tenant| object(FOREIGN, tenant)));
        }
        assert_eq!(seen(session), visible, "{case}");

        for bucket in GUARDED.into_iter().chain([FOREIGN]) {
            for folder in [tenant_id, other_tenant] {
                let may = match bucket {
                    FOREIGN => careless,
                    "gbv-evidence" => *files && folder == tenant_id,
                    _ => folder == tenant_id,
                };
                let insert = format!(
                    "INSERT INTO storage.objects (bucket_id, name)
                     VALUES ('{bucket}', '{folder}/id/new.jpg')"
                );
                session.run("BEGIN");
                if may {
                    session.run(&insert);
                } else {
                    assert_eq!(session.sqlstate(&insert), "42501", "{insert} as {case}");
                }
                session.run("ROLLBACK");
            }
        }

        // A user can change and remove nothing in our buckets, not even their own files.
        let changed = if careless { 2 } else { 0 };
        for statement in [
            "UPDATE storage.objects SET version = 'changed'",
            "UPDATE storage.objects SET name = name || '.old' WHERE name LIKE '%/id/%'",
            "DELETE FROM storage.objects",
            "DELETE FROM storage.objects WHERE name LIKE '%/id/%'",
        ] {
            session.run("BEGIN");
            assert_eq!(session.affected(statement), changed, "{statement} as {case}");
            session.run("ROLLBACK");
        }
    }
}

#[test]
fn each_role_reads_and_uploads_what_the_rules_allow_and_changes_nothing() {
    assert_rules(&mut stocked().superuser(), false);
}

#[test]
fn a_careless_policy_for_everything_changes_none_of_it() {
    let database = stocked();
    database.superuser().run("CREATE POLICY careless ON storage.objects USING (true)");
    assert_rules(&mut database.superuser(), true);
}

#[test]
fn a_careless_policy_of_any_command_and_role_opens_only_other_buckets() {
    let database = stocked();
    let mut superuser = database.superuser();
    let clauses = [
        ("ALL", "USING (true) WITH CHECK (true)"),
        ("SELECT", "USING (true)"),
        ("INSERT", "WITH CHECK (true)"),
        ("UPDATE", "USING (true) WITH CHECK (true)"),
        ("DELETE", "USING (true)"),
    ];
    for (command, clause) in clauses {
        for target in ["PUBLIC", "authenticated", "anon", "authenticated, anon"] {
            superuser.run(&format!(
                "CREATE POLICY careless ON storage.objects FOR {command} TO {target} {clause}"
            ));
            for role in ["authenticated", "anon"] {
                let case = format!("{command} TO {target}, as {role}");
                let applies = target == "PUBLIC" || target.contains(role);
                let allows = |wanted: &str| applies && [wanted, "ALL"].contains(&command);
                let mut session = database.superuser();
                session.run("SET storage.allow_delete_query = 'true'");
                session.acts_as(role, &claims(TENANT, "citizen"));

                let rows = seen(&mut session);
                let (foreign, ours): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|row| row.starts_with(FOREIGN));
                assert_eq!(foreign.len(), if allows("SELECT") { 2 } else { 0 }, "{case}");
                let reads = role == "authenticated" || allows("SELECT");
                assert_eq!(ours, if reads { own(TENANT, false) } else { vec![] }, "{case}");

                for (bucket, folder, may) in [
                    (FOREIGN, OTHER_TENANT, allows("INSERT")),
                    ("evidence", TENANT, role == "authenticated" || allows("INSERT")),
                    ("evidence", OTHER_TENANT, false),
                    ("gbv-evidence", TENANT, false),
                    ("gbv-evidence", OTHER_TENANT, false),
                ] {
                    let insert = format!(
                        "INSERT INTO storage.objects (bucket_id, name)
                         VALUES ('{bucket}', '{folder}/id/new.jpg')"
                    );
                    session.run("BEGIN");
                    let refusal = session.client().batch_execute(&insert).err();
                    let sqlstate = refusal.as_ref().and_then(|error| error.code());
                    let expected = if may { None } else { Some("42501") };
                    assert_eq!(sqlstate.map(|code| code.code()), expected, "{insert}, {case}");
                    session.run("ROLLBACK; BEGIN");
                    // Without a WHERE nothing is read, so only the policy for the command decides.
                    let changed = session.affected("UPDATE storage.objects SET version = 'x'");
                    assert_eq!(changed, if allows("UPDATE") { 2 } else { 0 }, "{case}");
                    let removed = session.affected("DELETE FROM storage.objects");
                    assert_eq!(removed, if allows("DELETE") { 2 } else { 0 }, "{case}");
                    session.run("ROLLBACK");
                }
            }
            superuser.run("DROP POLICY careless ON storage.objects");
        }
    }
}

#[test]
fn claims_open_nothing_to_a_role_without_a_policy() {
    let database = stocked();
    let mut session = database.superuser();
    session.acts_as("anon", &claims(TENANT, "admin"));
    assert!(seen(&mut session).is_empty());
    let insert = format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', '{TENANT}/id/new.jpg')"
    );
    assert_eq!(session.sqlstate(&insert), "42501");
    // The server role bypasses the firewall: it serves the files of signed links.
    session.acts_as("service_role", "");
    assert_eq!(seen(&mut session).len(), 8);
}

#[test]
fn callers_without_claims_get_nothing_through_a_careless_policy() {
    let database = stocked();
    database.superuser().run("CREATE POLICY careless ON storage.objects USING (true)");
    let mut session = database.superuser();
    for role in ["authenticated", "anon"] {
        for claims in ["", "null", "{}", r#"{"app_metadata": {"role": "admin"}}"#] {
            session.acts_as(role, claims);
            let foreign = [TENANT, OTHER_TENANT].map(|tenant| object(FOREIGN, tenant));
            assert_eq!(seen(&mut session), foreign, "{role} with claims {claims:?}");
            for bucket in GUARDED {
                let insert = format!(
                    "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '/id/a')"
                );
                assert_eq!(session.sqlstate(&insert), "42501", "{role} {claims:?} {bucket}");
            }
        }
    }
}

#[test]
fn an_upload_needs_three_valid_segments_whatever_a_careless_policy_says() {
    let database = stocked();
    let mut session = database.person(TENANT, "admin");
    for careless in [false, true] {
        for (rest, may) in [
            ("/id/a.jpg", true),
            ("/id/sub/a.jpg", true),
            ("/.../..a", true),
            ("", false),
            ("/", false),
            ("/a.jpg", false),
            ("//a.jpg", false),
            ("/id/", false),
            ("/id//a.jpg", false),
            ("/./a.jpg", false),
            ("/id/..", false),
            ("/../id/a.jpg", false),
            ("0/id/a.jpg", false),
        ] {
            for bucket in GUARDED {
                let insert = format!(
                    "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '{TENANT}{rest}')"
                );
                session.run("BEGIN");
                match may {
                    true => session.run(&insert),
                    false => assert_eq!(session.sqlstate(&insert), "42501", "{insert}"),
                }
                session.run("ROLLBACK");
            }
        }
        if !careless {
            let policy = "CREATE POLICY careless ON storage.objects USING (true) WITH CHECK (true)";
            database.superuser().run(policy);
        }
    }
}

#[test]
fn a_row_without_bucket_or_name_is_neither_seen_nor_added() {
    let database = stocked();
    let mut superuser = database.superuser();
    superuser.run(
        "CREATE POLICY careless ON storage.objects USING (true);
         INSERT INTO storage.objects (bucket_id, name)
         VALUES (NULL, 'a'), ('evidence', NULL), ('gbv-evidence', NULL)",
    );
    let mut session = database.person(TENANT, "admin");
    assert_eq!(session.text("SELECT count(*) FROM storage.objects WHERE name IS NULL"), "0");
    let without_name = "INSERT INTO storage.objects (bucket_id) VALUES ('gbv-evidence')";
    assert_eq!(session.sqlstate(without_name), "42501");
}

#[test]
fn a_careless_policy_cannot_make_a_bucket_public_or_rename_it() {
    let database = stocked();
    let mut superuser = database.superuser();
    superuser.run(
        "CREATE POLICY careless ON storage.buckets USING (true) WITH CHECK (true);
         CREATE POLICY careless ON storage.objects USING (true) WITH CHECK (true)",
    );
    let buckets = "SELECT jsonb_agg(b ORDER BY id) FROM storage.buckets AS b WHERE id <> 'avatars'";
    let before = superuser.text(buckets);
    for role in ["authenticated", "anon"] {
        let mut session = database.superuser();
        session.acts_as(role, &claims(TENANT, "admin"));
        session.run("SET storage.allow_delete_query = 'true'");
        for (statement, rows) in [
            ("UPDATE storage.buckets SET public = true", 1),
            ("UPDATE storage.buckets SET public = true WHERE id = 'gbv-evidence'", 0),
            ("UPDATE storage.buckets SET id = 'mine', name = 'mine' WHERE id = 'evidence'", 0),
            ("DELETE FROM storage.buckets WHERE id <> 'avatars'", 0),
        ] {
            assert_eq!(session.affected(statement), rows, "{statement} as {role}");
        }
        for statement in [
            "INSERT INTO storage.buckets (id, name) VALUES ('evidence', 'evidence')
             ON CONFLICT (id) DO UPDATE SET public = true",
            "UPDATE storage.buckets SET id = 'evidence', name = 'x' WHERE id = 'avatars'",
            "MERGE INTO storage.buckets AS b USING (VALUES ('gbv-evidence')) AS v (id) ON b.id = v.id
             WHEN MATCHED THEN UPDATE SET public = true",
        ] {
            assert_eq!(session.sqlstate(statement), "42501", "{statement} as {role}");
        }
    }
    assert_eq!(superuser.text(buckets), before);
}
