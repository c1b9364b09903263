//! Tests of the event's JSON, by example and by property.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn ticket(value: Value) -> Ticket {
    let mut ticket = Ticket::default();
    for column in Column::ALL {
        if let Some(value) = value.get(column.name()) {
            ticket.set_json(column, value, Value::to_string);
        }
    }
    ticket
}

fn written(value: Value, detail: Detail) -> String {
    let mut out = Vec::new();
    let changed_at = ChangedAt::Micros(1_770_000_000_123_456);
    write(&mut out, Operation::Insert, &ticket(value), changed_at, detail);
    String::from_utf8(out).unwrap()
}

fn example() -> Value {
    json!({"id": "a", "tracking_number": "TKT-1", "status": "open", "category": "gbv",
           "tenant_id": "t", "ward_id": 5, "is_sensitive": true})
}

#[test]
fn a_whole_event_has_its_keys_in_order() {
    assert_eq!(
        written(example(), Detail::Whole),
        r#"{"type":"INSERT","ticket_id":"a","tracking_number":"TKT-1","status":"open","category":"gbv","municipality_id":"t","ward_id":"5","is_sensitive":true,"updated_at":1770000000.123456}"#
    );
}

#[test]
fn a_redacted_event_only_identifies_the_ticket() {
    assert_eq!(
        written(example(), Detail::Identifying),
        r#"{"type":"INSERT","ticket_id":"a","tracking_number":null,"status":null,"category":null,"municipality_id":"t","ward_id":null,"is_sensitive":true,"updated_at":1770000000.123456}"#
    );
}

