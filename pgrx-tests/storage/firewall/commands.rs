//! Indirect ways to a guarded row: RETURNING, upserts, MERGE, moves, locks, copies, probes.

use super::{object, own, seen, stock, stocked};
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

/// [`stocked`], with a policy that opens everything.
fn with_a_careless_policy() -> Database {
    let database = stocked();
    database
        .superuser()
        .run("CREATE POLICY careless ON storage.objects USING (true) WITH CHECK (true)");
    database
}

/// Every guarded row, to compare with the state after an attack.
fn guarded_rows(superuser: &mut Session) -> String {
    superuser.text(
        "SELECT jsonb_agg(o ORDER BY o.bucket_id, o.name) FROM storage.objects AS o
         WHERE bucket_id <> 'avatars'",
    )
}

fn insert(bucket: &str, name: &str) -> String {
    format!("INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '{name}')")
}

#[test]
fn a_manager_uploads_gbv_evidence_and_can_never_read_it() {
    for database in [stocked(), with_a_careless_policy()] {
        let mut session = database.person(TENANT, "manager");
        let new = insert("gbv-evidence", &format!("{TENANT}/id/new.jpg"));
        for returning in ["id", "name", "*", "metadata", "objects.*::text"] {
            let statement = format!("{new} RETURNING {returning}");
            assert_eq!(session.sqlstate(&statement), "42501", "{statement}");
        }
        assert_eq!(session.affected(&new), 1);
        for statement in [
            "SELECT 1 FROM storage.objects WHERE bucket_id = 'gbv-evidence'",
            "SELECT 1 FROM storage.objects WHERE name LIKE '%new.jpg'",
            "SELECT 1 FROM storage.objects WHERE bucket_id = 'gbv-evidence' FOR UPDATE",
            "TABLE storage.objects EXCEPT SELECT * FROM storage.objects WHERE bucket_id <> 'gbv-evidence'",
            "UPDATE storage.objects SET version = 'x' WHERE bucket_id = 'gbv-evidence' RETURNING name",
        ] {
            assert!(session.rows(statement).is_empty(), "{statement}");
        }
        // Nor can they copy it to a readable place.
        let copied = session.affected(&format!(
            "INSERT INTO storage.objects (bucket_id, name)
             SELECT 'evidence', '{TENANT}/id/copy-' || row_number() OVER ()
             FROM storage.objects WHERE bucket_id = 'gbv-evidence'"
        ));
        assert_eq!(copied, 0);
        session.acts_as("authenticated", &claims(TENANT, "saps_liaison"));
        let filed = "SELECT count(*) FROM storage.objects WHERE name LIKE '%/new.jpg'";
        assert_eq!(session.text(filed), "1");
    }
}

/// The Storage API's statements. An upload, and one by TUS or a signed link, is tried as the caller and
/// rolled back, before `service_role` writes. An upload with upsert, PUT, S3's PutObject and its multipart
/// upload are tried with what they need to replace an object.
#[test]
fn a_managers_upload_into_gbv_evidence_passes_plainly_and_never_as_an_upsert() {
    let plain = "INSERT INTO storage.objects (name, owner, owner_id, bucket_id, metadata, version)
                 VALUES ($name$, NULL, 'u1', 'gbv-evidence', '{\"size\": 1}', 'v1')";
    let upsert = format!(
        "{plain} ON CONFLICT (name, bucket_id) DO UPDATE
             SET metadata = EXCLUDED.metadata, version = EXCLUDED.version, owner_id = EXCLUDED.owner_id
         RETURNING *"
    );
    for database in [stocked(), with_a_careless_policy()] {
        let mut session = database.person(TENANT, "manager");
        for (file, is_taken) in [("new.jpg", false), ("gbv-evidence.jpg", true)] {
            let name = format!("'{TENANT}/id/{file}'");
            session.run("BEGIN");
            let plain = plain.replace("$name$", &name);
            if is_taken {
                assert_eq!(session.sqlstate(&plain), "23505");
            } else {
                assert_eq!(session.affected(&plain), 1);
            }
            session.run("ROLLBACK");
            assert_eq!(session.sqlstate(&upsert.replace("$name$", &name)), "42501", "{file}");
        }
        // Who reads the bucket gets no further than a new object.
        session.acts_as("authenticated", &claims(TENANT, "saps_liaison"));
        session.run("BEGIN");
        let new = upsert.replace("$name$", &format!("'{TENANT}/id/new.jpg'"));
        assert_eq!(session.rows(&new).len(), 1);
        session.run("ROLLBACK");
        let taken = upsert.replace("$name$", &format!("'{TENANT}/id/gbv-evidence.jpg'"));
        assert_eq!(session.sqlstate(&taken), "42501");
    }
}

