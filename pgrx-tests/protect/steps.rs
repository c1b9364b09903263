//! The reports of protect(), unprotect(), setup() and teardown().

use super::{CITIZEN, session_of, tickets};
use crate::pg_tests::support::installation::{SETUP, Step, TEARDOWN, action_of, actions};
use crate::pg_tests::support::{Database, PROTECT, ROW_POLICIES};

const TICKETS: &str = "SELECT * FROM civic.protect('public.tickets')";

fn detail_of<'a>(steps: &'a [Step], component: &str) -> &'a str {
    let step = steps.iter().find(|(name, ..)| name == component);
    &step.unwrap_or_else(|| panic!("{component}: {steps:?}")).2
}

#[test]
fn a_second_call_changes_nothing() {
    let database = Database::rows();
    let mut session = database.superuser();
    let first = session.steps(TICKETS);
    for component in
        ["schema civic_firewall", "policies of public.tickets", "rights on public.tickets"]
    {
        assert_eq!(action_of(&first, component), "done", "{component}");
    }
    let before = session.traces();
    let second = session.steps(TICKETS);
    assert_eq!(actions(&second), ["already there", "skipped"], "{second:?}");
    assert_eq!(session.traces(), before);
}

#[test]
fn other_arguments_replace_the_rules() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.run("SELECT count(*) FROM civic.protect('tickets', sensitive_column => '', owner_columns => '{}')");
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    assert_eq!(tickets(&mut citizen), Vec::<i32>::new());
    let mut manager = session_of(&database, CITIZEN, "manager");
    assert_eq!(tickets(&mut manager).len(), 7);
    session.run(TICKETS);
    assert_eq!(tickets(&mut citizen), [1, 2]);
    assert_eq!(tickets(&mut manager).len(), 4);
}

#[test]
fn the_policies_of_the_migrations_are_replaced() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(ROW_POLICIES);
    let steps = session.steps(TICKETS);
    let mut removed: Vec<_> = steps
        .iter()
        .filter(|(_, action, _)| action == "removed")
        .map(|(name, ..)| name.as_str())
        .collect();
    removed.sort();
    assert_eq!(
        removed,
        [
            "citizen_own_tickets",
            "field_worker_assigned_tickets",
            "managers_all_tickets",
            "saps_gbv_tickets",
            "tenant_delete_tickets",
            "tenant_insert_tickets",
            "tenant_update_tickets",
            "ward_councillor_tickets",
        ]
        .map(|name| format!("policy \"{name}\" on public.tickets"))
    );
    session.run(PROTECT);
    let left = "SELECT polname FROM pg_policy WHERE polname NOT LIKE 'civic %'";
    assert_eq!(session.column(left), Vec::<String>::new());
}

#[test]
fn forced_row_security_and_restrictive_policies_of_others_are_reported() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(
        "ALTER TABLE tickets ENABLE ROW LEVEL SECURITY; ALTER TABLE tickets FORCE ROW LEVEL SECURITY;
         CREATE POLICY office ON tickets AS RESTRICTIVE USING (status <> 'draft')",
    );
    let steps = session.steps(TICKETS);
    assert!(detail_of(&steps, "owner of public.tickets").contains("forced"), "{steps:?}");
    assert_eq!(action_of(&steps, "policy \"office\" on public.tickets"), "skipped");
    let forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'tickets'::regclass";
    assert_eq!(session.text(forced), "t", "as it was");
}

#[test]
fn missing_indexes_are_reported_with_their_statements() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run("DROP INDEX tickets_tenant_id_created_at_idx, tickets_assigned_to_idx");
    let steps = session.steps(TICKETS);
    let missing: Vec<_> =
        steps.iter().filter(|(name, ..)| name == "index on public.tickets").collect();
    let missing: Vec<_> = missing.iter().map(|(.., detail)| detail.as_str()).collect();
    assert_eq!(
        missing,
        [
            "missing: CREATE INDEX CONCURRENTLY ON public.tickets (tenant_id, created_at);",
            "missing: CREATE INDEX CONCURRENTLY ON public.tickets (assigned_to);",
        ]
    );
}

#[test]
fn setup_says_that_the_table_is_open_and_which_call_closes_it() {
    let database = Database::rows();
    let mut session = database.superuser();
    let steps = session.steps(SETUP);
    let detail = detail_of(&steps, "rows of public.tickets");
    let call = &detail[detail.find("SELECT").expect("a call")..];
    assert_eq!(
        call,
        "SELECT * FROM civic.protect('public.tickets', tenant_column => 'tenant_id', \
         owner_columns => ARRAY['user_id', 'created_by'], assigned_column => 'assigned_to', \
         sensitive_column => 'is_sensitive', ticket_column => '', guarded_columns => '{}', \
         readable => 'staff');"
    );
    session.run(call);
    let steps = session.steps(SETUP);
    assert!(!steps.iter().any(|(name, ..)| name == "rows of public.tickets"), "{steps:?}");
}

#[test]
fn unprotect_leaves_row_security_enabled_and_grants_again() {
    let database = Database::protected();
    let mut session = database.superuser();
    let steps = session.steps("SELECT * FROM civic.unprotect('users')");
    assert_eq!(action_of(&steps, "policies of public.users"), "removed");
    assert_eq!(action_of(&steps, "trigger civic_guard on public.users"), "removed");
    assert_eq!(action_of(&steps, "row security of public.users"), "kept");
    assert!(detail_of(&steps, "rights on public.users").contains("TRUNCATE"), "{steps:?}");
    let mut manager = session_of(&database, CITIZEN, "manager");
    assert_eq!(manager.text("SELECT count(*) FROM users"), "0", "closed, not open");
    let again = session.steps("SELECT * FROM civic.unprotect('users')");
    assert_eq!(actions(&again), ["skipped"]);
}

#[test]
fn teardown_leaves_nothing_but_row_security() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(TEARDOWN);
    let before = session.traces();
    session.run(SETUP);
    session.run(PROTECT);
    session.run(TEARDOWN);
    let strip = |traces: Vec<String>| -> Vec<String> {
        // Row security and the lists of rights, which are the same but in another order.
        let is_relation = |line: &String| line.starts_with("relation");
        traces
            .into_iter()
            .filter(|line| !is_relation(line) && !line.starts_with("bucket"))
            .collect()
    };
    assert_eq!(strip(session.traces()), strip(before));
    assert_eq!(session.text("SELECT count(*) FROM civic.protected_tables"), "0");
    let open = "SELECT relname FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT relrowsecurity";
    assert_eq!(session.column(open), Vec::<String>::new());
    session.run("DROP EXTENSION pg_civic");
}

#[test]
fn teardown_keeps_the_functions_that_others_use() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.run(
        "CREATE TABLE own (tenant_id text);
         CREATE POLICY mine ON own USING (tenant_id = civic_firewall.tenant_id())",
    );
    let steps = session.steps(TEARDOWN);
    assert_eq!(action_of(&steps, "schema civic_firewall"), "kept");
    assert!(detail_of(&steps, "schema civic_firewall").contains("policy mine on table public.own"));
}
