//! What users insert and change in protected tables, and what has to be done another way.

use super::{CITIZEN, NEIGHBOUR, WORKER, numbers, outcome, session_of, tickets, would_change};
use crate::pg_tests::support::{Database, OTHER_TENANT, TENANT};

fn refused(statement: &str) -> (String, Option<String>) {
    (statement.to_owned(), Some("42501".to_owned()))
}

#[test]
fn a_citizen_reports_as_themselves() {
    let database = Database::protected();
    let mut session = session_of(&database, CITIZEN, "citizen");
    let insert = |columns: &str, values: &str| {
        format!("INSERT INTO tickets (tenant_id, {columns}) VALUES ('{TENANT}', {values})")
    };
    for (columns, values) in [
        ("user_id", format!("'{CITIZEN}'")),
        ("created_by", format!("'{CITIZEN}'")),
        ("user_id, created_by", format!("'{CITIZEN}', '{CITIZEN}'")),
        ("user_id, is_sensitive", format!("'{CITIZEN}', true")),
    ] {
        assert_eq!(outcome(&mut session, &insert(columns, &values)), None, "{columns}");
    }
    for (columns, values) in [
        ("status", "'open'".to_owned()),
        ("user_id", format!("'{NEIGHBOUR}'")),
        ("user_id, created_by", format!("'{CITIZEN}', '{NEIGHBOUR}'")),
        ("user_id, assigned_to", format!("'{CITIZEN}', '{CITIZEN}'")),
    ] {
        let statement = insert(columns, &values);
        assert_eq!((statement.clone(), outcome(&mut session, &statement)), refused(&statement));
    }
    let elsewhere =
        format!("INSERT INTO tickets (tenant_id, user_id) VALUES ('{OTHER_TENANT}', '{CITIZEN}')");
    assert_eq!(outcome(&mut session, &elsewhere).as_deref(), Some("42501"));
}

/// PostgREST: `return=minimal`, with an id that the client has made.
#[test]
fn a_sensitive_report_is_inserted_without_returning() {
    let database = Database::protected();
    let mut session = session_of(&database, CITIZEN, "citizen");
    let insert = format!(
        "INSERT INTO tickets (id, tenant_id, user_id, is_sensitive)
             VALUES (gen_random_uuid(), '{TENANT}', '{CITIZEN}', true)"
    );
    let returning = format!("{insert} RETURNING id");
    assert_eq!(outcome(&mut session, &returning).as_deref(), Some("42501"));
    session.run(&insert);
    assert_eq!(tickets(&mut session), [1, 2], "it is hidden from their own phone too");
    let mut liaison = session_of(&database, NEIGHBOUR, "saps_liaison");
    assert_eq!(liaison.text("SELECT count(*) FROM tickets"), "8");
}

#[test]
fn staff_insert_for_others_and_in_no_other_municipality() {
    let database = Database::protected();
    for (role, may) in [("manager", true), ("saps_liaison", true), ("ward_councillor", false)] {
        let mut session = session_of(&database, CITIZEN, role);
        let own =
            format!("INSERT INTO tickets (tenant_id, user_id) VALUES ('{TENANT}', '{NEIGHBOUR}')");
        assert_eq!(outcome(&mut session, &own).is_none(), may, "{role}");
        let other = format!("INSERT INTO tickets (tenant_id) VALUES ('{OTHER_TENANT}')");
        assert_eq!(outcome(&mut session, &other).as_deref(), Some("42501"), "{role}");
    }
}

#[test]
fn a_worker_changes_what_is_assigned_to_them() {
    let database = Database::protected();
    let mut session = session_of(&database, WORKER, "field_worker");
    assert_eq!(tickets(&mut session), [6]);
    assert_eq!(would_change(&mut session, "UPDATE tickets SET status = 'resolved'"), 1);
    let by_id = "UPDATE tickets SET status = 'resolved' WHERE id = ticket(1, 6) RETURNING id";
    assert_eq!(would_change(&mut session, by_id), 1);
    assert_eq!(
        would_change(&mut session, "UPDATE tickets SET status = 'x' WHERE id = ticket(1, 1)"),
        0
    );
    // The new row would be one that the worker does not read: staff hand a ticket over.
    let hand_over = format!("UPDATE tickets SET assigned_to = '{CITIZEN}' WHERE id = ticket(1, 6)");
    assert_eq!(outcome(&mut session, &hand_over).as_deref(), Some("42501"));
    let mut manager = session_of(&database, NEIGHBOUR, "manager");
    assert_eq!(would_change(&mut manager, &hand_over), 1);
}

#[test]
fn a_row_follows_its_ticket() {
    let database = Database::protected();
    let ticket_numbers = "SELECT right(ticket_id::text, 1) FROM media_attachments";
    for (user, role, expected) in [
        (CITIZEN, "citizen", vec![1, 2]),
        (NEIGHBOUR, "citizen", vec![4, 6]),
        (WORKER, "field_worker", vec![]),
        (CITIZEN, "manager", vec![1, 2, 4, 6]),
        (CITIZEN, "saps_liaison", vec![1, 2, 3, 4, 5, 6, 7]),
    ] {
        let mut session = session_of(&database, user, role);
        assert_eq!(numbers(&mut session, ticket_numbers), expected, "{user} {role}");
    }
    let attach = |number: i32| {
        format!(
            "INSERT INTO media_attachments (id, tenant_id, ticket_id, created_by)
                 VALUES (gen_random_uuid(), '{TENANT}', ticket(1, {number}), '{CITIZEN}')"
        )
    };
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    assert_eq!(outcome(&mut citizen, &attach(1)), None);
    for number in [3, 4, 5] {
        assert_eq!(outcome(&mut citizen, &attach(number)).as_deref(), Some("42501"), "{number}");
    }
    let mut manager = session_of(&database, CITIZEN, "manager");
    let hide = "UPDATE media_attachments SET ticket_id = ticket(1, 3)";
    assert_eq!(outcome(&mut manager, hide).as_deref(), Some("42501"), "to a ticket out of sight");
    // A ticket that becomes sensitive takes its rows along.
    database.superuser().run("UPDATE tickets SET is_sensitive = true WHERE id = ticket(1, 1)");
    assert_eq!(numbers(&mut citizen, ticket_numbers), [2]);
}

#[test]
fn who_may_delete_deletes_only_what_they_see() {
    let database = Database::protected();
    let mut session = database.superuser();
    session.run("SET civic.deleters = 'manager, admin'");
    let delete = "DELETE FROM media_attachments";
    for (role, expected) in [("citizen", 0), ("ward_councillor", 0), ("manager", 4), ("admin", 7)] {
        session.acts_as("authenticated", &crate::pg_tests::support::claims(TENANT, role));
        assert_eq!(would_change(&mut session, delete), expected, "{role}");
    }
}

/// asyncpg and other drivers use the extended protocol.
#[test]
fn statements_with_parameters_see_the_same_rows() {
    let database = Database::protected();
    let mut session = session_of(&database, CITIZEN, "manager");
    for _ in 0..8 {
        let sql = "SELECT count(*) FROM tickets WHERE status = $1 AND tenant_id = $2";
        let count: i64 = session.client().query_one(sql, &[&"open", &TENANT]).unwrap().get(0);
        assert_eq!(count, 4);
        let count: i64 = session.client().query_one(sql, &[&"open", &OTHER_TENANT]).unwrap().get(0);
        assert_eq!(count, 0);
    }
}