#[test]
fn a_duplicate_reveals_to_a_manager_only_that_the_name_is_taken() {
    for database in [stocked(), with_a_careless_policy()] {
        let mut session = database.person(TENANT, "manager");
        let taken = insert("gbv-evidence", &format!("{TENANT}/id/gbv-evidence.jpg"));
        let error = session.error(&taken);
        assert_eq!(error.code().code(), "23505");
        assert_eq!(error.detail(), None);
        for upsert in [
            "ON CONFLICT (bucket_id, name) DO UPDATE SET version = 'x'",
            "ON CONFLICT (bucket_id, name) DO UPDATE SET version = storage.objects.name RETURNING *",
            "ON CONFLICT (bucket_id, name) DO NOTHING RETURNING *",
        ] {
            for name in ["gbv-evidence.jpg", "free.jpg"] {
                let statement =
                    format!("{} {upsert}", insert("gbv-evidence", &format!("{TENANT}/id/{name}")));
                let error = session.error(&statement);
                assert_eq!(error.code().code(), "42501", "{statement}");
            }
        }
    }
}

#[test]
fn a_name_in_another_tenants_folder_cannot_be_probed() {
    for database in [stocked(), with_a_careless_policy()] {
        let mut session = database.superuser();
        for (tenant_id, role, bucket) in [
            (OTHER_TENANT, "admin", "evidence"),
            (OTHER_TENANT, "admin", "gbv-evidence"),
            (OTHER_TENANT, "manager", "gbv-evidence"),
            (TENANT, "citizen", "gbv-evidence"),
        ] {
            session.acts_as("authenticated", &claims(tenant_id, role));
            for suffix in [
                "",
                "RETURNING name",
                "ON CONFLICT DO NOTHING",
                "ON CONFLICT (bucket_id, name) DO UPDATE SET version = 'x'",
            ] {
                let mut answer = |file: &str| {
                    let name = format!("{TENANT}/id/{file}.jpg");
                    let error = session.error(&format!("{} {suffix}", insert(bucket, &name)));
                    assert_eq!(error.code().code(), "42501");
                    assert!(!format!("{error:?}").contains(TENANT), "{error:?}");
                    (error.message().to_owned(), error.detail().map(str::to_owned))
                };
                assert_eq!(answer(bucket), answer("free"), "{role} in {bucket}: {suffix}");
            }
        }
    }
}

#[test]
fn a_careless_policy_does_not_allow_overwriting_by_upsert_or_merge() {
    let database = with_a_careless_policy();
    let mut superuser = database.superuser();
    let before = guarded_rows(&mut superuser);
    let mut session = database.superuser();
    session.run("SET storage.allow_delete_query = 'true'");
    for role in ["citizen", "manager", "saps_liaison", "admin"] {
        session.acts_as("authenticated", &claims(TENANT, role));
        for bucket in ["evidence", "documents", "gbv-evidence"] {
            for tenant_id in [TENANT, OTHER_TENANT] {
                let name = format!("{tenant_id}/id/{bucket}.jpg");
                let case = format!("{role}: {bucket} {name}");
                let upsert = format!(
                    "{} ON CONFLICT (bucket_id, name) DO UPDATE SET version = 'x'",
                    insert(bucket, &name)
                );
                assert_eq!(session.sqlstate(&upsert), "42501", "{case}");
                for action in ["UPDATE SET version = 'x'", "DELETE"] {
                    // An invisible row is not matched; a visible one is refused.
                    let is_seen = seen(&mut session).contains(&object(bucket, tenant_id));
                    let merge = format!(
                        "MERGE INTO storage.objects AS o
                         USING (VALUES ('{bucket}', '{name}')) AS v (bucket, name)
                         ON o.bucket_id = v.bucket AND o.name = v.name WHEN MATCHED THEN {action}"
                    );
                    if is_seen {
                        assert_eq!(session.sqlstate(&merge), "42501", "{action}, {case}");
                    } else {
                        assert_eq!(session.affected(&merge), 0, "{action}, {case}");
                    }
                }
            }
            let merge = format!(
                "MERGE INTO storage.objects AS o
                 USING (VALUES ('{bucket}', '{OTHER_TENANT}/id/new.jpg')) AS v (bucket, name)
                 ON o.bucket_id = v.bucket AND o.name = v.name
                 WHEN NOT MATCHED THEN INSERT (bucket_id, name) VALUES (v.bucket, v.name)"
            );
            assert_eq!(session.sqlstate(&merge), "42501", "{merge} as {role}");
        }
    }
    assert_eq!(guarded_rows(&mut superuser), before);
}

#[test]
fn no_row_moves_into_a_guarded_bucket_or_out_of_it() {
    let database = with_a_careless_policy();
    let mut superuser = database.superuser();
    let before = guarded_rows(&mut superuser);
    let mut session = database.person(TENANT, "admin");
    for bucket in ["evidence", "documents", "gbv-evidence"] {
        let into = format!(
            "UPDATE storage.objects SET bucket_id = '{bucket}', name = '{TENANT}/id/moved.jpg'
             WHERE bucket_id = 'avatars' AND name LIKE '{TENANT}%'"
        );
        assert_eq!(session.sqlstate(&into), "42501", "{into}");
        for statement in [
            format!(
                "UPDATE storage.objects SET bucket_id = 'avatars' WHERE bucket_id = '{bucket}'"
            ),
            format!("UPDATE storage.objects SET name = 'x/' || name WHERE bucket_id = '{bucket}'"),
            format!("UPDATE storage.objects SET owner_id = 'me' WHERE bucket_id = '{bucket}'"),
        ] {
            assert_eq!(session.affected(&statement), 0, "{statement}");
        }
    }
    let renamed = "UPDATE storage.objects SET name = name || '.png' WHERE bucket_id = 'avatars'";
    assert_eq!(session.affected(renamed), 2, "other buckets are not affected");
    assert_eq!(guarded_rows(&mut superuser), before);
}

