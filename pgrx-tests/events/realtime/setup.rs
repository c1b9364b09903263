//! civic.setup(), civic.teardown() and civic.check() with Realtime installed.

use super::insert;
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::installation::{SETUP, TEARDOWN, Wrong, action_of, actions};
use crate::pg_tests::support::{APPLICATION, Database, REALTIME, SUPABASE, Session, TENANT};

const PUBLISHED: &str = "public.tickets in publication supabase_realtime";

/// Row security on the tickets, without which `check()` reports a finding.
const ROW_SECURITY: &str = "ALTER TABLE tickets ENABLE ROW LEVEL SECURITY";

/// A session in a database without findings.
fn session() -> Session {
    let mut session = Database::realtime().superuser();
    session.run(ROW_SECURITY);
    session
}

/// The findings of `check()`, except for the test server's own `wal_level`.
#[track_caller]
pub fn wrong(session: &mut Session) -> Vec<Wrong> {
    let mut wrong = session.wrong();
    wrong.retain(|(component, ..)| component != "wal_level");
    wrong
}

#[track_caller]
fn components(session: &mut Session) -> Vec<String> {
    wrong(session).into_iter().map(|(component, ..)| component).collect()
}

/// Makes a fault, which is found, and repairs it as `check()` says.
#[track_caller]
fn is_found_and_repaired(session: &mut Session, tampered: &str, component: &str) {
    session.run(tampered);
    let found = wrong(session);
    let (_, _, fix) = found
        .iter()
        .find(|(name, ..)| name == component)
        .unwrap_or_else(|| panic!("{tampered}: {found:?}"));
    session.run(fix.as_deref().expect("a fix"));
    assert_eq!(wrong(session), [], "{tampered}");
}

#[test]
fn setup_reports_each_step_and_does_nothing_the_second_time() {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(REALTIME);
    session.run("CREATE EXTENSION pg_civic");
    let steps = session.steps(SETUP);
    for component in [
        "policy \"civic join\" on realtime.messages",
        "policy \"civic channels\" on realtime.messages",
        "policy \"civic closed\" on realtime.messages",
        "function realtime.civic_firewall(text)",
        "function realtime.civic_firewall_send(text, text)",
        "function realtime.civic_firewall_exists()",
        "rights on the tables of realtime",
        PUBLISHED,
    ] {
        assert_eq!(action_of(&steps, component), "done", "{component}");
    }
    assert_eq!(action_of(&steps, "row security of realtime.messages"), "already there");
    let published = steps.iter().find(|(component, ..)| component == PUBLISHED).unwrap();
    assert!(published.2.contains("no row security"), "{published:?}");
    let traces = session.traces();
    let again = session.steps(SETUP);
    let is_step =
        |component: &str| !component.starts_with("columns") && !component.starts_with("rows");
    let again: Vec<_> = again.into_iter().filter(|(component, ..)| is_step(component)).collect();
    assert_eq!(actions(&again), ["already there"]);
    assert_eq!(session.traces(), traces);
}

#[test]
fn teardown_drops_the_policies_and_keeps_the_publication() {
    let mut session = session();
    let steps = session.steps(TEARDOWN);
    for policy in ["civic join", "civic channels", "civic closed"] {
        let component = format!("policy \"{policy}\" on realtime.messages");
        assert_eq!(action_of(&steps, &component), "removed");
    }
    assert_eq!(action_of(&steps, PUBLISHED), "kept");
    let left = "SELECT policyname FROM pg_policies WHERE schemaname = 'realtime'";
    assert_eq!(session.column(left), Vec::<String>::new());
    session.run(SETUP);
    assert_eq!(wrong(&mut session), []);
}

#[test]
fn without_realtime_it_is_skipped_and_reported() {
    let mut session = Database::supabase().superuser();
    let steps = session.steps(SETUP);
    assert_eq!(action_of(&steps, "realtime"), "skipped");
    assert!(!steps.iter().any(|(component, ..)| component == PUBLISHED));
    assert!(!session.steps(TEARDOWN).iter().any(|(component, ..)| component == "realtime"));
}

#[test]
fn realtime_that_came_later_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    session.run(REALTIME);
    session.run(ROW_SECURITY);
    let found = components(&mut session);
    assert_eq!(
        found.len(),
        9,
        "three functions, three policies, rights, the sending that requires them, the publication"
    );
    session.run(SETUP);
    assert_eq!(wrong(&mut session), []);
    session.run(&insert(TENANT, 1, false));
    assert_eq!(session.messages().len(), 1);
}

