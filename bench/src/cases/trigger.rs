//! What a trigger costs an INSERT of many tickets, over the same INSERT without one.

use crate::Error;
use crate::measure::{Progress, Side, in_turn, over, time};
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
    let session = std::cell::RefCell::new(server.session("tickets")?);
    let side = |table: &str| {
        let variables = [("tickets", &*TICKETS.to_string()), ("table", table)];
        let insert = fill(include_str!("../../sql/tickets.sql"), &variables);
        let clear = format!("TRUNCATE {table}");
        let session = &session;
        move || {
            let mut session = session.borrow_mut();
            session.batch_execute(&clear)?;
            session.batch_execute("CHECKPOINT")?;
            time(|| Ok(session.batch_execute(&insert)?))
        }
    };
    let sides: [Side<'_>; 3] = [
        &mut side("public.tickets_silent"),
        &mut side("public.tickets_civic"),
        &mut side("public.tickets_plain"),
    ];
    let [silent, civic, plain] = in_turn(progress, ROUNDS, sides)?;
    Ok(vec![Comparison {
        case: "trigger on an INSERT of 200,000 tickets (over none)".to_owned(),
        ours: Figure::new("civic trigger", over(&civic, &silent)),
        peer: Figure::new("the migrations' trigger", over(&plain, &silent)),
        ratio: Ratio::Share { at_most: Some(0.27) },
    }])
}
