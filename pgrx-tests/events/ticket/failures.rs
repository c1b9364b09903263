//! A notification never costs a ticket: the write succeeds whatever the row or the table holds.

use serde_json::json;

use crate::pg_tests::support::{Database, Session, extent};

/// A session that listens to the municipality `a` and writes to `ticket`.
fn session(columns: &str) -> Session {
    let mut session = Database::plain().superuser();
    session.listens_to("a");
    session.makes_ticket_table(columns);
    session
}

const COLUMNS: &str = "id text, tenant_id text, status text, is_sensitive boolean DEFAULT false,
                       updated_at timestamptz DEFAULT '2026-01-01 00:00Z'";

const TRUNCATED: &str = r#"{"type":"INSERT","ticket_id":"1","tracking_number":null,"status":null,"category":null,"municipality_id":"a","ward_id":null,"is_sensitive":false,"updated_at":1767225600.000000,"truncated":true}"#;

#[test]
fn a_ticket_without_a_municipality_is_written_with_one_warning_per_transaction() {
    let cases = [
        ("tenant_id text", "NULL"),
        ("tenant_id text", "''"),
        ("tenant_id jsonb", "'null'"),
        ("tenant_id json", r#"'"a\u0000b"'"#),
        ("tenant_id char(9)", "''"),
        ("other text", "'a'"),
    ];
    for (columns, tenant_id) in cases {
        let mut session = session(&format!("{columns}, status text"));
        session.run(&format!(
            "INSERT INTO ticket SELECT {tenant_id}, 'confidential' FROM generate_series(1, 1000)"
        ));
        let warnings = session.warnings();
        assert_eq!(warnings.len(), 1, "{columns} {tenant_id}");
        assert_eq!(
            warnings[0].message(),
            "change of table \"ticket\" was not notified: a ticket has no municipality"
        );
        assert!(!format!("{:?}", warnings[0]).contains("confidential"));
        assert_eq!(session.text("SELECT count(*) FROM ticket"), "1000");
        assert!(session.heard().is_empty());
    }
}

#[test]
fn each_transaction_has_its_own_warning() {
    let mut session = session(COLUMNS);
    let insert = "INSERT INTO ticket (id) VALUES ('1');";
    session.run(&format!("BEGIN; {insert} {insert} COMMIT"));
    assert_eq!(session.warnings().len(), 1);
    session.run(&format!("BEGIN; {insert} COMMIT; BEGIN; {insert} COMMIT; {insert}"));
    assert_eq!(
        session.warnings().len(),
        3,
        "although one message to the server contains all three"
    );
    session.run(&format!("DO $$BEGIN {insert} COMMIT; {insert} COMMIT; END$$"));
    assert_eq!(session.warnings().len(), 2);
}

#[test]
fn a_municipality_with_a_long_id_is_published_up_to_the_channel_limit() {
    for (length, is_heard) in [(48, true), (49, false), (60, false), (7000, false), (9000, false)] {
        let tenant_id = "x".repeat(length);
        let mut session = session(COLUMNS);
        session.run(&format!("LISTEN \"ticket_updates:{:.48}\"", tenant_id));
        session.run(&format!("INSERT INTO ticket VALUES ('1', '{tenant_id}', 'confidential')"));
        assert_eq!(session.text("SELECT count(*) FROM ticket"), "1", "{length}");
        assert_eq!(session.heard().len(), usize::from(is_heard), "{length}");
        let warnings = session.warnings();
        assert_eq!(warnings.len(), usize::from(!is_heard), "{length}");
        assert!(!format!("{warnings:?}").contains("confidential"), "{length}");
    }
}

#[test]
fn a_status_of_eight_kilobytes_reduces_the_event_to_the_identifying_keys() {
    let mut session = session(COLUMNS);
    let limit =
        7999 - TRUNCATED.replace(",\"truncated\":true", "").len() + "null".len() - "\"\"".len();
    for (length, is_whole) in [(limit, true), (limit + 1, false), (8000, false), (100_000, false)] {
        session.run(&format!("INSERT INTO ticket VALUES ('1', 'a', repeat('x', {length}))"));
        let received = session.heard();
        assert_eq!(received.len(), 1, "{length}");
        let payload = &received[0].1;
        match is_whole {
            true => assert_eq!(payload.len(), 7999, "{length}"),
            false => assert_eq!(payload, TRUNCATED, "{length}"),
        }
    }
    assert!(session.warnings().is_empty());
    assert_eq!(session.text("SELECT max(length(status)) FROM ticket"), "100000");
}

#[test]
fn a_short_text_that_is_long_in_json_reduces_the_event_too() {
    let mut session = session(COLUMNS);
    session.run("INSERT INTO ticket VALUES ('1', 'a', repeat(chr(1), 2000))");
    assert_eq!(session.heard()[0].1, TRUNCATED);
}

#[test]
fn an_id_of_eight_kilobytes_loses_the_event_but_not_the_ticket() {
    let mut session = session(COLUMNS);
    session.run("INSERT INTO ticket VALUES (repeat('1', 7900), 'a', 'confidential')");
    assert!(session.heard().is_empty());
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message().contains("is too long, the limit is 7999"));
    assert!(!format!("{warnings:?}").contains("confidential"));

    session.run("INSERT INTO ticket VALUES (repeat('1', 8000), 'a', 'open')");
    let unnamed = TRUNCATED.replace("\"ticket_id\":\"1\"", "\"ticket_id\":null");
    assert_eq!(session.heard(), [("ticket_updates:a".to_owned(), unnamed)]);
    assert_eq!(session.text("SELECT count(*) FROM ticket"), "2");
}

