//! Events through Supabase Realtime, and who receives them.

mod attacks;
mod failures;
mod join;
mod locks;
mod matrix;
mod owner;
mod publication;
mod rate;
mod settled;
mod setup;
mod tenant;
mod transport;
mod wal;

use serde_json::Value;

use crate::pg_tests::support::{Session, literal};

/// One message: topic, event, payload.
pub type Message = (String, String, Value);

/// Adds a ticket of a municipality.
pub fn insert(tenant_id: &str, number: u32, is_sensitive: bool) -> String {
    format!(
        "INSERT INTO tickets (tenant_id, tracking_number, category, status, is_sensitive)
         VALUES ({}, 'TKT-{number}', '{}', 'open', {is_sensitive});",
        literal(tenant_id),
        if is_sensitive { "gbv" } else { "water" }
    )
}

impl Session {
    /// The stored messages, in order.
    #[track_caller]
    pub fn messages(&mut self) -> Vec<Message> {
        let rows = self.rows(
            "SELECT topic, event, payload FROM realtime.messages
             WHERE extension = 'broadcast' AND private ORDER BY tableoid, ctid",
        );
        let text = |value: &Option<String>| value.clone().expect("not NULL");
        rows.iter()
            .map(|row| {
                let payload = serde_json::from_str(&text(&row[2])).expect("JSON");
                (text(&row[0]), text(&row[1]), payload)
            })
            .collect()
    }

    /// Topic and one key of each message.
    #[track_caller]
    pub fn published(&mut self, key: &str) -> Vec<(String, Value)> {
        self.messages()
            .into_iter()
            .map(|(topic, _, mut payload)| (topic, payload[key].take()))
            .collect()
    }

    /// Checks as Realtime's server does whether a user may join: it inserts a row for each
    /// extension with the topic, switches to the user, checks which rows they see, and rolls back.
    /// The answer is for broadcast and for presence.
    #[track_caller]
    pub fn may_join(&mut self, role: &str, claims: &str, topic: &str) -> (bool, bool) {
        let topic = literal(topic);
        self.run(&format!(
            "BEGIN;
             INSERT INTO realtime.messages (id, topic, extension) VALUES
                 ('00000000-0000-4000-8000-000000000001', {topic}, 'broadcast'),
                 ('00000000-0000-4000-8000-000000000002', {topic}, 'presence');
             SELECT set_config('role', '{role}', true), set_config('realtime.topic', {topic}, true),
                    set_config('request.jwt.claims', {}, true)",
            literal(claims)
        ));
        let seen = self.column(
            "SELECT extension FROM realtime.messages
             WHERE id IN ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002')",
        );
        self.run("ROLLBACK");
        let sees = |extension: &str| seen.iter().any(|seen| seen == extension);
        (sees("broadcast"), sees("presence"))
    }
}
