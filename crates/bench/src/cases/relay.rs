//! The cost of NOTIFY for writers, with and without the relay.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator;

use crate::Error;
use crate::measure::{Clock, Progress, Side, in_turn};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, SERVED, Server, fill, tenant};

const TICKET: &str = include_str!("../../sql/ticket.sql");
pub const CLIENTS: usize = 32;
const LISTENERS: usize = 80;
const ROUNDS: usize = 7;
const SECONDS: u32 = 4;
const LATENCIES: usize = 1000;
const TICKETS: usize = 200_000;

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    server.create_served(&[
        server::SUPABASE,
        server::APPLICATION,
        server::MIGRATIONS,
        "CREATE EXTENSION pg_civic",
    ])?;
    server.session(SERVED)?.batch_execute(include_str!("../../sql/relay_tables.sql"))?;

    let mut comparisons = throughput(server, progress, "no listener", 0, [0.95, 3.0])?;
    comparisons.extend(throughput(server, progress, "80 idle listeners", LISTENERS, [0.85, 9.0])?);
    comparisons.extend(latency(server, progress)?);
    comparisons.push(large_transaction(server, progress)?);
    Ok(comparisons)
}

/// Single tickets of many clients: the time per ticket over all clients.
fn throughput(
    server: &Server,
    progress: &mut Progress,
    listeners: &str,
    count: usize,
    [of_none, of_plain]: [f64; 2],
) -> Result<Vec<Comparison>, Error> {
    let mut idle = vec![];
    for number in 0..count {
        let mut listener = server.session(SERVED)?;
        listener.batch_execute(&format!("LISTEN \"ticket_updates:{}\"", tenant(1000 + number)))?;
        idle.push(listener);
    }
    let session = RefCell::new(server.session(SERVED)?);
    let side = |table: &'static str, transport: &'static str| {
        let session = &session;
        move || {
            let mut session = session.borrow_mut();
            session.batch_execute(&format!(
                "ALTER DATABASE {SERVED} SET civic.event_transport = '{transport}'"
            ))?;
            session.batch_execute(&format!("TRUNCATE {table}"))?;
            session.batch_execute("CHECKPOINT")?;
            pgbench(server, table)
        }
    };
    let sides: [Side<'_>; 4] = [
        &mut side("public.tickets_silent", "auto"),
        &mut side("public.tickets_civic", "auto"),
        &mut side("public.tickets_plain", "auto"),
        // The cost of the trigger itself, without publishing.
        &mut side("public.tickets_civic", "none"),
    ];
    let [silent, civic, plain, mute] = in_turn(progress, ROUNDS, sides)?;
    let against = |label, peer: Vec<f64>, at_least| Comparison {
        case: format!("tickets of 32 clients, {listeners}"),
        ours: Figure::new("relay, a ticket", civic.clone()),
        peer: Figure::new(label, peer),
        ratio: Ratio::Faster { at_least },
    };
    Ok(vec![
        against("no trigger", silent, Some(of_none)),
        against("the migrations' trigger", plain, Some(of_plain)),
        against("the same trigger, publishing nothing", mute, None),
    ])
}

/// Runs pgbench for some seconds and returns the time per ticket.
pub fn pgbench(server: &Server, table: &str) -> Result<Duration, Error> {
    let script = std::env::temp_dir().join(format!("pg_civic_bench_{}.sql", std::process::id()));
    std::fs::write(&script, fill(TICKET, &[("table", table)]))?;
    let output = Command::new(bin_directory()?.join("pgbench"))
        .args(["--no-vacuum", "--protocol", "prepared", "--jobs", "2", "--username", "postgres"])
        .args(["--client", &CLIENTS.to_string(), "--time", &SECONDS.to_string()])
        .arg("--file")
        .arg(&script)
        .args(["--host", server.socket(), SERVED])
        .output()?;
    std::fs::remove_file(&script)?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let tps = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    match tps.map(str::parse::<f64>) {
        Some(Ok(tps)) => Ok(Duration::from_secs_f64(1.0 / tps)),
        _ => Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// The directory of the server's programs.
fn bin_directory() -> Result<PathBuf, Error> {
    let pg_config = std::env::var("PG_CONFIG")?;
    let output = Command::new(pg_config).arg("--bindir").output()?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The time from sending the commit to receiving the event, with one client on an idle server.
fn latency(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    let mut writer = server.session(SERVED)?;
    let mut listener = server.session(SERVED)?;
    listener.batch_execute(&format!("LISTEN \"ticket_updates:{}\"", tenant(1)))?;
    let insert = writer.prepare(&fill(TICKET, &[("table", "public.tickets_civic")]))?;
    let (mut relayed, mut plain) = (vec![], vec![]);
    for round in 0..2 * LATENCIES {
        // Alternates every hundred rounds.
        let is_relayed = round / 100 % 2 == 0;
        if round % 100 == 0 {
            let relay = if is_relayed { "on" } else { "off" };
            writer.batch_execute(&format!("SET civic.relay = {relay}"))?;
            progress.at(&format!("latency {round} of {}", 2 * LATENCIES));
        }
        let start = Instant::now();
        writer.execute(&insert, &[])?;
        let timeout = Duration::from_secs(5);
        let received = listener.notifications().timeout_iter(timeout).next()?;
        received.ok_or("an event was not received")?;
        let seconds = start.elapsed().as_secs_f64();
        if is_relayed { &mut relayed } else { &mut plain }.push(seconds);
    }
    let percentile = |name: &str, share: f64| {
        let of = |latencies: &[f64]| {
            let mut sorted = latencies.to_vec();
            sorted.sort_by(f64::total_cmp);
            vec![sorted[((sorted.len() - 1) as f64 * share) as usize]]
        };
        Comparison {
            case: format!("commit to received, one client, {name}"),
            ours: Figure::new("relay", of(&relayed)),
            peer: Figure::new("plain NOTIFY", of(&plain)),
            ratio: Ratio::More { at_most: 0.001 },
        }
    };
    Ok(vec![percentile("p50", 0.5), percentile("p99", 0.99)])
}

/// One transaction with more tickets than the queue holds.
fn large_transaction(server: &Server, progress: &mut Progress) -> Result<Comparison, Error> {
    let mut session = server.session(SERVED)?;
    let clock = Clock::of(&mut session)?;
    let session = RefCell::new(session);
    let variables = [("tickets", &*TICKETS.to_string()), ("table", "public.tickets_civic")];
    let insert = fill(include_str!("../../sql/tickets.sql"), &variables);
    let side = |relay: &'static str| {
        let (clock, session, insert) = (&clock, &session, &insert);
        move || {
            let mut session = session.borrow_mut();
            session.batch_execute(&format!("SET civic.relay = {relay}"))?;
            session.batch_execute("SET civic.bulk_after = 0")?;
            session.batch_execute("TRUNCATE public.tickets_civic; CHECKPOINT")?;
            clock.time(|| Ok(session.batch_execute(insert)?))
        }
    };
    let sides: [Side<'_>; 2] = [&mut side("on"), &mut side("off")];
    let [relayed, plain] = in_turn(progress, ROUNDS, sides)?;
    Ok(Comparison {
        case: "one transaction of 200,000 tickets".to_owned(),
        ours: Figure::new("relay", relayed),
        peer: Figure::new("plain NOTIFY", plain),
        ratio: Ratio::Share { at_most: Some(1.0) },
    })
}
