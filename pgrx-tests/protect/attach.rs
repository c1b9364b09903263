//! confirm_upload() with a ticket.

use super::{CITIZEN, NEIGHBOUR, WORKER, numbers, session_of};
use crate::pg_tests::support::{Database, Session, TENANT};

const FILE: &str = "8f14e45f-0000-4000-8000-0000000000fa";

/// A file of each person in the open bucket.
fn uploaded(by: &str) -> Database {
    let database = Database::protected();
    database.superuser().run(&format!(
        "INSERT INTO storage.objects (bucket_id, name, owner_id, metadata) VALUES
             ('evidence', '{TENANT}/{FILE}/photo.jpg', '{by}', '{{\"size\": 10, \"mimetype\": \"image/jpeg\"}}')"
    ));
    database
}

fn confirm(municipality: i32, number: i32) -> String {
    format!(
        "SELECT civic.confirm_upload('{FILE}', 'evidence', ticket({municipality}, {number})::text)"
    )
}

fn recorded(database: &Database) -> Vec<String> {
    let sql = format!(
        "SELECT right(ticket_id::text, 1) || ' ' || created_by FROM media_attachments WHERE file_id = '{FILE}'"
    );
    database.superuser().column(&sql)
}

#[test]
fn files_are_attached_to_own_reports_and_to_tickets_in_sight() {
    for (user, role, municipality, number, is_allowed) in [
        (CITIZEN, "citizen", 1, 1, true),
        (CITIZEN, "citizen", 1, 2, true),
        // Their own sensitive report, which they do not see.
        (CITIZEN, "citizen", 1, 3, true),
        (CITIZEN, "citizen", 1, 4, false),
        (CITIZEN, "citizen", 2, 1, false),
        (WORKER, "field_worker", 1, 6, true),
        (WORKER, "field_worker", 1, 7, false),
        (NEIGHBOUR, "manager", 1, 1, true),
        (NEIGHBOUR, "manager", 1, 3, false),
        (NEIGHBOUR, "admin", 1, 3, true),
        (NEIGHBOUR, "admin", 2, 3, false),
        (CITIZEN, "citizen", 1, 9, false),
    ] {
        let database = uploaded(user);
        let mut session = session_of(&database, user, role);
        let case = format!("{role} {municipality} {number}");
        if is_allowed {
            session.run(&confirm(municipality, number));
            assert_eq!(recorded(&database), [format!("{number} {user}")], "{case}");
        } else {
            assert_eq!(session.sqlstate(&confirm(municipality, number)), "PT404", "{case}");
            assert_eq!(recorded(&database), Vec::<String>::new(), "{case}");
        }
    }
}

#[test]
fn files_of_a_sensitive_ticket_are_moved_and_hidden() {
    let database = uploaded(CITIZEN);
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    citizen.run(&confirm(1, 3));
    let jobs = |session: &mut Session| {
        session.column("SELECT kind || ' ' || right(ticket_id, 1) FROM civic.media_jobs")
    };
    assert_eq!(jobs(&mut database.superuser()), ["restrict 3"]);
    let attached = "SELECT right(ticket_id::text, 1) FROM media_attachments";
    assert_eq!(numbers(&mut citizen, attached), [1, 2], "it follows the ticket");
    let mut liaison = session_of(&database, NEIGHBOUR, "saps_liaison");
    assert_eq!(liaison.column(&format!("{attached} WHERE file_id = '{FILE}'")), ["3"]);
}

#[test]
fn an_ordinary_ticket_moves_nothing_and_no_ticket_is_as_before() {
    let database = uploaded(CITIZEN);
    let mut citizen = session_of(&database, CITIZEN, "citizen");
    citizen.run("BEGIN");
    citizen.run(&confirm(1, 1));
    citizen.run("ROLLBACK");
    citizen.run(&format!("SELECT civic.confirm_upload('{FILE}', 'evidence')"));
    let mut superuser = database.superuser();
    assert_eq!(superuser.text("SELECT count(*) FROM civic.media_jobs"), "0");
    let ticket = format!("SELECT ticket_id FROM media_attachments WHERE file_id = '{FILE}'");
    assert_eq!(superuser.value(&ticket), None);
}
