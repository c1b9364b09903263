//! civic.setup(): what it creates, in which databases, and what it reports.

mod attacks;
mod check;
mod exposure;
mod rights;
mod sessions;
mod superuser_tables;
mod teardown;
mod traps;
mod uncovered_rights;

use super::support::installation::{SETUP, action_of, actions};
use super::support::{Database, MIGRATIONS, Session, TENANT};

const POLICIES: [&str; 9] = [
    "policy \"civic read\" on storage.objects",
    "policy \"civic upload\" on storage.objects",
    "policy \"civic firewall\" on storage.objects",
    "policy \"civic bounds\" on storage.objects",
    "policy \"civic closed\" on storage.objects",
    "policy \"civic no update\" on storage.objects",
    "policy \"civic no delete\" on storage.objects",
    "policy \"civic no update\" on storage.buckets",
    "policy \"civic no delete\" on storage.buckets",
];

const FIREWALL: [&str; 3] = [
    "function storage.civic_firewall(text, text)",
    "function storage.civic_firewall_upload(text, text)",
    "function storage.civic_firewall_exists()",
];

#[test]
fn the_first_setup_reports_each_step_as_done() {
    let mut session = Database::supabase().superuser();
    let steps = session.steps(SETUP);
    let components: Vec<_> = steps.iter().map(|(component, ..)| component.as_str()).collect();
    let mut expected = vec!["bucket evidence", "bucket documents", "bucket gbv-evidence"];
    expected.extend(["row security of storage.buckets", "row security of storage.objects"]);
    expected.extend(FIREWALL);
    expected.extend(POLICIES);
    expected.push("index on (bucket_id, name COLLATE \"C\")");
    expected.push("rights on the tables of storage");
    expected.push("realtime");
    expected.push("trigger ticket_update_notify on public.tickets");
    expected.push("columns of public.tickets");
    expected.push("rows of public.tickets");
    assert_eq!(components, expected);
    let trigger = ["trigger ticket_update_notify on public.tickets"];
    for component in POLICIES.iter().chain(&FIREWALL).chain(&expected[..3]).chain(&trigger) {
        assert_eq!(action_of(&steps, component), "done", "{component}");
    }
    let [.., columns, rows] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((columns.1.as_str(), rows.1.as_str()), ("skipped", "skipped"));
    assert_eq!(columns.2, "null in every event, the table lacks them: ward_id");
    assert_eq!(
        session.column("SELECT id FROM storage.buckets WHERE NOT public ORDER BY id"),
        ["documents", "evidence", "gbv-evidence"]
    );
    assert_eq!(session.wrong(), []);
}

#[test]
fn a_second_setup_changes_nothing_and_reports_that() {
    let mut session = Database::guarded().superuser();
    let before = session.traces();
    let steps = session.steps(SETUP);
    assert_eq!(actions(&steps), ["already there", "skipped"], "{steps:?}");
    assert_eq!(session.traces(), before);
}

#[test]
fn changes_are_published_after_setup_and_not_before() {
    let mut session = Database::supabase().superuser();
    publishes(&mut session, "public.tickets", 0);
    session.run(SETUP);
    publishes(&mut session, "public.tickets", 1);
}

#[track_caller]
fn publishes(session: &mut Session, table: &str, expected: usize) {
    session.run(&format!("LISTEN \"ticket_updates:{TENANT}\""));
    session.run(&format!("INSERT INTO {table} (tenant_id) VALUES ('{TENANT}')"));
    assert_eq!(session.heard().len(), expected, "{table}");
}

#[test]
fn setup_without_a_table_guards_the_files() {
    let mut session = Database::supabase().superuser();
    let steps = session.steps("SELECT * FROM civic.setup()");
    assert_eq!(action_of(&steps, "trigger"), "skipped");
    assert_eq!(action_of(&steps, POLICIES[2]), "done");
    assert_eq!(session.wrong_components(), ["trigger"]);
}

#[test]
fn setup_without_storage_publishes_tickets_and_skips_the_files() {
    let mut session = Database::plain().superuser();
    session.run("CREATE TABLE tickets (tenant_id text)");
    let steps = session.steps(SETUP);
    assert_eq!(action_of(&steps, "storage"), "skipped");
    assert_eq!(action_of(&steps, "trigger ticket_update_notify on public.tickets"), "done");
    publishes(&mut session, "public.tickets", 1);
    assert_eq!(session.wrong(), []);
}

#[test]
fn storage_with_only_one_of_its_tables_is_skipped() {
    for (case, sql) in [
        ("no objects", "DROP TABLE storage.objects"),
        ("no buckets", "DROP TABLE storage.buckets CASCADE"),
        (
            "a view for objects",
            "ALTER TABLE storage.objects RENAME TO other;
             CREATE VIEW storage.objects AS SELECT * FROM storage.other",
        ),
    ] {
        let mut session = Database::supabase().superuser();
        session.run(sql);
        let steps = session.steps(SETUP);
        assert_eq!(action_of(&steps, "storage"), "skipped", "{case}");
        assert_eq!(session.wrong(), [], "{case}");
        let steps = session.steps("SELECT * FROM civic.teardown()");
        assert_eq!(action_of(&steps, "storage"), "skipped", "{case}");
    }
}

