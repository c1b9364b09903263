//! What the publication publishes: without DELETE, which Realtime sends to everybody.

use super::setup::wrong;
use crate::pg_tests::support::installation::{SETUP, TEARDOWN, action_of};
use crate::pg_tests::support::{APPLICATION, Database, REALTIME, Session};

const COMPONENT: &str = "changes in publication supabase_realtime";
const STATEMENT: &str = "ALTER PUBLICATION supabase_realtime SET (publish = 'insert, update')";

/// A database with Realtime, before `civic.setup()`.
fn uninstalled(prepared: &str) -> (Database, Session) {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(REALTIME);
    session.run(&format!(
        "CREATE EXTENSION pg_civic; ALTER TABLE tickets ENABLE ROW LEVEL SECURITY; {prepared}"
    ));
    (database, session)
}

/// What it publishes, and what `setup()` has recorded.
fn state(session: &mut Session) -> (String, Vec<String>) {
    let publishes = session.text(
        "SELECT concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
                          CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END)
         FROM pg_publication WHERE pubname = 'supabase_realtime'",
    );
    (
        publishes,
        session.column("SELECT publication || ': ' || publish FROM civic.changed_publications"),
    )
}

fn is(publishes: &str, recorded: &[&str]) -> (String, Vec<String>) {
    (publishes.to_owned(), recorded.iter().map(|text| text.to_string()).collect())
}

/// The detail of the step.
#[track_caller]
fn step(session: &mut Session, sql: &str) -> (String, String) {
    let steps = session.steps(sql);
    let step = steps.iter().find(|(component, ..)| component == COMPONENT);
    let (_, action, detail) = step.unwrap_or_else(|| panic!("no step: {steps:?}"));
    (action.clone(), detail.clone())
}

const DEFAULT: &str = "insert, update, delete, truncate";

#[test]
fn setup_takes_delete_out_and_teardown_puts_back_what_was_there() {
    for before in [DEFAULT, "insert, delete", "delete"] {
        let (_, mut session) =
            uninstalled(&format!("ALTER PUBLICATION supabase_realtime SET (publish = '{before}')"));
        assert_eq!(step(&mut session, SETUP).0, "done");
        let recorded = format!("supabase_realtime: {before}");
        assert_eq!(state(&mut session), is("insert, update", &[&recorded]));
        assert_eq!(step(&mut session, SETUP).0, "already there");
        assert_eq!(wrong(&mut session), []);
        assert_eq!(step(&mut session, TEARDOWN), ("removed".to_owned(), format!("{before} again")));
        assert_eq!(state(&mut session), is(before, &[]));
    }
}

#[test]
fn a_publication_without_delete_is_left_as_it_is() {
    for publishes in ["insert, update", "insert", "update, truncate"] {
        let (_, mut session) = uninstalled(&format!(
            "ALTER PUBLICATION supabase_realtime SET (publish = '{publishes}')"
        ));
        assert_eq!(step(&mut session, SETUP), ("already there".to_owned(), publishes.to_owned()));
        assert_eq!(state(&mut session), is(publishes, &[]));
        assert_eq!(wrong(&mut session), []);
        session.run(TEARDOWN);
        assert_eq!(
            state(&mut session),
            is(publishes, &[]),
            "teardown undoes nothing that setup did not do"
        );
    }
}

#[test]
fn a_publication_with_tables_of_others_is_reported_with_the_statement() {
    for (others, named) in [
        (
            "CREATE TABLE chats (id int PRIMARY KEY); ALTER PUBLICATION supabase_realtime ADD TABLE chats",
            "public.chats",
        ),
        (
            "CREATE SCHEMA \"Chat\"; ALTER PUBLICATION supabase_realtime ADD TABLES IN SCHEMA \"Chat\"",
            "the tables of schema \"Chat\"",
        ),
        (
            "DROP PUBLICATION supabase_realtime; CREATE PUBLICATION supabase_realtime FOR ALL TABLES",
            "all tables",
        ),
    ] {
        let (_, mut session) = uninstalled(others);
        let (action, detail) = step(&mut session, SETUP);
        assert_eq!(action, "skipped", "{others}");
        assert!(detail.contains(named) && detail.contains(STATEMENT), "{detail}");
        assert_eq!(state(&mut session), is(DEFAULT, &[]), "{others}");
        let found = wrong(&mut session);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, COMPONENT);
        assert!(found[0].1.contains("every subscriber of any municipality"), "{found:?}");
        let fix = found[0].2.clone().expect("a fix");
        assert!(fix.starts_with(STATEMENT) && fix.contains(named), "{fix}");
        session.run(&fix);
        assert_eq!(wrong(&mut session), [], "{others}");
        session.run(TEARDOWN);
        assert_eq!(state(&mut session), is("insert, update", &[]), "{others}: not setup's change");
    }
}

