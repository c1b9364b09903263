//! Supabase Realtime: who may join the channels, and who may speak there.

use super::policy::{self, AUTHENTICATED, CLOSED, PUBLIC, Policy};
use super::{ALREADY, DONE, SKIPPED, Step, catalog, firewall, rights, step};
use crate::error::Error;
use crate::events::realtime::HAS_PARTITION;

pub const NO_REALTIME: &str = "there is no table realtime.messages";

/// The table of messages, its schema and its owner, by the catalog and not by name.
macro_rules! messages {
    () => {
        "pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'realtime'
              AND c.relname = 'messages' AND c.relkind IN ('r', 'p')"
    };
}
pub(super) use messages;

/// The server asks by rows: it inserts one for each extension with the topic, becomes the person,
/// looks which of them it sees, and rolls back. The policies ask for the row's own topic, and not
/// for `realtime.topic()`, which whoever runs SQL sets as he likes: so they hold for every row.
pub const POLICIES: [Policy; 3] = [
    Policy {
        schema: "realtime",
        table: "messages",
        name: "civic join",
        is_permissive: true,
        command: "SELECT",
        role: AUTHENTICATED,
        using: Some(
            "((extension = ANY (ARRAY['broadcast'::text, 'presence'::text])) AND \
             civic.can_join_channel(topic))",
        ),
        check: None,
    },
    // No careless permissive policy opens our topics, nor lets a person speak as the database does.
    // Its functions are not the extension's: it outlives DROP EXTENSION … CASCADE.
    Policy {
        schema: "realtime",
        table: "messages",
        name: "civic channels",
        is_permissive: false,
        command: "ALL",
        role: PUBLIC,
        using: Some("realtime.civic_firewall(topic)"),
        check: Some("realtime.civic_firewall_send(topic, extension)"),
    },
    // As on storage.objects.
    Policy {
        schema: "realtime",
        table: "messages",
        name: CLOSED,
        is_permissive: false,
        command: "ALL",
        role: PUBLIC,
        using: Some("realtime.civic_firewall_exists()"),
        check: None,
    },
];

pub fn exists() -> Result<bool, Error> {
    catalog::holds(concat!("SELECT true FROM ", messages!()), &[])
}

pub fn missing_privileges() -> Result<Vec<String>, Error> {
    catalog::texts(
        concat!(
            "SELECT p.lacks FROM ",
            messages!(),
            " CROSS JOIN LATERAL (VALUES
                 (1, pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'),
                  pg_catalog.format('ownership of table realtime.messages (its owner is %s)',
                                    pg_catalog.pg_get_userbyid(c.relowner))),
                 (2, pg_catalog.has_schema_privilege(c.relowner, n.oid, 'USAGE'),
                  'USAGE on schema realtime')
             ) p (place, has, lacks)
             WHERE NOT p.has
             ORDER BY p.place"
        ),
        &[],
    )
}

pub fn has_row_security() -> Result<bool, Error> {
    catalog::holds(concat!("SELECT c.relrowsecurity FROM ", messages!()), &[])
}

pub const PARTITIONS: &str = "partitions of realtime.messages";

/// In how many days the partitions are missing, of today's and tomorrow's.
pub fn missing_partitions() -> Result<Vec<i32>, Error> {
    let mut missing = vec![];
    for days in [0, 1] {
        if !catalog::holds(HAS_PARTITION, &[days.into()])? {
            missing.push(days);
        }
    }
    Ok(missing)
}

/// Makes them as Realtime's server does, and as the owner of the whole table: the indexes of a new
/// partition run their expressions.
fn set_up_partitions() -> Result<Option<Step>, Error> {
    let missing = missing_partitions()?;
    if missing.is_empty() {
        return Ok(None);
    }
    let may_create = catalog::holds(
        concat!(
            "SELECT pg_catalog.has_schema_privilege(c.relowner, n.oid, 'CREATE') FROM ",
            messages!()
        ),
        &[],
    )?;
    if !may_create {
        let detail = "the owner of realtime.messages lacks CREATE on schema realtime; start Supabase \
                      Realtime, which makes them";
        return Ok(Some(step(PARTITIONS, SKIPPED, detail)));
    }
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
        policy::as_owner_of("realtime", "messages", statement)?;
    }
    Ok(Some(step(PARTITIONS, DONE, format!("created: {}", statements.len()))))
}

pub fn set_up() -> Result<Vec<Step>, Error> {
    if !exists()? {
        return Ok(vec![step("realtime", SKIPPED, NO_REALTIME)]);
    }
    let component = "row security of realtime.messages";
    let mut steps = vec![];
    steps.push(if has_row_security()? {
        step(component, ALREADY, "enabled")
    } else {
        let enable = "ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY";
        policy::as_owner_of("realtime", "messages", enable)?;
        step(component, DONE, "enabled")
    });
    steps.extend(firewall::set_up(&firewall::MESSAGES)?);
    // The restrictive one first: no moment has the permissive one alone.
    let (join, guards) = POLICIES.split_at(1);
    steps.extend(policy::set_up(guards)?);
    steps.extend(policy::set_up(join)?);
    steps.extend(firewall::remove_former("realtime", "messages")?);
    steps.extend(set_up_partitions()?);
    // After them: default privileges may have opened what is new.
    steps.extend(rights::set_up("realtime")?);
    Ok(steps)
}

pub fn tear_down() -> Result<Vec<Step>, Error> {
    if !exists()? {
        return Ok(vec![]);
    }
    let mut steps = policy::tear_down(&POLICIES)?;
    steps.extend(firewall::tear_down(&firewall::MESSAGES)?);
    steps.extend(rights::tear_down("realtime")?);
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::realtime::GUARD;

    #[test]
    fn what_guards_the_topics_is_what_sending_waits_for() {
        let guard = POLICIES.iter().find(|policy| GUARD.to_str() == Ok(policy.name)).unwrap();
        assert!(!guard.is_permissive);
        assert_eq!(guard.command, "ALL");
    }
}
