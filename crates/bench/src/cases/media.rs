//! Media jobs: the worker's throughput with slow servers. With this many jobs at once, the lower
//! bound is the latency of the servers.

use std::time::{Duration, Instant};

use civic_fake_services::{Options, Storage, Twilio};
use postgres::Client;

use super::links::configure;
use crate::Error;
use crate::measure::{Progress, Side, each, in_turn};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, SERVED, Server, fill};

const ROUNDS: usize = 3;
const JOBS: usize = 1000;
const CONCURRENCY: usize = 16;
const BYTES: usize = 200_000;
const LATENCY: Duration = Duration::from_millis(50);
/// A job calls three servers in turn: Twilio's API, the host it redirects to, the Storage API.
const SERVERS: u32 = 3;
const JOBS_TIMEOUT: Duration = Duration::from_secs(300);

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    server.create_served(&[server::SUPABASE, server::APPLICATION, server::CIVIC])?;
    let storage = Storage::start(Options { latency: LATENCY, ..Options::default() });
    let twilio = Twilio::start("AC0123456789abcdef0123456789abcdef", "a-token");
    twilio.takes(LATENCY);
    let url = twilio.offer("image/jpeg", vec![0xd8; BYTES]);
    let mut session = server.session(SERVED)?;
    configure(
        &mut session,
        &[
            ("civic.supabase_url", &storage.project_url()),
            ("civic.service_key", storage.service_key()),
            ("civic.twilio_account_sid", "AC0123456789abcdef0123456789abcdef"),
            ("civic.twilio_auth_token", "a-token"),
            ("civic.media_hosts", &twilio.hosts()),
            ("civic.media_concurrency", &CONCURRENCY.to_string()),
            // All jobs are of one municipality.
            ("civic.media_tenant_concurrency", &CONCURRENCY.to_string()),
        ],
    )?;
    let tenant_id = server::tenant(1);
    let enqueue = |jobs: usize| {
        let variables = [("url", &*url), ("tenant", &tenant_id), ("jobs", &jobs.to_string())];
        fill(include_str!("../../sql/media_jobs.sql"), &variables)
    };
    let mut run = |jobs: usize| {
        session.batch_execute("TRUNCATE civic.media_jobs")?;
        storage.clear();
        session.batch_execute(&enqueue(jobs))?;
        let start = Instant::now();
        wait_for_end(&mut session)?;
        let elapsed = start.elapsed();
        match storage.objects().len() {
            stored if stored == jobs => Ok(elapsed),
            stored => Err(Error::from(format!("{stored} files of {jobs} jobs"))),
        }
    };
    // After one job the worker uses the new settings.
    run(1)?;
    let sides: [Side<'_>; 1] = [&mut || run(JOBS)];
    let [rounds] = in_turn(progress, ROUNDS, sides)?;
    let shortest = (LATENCY * SERVERS).as_secs_f64() / CONCURRENCY as f64;
    Ok(vec![Comparison {
        case: "1,000 media jobs of 200 kB, 16 at once, a job".to_owned(),
        ours: Figure::new("the worker", each(&rounds, JOBS)),
        peer: Figure::new("the servers' own 3 × 50 ms", vec![shortest]),
        ratio: Ratio::Faster { at_least: Some(0.95) },
    }])
}

fn wait_for_end(session: &mut Client) -> Result<(), Error> {
    let query = "SELECT count(*) FILTER (WHERE state IN ('queued', 'running')),
                        count(*) FILTER (WHERE state IN ('failed', 'cancelled')), max(last_error)
                 FROM civic.media_jobs";
    let deadline = Instant::now() + JOBS_TIMEOUT;
    loop {
        let row = session.query_one(query, &[])?;
        let (waiting, failed): (i64, i64) = (row.get(0), row.get(1));
        if failed > 0 || Instant::now() > deadline {
            let why: Option<String> = row.get(2);
            return Err(format!("{waiting} jobs wait, {failed} failed: {why:?}").into());
        }
        if waiting == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