#[test]
fn a_truncated_event_is_marked() {
    assert!(written(example(), Detail::Truncated).ends_with(r#","truncated":true}"#));
}

#[test]
fn a_missing_column_is_null_and_a_number_stays_a_number() {
    let event: Value =
        serde_json::from_str(&written(json!({"id": 7, "status": 1.5}), Detail::Whole)).unwrap();
    assert_eq!(event["ticket_id"], json!("7"));
    assert_eq!(event["status"].to_string(), "1.5");
    assert_eq!(event["ward_id"], Value::Null);
}

#[test]
fn a_time_before_1970_keeps_its_sign() {
    let mut out = Vec::new();
    let changed_at = ChangedAt::Micros(-1_500_000);
    write(&mut out, Operation::Delete, &Ticket::default(), changed_at, Detail::Whole);
    assert!(String::from_utf8(out).unwrap().ends_with(r#""updated_at":-1.500000}"#));
}

#[test]
fn every_value_that_is_not_plainly_no_is_sensitive() {
    for (value, sensitive) in [
        (json!(true), true),
        (json!("t"), true),
        (json!("perhaps"), true),
        (json!(1), true),
        (json!(null), true),
        (json!(false), false),
        (json!("F"), false),
        (json!(0), false),
    ] {
        let ticket = ticket(json!({"is_sensitive": value}));
        assert_eq!(ticket.is_sensitive(true), sensitive, "{value}");
    }
    assert!(!Ticket::default().is_sensitive(false));
}

#[test]
fn the_shared_channel_receives_only_that_a_sensitive_ticket_changed() {
    use {Audience::*, Detail::*, SensitiveEvents::*};
    assert_eq!(deliveries(true, Redacted), [(Shared, Identifying), (Sensitive, Whole)]);
    assert_eq!(deliveries(true, Restricted), [(Sensitive, Whole)]);
    assert_eq!(deliveries(true, Full), [(Shared, Whole)]);
    for mode in [Redacted, Restricted, Full] {
        assert_eq!(deliveries(false, mode), [(Shared, Whole)]);
    }
}

#[test]
fn a_redacted_event_hides_nested_values_of_identifying_keys() {
    let event = json!({"type": "sla_breach", "ticket_id": {"name": "Jane"}, "data": {"a": 1},
                       "ward_id": 5, "municipality_id": "t"});
    let redacted: Value = serde_json::from_slice(&redacted(event.as_object().unwrap())).unwrap();
    assert_eq!(
        redacted,
        json!({"type": "sla_breach", "ticket_id": null, "data": null, "ward_id": null,
               "municipality_id": "t"})
    );
}

#[test]
fn the_extremes_of_time_are_numbers() {
    for (micros, text) in [
        (0, "0.000000"),
        (7, "0.000007"),
        (i64::MAX, "9223372036854.775807"),
        (i64::MIN, "-9223372036854.775808"),
    ] {
        let mut out = Vec::new();
        write_seconds(micros, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

proptest! {
    #[test]
    fn a_string_is_written_as_serde_writes_it(text in "\\PC*|[\\x00-\\x7f]*") {
        let mut out = Vec::new();
        write_string(text.as_bytes(), &mut out);
        prop_assert_eq!(out, serde_json::to_vec(&text).unwrap());
    }

    #[test]
    fn seconds_are_exact(micros: i64) {
        let mut out = Vec::new();
        write_seconds(micros, &mut out);
        let digits = String::from_utf8(out).unwrap().replace('.', "");
        prop_assert_eq!(digits.parse::<i64>().unwrap(), micros);
    }

    #[test]
    fn every_event_is_json_with_the_values_of_the_ticket(status in "\\PC*|[\\x00-\\x20\"\\\\]*") {
        let event: Value =
            serde_json::from_str(&written(json!({"status": status}), Detail::Whole)).unwrap();
        prop_assert_eq!(event["status"].as_str(), Some(status.as_str()));
    }
}

#[test]
fn a_redacted_event_equals_one_written_as_redacted() {
    for id in [json!("a"), json!(7), json!("\"\\,é\u{1}"), Value::Null] {
        for detail in [Detail::Whole, Detail::Truncated] {
            let mut event = example();
            event["id"] = id.clone();
            let whole = written(event.clone(), detail);
            let redacted = String::from_utf8(redact_written(whole.as_bytes()).unwrap()).unwrap();
            let is_truncated = detail == Detail::Truncated && id.is_null();
            let detail = if is_truncated { Detail::Truncated } else { Detail::Identifying };
            assert_eq!(redacted, written(event, detail), "{id} {detail:?}");
        }
    }
}

#[test]
fn an_event_of_an_ordinary_version_is_redacted_as_one_of_a_sensitive_ticket() {
    let mut event = example();
    event["is_sensitive"] = json!(0);
    let redacted = redact_written(written(event, Detail::Whole).as_bytes()).unwrap();
    let redacted: Value = serde_json::from_slice(&redacted).unwrap();
    assert_eq!(redacted["is_sensitive"], json!(true));
}

proptest! {
    /// The trigger and an event of the application name a ticket in the same way.
    #[test]
    fn the_id_of_an_event_is_found_with_any_characters(id in "[a\"\\\\,:é\\x01]{0,8}") {
        let whole = written(json!({"id": id, "status": "\",\"ticket_id\":\"x\""}), Detail::Whole);
        let expected = Some(serde_json::to_vec(&json!(id)).unwrap());
        prop_assert_eq!(written_ticket_id(whole.as_bytes()).map(<[u8]>::to_vec), expected.clone());
        let published = serde_json::to_vec(&json!({"type": "x", "ticket_id": id})).unwrap();
        prop_assert_eq!(published_ticket_id(&published), expected);
    }
}

#[test]
fn an_id_may_be_a_number_or_missing() {
    assert_eq!(published_ticket_id(br#"{"ticket_id": 7}"#).as_deref(), Some(&b"\"7\""[..]));
    for event in [&br#"{"ticket_id": null}"#[..], b"{}", b"[]", b""] {
        assert_eq!(published_ticket_id(event), None);
    }
    let missing = written(json!({}), Detail::Whole);
    assert_eq!(written_ticket_id(missing.as_bytes()), Some(NO_ID));
    assert_eq!(written_ticket_id(b"{}"), None);
}
