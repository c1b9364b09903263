//! Who sees which jobs, and who can do nothing to them.

use super::{PHOTO, TICKET, Town, literal};
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::{OTHER_TENANT, SUPABASE, Session, TENANT, claims};

/// A database without a worker, with an ordinary and a sensitive job of each of two municipalities.
fn four_jobs() -> (Town, String) {
    let town = Town::new();
    let name = town.database_without_worker();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut session = town.cluster.superuser_of(&name);
    for tenant in [TENANT, OTHER_TENANT] {
        for sensitive in [false, true] {
            session.text(&format!(
                "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{tenant}', {sensitive})"
            ));
        }
    }
    (town, name)
}

fn sees(session: &mut Session) -> Vec<String> {
    session.column(
        "SELECT concat_ws(' ', right(tenant_id, 1), bucket) FROM civic.media_jobs ORDER BY 1",
    )
}

#[test]
fn a_person_sees_the_jobs_of_the_files_that_he_may_read() {
    let (town, name) = four_jobs();
    let mut session = town.cluster.superuser_of(&name);
    for (tenant, role, expected) in [
        (TENANT, "citizen", vec!["1 evidence"]),
        (TENANT, "manager", vec!["1 evidence"]),
        (TENANT, "saps_liaison", vec!["1 evidence", "1 gbv-evidence"]),
        (TENANT, "SAPS_LIAISON", vec!["1 evidence", "1 gbv-evidence"]),
        (OTHER_TENANT, "admin", vec!["2 evidence", "2 gbv-evidence"]),
        ("", "admin", vec![]),
        ("00000000-0000-0000-0000-000000000003", "admin", vec![]),
    ] {
        session.acts_as("authenticated", &claims(tenant, role));
        assert_eq!(sees(&mut session), expected, "{tenant} {role}");
        session.reset_role();
    }
    session.run("SET ROLE authenticated; RESET request.jwt.claims");
    assert_eq!(sees(&mut session), Vec::<String>::new(), "without claims");
    session.reset_role();
    session.run("SET ROLE service_role");
    assert_eq!(sees(&mut session).len(), 4);
}

#[test]
fn a_role_with_claims_of_its_own_making_sees_no_jobs() {
    let (town, name) = four_jobs();
    let mut session = town.cluster.superuser_of(&name);
    session.run("CREATE ROLE reporter");
    for role in ["reporter", "anon"] {
        for tenant in [TENANT, OTHER_TENANT] {
            session.acts_as(role, &claims(tenant, "saps_liaison"));
            for columns in ["id", "ticket_id", "path", "count(*)"] {
                let sql = format!("SELECT {columns} FROM civic.media_jobs");
                assert_eq!(session.sqlstate(&sql), "42501", "{role}: {columns}");
            }
            session.reset_role();
        }
    }
    // A grant by itself opens nothing, either: the policy is for `authenticated`.
    session.run("GRANT SELECT ON civic.media_jobs TO reporter");
    session.acts_as("reporter", &claims(TENANT, "saps_liaison"));
    assert_eq!(sees(&mut session), Vec::<String>::new());
    session.reset_role();
    session.run("DROP OWNED BY reporter; DROP ROLE reporter");
}

#[test]
fn roles_made_after_the_extension_see_no_jobs_until_the_fix_has_run() {
    let cluster = Cluster::start(&[]);
    let mut session = cluster.superuser();
    session.run("CREATE EXTENSION pg_civic");
    session.run(SUPABASE);
    let given = "SELECT (SELECT count(*) FROM pg_policies WHERE schemaname = 'civic')
                      + (SELECT count(*) FROM pg_class c, aclexplode(c.relacl) acl
                         WHERE c.oid = 'civic.media_jobs'::regclass AND acl.grantee <> c.relowner)
                      + (SELECT count(*) FROM pg_attribute
                         WHERE attrelid = 'civic.media_jobs'::regclass AND attacl IS NOT NULL)";
    assert_eq!(session.text(given), "0");
    let fixes = "SELECT fix FROM civic.check()
                 WHERE component LIKE 'privileges of %' AND NOT ok";
    let found = session.column(fixes);
    assert_eq!(found.len(), 2, "{found:?}");
    for fix in found {
        session.run(&fix);
    }
    assert_eq!(session.column(fixes), Vec::<String>::new());
    session.acts_as("authenticated", &claims(TENANT, "saps_liaison"));
    assert_eq!(sees(&mut session), Vec::<String>::new());
    assert_eq!(session.sqlstate("SELECT media_url FROM civic.media_jobs"), "42501");
    session.reset_role();
    session.acts_as("anon", &claims(TENANT, "saps_liaison"));
    assert_eq!(session.sqlstate("SELECT id FROM civic.media_jobs"), "42501");
}

#[test]
fn an_error_in_a_condition_does_not_tell_of_other_jobs() {
    let (town, name) = four_jobs();
    let mut session = town.cluster.superuser_of(&name);
    session.run(
        "CREATE FUNCTION public.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
             $$ BEGIN RAISE NOTICE 'seen %', $1; RETURN true; END $$;
         GRANT EXECUTE ON FUNCTION public.leak(text) TO authenticated",
    );
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.notices();
    session.run("SELECT count(*) FROM civic.media_jobs WHERE public.leak(path)");
    let seen = session.notices();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].message().contains(TENANT));
}

