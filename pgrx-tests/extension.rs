//! CREATE EXTENSION, DROP EXTENSION, and a database that is dumped and restored.

use super::support::installation::{SETUP, TEARDOWN};
use super::support::{Database, OTHER_TENANT, Session, TENANT};

fn fill(session: &mut Session) {
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT bucket, tenant || '/id/file'
         FROM unnest(array['evidence', 'documents', 'gbv-evidence']) bucket,
              unnest(array['{TENANT}', '{OTHER_TENANT}']) tenant"
    ));
}

#[test]
fn default_privileges_grant_nothing_of_the_extension() {
    let database = Database::uninstalled();
    let role = database.role("favoured", "");
    let mut session = database.superuser();
    for objects in ["FUNCTIONS", "SCHEMAS", "TABLES"] {
        session.run(&format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON {objects} TO {role}, anon"));
    }
    session.run("CREATE EXTENSION pg_civic");
    for role in [&role, "anon"] {
        let may = session.column(&format!(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'civic'::regnamespace
                AND has_function_privilege('{role}', oid, 'EXECUTE')
                AND proname IN ('publish', 'upload_file', 'get_signed_url', 'enqueue_media',
                                'retry_media_job', 'notify_ticket_update')"
        ));
        assert_eq!(may, Vec::<String>::new(), "{role}");
        let makes = format!("SELECT has_schema_privilege('{role}', 'civic', 'CREATE')");
        assert_eq!(session.text(&makes), "f", "{role}");
        let uses = format!("SELECT has_schema_privilege('{role}', 'civic', 'USAGE')");
        assert_eq!(session.text(&uses), "t", "{role}");
    }
}

#[test]
fn the_extension_cannot_be_dropped_while_the_firewall_uses_it() {
    let mut session = Database::guarded().superuser();
    let before = session.traces();
    let error = session.error("DROP EXTENSION pg_civic");
    assert_eq!(error.code().code(), "2BP01");
    let detail = error.detail().expect("what depends on it");
    for dependent in [
        "policy civic read on table storage.objects",
        "trigger ticket_update_notify on table tickets",
    ] {
        assert!(detail.contains(dependent), "{dependent} in {detail}");
    }
    assert_eq!(session.sqlstate("DROP SCHEMA civic"), "2BP01");
    assert_eq!(session.traces(), before);
}

#[test]
fn a_drop_with_cascade_opens_nothing_and_setup_restores_it() {
    let database = Database::guarded();
    let mut session = database.superuser();
    let before: Vec<_> = session.column("SELECT policyname FROM pg_policies ORDER BY 1");
    fill(&mut session);
    let mut admin = database.person(TENANT, "admin");
    assert_eq!(admin.text("SELECT count(*) FROM storage.objects"), "3");

    session.run("DROP EXTENSION pg_civic CASCADE");
    let careless = "CREATE POLICY careless ON storage.objects USING (true) WITH CHECK (true)";
    for (careless, visible) in [("", "0"), (careless, "3")] {
        session.run(careless);
        assert_eq!(admin.text("SELECT count(*) FROM storage.objects"), visible, "{careless:?}");
        let insert = "INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', 'x/y/z')";
        assert_eq!(admin.sqlstate(insert), "42501", "{careless:?}");
        for sql in ["UPDATE storage.objects SET name = 'a'", "DELETE FROM storage.objects"] {
            admin.run(&format!(
                "BEGIN; SET LOCAL storage.allow_delete_query = 'true'; {sql}; COMMIT"
            ));
        }
    }
    assert_eq!(session.text("SELECT count(*) FROM storage.objects WHERE name <> 'a'"), "6");
    // A ticket is still written, but not published.
    session.run(&format!("INSERT INTO tickets (tenant_id) VALUES ('{TENANT}')"));

    session.run("DROP POLICY careless ON storage.objects; CREATE EXTENSION pg_civic");
    session.run(SETUP);
    assert_eq!(session.wrong(), []);
    assert_eq!(session.column("SELECT policyname FROM pg_policies ORDER BY 1"), before);
    assert_eq!(admin.text("SELECT count(*) FROM storage.objects"), "3");
}

#[test]
fn the_schema_and_its_contents_are_dropped_with_the_extension() {
    let mut session = Database::supabase().superuser();
    session.run("DROP EXTENSION pg_civic");
    assert_eq!(session.text("SELECT count(*) FROM pg_namespace WHERE nspname = 'civic'"), "0");
    session.run("CREATE EXTENSION pg_civic");
    session.run(SETUP);
    assert_eq!(session.wrong(), []);
}

#[test]
fn dropping_schema_public_does_not_drop_the_firewall() {
    let database = Database::guarded();
    let mut session = database.superuser();
    fill(&mut session);
    session.run("DROP SCHEMA public CASCADE");
    let mut manager = database.person(TENANT, "manager");
    assert_eq!(manager.text("SELECT count(*) FROM storage.objects"), "2");
    assert_eq!(session.wrong_components(), ["trigger"]);
}

#[test]
fn create_extension_takes_over_no_existing_object() {
    let database = Database::empty("");
    let role = database.role("squatter", "");
    let mut session = database.superuser();
    for (case, made) in [
        ("a schema of another role", format!("CREATE SCHEMA civic AUTHORIZATION {role}")),
        ("an own schema", "CREATE SCHEMA civic".to_owned()),
        (
            "a function of the same name",
            "CREATE SCHEMA civic;
             CREATE FUNCTION civic.can_read_object(bucket_id text, name text) RETURNS boolean RETURN true"
                .to_owned(),
        ),
    ] {
        session.run(&made);
        let error = session.error("CREATE EXTENSION pg_civic");
        assert_eq!(error.code().code(), "55000", "{case}: {}", error.message());
        assert_eq!(
            error.message(),
            "schema civic is not a member of extension \"pg_civic\"",
            "{case}"
        );
        assert_eq!(session.text("SELECT count(*) FROM pg_extension WHERE extname = 'pg_civic'"), "0");
        session.run("DROP SCHEMA civic CASCADE");
    }
    session.run("CREATE EXTENSION pg_civic");
}

#[test]
fn the_install_script_replaces_nothing() {
    let mut session = Database::plain().superuser();
    let script = "SELECT pg_read_file(setting || '/extension/pg_civic--' ||
                      (SELECT extversion FROM pg_extension WHERE extname = 'pg_civic') || '.sql')
                  FROM pg_config() WHERE name = 'SHAREDIR'";
    let script = session.text(script);
    assert!(!script.contains("OR REPLACE"));
    assert!(
        script.is_ascii(),
        "a database in another encoding reads it too and must fail with a clear error"
    );
}