#[test]
fn without_the_role_authenticated_only_the_policies_of_all_roles_are_created() {
    let mut session = Database::supabase().superuser();
    // Rolled back: roles are the whole server's.
    session.run("BEGIN; ALTER ROLE authenticated RENAME TO somebody_else");
    let steps = session.steps(SETUP);
    let of_users = ["civic read", "civic upload", "civic bounds"];
    for policy in POLICIES {
        let is_of_users = of_users.iter().any(|name| policy.contains(&format!("\"{name}\"")));
        let expected = if is_of_users { "skipped" } else { "done" };
        assert_eq!(action_of(&steps, policy), expected, "{policy}");
    }
    assert_eq!(session.wrong(), []);
    session.run("ROLLBACK");
}

#[test]
fn public_buckets_are_made_private_and_row_security_is_enabled() {
    let mut session = Database::supabase().superuser();
    session.run(
        "INSERT INTO storage.buckets (id, name, public)
         VALUES ('evidence', 'evidence', true), ('gbv-evidence', 'gbv-evidence', true);
         ALTER TABLE storage.buckets DISABLE ROW LEVEL SECURITY;
         ALTER TABLE storage.objects DISABLE ROW LEVEL SECURITY",
    );
    let steps = session.steps(SETUP);
    for component in
        ["bucket evidence", "row security of storage.buckets", "row security of storage.objects"]
    {
        assert_eq!(action_of(&steps, component), "done", "{component}");
    }
    assert_eq!(session.text("SELECT count(*) FROM storage.buckets WHERE public"), "0");
    assert_eq!(session.wrong(), []);
}

#[test]
fn the_policies_and_the_trigger_of_the_migrations_are_replaced() {
    let mut session = Database::supabase().superuser();
    session.run(MIGRATIONS);
    let steps = session.steps(SETUP);
    let removed: Vec<_> = steps.iter().filter(|step| step.1 == "removed").collect();
    assert_eq!(removed.len(), 6, "{removed:?}");
    assert_eq!(
        session.column("SELECT policyname FROM pg_policies WHERE policyname !~ '^civic '"),
        Vec::<String>::new()
    );
    assert_eq!(action_of(&steps, "bucket evidence"), "already there");
    assert_eq!(
        steps.iter().find(|step| step.0.starts_with("trigger")).unwrap().2,
        "was different, and has been replaced"
    );
    assert_eq!(
        session.column(
            "SELECT tgname || ' ' || tgfoid::regprocedure FROM pg_trigger
             WHERE tgrelid = 'tickets'::regclass AND NOT tgisinternal"
        ),
        ["ticket_update_notify civic.notify_ticket_update()"]
    );
    publishes(&mut session, "public.tickets", 1);
    assert_eq!(session.wrong(), []);
}

