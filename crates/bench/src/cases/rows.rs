//! Rows of protected tables: what row security costs over the same conditions by hand, in tenants of a
//! thousand tickets and in one of 200,000.

use std::time::Duration;

use postgres::{Client, Statement};

use crate::Error;
use crate::measure::{Clock, Progress, each, in_turn};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const TENANTS: usize = 1000;
const TICKETS: usize = 1000;
/// The number of the large tenant, and its tickets.
const METRO: usize = 9000;
const METRO_TICKETS: usize = 200_000;

const ROUNDS: usize = 40;
const STATEMENTS: usize = 50;
/// The migrations' policies take tenths of a second in the large tenant.
const BY_MIGRATIONS: usize = 2;

const CIVIC: &str = "CREATE EXTENSION pg_civic;
    SELECT count(*) FROM civic.protect('public.tickets');
    SELECT count(*) FROM civic.protect('public.media_attachments')";

const NEWEST: &str = "SELECT id, status, created_at FROM tickets WHERE status = 'open'
                      ORDER BY created_at DESC LIMIT 50";
const NEWEST_BY_HAND: &str = "SELECT id, status, created_at FROM tickets
    WHERE status = 'open' AND tenant_id = ':tenant' AND NOT is_sensitive
    ORDER BY created_at DESC LIMIT 50";
const OWN: &str = "SELECT id, status, created_at FROM tickets ORDER BY created_at DESC LIMIT 50";
const OWN_BY_HAND: &str = "SELECT id, status, created_at FROM tickets
    WHERE tenant_id = ':tenant' AND NOT is_sensitive
      AND (user_id = ':user' OR created_by = ':user' OR assigned_to = ':user')
    ORDER BY created_at DESC LIMIT 50";
/// As a query of the application says it, so that a plan made for another role serves as well.
const OWN_EXPLICIT: &str = "SELECT id, status, created_at FROM tickets WHERE user_id = ':user'
                            ORDER BY created_at DESC LIMIT 50";
const UPDATE: &str = "UPDATE tickets SET status = 'closed' WHERE id = ':ticket'";
const UPDATE_BY_HAND: &str = "UPDATE tickets SET status = 'closed'
    WHERE id = ':ticket' AND tenant_id = ':tenant' AND NOT is_sensitive";
const FILES: &str = "SELECT id, s3_key FROM media_attachments WHERE ticket_id = ':ticket'";
const FILES_BY_HAND: &str = "SELECT m.id, m.s3_key FROM media_attachments m
    JOIN tickets t ON t.id = m.ticket_id
    WHERE m.ticket_id = ':ticket' AND m.tenant_id = ':tenant' AND t.tenant_id = ':tenant'
      AND NOT t.is_sensitive";

fn load(server: &Server, progress: &mut Progress) -> Result<(), Error> {
    progress.report("    loading 1M tickets of 1000 tenants, and 200,000 of one");
    server.create("rows_civic", &[server::SUPABASE, server::APPLICATION])?;
    let mut session = server.session("rows_civic")?;
    let mut insert = |first: usize, last: usize, tickets: usize| {
        let variables = [
            ("first", &*first.to_string()),
            ("last", &*last.to_string()),
            ("tickets", &*tickets.to_string()),
        ];
        session.batch_execute(&fill(include_str!("../../sql/rows.sql"), &variables))
    };
    const AT_ONCE: usize = 50;
    for first in (1..=TENANTS).step_by(AT_ONCE) {
        insert(first, first + AT_ONCE - 1, TICKETS)?;
        progress.at(&format!("{} of {TENANTS} tenants", first + AT_ONCE - 1));
    }
    insert(METRO, METRO, METRO_TICKETS)?;
    progress.report("    indexes");
    session.batch_execute(include_str!("../../sql/rows_tables.sql"))?;
    session.batch_execute("VACUUM (FREEZE, ANALYZE)")?;
    Ok(())
}

/// A session with a statement, in a transaction that is rolled back after each round. A statement about
/// one ticket is about another one each time.
struct Side {
    session: Client,
    clock: Clock,
    sql: String,
    tickets: Vec<String>,
    statement: Statement,
}

const TICKET: &str = "':ticket'";

impl Side {
    fn new(mut session: Client, sql: String, tickets: &[String]) -> Result<Side, Error> {
        let statement = session.prepare(&sql.replace(TICKET, "($1::text)::uuid"))?;
        let clock = Clock::of(&mut session)?;
        Ok(Side { session, clock, sql, statement, tickets: tickets.to_vec() })
    }

