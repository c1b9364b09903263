//! Partitions and inheritance children.

use super::{CITIZEN, numbers, outcome, session_of};
use crate::pg_tests::support::installation::action_of;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT};

fn partitioned() -> Database {
    let database = Database::rows();
    database.superuser().run(&format!(
        "CREATE TABLE visits (id int, tenant_id text, user_id uuid, role text DEFAULT 'guest', day date)
             PARTITION BY RANGE (day);
         CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
             PARTITION BY LIST (tenant_id);
         CREATE TABLE visits_2025_all PARTITION OF visits_2025 DEFAULT;
         CREATE TABLE visits_2026 (day date, role text DEFAULT 'guest', user_id uuid, tenant_id text, id int);
         ALTER TABLE visits ATTACH PARTITION visits_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         INSERT INTO visits VALUES (1, '{TENANT}', '{CITIZEN}', 'guest', '2025-05-01'),
             (2, '{OTHER_TENANT}', '{CITIZEN}', 'guest', '2025-05-01'), (3, '{TENANT}', NULL, 'guest', '2026-05-01'),
             (4, '{OTHER_TENANT}', NULL, 'guest', '2026-05-01'), (5, '{TENANT}', '{CITIZEN}', 'guest', '2026-06-01');
         GRANT ALL ON visits, visits_2025, visits_2025_all, visits_2026 TO authenticated;
         SELECT count(*) FROM civic.protect('visits')"
    ));
    database
}

#[track_caller]
fn seen(session: &mut Session, table: &str) -> Vec<i32> {
    numbers(session, &format!("SELECT id FROM {table}"))
}

#[test]
fn a_partition_shows_no_more_than_its_table() {
    let database = partitioned();
    for (role, whole, first, second) in
        [("citizen", vec![1, 5], vec![1], vec![5]), ("manager", vec![1, 3, 5], vec![1], vec![3, 5])]
    {
        let mut session = session_of(&database, CITIZEN, role);
        assert_eq!(seen(&mut session, "visits"), whole, "{role}");
        assert_eq!(seen(&mut session, "visits_2025"), first, "{role}");
        assert_eq!(seen(&mut session, "visits_2025_all"), first, "{role}");
        assert_eq!(seen(&mut session, "visits_2026"), second, "{role}");
    }
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    for table in ["visits", "visits_2025", "visits_2025_all", "visits_2026"] {
        assert_eq!(citizen.affected(&format!("UPDATE {table} SET role = 'x'")), 0, "{table}");
        assert_eq!(citizen.affected(&format!("DELETE FROM {table}")), 0, "{table}");
        let truncate = format!("TRUNCATE {table}");
        assert_eq!(outcome(&mut citizen, &truncate).as_deref(), Some("42501"), "{table}");
    }
}

#[test]
fn the_guard_holds_in_every_partition() {
    let database = partitioned();
    let mut manager = session_of(&database, CITIZEN, "manager");
    for table in ["visits", "visits_2025", "visits_2026"] {
        let update = format!("UPDATE {table} SET role = 'boss'");
        assert_eq!(outcome(&mut manager, &update).as_deref(), Some("42501"), "{table}");
    }
    let insert = |role: &str| {
        format!(
            "INSERT INTO visits (tenant_id, role, day) VALUES ('{TENANT}', '{role}', '2026-02-02')"
        )
    };
    assert_eq!(outcome(&mut manager, &insert("guest")), None);
    assert_eq!(outcome(&mut manager, &insert("boss")).as_deref(), Some("42501"));
}

#[test]
fn a_new_partition_is_reported_and_protected_by_the_same_call() {
    let database = partitioned();
    let mut session = database.superuser();
    session.run(
        "CREATE TABLE visits_2027 PARTITION OF visits FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
         GRANT ALL ON visits_2027 TO authenticated",
    );
    let wrong = session.wrong();
    let new: Vec<_> = wrong.iter().filter(|(name, ..)| name.contains("visits_2027")).collect();
    assert!(new.iter().any(|(name, ..)| name == "policies of public.visits_2027"), "{wrong:?}");
    let fix = new[0].2.clone().expect("a fix");
    assert!(fix.starts_with("SELECT * FROM civic.protect('public.visits',"), "{fix}");
    session.run(&fix);
    assert!(!session.wrong().iter().any(|(name, ..)| name.contains("visits_2027")));
}

#[test]
fn a_partition_of_another_owner_is_changed_as_that_owner() {
    let database = partitioned();
    let owner = database.operator("owner", "");
    let mut session = database.superuser();
    session.run("SELECT count(*) FROM civic.unprotect('visits')");
    session.run(&format!(
        "ALTER TABLE visits_2026 OWNER TO {owner}; GRANT USAGE ON SCHEMA public TO {owner}"
    ));
    session.run("SELECT count(*) FROM civic.protect('visits')");
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    assert_eq!(seen(&mut citizen, "visits_2026"), [5]);
    let caller = database.operator("caller", "");
    session.run(&format!("ALTER TABLE visits OWNER TO {caller}; SET ROLE {caller}"));
    let error = session.error("SELECT civic.protect('visits')");
    assert_eq!(error.code().code(), "42501");
    assert!(error.message().contains("public.visits_2026"), "{}", error.message());
}

#[test]
fn inheritance_children_are_protected_with_their_parent() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(&format!(
        "CREATE TABLE notes (id int, tenant_id text, user_id uuid, role text);
         CREATE TABLE old_notes (more text) INHERITS (notes); CREATE TABLE oldest_notes () INHERITS (old_notes);
         INSERT INTO notes VALUES (1, '{TENANT}', '{CITIZEN}', NULL);
         INSERT INTO old_notes VALUES (2, '{TENANT}', '{CITIZEN}', NULL), (3, '{OTHER_TENANT}', '{CITIZEN}', NULL);
         INSERT INTO oldest_notes VALUES (4, '{TENANT}', NULL, NULL);
         GRANT ALL ON notes, old_notes, oldest_notes TO authenticated"
    ));
    let steps = session.steps("SELECT * FROM civic.protect('notes')");
    for table in ["notes", "old_notes", "oldest_notes"] {
        assert_eq!(action_of(&steps, &format!("policies of public.{table}")), "done");
        assert_eq!(action_of(&steps, &format!("trigger civic_guard on public.{table}")), "done");
    }
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    assert_eq!(seen(&mut citizen, "notes"), [1, 2]);
    assert_eq!(seen(&mut citizen, "old_notes"), [2]);
    assert_eq!(seen(&mut citizen, "oldest_notes"), Vec::<i32>::new());
    let mut manager = session_of(&database, CITIZEN, "manager");
    let update = "UPDATE oldest_notes SET role = 'boss'";
    assert_eq!(outcome(&mut manager, update).as_deref(), Some("42501"));
}

#[test]
fn a_foreign_partition_is_reported() {
    let database = partitioned();
    let mut session = database.superuser();
    session.run(
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE TABLE far_visits (LIKE visits) PARTITION BY RANGE (day);
         CREATE FOREIGN TABLE far_2026 PARTITION OF far_visits
             FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') SERVER nowhere",
    );
    // Row triggers and foreign partitions exclude each other for constraints only.
    let steps = session.steps("SELECT * FROM civic.protect('far_visits', guarded_columns => '{}')");
    assert_eq!(action_of(&steps, "policies of public.far_2026"), "skipped");
    let wrong = session.wrong();
    assert!(wrong.iter().any(|(name, ..)| name == "policies of public.far_2026"), "{wrong:?}");
}