#[test]
fn no_row_of_a_guarded_bucket_can_be_locked() {
    let database = with_a_careless_policy();
    let mut session = database.person(TENANT, "admin");
    for lock in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"] {
        let locked = session.column(&format!("SELECT bucket_id FROM storage.objects FOR {lock}"));
        assert_eq!(locked, ["avatars", "avatars"], "FOR {lock}");
    }
}

#[test]
fn a_copy_of_the_table_contains_only_readable_rows() {
    use std::io::Read;
    let database = stocked();
    for (role, reads) in [("citizen", false), ("manager", false), ("admin", true)] {
        let mut session = database.person(TENANT, role);
        let mut text = String::new();
        session
            .client()
            .copy_out("COPY storage.objects (bucket_id, name) TO STDOUT (DELIMITER ' ')")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let mut rows: Vec<_> = text.lines().collect();
        rows.sort_unstable();
        assert_eq!(rows, own(TENANT, reads), "{role}");
        let unguarded = "SET row_security = off; SELECT count(*) FROM storage.objects";
        assert_eq!(session.sqlstate(unguarded), "42501", "{role}");
    }
}

#[test]
fn dropping_the_extension_opens_no_bucket() {
    let database = with_a_careless_policy();
    let mut superuser = database.superuser();
    superuser.run("CREATE POLICY careless ON storage.buckets USING (true) WITH CHECK (true)");
    let before = guarded_rows(&mut superuser);
    assert_eq!(superuser.sqlstate("DROP EXTENSION pg_civic"), "2BP01");
    for statement in ["DROP EXTENSION pg_civic CASCADE", "CREATE EXTENSION pg_civic"] {
        superuser.run(statement);
        let mut session = database.superuser();
        session.run("SET storage.allow_delete_query = 'true'");
        // A catalog of another schema is not the catalog.
        session.run(
            "GRANT CREATE ON SCHEMA public TO authenticated;
             SET ROLE authenticated;
             CREATE TEMPORARY TABLE pg_policy AS
             SELECT 'storage.objects'::regclass::oid AS polrelid, 'civic firewall'::name AS polname;
             SET search_path = pg_temp, public, pg_catalog",
        );
        for role in ["authenticated", "anon"] {
            session.acts_as(role, &claims(TENANT, "admin"));
            let case = format!("{role} after {statement}");
            let mut visible =
                [TENANT, OTHER_TENANT].map(|tenant| object("avatars", tenant)).to_vec();
            visible.extend(own(TENANT, true));
            assert_eq!(seen(&mut session), visible, "{case}");
            for bucket in ["evidence", "documents", "gbv-evidence"] {
                let new = insert(bucket, &format!("{OTHER_TENANT}/id/new.jpg"));
                assert_eq!(session.sqlstate(&new), "42501", "{case}");
                let public =
                    format!("UPDATE storage.buckets SET public = true WHERE id = '{bucket}'");
                assert_eq!(session.affected(&public), 0, "{case}");
            }
            session.run("BEGIN");
            assert_eq!(session.affected("UPDATE storage.objects SET version = 'x'"), 2, "{case}");
            assert_eq!(session.affected("DELETE FROM storage.objects"), 2, "{case}");
            session.run("ROLLBACK");
        }
    }
    assert_eq!(guarded_rows(&mut superuser), before);
    // Setup opens them again to the roles that may read them.
    superuser.run("SELECT * FROM civic.setup()");
    let mut session = database.person(TENANT, "manager");
    assert_eq!(seen(&mut session)[2..], own(TENANT, false));
}

#[test]
fn the_policies_of_the_migrations_open_nothing_beside_ours() {
    let database = Database::supabase();
    let mut superuser = database.superuser();
    stock_by_migrations(&mut superuser);
    // The application's migrations run again after setup.
    superuser.run("SELECT * FROM civic.setup()");
    superuser.run(
        "CREATE POLICY \"SAPS liaisons read GBV evidence\" ON storage.objects
         FOR SELECT TO authenticated USING (bucket_id = 'gbv-evidence')",
    );
    for (role, reads) in [("citizen", false), ("manager", false), ("saps_liaison", true)] {
        let mut session = database.person(TENANT, role);
        assert_eq!(seen(&mut session), own(TENANT, reads), "{role}");
    }
}

fn stock_by_migrations(superuser: &mut Session) {
    superuser.run(crate::pg_tests::support::MIGRATIONS);
    stock(superuser);
}
