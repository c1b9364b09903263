//! Signed links: made in the database, against links requested from a fake Storage API. The fake
//! queries no database, so the real API takes longer.

use std::time::{Duration, Instant};

use civic_fake_services::{Client as Http, Options, Storage};
use postgres::Client;

use crate::Error;
use crate::measure::{Clock, Progress, Side, each, in_turn};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const DATABASE: &str = "links";
const ROUNDS: usize = 7;
const LINKS: usize = 20_000;
/// Requests over HTTP take longer.
const ASKED: usize = 500;

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    let tenant_id = server::tenant(1);
    let statement = |script: &str, links: usize| {
        fill(script, &[("tenant", &tenant_id), ("links", &links.to_string())])
    };
    let objects = statement(include_str!("../../sql/links_objects.sql"), LINKS);
    server.create(DATABASE, &[server::SUPABASE, server::APPLICATION, server::CIVIC, &objects])?;
    let storage = Storage::start(Options::default());
    let path = |number: usize| format!("{tenant_id}/f{number}/photo.jpg");
    for number in 1..=ASKED {
        storage.keep("evidence", &path(number), "image/jpeg", "");
    }
    let mut owner = server.session(DATABASE)?;
    configure(
        &mut owner,
        &[
            ("civic.supabase_url", &storage.project_url()),
            ("civic.service_key", storage.service_key()),
        ],
    )?;

    let mut manager = server.manager(DATABASE, &tenant_id)?;
    let in_database = statement(include_str!("../../sql/links.sql"), LINKS);
    let asked = statement(include_str!("../../sql/links.sql"), ASKED);
    let mut owner_too = server.session(DATABASE)?;
    let mut manager_too = server.manager(DATABASE, &tenant_id)?;
    let (clock, clock_too) = (Clock::of(&mut manager)?, Clock::of(&mut manager_too)?);
    let sides: [Side<'_>; 3] = [
        &mut || {
            sign_with(&mut owner, storage.jwt_secret())?;
            clock.time(|| Ok(manager.batch_execute(&in_database)?))
        },
        &mut || {
            sign_with(&mut owner_too, "")?;
            clock_too.time(|| Ok(manager_too.batch_execute(&asked)?))
        },
        &mut || {
            let mut http = Http::connect(&storage.url())?;
            let start = Instant::now();
            (1..=ASKED).try_for_each(|number| ask(&mut http, &storage, &path(number)))?;
            Ok(start.elapsed())
        },
    ];
    let [ours, through_us, kept_open] = in_turn(progress, ROUNDS, sides)?;
    let against = |case: &str, label, rounds: &[f64], at_least| Comparison {
        case: case.to_owned(),
        ours: Figure::new("made in the database", each(&ours, LINKS)),
        peer: Figure::new(label, each(rounds, ASKED)),
        ratio: Ratio::Faster { at_least },
    };
    Ok(vec![
        against("get_signed_url(), a link", "requested from the API", &through_us, Some(50.0)),
        against("    against a connection kept open", "requested from the API", &kept_open, None),
    ])
}

/// Requests a link from the API as an application server does.
fn ask(http: &mut Http, storage: &Storage, path: &str) -> Result<(), Error> {
    let url = format!("{}/object/sign/evidence/{path}", storage.url());
    let authorization = format!("Bearer {}", storage.service_key());
    let headers = [
        ("authorization", &*authorization),
        ("apikey", storage.service_key()),
        ("content-type", "application/json"),
    ];
    match http.ask("POST", &url, &headers, br#"{"expiresIn":3600}"#)? {
        (200, _) => Ok(()),
        (status, body) => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
    }
}

/// Makes the server sign with a secret, or request links from the API if it is empty.
fn sign_with(session: &mut Client, secret: &str) -> Result<(), Error> {
    configure(session, &[("civic.jwt_secret", secret)])
}

/// Sets settings that only the configuration file can set, and waits until sessions use them.
pub fn configure(session: &mut Client, settings: &[(&str, &str)]) -> Result<(), Error> {
    for (setting, value) in settings {
        let literal = value.replace('\'', "''");
        session.batch_execute(&format!("ALTER SYSTEM SET {setting} = '{literal}'"))?;
    }
    let loaded = "SELECT pg_conf_load_time()::text";
    let before: String = session.query_one(loaded, &[])?.get(0);
    session.batch_execute("SELECT pg_reload_conf()")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while session.query_one(loaded, &[])?.get::<_, String>(0) == before {
        if Instant::now() > deadline {
            return Err("the server did not reload its configuration".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
