//! civic.protect(): the application's own tables under the rules of their municipality.

mod attach;
mod attacks;
mod bad_input;
mod check;
mod guard;
mod mark;
mod matrix;
mod model;
mod outlives;
mod parts;
mod steps;
mod writes;

use super::support::{Database, OTHER_TENANT, Session, TENANT, claims_of};

/// The people of the fixture.
pub const CITIZEN: &str = "8f14e45f-0000-4000-8000-000000000000";
pub const NEIGHBOUR: &str = "8f14e45f-0000-4000-8000-000000000001";
pub const WORKER: &str = "8f14e45f-0000-4000-8000-000000000002";

/// The numbers of the tickets that a session sees, those of the other municipality above ten.
#[track_caller]
pub fn tickets(session: &mut Session) -> Vec<i32> {
    numbers(
        session,
        "SELECT right(id::text, 1)::int + 10 * (left(id::text, 1)::int - 2) FROM tickets",
    )
}

#[track_caller]
pub fn numbers(session: &mut Session, sql: &str) -> Vec<i32> {
    let mut found: Vec<_> =
        session.column(sql).iter().map(|number| number.parse().expect("a number")).collect();
    found.sort();
    found
}

/// A session of one of the people, in the first municipality.
pub fn session_of(database: &Database, user: &str, role: &str) -> Session {
    database.authenticated(&claims_of(user, TENANT, role))
}

/// The rows that a statement changes, which is then rolled back.
#[track_caller]
pub fn would_change(session: &mut Session, sql: &str) -> u64 {
    session.run("BEGIN");
    let count = session.affected(sql);
    session.run("ROLLBACK");
    count
}

/// The SQLSTATE of a statement, which is then rolled back; `None` if it succeeds.
#[track_caller]
pub fn outcome(session: &mut Session, sql: &str) -> Option<String> {
    session.run("BEGIN");
    let result = session.client().batch_execute(sql);
    session.run("ROLLBACK");
    result.err().map(|error| error.code().expect("an error of the server").code().to_owned())
}

#[test]
fn accessors_give_the_claims_as_the_types_of_columns() {
    let database = Database::plain();
    let mut session = database.superuser();
    let accessors = "SELECT concat_ws(' ', civic.tenant_uuid(), civic.user_uuid(),
                                      quote_nullable(civic.staff_floor()), civic.staff_floor_uuid())";
    let nil = "00000000-0000-0000-0000-000000000000";
    for (claims, expected) in [
        (claims_of(CITIZEN, TENANT, "citizen"), format!("{TENANT} {CITIZEN} NULL")),
        (claims_of(CITIZEN, TENANT, "MANAGER"), format!("{TENANT} {CITIZEN} '' {nil}")),
        (claims_of(CITIZEN, TENANT, "executive_mayor"), format!("{TENANT} {CITIZEN} '' {nil}")),
        (claims_of("not a uuid", TENANT, "citizen"), format!("{TENANT} NULL")),
        (claims_of(CITIZEN, "town", "admin"), format!("{CITIZEN} '' {nil}")),
        // Staff of no municipality reads nothing.
        (claims_of(CITIZEN, "", "admin"), format!("{CITIZEN} NULL")),
        ("".to_owned(), "NULL".to_owned()),
    ] {
        session.run(&format!("SELECT set_config('request.jwt.claims', '{claims}', false)"));
        assert_eq!(session.text(accessors), expected, "{claims}");
    }
}

#[test]
fn an_accessor_follows_the_claims_within_one_function() {
    let mut session = Database::plain().superuser();
    session.run(
        "CREATE FUNCTION both_of() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE
             found text := '';
             one uuid;
         BEGIN
             FOR number IN 1..3 LOOP
                 PERFORM set_config('request.jwt.claims',
                     format('{\"sub\": \"8f14e45f-0000-4000-8000-00000000000%s\"}', number), true);
                 one := civic.user_uuid();
                 found := found || right(one::text, 1);
             END LOOP;
             RETURN found;
         END $$",
    );
    assert_eq!(session.text("SELECT both_of()"), "123");
}

#[test]
fn the_settings_decide_who_reads_writes_and_deletes() {
    let database = Database::protected();
    for (setting, role, expected) in [
        ("civic.staff_readers", "clerk", "4 0 0"),
        ("civic.staff_writers", "clerk", "2 4 0"),
        ("civic.deleters", "clerk", "2 0 2"),
        ("civic.sensitive_readers", "clerk", "3 0 0"),
    ] {
        let mut superuser = database.superuser();
        superuser.run(&format!("SET {setting} = 'other, CLERK'"));
        superuser.acts_as("authenticated", &claims_of(CITIZEN, TENANT, role));
        let reads = tickets(&mut superuser).len();
        let writes = would_change(&mut superuser, "UPDATE tickets SET status = 'x'");
        let deletes = would_change(&mut superuser, "DELETE FROM media_attachments");
        assert_eq!(format!("{reads} {writes} {deletes}"), expected, "{setting}");
    }
}

#[test]
fn claims_that_are_not_an_object_are_an_error_and_no_row() {
    let database = Database::protected();
    let mut session = database.authenticated("[]");
    for statement in
        ["SELECT FROM tickets", "UPDATE tickets SET status = 'x'", "DELETE FROM tickets"]
    {
        assert_eq!(session.sqlstate(statement), "28000", "{statement}");
    }
}

#[test]
fn a_claim_that_does_not_cast_and_a_missing_value_are_no_row() {
    let database = Database::rows();
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "CREATE TABLE bills (id int, tenant_id uuid, user_id uuid, is_sensitive boolean);
         GRANT ALL ON bills TO authenticated;
         INSERT INTO bills VALUES (1, '{TENANT}', '{CITIZEN}', false), (2, NULL, '{CITIZEN}', false),
             (3, '{TENANT}', '{CITIZEN}', NULL), (4, '{TENANT}', NULL, false),
             (5, '{OTHER_TENANT}', '{CITIZEN}', false);
         SELECT count(*) FROM civic.protect('bills')"
    ));
    let seen = |user: &str, tenant: &str, role: &str| {
        let mut session = database.authenticated(&claims_of(user, tenant, role));
        numbers(&mut session, "SELECT id FROM bills")
    };
    assert_eq!(seen(CITIZEN, TENANT, "citizen"), [1]);
    assert_eq!(seen(CITIZEN, TENANT, "manager"), [1, 4]);
    assert_eq!(seen(CITIZEN, TENANT, "admin"), [1, 3, 4]);
    assert_eq!(seen("somebody", TENANT, "citizen"), Vec::<i32>::new());
    assert_eq!(seen(CITIZEN, "town", "admin"), Vec::<i32>::new());
    assert_eq!(seen(CITIZEN, "", "admin"), Vec::<i32>::new());
}