/// The peak memory of the backend, in bytes.
fn peak_memory(session: &mut Session) -> u64 {
    let pid = session.text("SELECT pg_backend_pid()");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs here");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kilobytes.expect("a number") * 1024
}

#[test]
fn a_value_of_many_megabytes_is_not_unpacked() {
    const MEGABYTE: u64 = 1 << 20;
    let size = extent(30_000_000, 100_000_000);
    for (type_name, value) in [
        ("text", format!("repeat('x', {size})")),
        ("varchar", format!("repeat('x', {size})")),
        ("bytea", format!("decode(repeat('ff', {}), 'hex')", size / 2)),
        ("jsonb", format!("to_jsonb(repeat('x', {size}))")),
        ("text[]", format!("ARRAY[repeat('x', {size})]")),
        (
            "tsvector",
            "array_to_tsvector(ARRAY(SELECT i::text FROM generate_series(1, 90000) i))".to_owned(),
        ),
    ] {
        let database = Database::plain();
        let mut session = database.superuser();
        session.makes_ticket_table(&format!("id int, tenant_id text, status {type_name}"));
        session.run(&format!(
            "ALTER TABLE ticket DISABLE TRIGGER tell; INSERT INTO ticket VALUES (1, 'a', {value});
             ALTER TABLE ticket ENABLE TRIGGER tell"
        ));
        let mut session = database.superuser();
        session.listens_to("a");
        // Not counting the pages of the library itself, which is large in a test build.
        session.run("LOAD 'pg_civic'; UPDATE ticket SET id = 2 WHERE false");
        let before = peak_memory(&mut session);
        session.run("UPDATE ticket SET id = 2");
        let taken = peak_memory(&mut session) - before;
        assert!(taken < 10 * MEGABYTE, "{type_name}: {taken} bytes");
        assert_eq!(session.events()[0]["truncated"], json!(true), "{type_name}");
    }
}

#[test]
fn a_compressed_value_with_a_short_text_is_published_whole() {
    for (type_name, value) in [
        ("jsonb", "(SELECT jsonb_agg(1) FROM generate_series(1, 900))"),
        ("int[]", "ARRAY(SELECT 1 FROM generate_series(1, 2500))"),
        ("text", "repeat('x', 7000)"),
    ] {
        let mut session = session(&format!("tenant_id text, status {type_name}"));
        session.run(&format!("INSERT INTO ticket VALUES ('a', {value})"));
        let status = session.text("SELECT status::text FROM ticket");
        assert_eq!(session.events()[0]["status"], json!(status), "{type_name}");
    }
}

