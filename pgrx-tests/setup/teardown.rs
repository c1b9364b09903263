//! civic.teardown() undoes setup() and changes nothing else.

use crate::pg_tests::support::installation::{SETUP, TEARDOWN, action_of, actions};
use crate::pg_tests::support::{Database, TENANT};

#[test]
fn teardown_restores_the_state_before_setup() {
    for (case, prepared) in [
        ("as Storage makes it", ""),
        ("without the byte-order index", "DROP INDEX storage.idx_objects_bucket_id_name"),
        ("with an index of another's", "CREATE INDEX civic_other ON storage.objects (owner)"),
        (
            "with policies and triggers of another's",
            "CREATE POLICY \"civic pride\" ON storage.objects USING (bucket_id = 'avatars');
             CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER other AFTER INSERT ON tickets FOR EACH ROW EXECUTE FUNCTION other()",
        ),
        (
            "with a bucket of another's",
            "INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars')",
        ),
    ] {
        let mut session = Database::supabase().superuser();
        session.run(prepared);
        let before = session.traces();
        let first = session.steps(SETUP);
        let guarded = session.traces().len();
        let steps = session.steps(TEARDOWN);
        assert_eq!(actions(&steps), ["removed"], "{case}: {steps:?}");
        assert_eq!(session.traces(), before, "{case}");

        let steps = session.steps(TEARDOWN);
        assert_eq!(actions(&steps), ["skipped"], "{case}: {steps:?}");
        assert_eq!(session.traces(), before, "{case}");

        assert_eq!(session.steps(SETUP), first, "{case}");
        assert_eq!(session.wrong(), [], "{case}");
        assert_eq!(session.traces().len(), guarded, "{case}");
    }
}

#[test]
fn a_bucket_with_objects_is_kept_and_reported() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name)
         VALUES ('gbv-evidence', '{TENANT}/a/1'), ('gbv-evidence', '{TENANT}/a/2')"
    ));
    let steps = session.steps(TEARDOWN);
    assert_eq!(action_of(&steps, "bucket evidence"), "removed");
    assert_eq!(action_of(&steps, "bucket documents"), "removed");
    let kept = steps.iter().find(|(component, ..)| component == "bucket gbv-evidence").unwrap();
    assert_eq!((kept.1.as_str(), kept.2.as_str()), ("kept", "contains 2 objects"));
    assert_eq!(
        session.column("SELECT id || ' ' || public FROM storage.buckets"),
        ["gbv-evidence false"]
    );
    assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "2");
    let mut admin = database.person(TENANT, "admin");
    assert_eq!(admin.text("SELECT count(*) FROM storage.objects"), "0", "without a policy: shut");

    let steps = session.steps(SETUP);
    assert_eq!(action_of(&steps, "bucket gbv-evidence"), "already there");
    assert_eq!(session.wrong(), []);
    assert_eq!(admin.text("SELECT count(*) FROM storage.objects"), "2");
}

#[test]
fn teardown_restores_the_setting_that_protects_from_deletion() {
    const SETTING: &str =
        "SELECT coalesce(current_setting('storage.allow_delete_query', true), '')";
    let database = Database::guarded();
    for (prepared, before) in [
        ("", ""),
        ("SET storage.allow_delete_query = 'false'", "false"),
        ("SET storage.allow_delete_query = 'true'", "true"),
        ("BEGIN; SET LOCAL storage.allow_delete_query = 'no'", "no"),
        ("BEGIN; SET LOCAL storage.allow_delete_query = 'true'", "true"),
        ("BEGIN; SET storage.allow_delete_query = 'no'", "no"),
        ("BEGIN", ""),
    ] {
        let mut session = database.superuser();
        session.run(SETUP);
        session.run(prepared);
        session.run(TEARDOWN);
        assert_eq!(session.text(SETTING), before, "{prepared}");
        if before != "true" {
            let sqlstate = session.sqlstate("DELETE FROM storage.buckets");
            assert_eq!(sqlstate, "42501", "{prepared}");
            session.run("ROLLBACK");
        }
    }
}

