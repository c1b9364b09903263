//! The cost of a trigger on an INSERT of many tickets, over the same INSERT without one. At COMMIT
//! the server writes the events to its notification queue, which costs both sides the same.

use std::cell::RefCell;

use crate::Error;
use crate::measure::{Clock, Progress, Side, in_turn, over};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const ROUNDS: usize = 15;
const TICKETS: usize = 200_000;

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    server.create(
        "tickets",
        &[
            server::SUPABASE,
            server::APPLICATION,
            server::MIGRATIONS,
            "CREATE EXTENSION pg_civic",
            include_str!("../../sql/tickets_tables.sql"),
        ],
    )?;
    let mut session = server.session("tickets")?;
    let clock = &Clock::of(&mut session)?;
    let session = &RefCell::new(session);
    // Time of each side's INSERT statements, without the COMMITs.
    let statements = &RefCell::new([const { Vec::new() }; 4]);
    let side = |index: usize, table: &str, bulk_after: &str| {
        let variables = [("tickets", &*TICKETS.to_string()), ("table", table)];
        let insert = fill(include_str!("../../sql/tickets.sql"), &variables);
        let clear = format!("TRUNCATE {table}");
        let set = format!("SET civic.bulk_after = {bulk_after}");
        move || {
            let mut session = session.borrow_mut();
            session.batch_execute(&clear)?;
            session.batch_execute(&set)?;
            session.batch_execute("CHECKPOINT")?;
            let mut transaction = session.transaction()?;
            let statement = clock.time(|| Ok(transaction.batch_execute(&insert)?))?;
            let commit = clock.time(|| Ok(transaction.commit()?))?;
            statements.borrow_mut()[index].push(statement.as_secs_f64());
            Ok(statement + commit)
        }
    };
    let sides: [Side<'_>; 4] = [
        &mut side(0, "public.tickets_silent", "0"),
        &mut side(1, "public.tickets_civic", "1000"),
        &mut side(2, "public.tickets_civic", "0"),
        &mut side(3, "public.tickets_plain", "0"),
    ];
    let whole = in_turn(progress, ROUNDS, sides)?;
    let compare = |case: &str, ours: &[f64], rounds: &[Vec<f64>; 4], at_most| Comparison {
        case: case.to_owned(),
        ours: Figure::new("civic trigger", over(ours, &rounds[0])),
        peer: Figure::new("the migrations' trigger", over(&rounds[3], &rounds[0])),
        ratio: Ratio::Share { at_most },
    };
    let statements = statements.borrow();
    Ok(vec![
        compare(
            "trigger on an INSERT of 200,000 tickets (over none)",
            &whole[1],
            &whole,
            Some(0.12),
        ),
        compare("    the statement, without its COMMIT", &statements[1], &statements, None),
        compare("    civic.bulk_after = 0: each is listed", &whole[2], &whole, Some(0.30)),
        compare(
            "    the same, the statement without its COMMIT",
            &statements[2],
            &statements,
            None,
        ),
    ])
}
