//! Reads of one tenant's folder: the effect of the policies on a query that does not mention
//! tenants.
//!
//! Every database has 1000 objects per tenant; the reading tenant is in the middle.

use std::time::Duration;

use postgres::{Client, Statement};

use crate::Error;
use crate::measure::{Clock, Progress, each, in_turn};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const OBJECTS_OF_A_TENANT: usize = 1000;
const MANY: usize = 1000;
const FEW: usize = 100;

/// A read of ours takes a fraction of a millisecond, so a round has this many.
const READS: usize = 50;
const ROUNDS: usize = 75;
/// The migrations' policies take seconds.
const PLAIN_ROUNDS: usize = 3;

struct Query {
    name: &'static str,
    sql: &'static str,
    by_hand: &'static str,
    faster_than_plain: f64,
    share_of_by_hand: f64,
}

const QUERIES: [Query; 2] = [
    Query {
        name: "count(*) of the objects",
        sql: include_str!("../../sql/count.sql"),
        by_hand: include_str!("../../sql/count_by_hand.sql"),
        faster_than_plain: 1000.0,
        share_of_by_hand: 1.6,
    },
    Query {
        name: "the first 100 names of a folder",
        sql: include_str!("../../sql/names.sql"),
        by_hand: include_str!("../../sql/names_by_hand.sql"),
        faster_than_plain: 500.0,
        share_of_by_hand: 1.3,
    },
];

fn load(
    server: &Server,
    progress: &mut Progress,
    database: &str,
    tenants: usize,
) -> Result<(), Error> {
    let objects = tenants * OBJECTS_OF_A_TENANT;
    progress.report(&format!("    loading {objects} objects of {tenants} tenants"));
    server.create(database, &[server::SUPABASE, server::APPLICATION])?;
    let mut session = server.session(database)?;
    // Each side's own migration or setup makes the buckets later; until then foreign keys are not
    // checked.
    session.batch_execute("SET session_replication_role = replica")?;
    const AT_ONCE: usize = 50;
    for first in (1..=tenants).step_by(AT_ONCE) {
        let last = (first + AT_ONCE - 1).to_string();
        let variables = [
            ("first", &*first.to_string()),
            ("last", &last),
            ("objects", &OBJECTS_OF_A_TENANT.to_string()),
        ];
        session.batch_execute(&fill(include_str!("../../sql/objects.sql"), &variables))?;
        progress.at(&format!("{last} of {tenants} tenants"));
    }
    session.batch_execute("VACUUM (FREEZE, ANALYZE) storage.objects")?;
    Ok(())
}

/// A session with a query, prepared as an application's pool does.
struct Reader {
    session: Client,
    clock: Clock,
    sql: String,
    statement: Statement,
}

impl Reader {
    fn new(mut session: Client, sql: &str, tenants: usize) -> Result<Reader, Error> {
        let sql = fill(sql, &[("tenant", &server::tenant(tenants / 2))]);
        let statement = session.prepare(&sql)?;
        let clock = Clock::of(&mut session)?;
        Ok(Reader { session, clock, sql, statement })
    }

    /// The result as text, to compare the sides.
    fn answer(&mut self) -> Result<Vec<String>, Error> {
        let messages = self.session.simple_query(&self.sql)?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect())
    }

    fn prepared(&mut self, times: usize) -> Result<Duration, Error> {
        self.clock.time(|| {
            for _ in 0..times {
                self.session.query(&self.statement, &[])?;
            }
            Ok(())
        })
    }

    fn simple(&mut self, times: usize) -> Result<Duration, Error> {
        self.clock.time(|| {
            for _ in 0..times {
                self.session.simple_query(&self.sql)?;
            }
            Ok(())
        })
    }
}

/// Both sides must return the same rows, otherwise their times are not comparable. Also warms them
/// up.
fn agree(query: &Query, readers: &mut [&mut Reader]) -> Result<(), Error> {
    let answers =
        readers.iter_mut().map(|reader| reader.answer()).collect::<Result<Vec<_>, _>>()?;
    if answers.windows(2).any(|pair| pair[0] != pair[1]) {
        Err(format!("the sides differ in {}: {answers:?}", query.name))?;
    }
    Ok(())
}

/// The Storage API's `list()` of a folder with hundreds of folders in it: 100 entries.
fn list(server: &Server, progress: &mut Progress) -> Result<Comparison, Error> {
    progress.report("    list() of a folder");
    let tenant = server::tenant(MANY / 2);
    let mut session = server.session("reads_civic")?;
    session.batch_execute(include_str!("../../sql/list_function.sql"))?;
    let sql = include_str!("../../sql/list.sql");
    let mut civic = Reader::new(server.manager("reads_civic", &tenant)?, sql, MANY)?;
    let mut unguarded = Reader::new(server.unguarded("reads_civic")?, sql, MANY)?;
    for reader in [&mut civic, &mut unguarded] {
        let entries = reader.answer()?;
        if entries != ["100"] {
            Err(format!("a list has {entries:?} entries"))?;
        }
    }
    let [ours, peer] =
        in_turn(progress, ROUNDS, [&mut || civic.prepared(1), &mut || unguarded.prepared(1)])?;
    Ok(Comparison {
        case: "list() of a folder, 100 entries".to_owned(),
        ours: Figure::new("civic policies", ours),
        peer: Figure::new("no row security", peer),
        ratio: Ratio::Share { at_most: Some(5.0) },
    })
}