#[test]
fn teardown_removes_the_trigger_from_every_table() {
    let mut session = Database::guarded().superuser();
    session.run(
        "CREATE SCHEMA \"Other\";
         CREATE TABLE \"Other\".\"Tickets\" (tenant_id text);
         CREATE TABLE parted (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE TABLE part PARTITION OF parted DEFAULT;
         SELECT civic.setup('\"Other\".\"Tickets\"'), civic.setup('parted');
         ALTER TABLE part DISABLE TRIGGER ticket_update_notify;
         CREATE TRIGGER \"of DELETE\" AFTER DELETE ON tickets
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
    );
    let steps = session.steps(TEARDOWN);
    for component in [
        "trigger ticket_update_notify on \"Other\".\"Tickets\"",
        "trigger ticket_update_notify on public.parted",
        "trigger ticket_update_notify on public.tickets",
        "trigger of DELETE on public.tickets",
    ] {
        assert_eq!(action_of(&steps, component), "removed", "{component}");
    }
    let left =
        "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'civic.notify_ticket_update'::regproc";
    assert_eq!(session.text(left), "0");
}

#[test]
fn teardown_without_storage_removes_the_triggers() {
    let mut session = Database::plain().superuser();
    session.run("CREATE TABLE tickets (tenant_id text)");
    let before = session.traces();
    session.run(SETUP);
    let steps = session.steps(TEARDOWN);
    assert_eq!(action_of(&steps, "trigger ticket_update_notify on public.tickets"), "removed");
    assert_eq!(action_of(&steps, "storage"), "skipped");
    assert_eq!(session.traces(), before);
    assert_eq!(actions(&session.steps(TEARDOWN)), ["skipped"]);
}

#[test]
fn a_changed_policy_is_removed_too() {
    let mut session = Database::supabase().superuser();
    let before = session.traces();
    session.run(SETUP);
    session.run("ALTER POLICY \"civic firewall\" ON storage.objects USING (true)");
    session.run(TEARDOWN);
    assert_eq!(session.traces(), before);
}

#[test]
fn after_teardown_the_extension_drops_without_cascade() {
    let mut session = Database::guarded().superuser();
    session.run(TEARDOWN);
    session.run("DROP EXTENSION pg_civic");
}

/// Citus refuses them on distributed tables.
#[test]
fn the_policies_of_files_messages_and_tickets_have_no_sub_select() {
    const POLICIES: &str = "SELECT polrelid::regclass || ' ' || polname FROM pg_policy
        WHERE concat(polqual, polwithcheck)";
    let realtime = Database::realtime();
    let protected = Database::protected();
    for (database, least) in [(&realtime, 6), (&protected, 10)] {
        let mut session = database.superuser();
        let all = session.column(&format!("{POLICIES} <> ''"));
        assert!(all.len() >= least, "{all:?}");
        let of_others = ["media_attachments", "ticket_assignments"];
        let mut found = session.column(&format!("{POLICIES} LIKE '%SUBLINK%'"));
        assert_eq!(found.is_empty(), least == 6, "those that follow their ticket are: {found:?}");
        found.retain(|policy| !of_others.iter().any(|table| policy.starts_with(table)));
        assert_eq!(found, Vec::<String>::new());
    }
}

/// A custom setting stands for that of Citus, which refuses the changes of a distributed table otherwise.
#[test]
fn with_citus_the_changes_of_distributed_tables_are_made_one_after_the_other() {
    let mut session = Database::guarded().superuser();
    session.run("SET citus.multi_shard_modify_mode = 'parallel'; BEGIN");
    session.run(TEARDOWN);
    assert_eq!(session.text("SHOW citus.multi_shard_modify_mode"), "sequential");
    session.run("COMMIT");
    assert_eq!(session.text("SHOW citus.multi_shard_modify_mode"), "parallel");
}
