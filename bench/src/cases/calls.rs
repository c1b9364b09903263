//! One claim a row: `civic.tenant_id()` against `auth.jwt() -> … ->> …`.

use crate::Error;
use crate::measure::{Progress, Side, each, in_turn, over, time};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const ROUNDS: usize = 9;
const CALLS: usize = 100_000;

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    server.create("calls", &[server::SUPABASE, server::APPLICATION, server::CIVIC])?;
    let session = std::cell::RefCell::new(server.manager("calls", &server::tenant(1))?);
    let side = |script: &str| {
        let statement = fill(script, &[("calls", &CALLS.to_string())]);
        let session = &session;
        move || time(|| Ok(session.borrow_mut().batch_execute(&statement)?))
    };
    let sides: [Side<'_>; 3] = [
        &mut side(include_str!("../../sql/calls_none.sql")),
        &mut side(include_str!("../../sql/calls_civic.sql")),
        &mut side(include_str!("../../sql/calls_plain.sql")),
    ];
    let [none, civic, plain] = in_turn(progress, ROUNDS, sides)?;
    Ok(vec![Comparison {
        case: "one claim, a call (net of the query around it)".to_owned(),
        ours: Figure::new("civic.tenant_id()", each(&over(&civic, &none), CALLS)),
        peer: Figure::new("auth.jwt() -> … ->> 'tenant_id'", each(&over(&plain, &none), CALLS)),
        ratio: Ratio::Faster { at_least: Some(40.0) },
    }])
}
