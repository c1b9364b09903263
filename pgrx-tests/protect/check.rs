//! What civic.check() finds at protected tables, and that its fix repairs it.

use super::{CITIZEN, outcome, session_of};
use crate::pg_tests::support::installation::Wrong;
use crate::pg_tests::support::{Database, Session, TENANT, claims};

/// The findings about the tables of the fixture.
#[track_caller]
fn wrong(session: &mut Session) -> Vec<Wrong> {
    let mut wrong = session.wrong();
    wrong.retain(|(name, ..)| name != "media worker" && name != "relay");
    wrong
}

#[test]
fn nothing_is_wrong_with_tables_as_protect_leaves_them() {
    let mut session = Database::protected().superuser();
    assert_eq!(wrong(&mut session), []);
    let rows = session.rows("SELECT component, detail FROM civic.check() WHERE ok");
    let owner = rows.iter().find(|row| row[0].as_deref() == Some("owner of public.tickets"));
    assert!(owner.expect("a row")[1].as_deref().unwrap().contains("pass row security"));
}

#[test]
fn each_fault_is_found_and_repaired() {
    let database = Database::protected();
    let mut session = database.superuser();
    for (fault, component) in [
        ("DROP POLICY \"civic 1 tenant\" ON tickets", "policies of public.tickets"),
        ("DROP POLICY \"civic 2 sensitive read\" ON tickets", "policies of public.tickets"),
        ("ALTER POLICY \"civic 5 delete\" ON users USING (true)", "policies of public.users"),
        ("ALTER POLICY \"civic 4 update\" ON users TO anon", "policies of public.users"),
        (
            "DROP POLICY \"civic 0 closed\" ON teams;
             CREATE POLICY \"civic 0 closed\" ON teams USING (civic_firewall.is_restored())",
            "policies of public.teams",
        ),
        (
            "CREATE POLICY \"civic 2 sensitive read\" ON teams USING (true)",
            "policies of public.teams",
        ),
        ("DROP TRIGGER civic_guard ON users", "trigger civic_guard on public.users"),
        ("ALTER TABLE users DISABLE TRIGGER civic_guard", "trigger civic_guard on public.users"),
        (
            "DROP TRIGGER civic_guard ON users; CREATE TRIGGER civic_guard BEFORE INSERT ON users
                 FOR EACH ROW EXECUTE FUNCTION civic_firewall.guard_columns('g:role')",
            "trigger civic_guard on public.users",
        ),
        ("ALTER TABLE tickets DISABLE ROW LEVEL SECURITY", "row security of public.tickets"),
        ("GRANT TRUNCATE ON tickets TO anon", "rights on public.tickets"),
        ("GRANT REFERENCES (id) ON users TO PUBLIC", "rights on public.users"),
        ("DROP INDEX tickets_user_id_idx", "index on public.tickets"),
        ("ALTER FUNCTION civic_firewall.writes() COST 1000", "function civic_firewall.writes()"),
    ] {
        session.run(fault);
        let found = wrong(&mut session);
        assert_eq!(found.len(), 1, "{fault}: {found:?}");
        assert_eq!(found[0].0, component, "{fault}");
        let fix = found[0].2.clone().expect("a fix");
        session.run(&fix);
        assert_eq!(wrong(&mut session), [], "{fault}; repaired by {fix}");
    }
}

#[test]
fn open_tables_are_found_with_the_call_that_closes_them() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(
        "CREATE TABLE server_only (tenant_id text); CREATE TABLE wards (id int PRIMARY KEY);
         GRANT SELECT ON wards TO anon; CREATE PUBLICATION supabase_realtime FOR TABLE wards",
    );
    let open = |session: &mut Session| {
        let mut open = wrong(session);
        open.retain(|(name, ..)| name.starts_with("table "));
        open
    };
    let found = open(&mut session);
    let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "table public.media_attachments",
            "table public.teams",
            "table public.ticket_assignments",
            "table public.tickets",
            "table public.users",
            "table public.wards",
        ]
    );
    assert!(found[3].1.contains("holds tickets"), "{found:?}");
    assert!(found[5].1.contains("is published"), "{found:?}");
    // The tickets first: rows of the others follow them.
    for place in [3, 0, 1, 2, 4] {
        session.run(found[place].2.as_deref().expect("a call"));
    }
    let left: Vec<_> = open(&mut session).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(left, ["table public.wards"]);
    let ok =
        "SELECT count(*) FROM civic.check() WHERE ok AND component = 'table public.server_only'";
    assert_eq!(session.text(ok), "1");
}

