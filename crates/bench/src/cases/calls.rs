//! Reading one claim per row: `civic.tenant_id()` against `auth.jwt() -> … ->> …`, and against reading the setting
//! alone.

use std::cell::RefCell;

use crate::Error;
use crate::measure::{Clock, Progress, Side, each, in_turn, over};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const ROUNDS: usize = 11;
/// Ours takes a fraction of a microsecond, so many calls are needed to measure it above the noise.
const CALLS: usize = 2_000_000;
const PLAIN_CALLS: usize = 50_000;

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    server.create("calls", &[server::SUPABASE, server::APPLICATION, server::CIVIC])?;
    let mut session = server.manager("calls", &server::tenant(1))?;
    let clock = &Clock::of(&mut session)?;
    let session = &RefCell::new(session);
    let side = |script: &str, calls: usize| {
        let statement = fill(script, &[("calls", &calls.to_string())]);
        move || clock.time(|| Ok(session.borrow_mut().batch_execute(&statement)?))
    };
    let none = include_str!("../../sql/calls_none.sql");
    let sides: [Side<'_>; 5] = [
        &mut side(none, CALLS),
        &mut side(include_str!("../../sql/calls_civic.sql"), CALLS),
        &mut side(none, PLAIN_CALLS),
        &mut side(include_str!("../../sql/calls_plain.sql"), PLAIN_CALLS),
        &mut side(include_str!("../../sql/calls_setting.sql"), CALLS),
    ];
    let [none, civic, plain_none, plain, setting] = in_turn(progress, ROUNDS, sides)?;
    let ours = each(&over(&civic, &none), CALLS);
    let peer = each(&over(&plain, &plain_none), PLAIN_CALLS);
    let setting = each(&over(&setting, &none), CALLS);
    Ok(vec![
        Comparison {
            case: "one claim, a call (net of the query around it)".to_owned(),
            ours: Figure::new("civic.tenant_id()", ours.clone()),
            peer: Figure::new("auth.jwt() -> … ->> 'tenant_id'", peer),
            ratio: Ratio::Faster { at_least: Some(40.0) },
        },
        Comparison {
            case: "the same".to_owned(),
            ours: Figure::new("civic.tenant_id()", ours),
            peer: Figure::new("current_setting('request.jwt.claims', true)", setting),
            ratio: Ratio::Share { at_most: Some(2.0) },
        },
    ])
}