    fn prepared(&mut self, times: usize) -> Result<Duration, Error> {
        self.session.batch_execute("BEGIN")?;
        let time = self.clock.time(|| {
            for ticket in self.tickets.iter().take(times) {
                if self.statement.params().is_empty() {
                    self.session.query(&self.statement, &[])?;
                } else {
                    self.session.query(&self.statement, &[ticket])?;
                }
            }
            Ok(())
        });
        self.session.batch_execute("ROLLBACK")?;
        time
    }

    fn planned(&mut self, times: usize) -> Result<Duration, Error> {
        self.session.batch_execute("BEGIN")?;
        let statements: Vec<_> = self
            .tickets
            .iter()
            .take(times)
            .map(|ticket| self.sql.replace(TICKET, &format!("'{ticket}'")))
            .collect();
        let time = self.clock.time(|| {
            for statement in &statements {
                self.session.simple_query(statement)?;
            }
            Ok(())
        });
        self.session.batch_execute("ROLLBACK")?;
        time
    }

    fn answer(&mut self) -> Result<Vec<String>, Error> {
        let sql = self.sql.replace(TICKET, &format!("'{}'", self.tickets[0]));
        let messages = self.session.simple_query(&sql)?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect())
    }
}

/// A statement under the rules and by hand.
struct Pair {
    name: &'static str,
    role: &'static str,
    sql: &'static str,
    by_hand: &'static str,
    prepared: Option<f64>,
    planned: Option<f64>,
}

const PAIRS: [Pair; 4] = [
    Pair {
        name: "newest 50 open tickets, staff",
        role: "manager",
        sql: NEWEST,
        by_hand: NEWEST_BY_HAND,
        prepared: Some(1.3),
        planned: Some(1.3),
    },
    Pair {
        name: "a citizen's own tickets",
        role: "citizen",
        sql: OWN,
        by_hand: OWN_BY_HAND,
        prepared: Some(1.2),
        planned: Some(1.2),
    },
    Pair {
        name: "UPDATE of one ticket by id, staff",
        role: "manager",
        sql: UPDATE,
        by_hand: UPDATE_BY_HAND,
        prepared: Some(1.5),
        planned: Some(1.9),
    },
    Pair {
        name: "attachments of one ticket, staff",
        role: "manager",
        sql: FILES,
        by_hand: FILES_BY_HAND,
        prepared: Some(1.3),
        planned: None,
    },
];

/// A tenant of the bench, with a user and tickets of it.
struct Tenant {
    name: &'static str,
    id: String,
    user: String,
    tickets: Vec<String>,
}

impl Tenant {
    fn find(server: &Server, name: &'static str, number: usize) -> Result<Tenant, Error> {
        let id = server::tenant(number);
        let rows = server.session("rows_civic")?.query(
            "SELECT user_id::text, id::text FROM tickets
             WHERE tenant_id = $1 AND NOT is_sensitive ORDER BY created_at OFFSET 500 LIMIT $2",
            &[&id, &(STATEMENTS as i64)],
        )?;
        let tickets = rows.iter().map(|row| row.get(1)).collect();
        Ok(Tenant { name, id, user: rows[0].get(0), tickets })
    }

    fn fill(&self, sql: &str) -> String {
        fill(sql, &[("tenant", &self.id), ("user", &self.user)])
    }

    fn side(&self, session: Client, sql: &str) -> Result<Side, Error> {
        Side::new(session, self.fill(sql), &self.tickets)
    }

    fn claims(&self, role: &str) -> String {
        server::claims_of(&self.id, role, &self.user)
    }
}

fn pair(
    server: &Server,
    progress: &mut Progress,
    pair: &Pair,
    tenant: &Tenant,
) -> Result<Vec<Comparison>, Error> {
    progress.report(&format!("    {}, {}", pair.name, tenant.name));
    let person = server.person("rows_civic", &tenant.claims(pair.role))?;
    let mut civic = tenant.side(person, pair.sql)?;
    let mut hand = tenant.side(server.unguarded("rows_civic")?, pair.by_hand)?;
    if civic.answer()? != hand.answer()? {
        Err(format!("the sides differ in {}", pair.name))?;
    }
    let [prepared, prepared_hand] = in_turn(
        progress,
        ROUNDS,
        [&mut || civic.prepared(STATEMENTS), &mut || hand.prepared(STATEMENTS)],
    )?;
    let [planned, planned_hand] = in_turn(
        progress,
        ROUNDS,
        [&mut || civic.planned(STATEMENTS), &mut || hand.planned(STATEMENTS)],
    )?;
    let comparison = |how, ours: &[f64], peer: &[f64], at_most| Comparison {
        case: format!("{}, {}, {how}", pair.name, tenant.name),
        ours: Figure::new("civic.protect()", each(ours, STATEMENTS)),
        peer: Figure::new("by hand, no RLS", each(peer, STATEMENTS)),
        ratio: Ratio::Share { at_most },
    };
    Ok(vec![
        comparison("prepared", &prepared, &prepared_hand, pair.prepared),
        comparison("planned each time", &planned, &planned_hand, pair.planned),
    ])
}