#[test]
fn a_database_in_another_encoding_is_refused_clearly() {
    for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
        let database =
            Database::empty(&format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"));
        let error = database.superuser().error("CREATE EXTENSION pg_civic");
        assert_eq!(error.code().code(), "0A000", "{encoding}: {}", error.message());
        let message = format!("pg_civic needs a database in UTF8, this one is in {encoding}");
        assert_eq!(error.message(), message);
        assert!(error.hint().is_some_and(|hint| hint.contains("ENCODING 'UTF8'")));
    }
}

#[test]
fn only_a_superuser_creates_the_extension() {
    let database = Database::empty("");
    let role = database.role("owner", "");
    let mut session = database.superuser();
    session.run(&format!("ALTER DATABASE {} OWNER TO {role}; SET ROLE {role}", database.name()));
    assert_eq!(session.sqlstate("CREATE EXTENSION pg_civic"), "42501");
}

#[test]
fn objects_on_the_search_path_of_create_extension_are_not_used() {
    let evil = "
        CREATE SCHEMA evil;
        CREATE DOMAIN {schema}.text AS pg_catalog.text CHECK (false);
        CREATE DOMAIN {schema}.jsonb AS pg_catalog.jsonb CHECK (false);
        CREATE FUNCTION {schema}.same(pg_catalog.text, pg_catalog.text) RETURNS boolean
            LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'bitten'; END $$;
        CREATE FUNCTION {schema}.same(name, pg_catalog.text) RETURNS boolean
            LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'bitten'; END $$;
        CREATE OPERATOR {schema}.= (FUNCTION = {schema}.same, LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text);
        CREATE OPERATOR {schema}.>= (FUNCTION = {schema}.same, LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text);
        CREATE OPERATOR {schema}.<> (FUNCTION = {schema}.same, LEFTARG = name, RIGHTARG = pg_catalog.text);
        CREATE TABLE {schema}.pg_roles (rolname name);";
    let functions = |session: &mut Session| {
        session.run("SET search_path = pg_catalog, pg_temp");
        session.column(
            "SELECT pg_catalog.pg_get_functiondef(oid) FROM pg_catalog.pg_proc
             WHERE pronamespace = 'civic'::pg_catalog.regnamespace ORDER BY 1",
        )
    };
    let expected = functions(&mut Database::plain().superuser());
    for (schema, path) in [
        ("public", "public"),
        ("evil", "evil, pg_catalog"),
        ("pg_temp", "pg_temp, pg_catalog"),
        ("evil", "''"),
    ] {
        let mut session = Database::empty("").superuser();
        let evil = evil.replace("{schema}", schema);
        // A function of a temporary schema is found only by its qualified name.
        session.run(&evil);
        session.run(&format!("SET search_path = {path}; CREATE EXTENSION pg_civic"));
        assert_eq!(functions(&mut session), expected, "{path}");
    }
}

#[test]
fn a_guarded_database_works_after_dump_and_restore() {
    let database = Database::guarded();
    let mut session = database.superuser();
    fill(&mut session);
    session.run(&format!("INSERT INTO tickets (tenant_id) VALUES ('{TENANT}')"));
    let restored = database.restored();

    let mut session = restored.superuser();
    assert_eq!(session.wrong(), []);
    for (role, reads) in [("citizen", "2"), ("manager", "2"), ("saps_liaison", "3"), ("admin", "3")]
    {
        let mut person = restored.person(TENANT, role);
        assert_eq!(person.text("SELECT count(*) FROM storage.objects"), reads, "{role}");
    }
    let mut anon = restored.superuser();
    anon.run("SET ROLE anon");
    assert_eq!(anon.text("SELECT count(*) FROM storage.objects"), "0");
    let may = "SELECT has_function_privilege('service_role', 'civic.publish(text, jsonb, boolean)', 'EXECUTE')
                  AND NOT has_function_privilege('anon', 'civic.publish(text, jsonb, boolean)', 'EXECUTE')";
    assert_eq!(session.text(may), "t");
    session.run(&format!("LISTEN \"ticket_updates:{TENANT}\""));
    session.run("UPDATE tickets SET status = 'open'");
    assert_eq!(session.heard().len(), 1);
    session.run(SETUP);
    session.run(TEARDOWN);
}
