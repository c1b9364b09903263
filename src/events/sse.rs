//! The deprecated endpoint of Server-Sent Events, as text in the grammar of the HTML standard. It
//! says where the events are now, sends one heartbeat, and makes EventSource reconnect every 30
//! seconds.

use serde_json::{Value, json};

use super::channel::{Audience, channel};
use crate::claims::Identity;
use crate::error::Error;
use crate::events::EventError;

/// How long EventSource waits before it reconnects, in milliseconds.
const RETRY: u32 = 30_000;
const ROLES: [&str; 3] = ["manager", "admin", "ward_councillor"];

/// The response for the caller's dashboard. `id` is different for each response; `timestamp` is now
/// in ISO 8601.
///
/// Errors: the caller has no municipality or none of the roles.
pub fn stream(
    identity: &Identity,
    ward_id: Option<&str>,
    id: &str,
    timestamp: &str,
) -> Result<String, Error> {
    let municipality_id = identity.tenant_id().ok_or(EventError::NoDashboard)?;
    if !ROLES.iter().any(|role| identity.has_role(role)) {
        return Err(EventError::NoDashboard.into());
    }
    let connected = json!({
        "status": "deprecated",
        "message": "This endpoint only beats. Tickets are published through Supabase Realtime: \
                    subscribe as in \"migration\".",
        "municipality_id": municipality_id,
        "ward_id": ward_id,
        "migration": migration(municipality_id),
    });
    Ok([
        format!("retry: {RETRY}\n\n"),
        event(&format!("{id}-1"), "connected", &connected),
        event(&format!("{id}-2"), "heartbeat", &json!({"timestamp": timestamp})),
    ]
    .concat())
}

/// The subscription that replaces this endpoint.
fn migration(municipality_id: &str) -> Value {
    let topic = channel(municipality_id, Audience::Shared).ok();
    json!({
        "transport": "Supabase Realtime, broadcast on a private channel",
        "channel": topic.as_ref().map(|topic| topic.as_str()),
        "config": {"private": true},
        "events": ["INSERT", "UPDATE"],
        "javascript": [
            "await supabase.realtime.setAuth()",
            "supabase.channel(channel, {config: {private: true}})",
            "  .on('broadcast', {event: '*'}, ({event, payload}) => onTicket(event, payload))",
            "  .subscribe()",
        ],
        "guide": "docs/browsers.md",
    })
}

/// One event. JSON escapes line breaks, so the data is one line.
fn event(id: &str, name: &str, data: &Value) -> String {
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(claims: Value) -> Identity {
        let path = |key: &str| vec![key.to_owned()];
        let claims = claims.to_string();
        Identity::parse(claims.as_bytes(), &path("tenant"), &path("role"), |_| None).unwrap()
    }

    fn of(role: &str, ward_id: Option<&str>) -> Result<String, Error> {
        stream(&identity(json!({"tenant": "t", "role": role})), ward_id, "id", "now")
    }

    #[test]
    fn three_roles_of_a_municipality_get_the_stream() {
        for role in ["manager", "admin", "ward_councillor", "WARD_COUNCILLOR"] {
            assert!(of(role, None).is_ok(), "{role}");
        }
        for role in ["citizen", "field_worker", "saps_liaison", ""] {
            assert_eq!(of(role, None), Err(EventError::NoDashboard.into()), "{role}");
        }
        let homeless = identity(json!({"role": "admin"}));
        assert_eq!(stream(&homeless, None, "id", "now"), Err(EventError::NoDashboard.into()));
    }

    #[test]
    fn the_stream_follows_the_standard() {
        let text = of("admin", Some("5")).unwrap();
        let blocks: Vec<_> = text.split("\n\n").collect();
        assert_eq!(blocks[0], "retry: 30000");
        assert!(blocks[1].starts_with("id: id-1\nevent: connected\ndata: {"), "{text}");
        assert_eq!(blocks[2], "id: id-2\nevent: heartbeat\ndata: {\"timestamp\":\"now\"}");
        assert_eq!(blocks[3..], [""]);
    }

    proptest! {
        #[test]
        fn a_hostile_ward_id_stays_within_its_line(ward_id in "(\\PC|[\\r\\n:\u{2028}\u{0}]){0,20}") {
            let text = of("admin", Some(&ward_id)).unwrap();
            prop_assert_eq!(text.lines().count(), of("admin", None).unwrap().lines().count());
            prop_assert!(!text.contains('\r'));
            let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            prop_assert_eq!(data["ward_id"].as_str(), Some(ward_id.as_str()));
        }
    }
}