/// A simple view runs as its owner: it is a way past the policies, which only its owner can close.
#[test]
fn a_view_of_the_owner_is_found_and_its_fix_closes_it() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.run(
        "CREATE VIEW open_tickets AS SELECT id, status, tenant_id FROM tickets;
         CREATE VIEW counts AS SELECT count(*) FROM open_tickets;
         CREATE VIEW safe WITH (security_invoker) AS SELECT id FROM tickets;
         CREATE MATERIALIZED VIEW held AS SELECT id FROM tickets;
         GRANT ALL ON open_tickets TO anon; GRANT SELECT ON counts, safe, held TO authenticated",
    );
    let mut anon = database.superuser();
    anon.acts_as("anon", "");
    anon.run("BEGIN");
    assert_eq!(anon.affected("UPDATE open_tickets SET status = 'closed'"), 14, "the hole");
    anon.run("ROLLBACK");
    let found = wrong(&mut session);
    let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(
        names,
        ["view counts", "view held", "view open_tickets"]
            .map(|name| name.replace("view ", "view public."))
    );
    let detail = &found[2].1;
    assert!(detail.contains("WRITABLE (INSERT, UPDATE, DELETE) by anon"), "{detail}");
    assert!(detail.contains("columns: id, status, tenant_id"), "{detail}");
    // The first fix takes the rights to write, the next makes it run as its reader.
    for _ in 0..3 {
        for (.., fix) in wrong(&mut session) {
            session.run(&fix.expect("a fix"));
        }
    }
    assert_eq!(wrong(&mut session), []);
    assert_eq!(
        outcome(&mut anon, "UPDATE open_tickets SET status = 'closed'").as_deref(),
        Some("42501")
    );
    let mut manager = session_of(&database, CITIZEN, "manager");
    assert_eq!(manager.text("SELECT count FROM counts"), "4");
}

#[test]
fn a_foreign_key_that_deletes_protected_rows_is_found() {
    let database = Database::rows();
    let mut session = database.superuser();
    session.run(&format!(
        "CREATE TABLE areas (id int PRIMARY KEY); INSERT INTO areas VALUES (1); GRANT ALL ON areas TO authenticated;
         CREATE TABLE posts (tenant_id text, area int REFERENCES areas ON DELETE CASCADE);
         CREATE INDEX ON posts (tenant_id);
         INSERT INTO posts VALUES ('{TENANT}', 1); SELECT count(*) FROM civic.protect('posts')"
    ));
    let found = session.wrong();
    let finding =
        found.iter().find(|(name, ..)| name.starts_with("foreign key")).expect("a finding");
    assert!(finding.1.contains("public.areas"), "{finding:?}");
    let mut citizen = database.authenticated(&claims(TENANT, "citizen"));
    citizen.run("BEGIN; DELETE FROM areas");
    citizen.reset_role();
    assert_eq!(citizen.text("SELECT count(*) FROM posts"), "0", "the hole");
    citizen.run("ROLLBACK");
    session.run(finding.2.as_deref().expect("a fix"));
    assert!(!session.wrong().iter().any(|(name, ..)| name.starts_with("foreign key")));
}

#[test]
fn a_definer_function_and_a_member_of_the_owner_are_found() {
    let database = Database::protected();
    let owner = database.operator("owner", "");
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE users OWNER TO {owner};
         CREATE FUNCTION everybody() RETURNS bigint LANGUAGE sql SECURITY DEFINER
             BEGIN ATOMIC SELECT count(*) FROM public.users; END;
         ALTER FUNCTION everybody() OWNER TO {owner}; GRANT {owner} TO authenticated"
    ));
    let names: Vec<_> = wrong(&mut session).into_iter().map(|(name, ..)| name).collect();
    session.run(&format!("REVOKE {owner} FROM authenticated"));
    assert!(names.contains(&"role authenticated".to_owned()), "{names:?}");
    assert!(names.contains(&"function public.everybody()".to_owned()), "{names:?}");
}

/// Functions in the policies of others run in the trial, as authenticated.
#[test]
fn the_trial_needs_the_rights_that_it_uses() {
    let database = Database::protected();
    let role = database.operator("plain", "");
    let mut session = database.superuser();
    session.run(&format!("SET ROLE {role}"));
    let trial = "SELECT detail FROM civic.check() WHERE component = 'query of public.tickets as authenticated'";
    assert_eq!(session.column(trial), ["not checked: the caller is not a member of authenticated"]);
}