/// Types over integers and floats whose output function raises an error: for each value, for all
/// but the labels of an enum, and after the sleep, with a cancelled query. (A user-defined output
/// function must be written in C, so these use the server's functions.)
const FAILING_TYPES: &str = "
    CREATE TYPE never; CREATE TYPE slow;
    CREATE FUNCTION never_in(cstring) RETURNS never LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
    CREATE FUNCTION never_out(never) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'any_out';
    CREATE TYPE never (INPUT = never_in, OUTPUT = never_out, LIKE = int4);
    CREATE FUNCTION slow_in(cstring) RETURNS slow LANGUAGE internal IMMUTABLE STRICT AS 'float8in';
    CREATE FUNCTION slow_out(slow) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'pg_sleep';
    CREATE TYPE slow (INPUT = slow_in, OUTPUT = slow_out, LIKE = float8);
    CREATE DOMAIN never_domain AS never;
    CREATE TYPE never_pair AS (first int, second never);";

#[test]
fn a_failing_output_function_loses_the_value_but_not_the_ticket() {
    for (type_name, value) in [
        ("never", "'7'"),
        ("never_domain", "'7'"),
        ("never[]", "'{7}'"),
        ("never_pair", "ROW(1, '7'::never)::never_pair"),
    ] {
        let mut session = Database::plain().superuser();
        session.run(FAILING_TYPES);
        session.listens_to("a");
        session.makes_ticket_table(&COLUMNS.replace("status text", &format!("status {type_name}")));
        session.run("BEGIN; CREATE TABLE beside (id int)");
        session.run(&format!("INSERT INTO ticket VALUES ('1', 'a', {value}), ('2', 'a', {value})"));
        session.run("INSERT INTO beside VALUES (1); COMMIT");
        let received = session.heard();
        assert_eq!(received.len(), 2, "{type_name}");
        assert_eq!(received[0].1, TRUNCATED, "{type_name}");
        assert_eq!(session.text("SELECT count(*) FROM ticket"), "2", "{type_name}");
        assert_eq!(session.text("SELECT count(*) FROM beside"), "1", "{type_name}");
        session.run("INSERT INTO ticket (id, tenant_id) VALUES ('3', 'a')");
        assert_eq!(session.events().len(), 1, "{type_name}: NULL is no trouble");
        assert!(session.warnings().is_empty(), "{type_name}");
    }
}

#[test]
fn a_failing_output_in_a_deferred_trigger_does_not_fail_the_commit() {
    let mut session = Database::plain().superuser();
    session.run(FAILING_TYPES);
    session.listens_to("a");
    session.run(
        "CREATE TABLE ticket (tenant_id text, status never);
         CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON ticket DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update();
         INSERT INTO ticket VALUES ('a', '7')",
    );
    assert_eq!(session.events()[0]["truncated"], json!(true));
}

#[test]
fn cancelling_an_output_function_cancels_the_query_and_keeps_the_session() {
    let mut session = Database::plain().superuser();
    session.run(FAILING_TYPES);
    session.listens_to("a");
    session.makes_ticket_table("tenant_id text, status slow");
    session.run("SET statement_timeout = '100ms'");
    let insert = "INSERT INTO ticket VALUES ('a', '60')";
    assert_eq!(session.sqlstate(insert), "57014");
    session.run("INSERT INTO ticket VALUES ('a', NULL)");
    assert_eq!(session.events().len(), 1);

    session.run("BEGIN; INSERT INTO ticket VALUES ('a', NULL)");
    assert_eq!(session.sqlstate(insert), "57014");
    session.run("ROLLBACK");
    assert_eq!(session.text("SELECT count(*) FROM ticket"), "1");
}