#[test]
fn only_the_servers_side_sees_where_media_comes_from() {
    let (town, name) = four_jobs();
    let mut session = town.cluster.superuser_of(&name);
    for role in ["authenticated", "anon"] {
        session.acts_as(role, &claims(TENANT, "admin"));
        for columns in ["media_url", "*", "to_jsonb(j)"] {
            let sql = format!("SELECT {columns} FROM civic.media_jobs j");
            assert_eq!(session.sqlstate(&sql), "42501", "{role}: {columns}");
        }
        session.reset_role();
    }
    session.run("SET ROLE service_role");
    assert_eq!(session.column("SELECT media_url FROM civic.media_jobs").len(), 4);
}

#[test]
fn nobody_writes_to_the_table_by_himself() {
    let (town, name) = four_jobs();
    let mut session = town.cluster.superuser_of(&name);
    for role in ["anon", "authenticated", "service_role"] {
        session.acts_as(role, &claims(TENANT, "admin"));
        for sql in [
            "INSERT INTO civic.media_jobs (tenant_id) VALUES ('x')",
            "UPDATE civic.media_jobs SET state = 'done'",
            "UPDATE civic.media_jobs SET path = 'x'",
            "DELETE FROM civic.media_jobs",
            "TRUNCATE civic.media_jobs",
            "DO $$ BEGIN LOCK TABLE civic.media_jobs IN ACCESS EXCLUSIVE MODE; END $$",
            "SELECT id FROM civic.media_jobs FOR UPDATE",
            "CREATE TRIGGER t BEFORE UPDATE ON civic.media_jobs FOR EACH ROW
                 EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE RULE r AS ON UPDATE TO civic.media_jobs DO NOTHING",
            "CREATE POLICY p ON civic.media_jobs USING (true)",
            "ALTER TABLE civic.media_jobs DISABLE ROW LEVEL SECURITY",
        ] {
            assert_eq!(session.sqlstate(sql), "42501", "{role}: {sql}");
        }
        session.reset_role();
    }
}

#[test]
fn only_the_servers_side_calls_the_functions() {
    let (town, name) = four_jobs();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut session = town.cluster.superuser_of(&name);
    let id = session.text("SELECT id FROM civic.media_jobs LIMIT 1");
    let calls = [
        format!(
            "SELECT civic.enqueue_media({}, 'image/jpeg', '{TICKET}', '{TENANT}')",
            literal(&url)
        ),
        format!("SELECT civic.cancel_media_job('{id}')"),
        format!("SELECT civic.retry_media_job('{id}')"),
    ];
    for role in ["anon", "authenticated"] {
        session.acts_as(role, &claims(TENANT, "admin"));
        for call in &calls {
            assert_eq!(session.sqlstate(call), "42501", "{role}: {call}");
        }
        session.reset_role();
    }
    session.run("SET ROLE service_role");
    for call in &calls {
        session.run(call);
    }
}

#[test]
fn default_privileges_give_nobody_rights_on_the_table() {
    let town = Town::new();
    town.cluster.superuser().run("CREATE DATABASE careless");
    let mut session = town.cluster.superuser_of("careless");
    session.run(
        "CREATE ROLE \"Careless\";
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO \"Careless\";
         CREATE EXTENSION pg_civic",
    );
    let grants = session.column(
        "SELECT grantee::regrole || ' ' || privilege_type
         FROM pg_class, aclexplode(relacl)
         WHERE oid = 'civic.media_jobs'::regclass AND grantee <> relowner
           AND grantee::regrole::text <> 'service_role'
         UNION ALL
         SELECT grantee::regrole || ' ' || attname
         FROM pg_attribute, aclexplode(attacl)
         WHERE attrelid = 'civic.media_jobs'::regclass AND grantee::regrole::text <> 'authenticated'",
    );
    assert_eq!(grants, Vec::<String>::new());
    session.run("SET ROLE \"Careless\"");
    assert_eq!(session.sqlstate("SELECT media_url FROM civic.media_jobs"), "42501");
    session.reset_role();
    session.run("DROP EXTENSION pg_civic; DROP OWNED BY \"Careless\"; DROP ROLE \"Careless\"");
    drop(session);
    town.cluster.superuser().run("DROP DATABASE careless WITH (FORCE)");
}

#[test]
fn objects_of_others_do_not_change_what_the_functions_do() {
    let (town, name) = four_jobs();
    let mut session = town.cluster.superuser_of(&name);
    session.run(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'bitten'; END $$;
         CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'bitten'; END $$;
         CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evil TO PUBLIC",
    );
    let url = town.twilio.offer("image/jpeg", PHOTO);
    session.run("SET ROLE service_role; SET search_path = evil, pg_catalog");
    let id = session.text(&format!(
        "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')"
    ));
    session.run(&format!("SELECT civic.cancel_media_job('{id}')"));
    session.run(&format!("SELECT civic.retry_media_job('{id}')"));
    session.run("RESET ROLE; RESET search_path");
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.run("SET search_path = evil, pg_catalog");
    assert_eq!(session.text("SELECT count(*) FROM civic.media_jobs"), "2");
}
