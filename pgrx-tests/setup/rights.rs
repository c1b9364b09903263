//! Who may run civic.setup() and civic.teardown(): every missing privilege is reported at once, and then
//! nothing is done.

use crate::pg_tests::support::installation::{SETUP, TEARDOWN, actions};
use crate::pg_tests::support::{Database, Session};
use crate::setup::privileges;

const STORAGE_OWNER: [&str; 2] = [
    "ownership of table storage.buckets (its owner is supabase_storage_admin)",
    "ownership of table storage.objects (its owner is supabase_storage_admin)",
];
const EXECUTE: &str = "EXECUTE on function civic.notify_ticket_update()";

/// What the error says that the role lacks.
#[track_caller]
fn lacks(session: &mut Session, role: &str, sql: &str) -> Vec<String> {
    let error = session.error(sql);
    assert_eq!(error.code().code(), "42501", "{}", error.message());
    let (who, lacks) = error.message().split_once(": it lacks ").expect("what is lacking");
    assert!(who.starts_with(&format!("role \"{role}\" cannot ")), "{who}");
    assert!(error.hint().is_some());
    lacks.split("; ").map(str::to_owned).collect()
}

#[test]
fn setup_reports_every_missing_privilege_at_once() {
    let tickets = "ownership of table public.tickets (its owner is {owner})";
    let own_storage = "GRANT supabase_storage_admin TO {role}";
    let own_tickets = "ALTER TABLE tickets OWNER TO {role}";
    let execute = "GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {role}";
    let all = [own_storage, own_tickets, execute].join(";");
    for (case, given, options, expected) in [
        ("nothing", "".to_owned(), "", vec![STORAGE_OWNER[0], STORAGE_OWNER[1], tickets, EXECUTE]),
        ("storage alone", own_storage.to_owned(), "", vec![tickets, EXECUTE]),
        (
            "tickets alone",
            own_tickets.to_owned(),
            "",
            vec![STORAGE_OWNER[0], STORAGE_OWNER[1], EXECUTE],
        ),
        ("all but EXECUTE", [own_storage, own_tickets].join(";"), "", vec![EXECUTE]),
        (
            "a membership that is not inherited",
            all.clone(),
            "NOINHERIT",
            vec![STORAGE_OWNER[0], STORAGE_OWNER[1]],
        ),
        (
            "an owner without privileges on buckets",
            format!("{all}; REVOKE INSERT, UPDATE ON storage.buckets FROM supabase_storage_admin"),
            "",
            vec!["INSERT on table storage.buckets", "UPDATE on table storage.buckets"],
        ),
        (
            "an owner held by row security",
            format!("{all}; ALTER TABLE storage.buckets FORCE ROW LEVEL SECURITY"),
            "",
            vec![
                "BYPASSRLS for supabase_storage_admin, as row security is forced on storage.buckets",
            ],
        ),
        (
            "an owner without the schema",
            format!("{all}; REVOKE USAGE ON SCHEMA storage FROM supabase_storage_admin"),
            "",
            vec!["USAGE on schema storage"],
        ),
        (
            "an owner who may make no trigger",
            format!("{all}; REVOKE TRIGGER ON tickets FROM {{role}}"),
            "",
            vec!["TRIGGER on table public.tickets"],
        ),
    ] {
        let database = Database::supabase();
        let mut session = database.superuser();
        let owner = session.text("SELECT current_user");
        let role = database.operator("caller", options);
        session.run(&given.replace("{role}", &role));
        let before = session.traces();
        session.run(&format!("SET ROLE {role}"));
        let expected: Vec<_> =
            expected.into_iter().map(|text| text.replace("{owner}", &owner)).collect();
        assert_eq!(lacks(&mut session, &role, SETUP), expected, "{case}");
        session.reset_role();
        assert_eq!(session.traces(), before, "{case}: nothing is half done");
    }
}

#[test]
fn teardown_reports_every_missing_privilege_at_once() {
    let tickets = "ownership of table public.tickets (its owner is {owner})";
    let own_storage = "GRANT supabase_storage_admin TO {role}";
    for (case, given, expected) in [
        ("nothing", "", vec![STORAGE_OWNER[0], STORAGE_OWNER[1], tickets]),
        ("storage alone", own_storage, vec![tickets]),
        (
            "tickets alone",
            "ALTER TABLE tickets OWNER TO {role}",
            vec![STORAGE_OWNER[0], STORAGE_OWNER[1]],
        ),
        (
            "an owner without privileges on buckets",
            "GRANT supabase_storage_admin TO {role}; ALTER TABLE tickets OWNER TO {role};
             REVOKE DELETE ON storage.buckets FROM supabase_storage_admin;
             REVOKE SELECT ON storage.objects FROM supabase_storage_admin",
            vec!["DELETE on table storage.buckets", "SELECT on table storage.objects"],
        ),
        (
            "an owner held by row security",
            "GRANT supabase_storage_admin TO {role}; ALTER TABLE tickets OWNER TO {role};
             ALTER TABLE storage.objects FORCE ROW LEVEL SECURITY",
            vec![
                "BYPASSRLS for supabase_storage_admin, as row security is forced on storage.objects",
            ],
        ),
    ] {
        let database = Database::guarded();
        let mut session = database.superuser();
        let owner = session.text("SELECT current_user");
        let role = database.operator("caller", "");
        session.run(&given.replace("{role}", &role));
        let before = session.traces();
        session.run(&format!("SET ROLE {role}"));
        let expected: Vec<_> =
            expected.into_iter().map(|text| text.replace("{owner}", &owner)).collect();
        assert_eq!(lacks(&mut session, &role, TEARDOWN), expected, "{case}");
        session.reset_role();
        assert_eq!(session.traces(), before, "{case}: nothing is half done");
    }
}