/// The query with which Storage lists a folder (`storage.list_objects_with_delimiter`). It is
/// dynamic, so the server plans it each time; one call runs it this often.
const SEARCHES: usize = 100;

fn search(server: &Server, progress: &mut Progress) -> Result<Comparison, Error> {
    progress.report("    the query that lists a folder");
    let sql = fill(
        include_str!("../../sql/search.sql"),
        &[("tenant", &server::tenant(MANY / 2)), ("searches", &SEARCHES.to_string())],
    );
    let mut sessions = [
        server.manager("reads_civic", &server::tenant(MANY / 2))?,
        server.unguarded("reads_civic")?,
    ];
    let [civic, by_hand] = &mut sessions;
    let clocks = [Clock::of(civic)?, Clock::of(by_hand)?];
    let [ours, peer] = in_turn(
        progress,
        ROUNDS,
        [&mut || clocks[0].time(|| Ok(civic.batch_execute(&sql)?)), &mut || {
            clocks[1].time(|| Ok(by_hand.batch_execute(&sql)?))
        }],
    )?;
    Ok(Comparison {
        case: "the query that lists a folder, planned each time".to_owned(),
        ours: Figure::new("civic policies", each(&ours, SEARCHES)),
        peer: Figure::new("no row security", each(&peer, SEARCHES)),
        ratio: Ratio::Share { at_most: Some(1.8) },
    })
}

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    load(server, progress, "reads_civic", MANY)?;
    load(server, progress, "reads_few", FEW)?;
    progress.report("    setting up the policies of each side");
    server.copy("reads_civic", "reads_plain", &[server::MIGRATIONS])?;
    for database in ["reads_civic", "reads_few"] {
        server.session(database)?.batch_execute(server::CIVIC)?;
    }

    let mut comparisons = vec![];
    comparisons.push(list(server, progress)?);
    comparisons.push(search(server, progress)?);
    for query in &QUERIES {
        let manager = server.manager("reads_civic", &server::tenant(MANY / 2))?;
        let mut civic = Reader::new(manager, query.sql, MANY)?;
        let manager = server.manager("reads_plain", &server::tenant(MANY / 2))?;
        let mut plain = Reader::new(manager, query.sql, MANY)?;
        let manager = server.manager("reads_few", &server::tenant(FEW / 2))?;
        let mut few = Reader::new(manager, query.sql, FEW)?;
        let unguarded = server.unguarded("reads_civic")?;
        let mut by_hand = Reader::new(unguarded, query.by_hand, MANY)?;
        few.prepared(READS)?;

        progress.report(&format!("    {}: the migrations' policies", query.name));
        agree(query, &mut [&mut civic, &mut plain, &mut by_hand])?;
        let [ours, peer] = in_turn(
            progress,
            PLAIN_ROUNDS,
            [&mut || civic.prepared(READS), &mut || plain.prepared(1)],
        )?;
        comparisons.push(Comparison {
            case: format!("{}, 1M of 1000 tenants, prepared", query.name),
            ours: Figure::new("civic policies", each(&ours, READS)),
            peer: Figure::new("the migrations' six policies", peer),
            ratio: Ratio::Faster { at_least: Some(query.faster_than_plain) },
        });

        progress.report(&format!("    {}: by hand, and among fewer tenants", query.name));
        let [ours, hand, ours_few] = in_turn(
            progress,
            ROUNDS,
            [&mut || civic.prepared(READS), &mut || by_hand.prepared(READS), &mut || {
                few.prepared(READS)
            }],
        )?;
        let [simple, simple_hand] = in_turn(
            progress,
            ROUNDS,
            [&mut || civic.simple(READS), &mut || by_hand.simple(READS)],
        )?;
        let ours = || Figure::new("civic policies", each(&ours, READS));
        comparisons.push(Comparison {
            case: "    against the range by hand, prepared".to_owned(),
            ours: ours(),
            peer: Figure::new("the range by hand, no RLS", each(&hand, READS)),
            ratio: Ratio::Share { at_most: Some(query.share_of_by_hand) },
        });
        comparisons.push(Comparison {
            case: "    against the range by hand, planned each time".to_owned(),
            ours: Figure::new("civic policies", each(&simple, READS)),
            peer: Figure::new("the range by hand, no RLS", each(&simple_hand, READS)),
            ratio: Ratio::Share { at_most: None },
        });
        comparisons.push(Comparison {
            case: "    against a tenth of the tenants, prepared".to_owned(),
            ours: ours(),
            peer: Figure::new("100 tenants", each(&ours_few, READS)),
            ratio: Ratio::Share { at_most: Some(1.25) },
        });
    }
    Ok(comparisons)
}