#[test]
fn several_tables_of_tickets_are_nobody_elses() {
    let (_, mut session) = uninstalled(
        "CREATE TABLE parts (id int, tenant_id text, PRIMARY KEY (id, tenant_id)) PARTITION BY LIST (tenant_id);
         CREATE TABLE part PARTITION OF parts DEFAULT;
         ALTER TABLE parts ENABLE ROW LEVEL SECURITY; ALTER TABLE part ENABLE ROW LEVEL SECURITY;
         ALTER PUBLICATION supabase_realtime ADD TABLE part",
    );
    let (action, detail) = step(&mut session, SETUP);
    assert_eq!(action, "skipped", "a table without the trigger is another's");
    assert!(detail.contains("public.part"), "{detail}");
    assert_eq!(step(&mut session, "SELECT * FROM civic.setup('parts')").0, "done");
    assert_eq!(state(&mut session).0, "insert, update");
    assert_eq!(wrong(&mut session), []);
}

#[test]
fn a_delete_that_comes_back_is_found_and_repaired() {
    let (_, mut session) = uninstalled("");
    session.run(SETUP);
    session.run(&format!("ALTER PUBLICATION supabase_realtime SET (publish = '{DEFAULT}')"));
    let found = wrong(&mut session);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].2.as_deref(), Some("SELECT * FROM civic.setup('public.tickets');"));
    session.run(found[0].2.as_deref().unwrap());
    assert_eq!(wrong(&mut session), []);
}

#[test]
fn teardown_leaves_what_somebody_has_changed_since() {
    let (_, mut session) = uninstalled("");
    session.run(SETUP);
    session.run("ALTER PUBLICATION supabase_realtime SET (publish = 'insert')");
    assert_eq!(step(&mut session, TEARDOWN).0, "kept");
    assert_eq!(state(&mut session), is("insert", &[]));
}

#[test]
fn a_publication_without_a_table_of_tickets_is_nobodys_leak() {
    let (_, mut session) = uninstalled("ALTER TABLE tickets DROP CONSTRAINT tickets_pkey");
    assert_eq!(step(&mut session, SETUP).0, "skipped");
    assert_eq!(state(&mut session), is(DEFAULT, &[]));
}

#[test]
fn the_owner_of_the_publication_changes_it_and_nobody_else() {
    let (database, mut session) = uninstalled("");
    let (caller, publisher) = (database.operator("caller", ""), database.role("publisher", ""));
    session.run(&format!(
        "GRANT CREATE ON DATABASE {} TO {publisher};
         ALTER PUBLICATION supabase_realtime OWNER TO {publisher};
         ALTER TABLE tickets OWNER TO {caller};
         GRANT supabase_storage_admin, supabase_realtime_admin TO {caller};
         GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {caller};
         ALTER ROLE {caller} INHERIT",
        database.name()
    ));
    let mut caller = database.session_of(&caller);
    let (action, detail) = step(&mut caller, SETUP);
    assert_eq!(action, "skipped", "{detail}");
    // The table could not be added either, so a superuser does it.
    session.run("ALTER PUBLICATION supabase_realtime ADD TABLE tickets");
    let (action, detail) = step(&mut caller, SETUP);
    assert_eq!(action, "skipped");
    assert!(detail.starts_with(&format!("as its owner {publisher}: {STATEMENT}")), "{detail}");
    assert_eq!(state(&mut session), is(DEFAULT, &[]));
    let fixes =
        caller.column(&format!("SELECT fix FROM civic.check() WHERE component = '{COMPONENT}'"));
    assert_eq!(fixes, [format!("{STATEMENT};")]);

    assert_eq!(step(&mut session, SETUP).0, "done");
    let (action, detail) = step(&mut caller, TEARDOWN);
    assert_eq!(action, "kept", "{detail}");
    assert!(detail.contains(DEFAULT), "{detail}");
    assert_eq!(state(&mut session).0, "insert, update");
}

#[test]
fn the_record_survives_dump_and_restore() {
    let (database, mut session) = uninstalled("");
    session.run(SETUP);
    let restored = database.restored();
    let mut session = restored.superuser();
    assert_eq!(
        state(&mut session),
        is("insert, update", &[&format!("supabase_realtime: {DEFAULT}")])
    );
    assert_eq!(step(&mut session, TEARDOWN).0, "removed");
    assert_eq!(state(&mut session), is(DEFAULT, &[]));
}

#[test]
fn no_role_writes_what_setup_has_recorded() {
    let database = Database::realtime();
    for role in ["anon", "authenticated", "service_role"] {
        let mut session = database.superuser();
        session.acts_as(role, "");
        for statement in [
            "SELECT * FROM civic.changed_publications",
            "INSERT INTO civic.changed_publications VALUES ('supabase_realtime', 'insert')",
            "DELETE FROM civic.changed_publications",
        ] {
            assert_eq!(session.sqlstate(statement), "42501", "{role}: {statement}");
        }
    }
}

#[test]
fn without_realtime_no_publication_is_changed() {
    let mut session = Database::uninstalled().superuser();
    session.run("CREATE EXTENSION pg_civic");
    let steps = session.steps(SETUP);
    assert!(!steps.iter().any(|(component, ..)| component == COMPONENT), "{steps:?}");
    assert_eq!(action_of(&steps, "trigger ticket_update_notify on public.tickets"), "done");
    assert!(APPLICATION.contains("public.tickets"));
}
