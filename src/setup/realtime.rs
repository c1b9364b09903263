//! Supabase Realtime: who may join the channels, and who may send there.

use super::firewall::MESSAGE_FUNCTIONS;
use super::plan::{Component, Components, DONE, SKIPPED, State, Step, boxed, step, unneeded};
use super::policy::{CLOSED, Policy, permissive, restrictive};
use super::privileges::{self, MESSAGES};
use super::relation::{Relation, RowSecurity};
use super::rights::Rights;
use crate::catalog;
use crate::error::Error;
use crate::events::realtime::HAS_PARTITION;

const NO_REALTIME: &str = "there is no table realtime.messages";

/// The table of messages, if Realtime is installed.
pub fn messages() -> Result<Option<Relation>, Error> {
    Relation::named(MESSAGES.schema, MESSAGES.table)
}

const TABLE: (&str, &str) = ("realtime", "messages");

/// Realtime's server checks access with rows: it inserts one for each extension with the topic, becomes
/// the user, reads which of them the user sees, and rolls back. The policies test the topic of the row,
/// and not `realtime.topic()`, which anyone who runs SQL can set: so they hold for every row.
const POLICIES: [Policy; 3] = [
    // The restrictive ones first: at no moment does the permissive one exist alone. No careless permissive
    // policy opens pg_civic's topics, or lets a user send as the database does. Its functions do not
    // belong to the extension: it outlives DROP EXTENSION … CASCADE.
    restrictive(
        TABLE,
        "civic channels",
        "ALL",
        Some("realtime.civic_firewall(topic)"),
        Some("realtime.civic_firewall_send(topic, extension)"),
    ),
    // As on storage.objects.
    restrictive(TABLE, CLOSED, "ALL", Some("realtime.civic_firewall_exists()"), None),
    permissive(
        TABLE,
        "civic join",
        "SELECT",
        Some(
            "((extension = ANY (ARRAY['broadcast'::text, 'presence'::text])) AND \
             civic.can_join_channel(topic))",
        ),
        None,
    ),
];

pub fn missing_privileges() -> Result<Vec<String>, Error> {
    match messages()? {
        Some(messages) => privileges::missing(&messages, MESSAGES.setup, MESSAGES.uses_rows),
        None => Ok(vec![]),
    }
}

/// In the order of creation. The partitions matter only if messages are sent.
pub fn components(has_partitions: bool) -> Result<Components, Error> {
    let Some(messages) = messages()? else {
        return Ok(vec![unneeded("realtime", NO_REALTIME)]);
    };
    let mut components = boxed([RowSecurity(messages.clone())]);
    components.extend(boxed(MESSAGE_FUNCTIONS));
    components.extend(boxed(POLICIES));
    if has_partitions {
        components.extend(boxed([Partitions(messages)]));
    }
    // After the partitions: default privileges may have opened new ones.
    components.extend(boxed([Rights("realtime")]));
    Ok(components)
}

/// Today's partition and tomorrow's. Realtime creates them in advance while a client is connected.
struct Partitions(Relation);

impl Partitions {
    /// For which days, counted from today, there is none.
    fn missing() -> Result<Vec<i32>, Error> {
        let mut missing = vec![];
        for days in [0, 1] {
            if !catalog::holds(HAS_PARTITION, &[days.into()])? {
                missing.push(days);
            }
        }
        Ok(missing)
    }
}

impl Component for Partitions {
    fn name(&self) -> String {
        "partitions of realtime.messages".to_owned()
    }

    fn state(&self) -> Result<State, Error> {
        Ok(match Partitions::missing()?.as_slice() {
            [] => State::Installed("those of today and tomorrow exist".to_owned()),
            [1] => State::Missing("there is none for tomorrow".to_owned()),
            _ => State::Missing("there is none for today: no message is stored".to_owned()),
        })
    }

    /// As Realtime's server creates them, and as the owner of the whole table: the indexes of a new
    /// partition run their expressions.
    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        let owner = self.0.owner;
        let may_create = "SELECT pg_catalog.has_schema_privilege($1, 'realtime', 'CREATE')";
        if !catalog::holds(may_create, &[owner.into()])? {
            let detail = "the owner of realtime.messages lacks CREATE on schema realtime; start Supabase \
                          Realtime, which creates them";
            return Ok(vec![step(self.name(), SKIPPED, detail)]);
        }
        let missing = Partitions::missing()?;
        let statements = catalog::texts(
            "SELECT pg_catalog.format(
             'CREATE TABLE realtime.%I PARTITION OF realtime.messages FOR VALUES FROM (%L) TO (%L)',
             'messages_' || pg_catalog.to_char(d.day, 'YYYY_MM_DD'),
             pg_catalog.to_char(d.day, 'YYYY-MM-DD'), pg_catalog.to_char(d.day + 1, 'YYYY-MM-DD'))
         FROM pg_catalog.unnest($1) AS days
         CROSS JOIN LATERAL (SELECT (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date + days)
              d (day)
         ORDER BY d.day",
            &[missing.into()],
        )?;
        for statement in &statements {
            self.0.execute(statement)?;
        }
        Ok(vec![step(self.name(), DONE, format!("created: {}", statements.len()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::realtime::GUARD;

    #[test]
    fn sending_requires_the_restrictive_policy_on_the_topics() {
        let guard = POLICIES.iter().find(|policy| GUARD.to_str() == Ok(policy.name)).unwrap();
        assert!(!guard.is_permissive);
        assert_eq!(guard.command, "ALL");
    }
}