#[test]
fn a_policy_that_was_dropped_or_changed_is_found_and_repaired() {
    let mut session = session();
    for name in ["civic join", "civic channels", "civic closed"] {
        let component = format!("policy \"{name}\" on realtime.messages");
        for tampered in [
            format!("DROP POLICY \"{name}\" ON realtime.messages"),
            format!("ALTER POLICY \"{name}\" ON realtime.messages USING (true)"),
            format!("ALTER POLICY \"{name}\" ON realtime.messages TO service_role"),
        ] {
            is_found_and_repaired(&mut session, &tampered, &component);
        }
    }
}

#[test]
fn what_keeps_a_message_from_being_stored_or_guarded_is_found_and_repaired() {
    let mut session = session();
    for (tampered, component) in [
        (
            "DO $$ DECLARE t regclass; BEGIN
                 FOR t IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'realtime.messages'::regclass
                 LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$",
            "partitions of realtime.messages",
        ),
        (
            "DO $$ BEGIN EXECUTE 'DROP TABLE realtime.messages_'
                 || to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYY_MM_DD'); END $$",
            "partitions of realtime.messages",
        ),
        (
            "ALTER TABLE realtime.messages DISABLE ROW LEVEL SECURITY",
            "row security of realtime.messages",
        ),
        (
            "ALTER TABLE realtime.messages FORCE ROW LEVEL SECURITY",
            "row security of realtime.messages",
        ),
        (
            "DO $$ BEGIN EXECUTE 'GRANT SELECT ON realtime.messages_'
                 || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD') || ' TO authenticated'; END $$",
            "rights on the tables of realtime",
        ),
        (
            "DO $$ BEGIN EXECUTE 'GRANT INSERT ON realtime.messages_'
                 || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD') || ' TO PUBLIC'; END $$",
            "rights on the tables of realtime",
        ),
        ("ALTER TABLE tickets DISABLE ROW LEVEL SECURITY", PUBLISHED),
        ("ALTER PUBLICATION supabase_realtime DROP TABLE tickets", PUBLISHED),
        ("ALTER TABLE tickets REPLICA IDENTITY NOTHING", PUBLISHED),
        ("SET civic.event_transport = none", "civic.event_transport"),
        ("SET civic.event_listeners = ''", "civic.event_listeners"),
    ] {
        is_found_and_repaired(&mut session, tampered, component);
    }
}

#[test]
fn a_role_that_passes_the_policies_on_messages_is_found_and_repaired() {
    let mut session = session();
    // Rolled back, because roles belong to the whole server.
    session.run("BEGIN");
    is_found_and_repaired(
        &mut session,
        "GRANT supabase_realtime_admin TO authenticated",
        "role authenticated",
    );
    session.run("ROLLBACK");
}

#[test]
fn check_sends_a_probe_and_leaves_nothing() {
    let mut session = session();
    let send = "SELECT ok, detail FROM civic.check() WHERE component = 'realtime.send'";
    let row = session.rows(send).remove(0);
    assert_eq!((row[0].as_deref(), row[1].as_deref()), (Some("t"), Some("stores messages")));
    assert_eq!(session.text("SELECT count(*) FROM realtime.messages"), "0");
    assert_eq!(session.value("SELECT realtime.topic()"), None);

    session.run("ALTER TABLE realtime.messages ADD CHECK (topic <> 'ticket_updates:')");
    assert_eq!(components(&mut session), ["realtime.send"]);
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message().contains("check constraint"), "Realtime's own says why");
}

#[test]
fn check_sends_no_probe_as_another_role_or_read_only() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run("BEGIN READ ONLY");
    let send = "SELECT detail FROM civic.check() WHERE component = 'realtime.send' AND ok";
    assert!(session.text(send).contains("read only"));
    session.run("ROLLBACK");
    session.run("SET ROLE authenticated");
    assert!(session.text(send).contains("not a member"));
}

#[test]
fn a_table_without_a_key_is_not_published_because_its_updates_would_fail() {
    let mut session = Database::realtime().superuser();
    session.run("CREATE TABLE repairs (id int, tenant_id text, status text)");
    let steps = session.steps("SELECT * FROM civic.setup('repairs')");
    let component = "public.repairs in publication supabase_realtime";
    assert_eq!(action_of(&steps, component), "skipped");
    session.run("INSERT INTO repairs VALUES (1, 't'); UPDATE repairs SET status = 'closed'");
    session.run("ALTER TABLE repairs REPLICA IDENTITY FULL");
    let steps = session.steps("SELECT * FROM civic.setup('repairs')");
    assert_eq!(action_of(&steps, component), "done");
    session.run("UPDATE repairs SET status = 'open'");
}