#[test]
fn a_relation_that_is_not_a_table_is_refused() {
    let mut session = Database::plain().superuser();
    session.run(
        "CREATE TABLE kept (id int PRIMARY KEY, tenant_id text);
         CREATE VIEW a_view AS SELECT * FROM kept;
         CREATE MATERIALIZED VIEW a_materialized_view AS SELECT * FROM kept;
         CREATE SEQUENCE a_sequence;
         CREATE TYPE a_composite_type AS (tenant_id text);
         CREATE FOREIGN DATA WRAPPER wrapper;
         CREATE SERVER server FOREIGN DATA WRAPPER wrapper;
         CREATE FOREIGN TABLE a_foreign_table (tenant_id text) SERVER server;
         CREATE TABLE parted (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE INDEX parted_index ON parted (tenant_id)",
    );
    let before = session.traces();
    for (relation, kind) in [
        ("a_view", "a view"),
        ("a_materialized_view", "a materialized view"),
        ("a_sequence", "a sequence"),
        ("a_composite_type", "a composite type"),
        ("a_foreign_table", "a foreign table"),
        ("kept_pkey", "an index"),
        ("parted_index", "an index"),
    ] {
        let error = session.error(&format!("SELECT civic.setup('{relation}')"));
        assert_eq!(error.code().code(), "42809", "{relation}");
        assert_eq!(error.message(), format!("public.{relation} is {kind}, not a table"));
    }
    for oid in ["4000000000", "0"] {
        let error = session.error(&format!("SELECT civic.setup({oid}::oid)"));
        assert_eq!(error.code().code(), "42P01", "{oid}");
        assert_eq!(error.message(), format!("there is no relation with OID {oid}"));
    }
    assert_eq!(session.traces(), before);
}

#[test]
fn a_table_without_tenant_id_is_refused_with_the_list_of_known_columns() {
    let mut session = Database::supabase().superuser();
    session.run(
        "CREATE TABLE without (id int, \"TENANT_ID\" text);
         CREATE TABLE dropped (id int, tenant_id text);
         ALTER TABLE dropped DROP COLUMN tenant_id",
    );
    let before = session.traces();
    for table in ["without", "dropped", "pg_catalog.pg_class"] {
        let error = session.error(&format!("SELECT civic.setup('{table}')"));
        assert_eq!(error.code().code(), "42703", "{table}");
        assert!(error.message().ends_with(" has no column tenant_id"), "{}", error.message());
        let hint = error.hint().expect("a hint");
        for column in [
            "id",
            "tracking_number",
            "status",
            "category",
            "tenant_id",
            "ward_id",
            "is_sensitive",
            "updated_at",
            "created_at",
        ] {
            assert!(hint.contains(column), "{column} in {hint}");
        }
    }
    assert_eq!(session.traces(), before);
}

#[test]
fn any_table_with_tenant_id_is_published() {
    let mut session = Database::plain().superuser();
    session.run(
        "CREATE SCHEMA \"My Schema\";
         CREATE TABLE \"My Schema\".\"Weird \"\"Table'\" (tenant_id text);
         CREATE TEMP TABLE temporary (tenant_id text);
         CREATE UNLOGGED TABLE unlogged (tenant_id text);
         CREATE TABLE parted (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE TABLE part PARTITION OF parted DEFAULT;
         CREATE TABLE alone (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE TABLE alone_part PARTITION OF alone DEFAULT",
    );
    for table in [
        "\"My Schema\".\"Weird \"\"Table'\"",
        "pg_temp.temporary",
        "unlogged",
        "parted",
        "part",
        "alone_part",
    ] {
        let setup = format!("SELECT * FROM civic.setup('{}')", table.replace('\'', "''"));
        session.run(&setup);
        publishes(&mut session, table, 1);
        let before = session.traces();
        let again = session.steps(&setup);
        let trigger = again.iter().find(|(component, ..)| component.starts_with("trigger "));
        assert_eq!(
            trigger.map(|(_, action, _)| action.as_str()),
            Some("already there"),
            "{again:?}"
        );
        assert_eq!(session.traces(), before, "{table}");
    }
    assert_eq!(session.wrong(), []);
}

#[test]
fn a_partition_with_its_own_trigger_is_published_once_after_setup_of_its_table() {
    let mut session = Database::plain().superuser();
    session.run(
        "CREATE TABLE tickets (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE TABLE part PARTITION OF tickets DEFAULT;
         SELECT civic.setup('part')",
    );
    let steps = session.steps(SETUP);
    assert_eq!(action_of(&steps, "trigger ticket_update_notify on public.part"), "removed");
    assert_eq!(action_of(&steps, "trigger ticket_update_notify on public.tickets"), "done");
    publishes(&mut session, "public.tickets", 1);
    publishes(&mut session, "public.part", 1);
}

#[test]
fn a_trigger_that_differs_is_replaced() {
    let database = Database::guarded();
    let mut session = database.superuser();
    let create = |clauses: &str, call: &str| {
        format!(
            "DROP TRIGGER ticket_update_notify ON tickets;
             CREATE TRIGGER ticket_update_notify {clauses} ON tickets
             {call} EXECUTE FUNCTION civic.notify_ticket_update()"
        )
    };
    let row = "FOR EACH ROW";
    for tampered in [
        "ALTER TABLE tickets DISABLE TRIGGER ticket_update_notify".to_owned(),
        "ALTER TABLE tickets ENABLE REPLICA TRIGGER ticket_update_notify".to_owned(),
        create("AFTER INSERT", row),
        create("AFTER UPDATE", row),
        create("AFTER INSERT OR UPDATE", row),
        create("AFTER INSERT OR DELETE", row),
        create("BEFORE INSERT OR UPDATE OR DELETE", row),
        create("AFTER INSERT OR UPDATE OF status OR DELETE", row),
        create("AFTER INSERT OR UPDATE OR DELETE", "FOR EACH STATEMENT"),
        create("AFTER INSERT OR UPDATE", "FOR EACH ROW WHEN (NEW.status = 'open')"),
        create("AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW WHEN (pg_trigger_depth() = 0)"),
        create("AFTER INSERT OR UPDATE OR DELETE", row).replace("update()", "update('argument')"),
        create("AFTER INSERT OR UPDATE OR DELETE", row).replace("CREATE", "CREATE CONSTRAINT"),
    ] {
        session.run(&tampered);
        let steps = session.steps(SETUP);
        let action = action_of(&steps, "trigger ticket_update_notify on public.tickets");
        assert_eq!(action, "done", "{tampered}");
        assert_eq!(actions(&session.steps(SETUP)), ["already there", "skipped"], "{tampered}");
    }
    session.run("ALTER TABLE tickets ENABLE ALWAYS TRIGGER ticket_update_notify");
    let before = session.traces();
    session.run(SETUP);
    assert_eq!(session.traces(), before, "ENABLE ALWAYS is the owner's choice");
}

#[test]
fn setup_creates_the_byte_order_index_if_it_is_missing() {
    let mut session = Database::supabase().superuser();
    session.run("DROP INDEX storage.idx_objects_bucket_id_name");
    let component = "index on (bucket_id, name COLLATE \"C\")";
    assert_eq!(action_of(&session.steps(SETUP), component), "done");
    assert_eq!(action_of(&session.steps(SETUP), component), "already there");
    assert_eq!(session.wrong(), []);
}
