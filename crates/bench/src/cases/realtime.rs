//! The cost of publishing events to browsers through Supabase Realtime.

use std::cell::RefCell;

use postgres::Client;

use super::relay::{CLIENTS, pgbench};
use crate::Error;
use crate::measure::{Clock, Progress, Side, each, in_turn, over};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, SERVED, Server, fill};

const TICKET: &str = include_str!("../../sql/ticket.sql");
const ROUNDS: usize = 7;
const TICKETS: usize = 1000;
const IMPORTED: usize = 10_000;
const CLEAR: &str = "TRUNCATE realtime.messages, public.tickets_silent, public.tickets_plain,
                         public.tickets_civic, public.tickets_bare; CHECKPOINT";

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    server.create_served(&[
        server::SUPABASE,
        server::REALTIME,
        server::APPLICATION,
        server::MIGRATIONS,
        "CREATE EXTENSION pg_civic",
        include_str!("../../sql/realtime_tables.sql"),
    ])?;
    let mut comparisons = cost(server, progress)?;
    comparisons.extend(bulk(server, progress)?);
    comparisons.extend(throughput(server, progress)?);
    Ok(comparisons)
}

fn clear(session: &mut Client) -> Result<(), Error> {
    CLEAR.split(';').try_for_each(|statement| Ok(session.batch_execute(statement)?))
}

/// Single tickets of one client, each in its own transaction.
fn cost(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    let mut session = server.session(SERVED)?;
    let clock = &Clock::of(&mut session)?;
    session.batch_execute("SET civic.event_transport = realtime")?;
    let mut statements = vec![];
    for table in ["silent", "civic", "bare"] {
        let table = format!("public.tickets_{table}");
        statements.push(session.prepare(&fill(TICKET, &[("table", &table)]))?);
    }
    statements.push(session.prepare(include_str!("../../sql/message.sql"))?);
    let (session, statements) = (&RefCell::new(session), &statements);
    let side = |index: usize| {
        move || {
            let mut session = session.borrow_mut();
            clear(&mut session)?;
            clock.time(|| {
                (0..TICKETS)
                    .try_for_each(|_| session.execute(&statements[index], &[]).map(drop))?;
                Ok(())
            })
        }
    };
    let sides: [Side<'_>; 4] = [&mut side(0), &mut side(1), &mut side(2), &mut side(3)];
    let [silent, civic, bare, alone] =
        in_turn(progress, ROUNDS, sides)?.map(|rounds| each(&rounds, TICKETS));
    let compare = |case: &str, ours: Vec<f64>, label, peer: Vec<f64>, at_most| Comparison {
        case: case.to_owned(),
        ours: Figure::new("civic trigger, realtime", ours),
        peer: Figure::new(label, peer),
        ratio: Ratio::Share { at_most },
    };
    let net = over(&civic, &silent);
    let alone_label = "the insert into realtime.messages alone";
    let bare_label = "a trigger that inserts the message itself";
    Ok(vec![
        compare("realtime, a ticket (over none)", net.clone(), alone_label, alone, Some(1.5)),
        compare("    over none, both", net, bare_label, over(&bare, &silent), Some(1.5)),
        compare("    the whole ticket, both", civic, bare_label, bare, None),
    ])
}

/// Many tickets in one transaction: most of them are counted, not sent.
fn bulk(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    let mut session = server.session(SERVED)?;
    let clock = &Clock::of(&mut session)?;
    session.batch_execute("SET civic.event_transport = realtime")?;
    let session = &RefCell::new(session);
    let side = |table: &'static str, bulk_after: usize| {
        let variables = [("tickets", &*IMPORTED.to_string()), ("table", table)];
        let insert = fill(include_str!("../../sql/tickets.sql"), &variables);
        move || {
            let mut session = session.borrow_mut();
            clear(&mut session)?;
            session.batch_execute(&format!("SET civic.bulk_after = {bulk_after}"))?;
            clock.time(|| Ok(session.batch_execute(&insert)?))
        }
    };
    let sides: [Side<'_>; 3] = [
        &mut side("public.tickets_silent", 0),
        &mut side("public.tickets_civic", 1000),
        &mut side("public.tickets_civic", 0),
    ];
    let [silent, counted, listed] = in_turn(progress, ROUNDS, sides)?;
    let compare = |case: &str, peer_label, peer, ratio| Comparison {
        case: case.to_owned(),
        ours: Figure::new("civic trigger, realtime", counted.clone()),
        peer: Figure::new(peer_label, peer),
        ratio,
    };
    Ok(vec![
        compare(
            "realtime, 10,000 tickets in one transaction",
            "no trigger",
            silent,
            Ratio::More { at_most: 0.15 },
        ),
        compare(
            "    against civic.bulk_after = 0",
            "each is listed",
            listed,
            Ratio::Faster { at_least: None },
        ),
    ])
}

/// Single tickets of many clients. With the relay, NOTIFY needs no lock.
fn throughput(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    let session = RefCell::new(server.session(SERVED)?);
    let side = |table: &'static str, transport: &'static str| {
        let session = &session;
        move || {
            clear(&mut session.borrow_mut())?;
            let set = format!("ALTER DATABASE {SERVED} SET civic.event_transport = '{transport}'");
            session.borrow_mut().batch_execute(&set)?;
            pgbench(server, table)
        }
    };
    let sides: [Side<'_>; 3] = [
        &mut side("public.tickets_civic", "auto"),
        &mut side("public.tickets_civic", "realtime"),
        &mut side("public.tickets_plain", "auto"),
    ];
    let [both, alone, plain] = in_turn(progress, ROUNDS, sides)?;
    let against = |label, ours| Comparison {
        case: format!("realtime, tickets of {CLIENTS} clients"),
        ours: Figure::new(label, ours),
        peer: Figure::new("the migrations' trigger", plain.clone()),
        ratio: Ratio::Faster { at_least: Some(1.5) },
    };
    Ok(vec![against("notify by the relay, and realtime", both), against("realtime alone", alone)])
}