#[test]
fn a_publication_and_a_table_of_two_other_owners_are_left_to_a_superuser() {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(REALTIME);
    session.run("CREATE EXTENSION pg_civic");
    let (app, publisher) = (database.role("app", ""), database.role("publisher", ""));
    session.run(&format!(
        "ALTER TABLE tickets OWNER TO {app};
         GRANT CREATE ON DATABASE {} TO {publisher};
         ALTER PUBLICATION supabase_realtime OWNER TO {publisher};
         {ROW_SECURITY}",
        database.name()
    ));
    let steps = session.steps(SETUP);
    let step = steps.iter().find(|(component, ..)| component == PUBLISHED).unwrap();
    assert_eq!(step.1, "skipped");
    let statement = "ALTER PUBLICATION supabase_realtime ADD TABLE public.tickets";
    assert!(step.2.contains(statement), "{step:?}");
    let found = wrong(&mut session);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, PUBLISHED);
    session.run(found[0].2.as_deref().expect("a fix"));
    // Now that the table is published, its deletes must not be.
    let found = wrong(&mut session);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "changes in publication supabase_realtime");
    session.run(found[0].2.as_deref().expect("a fix"));
    assert_eq!(wrong(&mut session), []);
}

#[test]
fn a_publication_of_all_tables_already_has_the_tickets() {
    let mut session = Database::uninstalled().superuser();
    session.run(REALTIME);
    session.run(
        "DROP PUBLICATION supabase_realtime; CREATE PUBLICATION supabase_realtime FOR ALL TABLES;
         CREATE EXTENSION pg_civic",
    );
    assert_eq!(action_of(&session.steps(SETUP), PUBLISHED), "already there");
}

#[test]
fn a_partitioned_table_is_published_with_its_partitions() {
    let mut session = Database::realtime().superuser();
    session.run(
        "CREATE TABLE parts (id int, tenant_id text, PRIMARY KEY (id, tenant_id)) PARTITION BY LIST (tenant_id);
         CREATE TABLE part PARTITION OF parts DEFAULT",
    );
    let setup = "SELECT * FROM civic.setup('parts')";
    let component = "public.parts in publication supabase_realtime";
    assert_eq!(action_of(&session.steps(setup), component), "done");
    assert_eq!(action_of(&session.steps(setup), component), "already there");
    session.run("INSERT INTO parts VALUES (1, 'a'); UPDATE parts SET id = 2");
}

#[test]
fn every_missing_right_on_realtime_is_reported_and_nothing_is_done() {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(REALTIME);
    session.run("CREATE EXTENSION pg_civic");
    let owner = database.operator("owner", "");
    session.run(&format!("ALTER TABLE tickets OWNER TO {owner}"));
    session.run(&format!("SET ROLE {owner}"));
    let error = session.error(SETUP);
    assert_eq!(error.code().code(), "42501");
    for missing in
        ["ownership of table realtime.messages", "ownership of publication supabase_realtime"]
    {
        assert!(error.message().contains(missing), "{error:?}");
    }
    session.reset_role();
    assert_eq!(session.text("SELECT count(*) FROM pg_policies WHERE schemaname <> 'civic'"), "0");
}

#[test]
fn a_server_that_refuses_wal2json_is_found_where_a_table_is_published() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let found =
        "SELECT ok, detail, fix FROM civic.check() WHERE component = 'output_plugin_libraries'";
    if session.text("SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'")
        == "0"
    {
        assert_eq!(session.rows(found), Vec::<Vec<Option<String>>>::new(), "an older server");
        return;
    }
    let mut ask = |setting: &str| {
        session.run(&format!("SET output_plugin_libraries = {setting}"));
        let row = session.rows(found).remove(0);
        (row[0].clone().unwrap(), row[2].clone())
    };
    let fix = |names: &str| {
        Some(format!(
            "ALTER SYSTEM SET output_plugin_libraries = {names}; SELECT pg_reload_conf();"
        ))
    };
    let all = "pgoutput, test_decoding, wal2json";
    assert_eq!(ask("pgoutput, test_decoding"), ("f".to_owned(), fix(all)));
    assert_eq!(ask("\"pgoutput\""), ("f".to_owned(), fix("pgoutput, wal2json")));
    assert_eq!(ask("wal2json, pgoutput"), ("t".to_owned(), None));
    // The names as one, which is what quotes around the list make of it.
    assert_eq!(ask(&format!("'{all}'")).0, "f");
    session.run("ALTER PUBLICATION supabase_realtime DROP TABLE tickets");
    session.run("SET output_plugin_libraries = pgoutput");
    assert_eq!(session.rows(found), Vec::<Vec<Option<String>>>::new(), "no table is published");
}

#[test]
fn a_wal_level_that_realtime_cannot_read_is_found() {
    for (level, expected) in [("replica", "f"), ("logical", "t")] {
        let cluster = Cluster::start(&[&format!("wal_level={level}")]);
        let mut session = cluster.superuser();
        for script in [SUPABASE, REALTIME, APPLICATION, "CREATE EXTENSION pg_civic"] {
            session.run(script);
        }
        let ok = "SELECT ok FROM civic.check() WHERE component = 'wal_level'";
        assert_eq!(session.text(ok), expected, "{level}");
    }
}