fn migrations(
    server: &Server,
    progress: &mut Progress,
    tenant: &Tenant,
) -> Result<Comparison, Error> {
    progress.report("    the migrations' policies");
    let claims = tenant.claims("manager");
    let mut civic = tenant.side(server.person("rows_civic", &claims)?, NEWEST)?;
    let mut plain = tenant.side(server.person("rows_plain", &claims)?, NEWEST)?;
    plain.prepared(1)?;
    let [ours, peer] = in_turn(
        progress,
        ROUNDS / 4,
        [&mut || civic.prepared(STATEMENTS), &mut || plain.prepared(BY_MIGRATIONS)],
    )?;
    Ok(Comparison {
        case: format!("newest 50 open tickets, staff, {}, prepared", tenant.name),
        ours: Figure::new("civic.protect()", each(&ours, STATEMENTS)),
        peer: Figure::new("the migrations' policies", each(&peer, BY_MIGRATIONS)),
        ratio: Ratio::Faster { at_least: Some(50.0) },
    })
}

/// One connection of a pool: statements prepared once, each request with its own claims.
fn pooled(
    server: &Server,
    progress: &mut Progress,
    tenant: &Tenant,
) -> Result<Vec<Comparison>, Error> {
    progress.report("    one connection, roles alternating");
    let (staff, citizen) = (tenant.claims("manager"), tenant.claims("citizen"));
    let mut session = server.person("rows_civic", &staff)?;
    let clock = Clock::of(&mut session)?;
    let mut sides = vec![];
    for (name, own) in [
        ("the same query", OWN.to_owned()),
        ("the citizen's with user_id = …", tenant.fill(OWN_EXPLICIT)),
    ] {
        let newest = session.prepare(NEWEST)?;
        let mine = session.prepare(&own)?;
        // Both are planned for the first role that runs them.
        session.execute("SELECT set_config('request.jwt.claims', $1, false)", &[&staff])?;
        session.query(&newest, &[])?;
        session.query(&mine, &[])?;
        let mut run = |is_prepared: bool| {
            clock.time(|| {
                for (claims, statement, sql) in
                    [(&staff, &newest, NEWEST), (&citizen, &mine, own.as_str())]
                {
                    session
                        .execute("SELECT set_config('request.jwt.claims', $1, false)", &[claims])?;
                    if is_prepared {
                        session.query(statement, &[])?;
                    } else {
                        session.simple_query(sql)?;
                    }
                }
                Ok(())
            })
        };
        let mut prepared = vec![];
        let mut planned = vec![];
        for _ in 0..ROUNDS {
            prepared.push(run(true)?.as_secs_f64());
            planned.push(run(false)?.as_secs_f64());
        }
        sides.push(Comparison {
            case: format!("roles alternating on one connection, {}, {name}", tenant.name),
            ours: Figure::new("prepared once", prepared),
            peer: Figure::new("planned each time", planned),
            ratio: Ratio::Share { at_most: (sides.len() == 1).then_some(3.0) },
        });
    }
    Ok(sides)
}

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    load(server, progress)?;
    server.copy("rows_civic", "rows_plain", &[server::ROW_POLICIES])?;
    server.session("rows_civic")?.batch_execute(CIVIC)?;
    let tenants = [
        Tenant::find(server, "tenant of 1000", TENANTS / 2)?,
        Tenant::find(server, "tenant of 200,000", METRO)?,
    ];
    let mut comparisons = vec![];
    for each in &PAIRS {
        for tenant in &tenants {
            comparisons.extend(pair(server, progress, each, tenant)?);
        }
    }
    comparisons.push(migrations(server, progress, &tenants[1])?);
    comparisons.extend(pooled(server, progress, &tenants[1])?);
    Ok(comparisons)
}
