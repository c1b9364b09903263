//! Columns of every type: the JSON of their values, and that `ticket_payload` gives the same.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::pg_tests::support::{Database, Session, literal};

/// Types that a column of a ticket may have besides PostgreSQL's own.
const TYPES: &str = "
    CREATE TYPE label AS ENUM ('open', 'In Progress', 'it''s \"quoted\"', 'Übergabe');
    CREATE DOMAIN word AS text CHECK (value <> 'forbidden');
    CREATE DOMAIN flag AS boolean;
    CREATE DOMAIN moment AS timestamptz;
    CREATE DOMAIN nested_flag AS flag;
    CREATE TYPE pair AS (first int, second text);";

fn session() -> Session {
    let mut session = Database::plain().superuser();
    session.run(TYPES);
    session.listens_to("a");
    session
}

/// The event of a ticket with this value in a column of this type.
fn published(session: &mut Session, column: &str, type_name: &str, value: &str) -> Value {
    session.makes_ticket_table(&format!("tenant_id text, {column} {type_name}"));
    session.run(&format!("INSERT INTO ticket VALUES ('a', {value}); DROP TABLE ticket"));
    session.events().pop().unwrap_or_else(|| panic!("{value}::{type_name} is received"))
}

#[test]
fn numbers_and_booleans_keep_their_json_type_and_other_values_are_strings() {
    let mut session = session();
    for (type_name, value, expected) in [
        ("text", "'open'", r#""open""#),
        ("varchar(9)", "'open'", r#""open""#),
        ("char(6)", "'open'", r#""open  ""#),
        ("name", "'open'", r#""open""#),
        ("label", "'In Progress'", r#""In Progress""#),
        ("word", "'open'", r#""open""#),
        ("text", "'12'", r#""12""#),
        ("text", "''", r#""""#),
        ("text", "NULL", "null"),
        (
            "uuid",
            "'5E0F1C6A-0000-4000-8000-00000000000A'",
            r#""5e0f1c6a-0000-4000-8000-00000000000a""#,
        ),
        ("boolean", "true", "true"),
        ("flag", "false", "false"),
        ("nested_flag", "true", "true"),
        ("smallint", "-32768", "-32768"),
        ("int", "2147483647", "2147483647"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("numeric", "1.10", "1.10"),
        ("numeric", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("numeric", "-0.000000000000000000001", "-0.000000000000000000001"),
        ("numeric", "'NaN'", r#""NaN""#),
        ("numeric", "'-Infinity'", r#""-Infinity""#),
        ("real", "0.1", "0.1"),
        ("float8", "1e300", "1e+300"),
        ("float8", "'-0'", "-0"),
        ("float8", "'NaN'", r#""NaN""#),
        ("float8", "'Infinity'", r#""Infinity""#),
        ("float8", "'-Infinity'", r#""-Infinity""#),
        ("jsonb", r#"'"open"'"#, r#""open""#),
        ("jsonb", r#"'"say \"hi\"\n"'"#, r#""say \"hi\"\n""#),
        ("jsonb", "'1.10'", "1.10"),
        ("jsonb", "'true'", "true"),
        ("jsonb", "'null'", "null"),
        ("jsonb", r#"'{"b": [1, {"c": null}]}'"#, r#""{\"b\": [1, {\"c\": null}]}""#),
        ("json", r#"'"open"'"#, r#""open""#),
        ("json", "' 12345678901234567890.10 '", "12345678901234567890.10"),
        ("json", r#"'{"b":1}'"#, r#""{\"b\":1}""#),
        ("timestamptz", "'2026-01-01 02:00:00.5+02'", r#""2026-01-01T00:00:00.5+00:00""#),
        ("timestamp", "'2026-01-01 00:00:00.5'", r#""2026-01-01T00:00:00.5""#),
        ("moment", "'2026-01-01 00:00Z'", r#""2026-01-01T00:00:00+00:00""#),
        ("timestamp", "'infinity'", r#""infinity""#),
        ("date", "'2026-01-01'", r#""2026-01-01""#),
        ("date", "'0044-03-15 BC'", r#""0044-03-15 BC""#),
        ("interval", "'1 day 02:00'", r#""1 day 02:00:00""#),
        ("bytea", r"'\x00ff'", r#""\\x00ff""#),
        ("text[]", "'{a,NULL,\"b c\"}'", r#""{a,NULL,\"b c\"}""#),
        ("int[]", "'{{1,2},{3,4}}'", r#""{{1,2},{3,4}}""#),
        ("pair", "(1, 'b c')", r#""(1,\"b c\")""#),
        ("int4range", "'[1,5)'", r#""[1,5)""#),
    ] {
        session.run("SET TimeZone = 'UTC'");
        let event = published(&mut session, "status", type_name, value);
        assert_eq!(event["status"].to_string(), expected, "{value}::{type_name}");
    }
}

#[test]
fn identifiers_are_strings_whatever_their_type() {
    let mut session = session();
    for (type_name, value, expected) in [
        ("uuid", "'5e0f1c6a-0000-4000-8000-00000000000a'", "5e0f1c6a-0000-4000-8000-00000000000a"),
        ("bigint", "9007199254740993", "9007199254740993"),
        ("smallint", "5", "5"),
        ("numeric", "1.50", "1.50"),
        ("boolean", "true", "true"),
        ("jsonb", "'7'", "7"),
        ("jsonb", "'\"seven\"'", "seven"),
        ("label", "'open'", "open"),
        ("varchar", "'Ward 5'", "Ward 5"),
    ] {
        for (column, key) in [("id", "ticket_id"), ("ward_id", "ward_id")] {
            let event = published(&mut session, column, type_name, value);
            assert_eq!(event[key], json!(expected), "{column} {value}::{type_name}");
        }
    }
}

#[test]
fn a_municipality_of_any_type_has_the_channel_of_its_text() {
    let uuid = "00000000-0000-0000-0000-000000000001";
    for (type_name, value, heard_at) in [
        ("uuid", literal(uuid), uuid),
        ("char(36)", literal(uuid), uuid),
        ("int", "42".to_owned(), "42"),
        ("bigint", "-42".to_owned(), "-42"),
        ("jsonb", "'\"a b\"'".to_owned(), "a b"),
        ("jsonb", "'7'".to_owned(), "7"),
        ("text", "'Ünïted \"Town\"'".to_owned(), "Ünïted \"Town\""),
    ] {
        let mut session = Database::plain().superuser();
        session.makes_ticket_table(&format!("tenant_id {type_name}"));
        session.run(&format!("LISTEN \"ticket_updates:{}\"", heard_at.replace('"', "\"\"")));
        session.run(&format!("INSERT INTO ticket VALUES ({value})"));
        let events = session.events();
        assert_eq!(events.len(), 1, "{value}::{type_name}");
        assert_eq!(events[0]["municipality_id"], json!(heard_at), "{value}::{type_name}");
    }
}

#[test]
fn a_blank_padded_municipality_is_published_on_the_channel_of_its_text() {
    let mut session = session();
    session.makes_ticket_table("tenant_id char(40)");
    session.run("INSERT INTO ticket VALUES ('a')");
    assert_eq!(
        session.text("SELECT civic.ticket_channel(tenant_id) FROM ticket"),
        "ticket_updates:a"
    );
    assert_eq!(session.events().len(), 1);
}

#[test]
fn a_time_of_any_type_becomes_unix_seconds() {
    let mut session = session();
    session.run("SET TimeZone = 'Africa/Johannesburg'; SET DateStyle = 'German'");
    for (type_name, value, expected) in [
        ("timestamptz", "'2026-01-01 02:00:00.000001+02'", "1767225600.000001"),
        ("timestamp", "'2026-01-01 00:00:00.5'", "1767225600.500000"),
        ("date", "'2026-01-01'", "1767225600.000000"),
        ("moment", "'2026-01-01 00:00Z'", "1767225600.000000"),
        ("text", "'2026-01-01T00:00:00.25Z'", "1767225600.250000"),
        ("text", "'2026-01-01 02:00:00+02'", "1767225600.000000"),
        ("text", "'2026-01-01 00:00:00'", "1767225600.000000"),
        ("text", "'2026-01-01'", "1767225600.000000"),
        ("jsonb", "'\"2026-01-01T00:00:00Z\"'", "1767225600.000000"),
        ("int", "1767225600", "1767225600"),
        ("bigint", "-1", "-1"),
        ("numeric", "1767225600.10", "1767225600.10"),
        ("float8", "1767225600.5", "1767225600.5"),
        ("jsonb", "1767225600.10::text::jsonb", "1767225600.10"),
        ("timestamptz", "'0044-03-15 00:00Z BC'", "-63517824000.000000"),
    ] {
        let event = published(&mut session, "updated_at", type_name, value);
        assert_eq!(event["updated_at"].to_string(), expected, "{value}::{type_name}");
    }
}

#[test]
fn a_value_that_is_not_a_time_falls_back_to_created_at() {
    let mut session = session();
    for (type_name, value) in [
        ("timestamptz", "NULL"),
        ("timestamptz", "'infinity'"),
        ("timestamp", "'-infinity'"),
        ("date", "'infinity'"),
        ("float8", "'NaN'"),
        ("numeric", "'Infinity'"),
        ("text", "'yesterday'"),
        ("text", "'now'"),
        ("text", "'99999-99-99'"),
        ("text", "'2026-02-30'"),
        ("text", "'2026-01-01 25:61:00+99'"),
        ("text", "'1767225600'"),
        ("text", "''"),
        ("boolean", "true"),
        ("jsonb", "'{\"at\": 1}'"),
        ("int[]", "'{1}'"),
    ] {
        let created = format!("{type_name}, created_at timestamptz DEFAULT '2026-01-01 00:00Z'");
        let event = published(&mut session, "updated_at", &created, &format!("{value}, DEFAULT"));
        assert_eq!(event["updated_at"].to_string(), "1767225600.000000", "{value}::{type_name}");
    }
}

#[test]
fn every_text_is_published_unchanged() {
    let mut session = session();
    session.makes_ticket_table("tenant_id text, status text");
    for text in [
        "quote \" backslash \\ slash / apostrophe '",
        "\u{1}\u{2}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}",
        "\u{2028}\u{2029}\u{feff}\u{fffd}",
        "🚰 \u{10ffff} é e\u{301} \u{202e}",
        "</script>",
        "\\u0000 is not a NUL",
    ] {
        session.run(&format!("INSERT INTO ticket VALUES ('a', {})", literal(text)));
        assert_eq!(session.events()[0]["status"], json!(text));
    }
}

/// A proptest strategy for SQL expressions of a type.
type Values = BoxedStrategy<String>;

fn texts() -> Values {
    let characters = prop_oneof![
        4 => any::<char>(),
        1 => proptest::sample::select(vec!['"', '\\', '\'', '\n', '\u{1}', '\u{2028}', '🚰']),
    ];
    let texts = proptest::collection::vec(characters, 0..30);
    texts
        .prop_map(|text| literal(&text.into_iter().filter(|c| *c != '\0').collect::<String>()))
        .boxed()
}

fn times() -> Values {
    let micros = prop_oneof![
        -210_000_000_000_000_000..8_200_000_000_000_000_000_i64,
        1_500_000_000_000_000..2_000_000_000_000_000_i64,
    ];
    let finite = micros.prop_map(|micros| {
        format!(
            "'epoch'::timestamptz + {} * interval '1 second' + {} * interval '1 microsecond'",
            micros.div_euclid(1_000_000),
            micros.rem_euclid(1_000_000)
        )
    });
    let others = proptest::sample::select(vec!["infinity", "-infinity", "0044-03-15 12:00Z BC"]);
    prop_oneof![8 => finite, 1 => others.prop_map(literal)].boxed()
}

fn json_values() -> Values {
    let text = any::<String>().prop_map(|text| Value::from(text.replace('\0', "")));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text,
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z\"]{0,4}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    });
    value.prop_map(|value| literal(&value.to_string())).boxed()
}

fn one_of(values: &'static [&'static str]) -> Values {
    proptest::sample::select(values).prop_map(literal).boxed()
}

fn expressions<T: std::fmt::Display + std::fmt::Debug + 'static>(
    values: impl Strategy<Value = T> + 'static,
) -> Values {
    values.prop_map(|value| literal(&value.to_string())).boxed()
}

/// Every type with a strategy for its values, and whether to_jsonb keeps the text of its numbers,
/// from which identifiers are made.
fn types() -> Vec<(&'static str, Values, bool)> {
    let cast = |values: Values, to: &'static str| {
        values.prop_map(move |value| format!("({value}){to}")).boxed()
    };
    vec![
        ("text", texts(), true),
        ("varchar", texts(), true),
        ("char(40)", texts(), true),
        ("word", texts(), true),
        ("name", texts(), true),
        ("label", one_of(&["open", "In Progress", "it's \"quoted\"", "Übergabe"]), true),
        ("uuid", expressions(any::<u128>().prop_map(|bits| format!("{bits:032x}"))), true),
        ("boolean", expressions(any::<bool>()), true),
        ("flag", expressions(any::<bool>()), true),
        ("smallint", expressions(any::<i16>()), true),
        ("int", expressions(any::<i32>()), true),
        ("bigint", expressions(any::<i64>()), true),
        ("numeric", expressions("-?[0-9]{1,40}(\\.[0-9]{1,40})?|NaN|-?Infinity"), true),
        ("numeric(12, 3)", expressions("-?[0-9]{1,9}\\.[0-9]{1,5}|NaN"), true),
        ("real", expressions(any::<f32>()), false),
        ("float8", expressions(proptest::num::f64::ANY), false),
        ("float8", expressions("-?[0-9]{1,12}(\\.5)?|NaN|-?Infinity"), false),
        ("jsonb", json_values(), true),
        ("json", cast(json_values(), "::jsonb::json"), true),
        ("timestamptz", times(), true),
        ("timestamp", times(), true),
        ("moment", times(), true),
        ("date", times(), true),
        ("time", expressions("[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?"), true),
        ("interval", expressions("-?[0-9]{1,6} (months|days|hours|microseconds)"), true),
        ("bytea", expressions("[a-z]{0,20}"), true),
        ("inet", expressions("1[0-9]{1}\\.0\\.0\\.[0-9]"), true),
        ("oid", expressions(any::<u32>()), true),
    ]
}

fn samples(runner: &mut TestRunner, values: &Values, count: usize) -> Vec<String> {
    let mut sample = || values.new_tree(runner).expect("a value").current();
    (0..count).map(|_| sample()).collect()
}

#[test]
fn ticket_payload_equals_the_triggers_event_for_generated_rows_of_every_type() {
    const ROWS: usize = 60;
    let mut session = session();
    let mut runner = TestRunner::deterministic();
    // Session settings that change the text of a value change it in both.
    session.run(
        "SET civic.sensitive_events = 'full'; SET TimeZone = 'Asia/Kathmandu';
         SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'",
    );
    session.run("CREATE TABLE received (number int, payload text)");
    for (type_name, values, is_text_kept) in types() {
        let identifier = if is_text_kept { type_name } else { "text" };
        session.makes_ticket_table(&format!(
            "id {identifier}, tracking_number int, tenant_id text, status {type_name},
             category {type_name}, ward_id {identifier}, is_sensitive {type_name},
             updated_at {type_name}, created_at timestamptz DEFAULT '2026-01-01 00:00Z'"
        ));
        let columns: Vec<_> = (0..3).map(|_| samples(&mut runner, &values, ROWS)).collect();
        let row = |number: usize| {
            let value = |column: usize| match (number + column) % 8 {
                0 => "NULL",
                _ => columns[column % 3][number].as_str(),
            };
            format!(
                "INSERT INTO ticket VALUES (({}), {number}, 'a', ({}), ({}), ({}), ({}), ({}));",
                if is_text_kept { value(0) } else { "'x'" },
                value(1),
                value(2),
                if is_text_kept { value(3) } else { "'x'" },
                value(4),
                value(5)
            )
        };
        session.run(&(0..ROWS).map(row).collect::<String>());
        session.run("UPDATE ticket SET tracking_number = tracking_number + 1000");
        let payloads: Vec<_> =
            session.heard().into_iter().map(|(_, text)| literal(&text)).collect();
        assert_eq!(payloads.len(), 2 * ROWS, "{type_name}: every row is received");
        session.run(&format!(
            "TRUNCATE received; INSERT INTO received SELECT (payload::jsonb ->> 'tracking_number')::int,
                 payload FROM unnest(ARRAY[{}]) payload",
            payloads.join(", ")
        ));
        let differing = session.rows(
            "SELECT received.payload, said.payload FROM ticket
             CROSS JOIN (VALUES ('UPDATE', 0), ('INSERT', 1000)) AS operation (name, past)
             CROSS JOIN to_jsonb(ticket) AS current
             CROSS JOIN jsonb_set(current, '{tracking_number}', to_jsonb(tracking_number - past))
                 AS at_the_time
             CROSS JOIN civic.ticket_payload(operation.name, at_the_time) AS said (payload)
             LEFT JOIN received ON received.number = tracking_number - past
             WHERE received.payload::jsonb IS DISTINCT FROM said.payload",
        );
        assert!(differing.is_empty(), "{type_name}: {differing:#?}");
        session.run("DROP TABLE ticket");
    }
}