/// The table of privileges lists nothing that is not needed, and the two functions need nothing else.
#[test]
fn each_privilege_of_the_table_is_needed() {
    let database = Database::guarded();
    let mut session = database.superuser();
    let role = database.operator("caller", "");
    session.run(&format!(
        "GRANT supabase_storage_admin TO {role}; ALTER TABLE tickets OWNER TO {role};
         GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {role}"
    ));
    for needed in privileges::NEEDED {
        let (table, owner) = match needed.schema {
            "storage" => (needed.table_name(), "supabase_storage_admin"),
            "" => ("public.tickets".to_owned(), role.as_str()),
            _ => continue,
        };
        for (sql, listed) in [(SETUP, needed.setup), (TEARDOWN, needed.teardown)] {
            for privilege in listed {
                session.run("BEGIN");
                let lacking = if *privilege == privileges::CREATE_ON_SCHEMA {
                    session.run(&format!(
                        "DROP INDEX storage.idx_objects_bucket_id_name;
                         ALTER SCHEMA storage OWNER TO CURRENT_USER;
                         REVOKE ALL ON SCHEMA storage FROM {owner};
                         GRANT USAGE ON SCHEMA storage TO {owner}"
                    ));
                    "CREATE on schema storage".to_owned()
                } else {
                    session.run(&format!("REVOKE {privilege} ON {table} FROM {owner}"));
                    format!("{privilege} on table {table}")
                };
                session.run(&format!("SET ROLE {role}"));
                assert_eq!(lacks(&mut session, &role, sql), [lacking], "{sql}");
                session.run("ROLLBACK");
            }
        }
    }
}

#[test]
fn an_owner_who_is_not_a_superuser_can_set_up_and_tear_down() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let role = database.operator("owner", "");
    session.run(&format!(
        "DROP INDEX storage.idx_objects_bucket_id_name;
         GRANT supabase_storage_admin TO {role};
         ALTER TABLE tickets OWNER TO {role};
         GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {role}"
    ));
    let before = session.traces();
    session.run(&format!("SET ROLE {role}"));
    session.run(SETUP);
    assert_eq!(session.wrong(), []);
    assert_eq!(actions(&session.steps(SETUP)), ["already there", "skipped"]);
    session.run(TEARDOWN);
    session.reset_role();
    assert_eq!(session.traces(), before);
}

#[test]
fn a_partition_of_another_owner_is_reported_before_anything_is_done() {
    let database = Database::plain();
    let mut session = database.superuser();
    let (role, other) = (database.operator("owner", ""), database.role("other", ""));
    session.run(&format!(
        "CREATE TABLE tickets (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE TABLE plain PARTITION OF tickets FOR VALUES IN ('a');
         CREATE TABLE heard PARTITION OF tickets FOR VALUES IN ('b');
         SELECT civic.setup('heard');
         ALTER TABLE plain OWNER TO {other};
         ALTER TABLE heard OWNER TO {other};
         ALTER TABLE tickets OWNER TO {role};
         GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {role};
         SET ROLE {role}"
    ));
    assert_eq!(
        lacks(&mut session, &role, SETUP),
        [
            &format!("ownership of table public.heard (its owner is {other})"),
            "TRIGGER on table public.plain"
        ]
    );
}

#[test]
fn check_reports_what_a_role_without_privileges_can_see() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run("REVOKE ALL ON SCHEMA public FROM PUBLIC");
    let role = database.operator("nobody", "");
    session.run(&format!("SET ROLE {role}"));
    let wrong = session.wrong();
    let components: Vec<_> = wrong.iter().map(|(component, ..)| component.as_str()).collect();
    assert_eq!(components, ["bucket evidence", "bucket documents", "bucket gbv-evidence"]);
    for (_, detail, fix) in wrong {
        assert_eq!(detail, "hidden from this role: call check() as the owner of storage.buckets");
        assert_eq!(fix, None);
    }
    session.run(&format!("RESET ROLE; GRANT authenticated TO {role}; SET ROLE {role}"));
    assert_eq!(session.wrong_components().len(), 3, "row security hides the buckets");
}