#[test]
fn columns_that_change_between_statements_are_read_with_their_current_definition() {
    let mut session = session("id int, tenant_id text, status text");
    session.run("PREPARE add AS INSERT INTO ticket (id, tenant_id) VALUES (1, 'a')");
    let mut statuses = Vec::new();
    for change in [
        "",
        "ALTER TABLE ticket DROP status",
        "ALTER TABLE ticket ADD status int DEFAULT 7",
        "ALTER TABLE ticket ALTER status TYPE text USING 'x', ALTER status SET DEFAULT 'y'",
        "ALTER TABLE ticket RENAME status TO state",
        "ALTER TABLE ticket RENAME state TO status",
        "ALTER TABLE ticket DROP id, ADD id int, ADD category boolean DEFAULT true",
        "ALTER TABLE ticket ALTER status DROP DEFAULT, ALTER status TYPE bool USING true",
    ] {
        session.run(&format!("{change}; EXECUTE add"));
        statuses.push(session.events()[0]["status"].to_string());
    }
    assert_eq!(statuses, ["null", "null", "7", "\"y\"", "null", "\"y\"", "\"y\"", "null"]);
    assert!(session.warnings().is_empty());
}

#[test]
fn rows_older_than_a_column_have_its_default() {
    let mut session = session("id int, tenant_id text");
    session.run("INSERT INTO ticket VALUES (1, 'a'), (2, 'a')");
    session.heard();
    session.run("ALTER TABLE ticket ADD status text DEFAULT 'missing', ADD ward_id int DEFAULT 5");
    session.run("UPDATE ticket SET id = 3 WHERE id = 1; DELETE FROM ticket WHERE id = 2");
    for event in session.events() {
        assert_eq!(event["status"], json!("missing"));
        assert_eq!(event["ward_id"], json!("5"));
    }
}

#[test]
fn a_stored_generated_column_is_published_with_the_written_value() {
    let mut session = session(
        "id int, tenant_id text, category text,
         is_sensitive boolean GENERATED ALWAYS AS (category = 'gbv') STORED",
    );
    session.run("INSERT INTO ticket VALUES (1, 'a', 'water')");
    assert_eq!(session.events()[0]["is_sensitive"], json!(false));
    session.run("UPDATE ticket SET category = 'gbv'");
    let shared = session.events().remove(0);
    assert_eq!((&shared["is_sensitive"], &shared["category"]), (&json!(true), &json!(null)));
}

#[test]
fn a_generated_is_sensitive_that_is_not_computed_yet_counts_as_sensitive() {
    let mut session = Database::plain().superuser();
    session.listens_to("a");
    session.run(
        "CREATE TABLE ticket (id int, tenant_id text, category text,
             is_sensitive boolean GENERATED ALWAYS AS (category = 'gbv') STORED);
         CREATE TRIGGER tell BEFORE INSERT OR UPDATE ON ticket
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update();
         INSERT INTO ticket VALUES (1, 'a', 'water')",
    );
    session.heard();
    session.run("UPDATE ticket SET category = 'gbv'");
    let received = session.heard();
    let shared: Vec<_> =
        received.iter().filter(|(channel, _)| channel == "ticket_updates:a").collect();
    assert_eq!(shared.len(), 1);
    assert!(!shared[0].1.contains("gbv"), "{}", shared[0].1);
}

#[cfg(feature = "pg18")]
#[test]
fn a_virtual_is_sensitive_that_no_trigger_can_read_counts_as_sensitive() {
    let mut session = session(
        "id int, tenant_id text, category text,
         is_sensitive boolean GENERATED ALWAYS AS (category = 'gbv') VIRTUAL",
    );
    session.run("INSERT INTO ticket VALUES (1, 'a', 'gbv')");
    session.run("UPDATE ticket SET id = 2");
    let received = session.heard();
    assert_eq!(received.len(), 4, "each event on both channels");
    let is_shared = |(channel, _): &&(String, String)| channel == "ticket_updates:a";
    assert!(received.iter().filter(is_shared).all(|(_, payload)| !payload.contains("gbv")));
}
