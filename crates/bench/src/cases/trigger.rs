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
    let statements = &RefCell::new([const { Vec::new() }; 3]);
    let side = |index: usize, table: &str| {
        let variables = [("tickets", &*TICKETS.to_string()), ("table", table)];
        let insert = fill(include_str!("../../sql/tickets.sql"), &variables);
        let clear = format!("TRUNCATE {table}");
        move || {
            let mut session = session.borrow_mut();
            session.batch_execute(&clear)?;
            session.batch_execute("CHECKPOINT")?;
            let mut transaction = session.transaction()?;
            let statement = clock.time(|| Ok(transaction.batch_execute(&insert)?))?;
            let commit = clock.time(|| Ok(transaction.commit()?))?;
            statements.borrow_mut()[index].push(statement.as_secs_f64());
            Ok(statement + commit)
        }
    };
    let sides: [Side<'_>; 3] = [
        &mut side(0, "public.tickets_silent"),
        &mut side(1, "public.tickets_civic"),
        &mut side(2, "public.tickets_plain"),
    ];
    let whole = in_turn(progress, ROUNDS, sides)?;
    let compare = |case: &str, [silent, civic, plain]: &[Vec<f64>; 3], at_most| Comparison {
        case: case.to_owned(),
        ours: Figure::new("civic trigger", over(civic, silent)),
        peer: Figure::new("the migrations' trigger", over(plain, silent)),
        ratio: Ratio::Share { at_most },
    };
    Ok(vec![
        compare("trigger on an INSERT of 200,000 tickets (over none)", &whole, Some(0.27)),
        compare("    the statement, without its COMMIT", &statements.borrow(), None),
    ])
}
