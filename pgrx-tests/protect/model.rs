//! The policies of a protected table against an independent model of the rules: random rows, people and
//! commands, and no decision may differ.

mod by_hand;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use rules::{Asker, Case, Outcome, Piece};

use crate::pg_tests::support::{Database, Session, claims_of};

/// A reproducible generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

const ANN: &str = "8f14e45f-0000-4000-8000-00000000000a";
const BEN: &str = "8f14e45f-0000-4000-8000-00000000000b";
/// As the application has it in a column of text: no UUID.
const CLERK: &str = "clerk-7";
const ROLES: [&str; 12] = [
    "citizen",
    "FIELD_WORKER",
    "ward_councillor",
    "executive_mayor",
    "Executive_Mayor",
    "manager",
    "MANAGER",
    "saps_liaison",
    "SAPS_LIAISON",
    "admin",
    "administrator",
    "",
];

const CASES: i32 = 150;
const PIECES: i32 = 100;

fn cases(random: &mut Random) -> Vec<Case> {
    let case = |id| Case {
        id,
        tenant: random.pick(&[Some("t"), Some("t"), Some("t"), Some("T"), Some("t2"), None]),
        owner: random.pick(&[None, Some(ANN), Some(BEN)]),
        creator: random.pick(&[None, None, Some(ANN), Some(BEN), Some(CLERK)]),
        worker: random.pick(&[None, None, Some(ANN), Some(BEN)]),
        secret: random.pick(&[Some(false), Some(false), Some(true), None]),
        level: random.pick(&[None, Some("low"), Some("low"), Some("high")]),
    };
    (1..=CASES).map(case).collect()
}

fn pieces(random: &mut Random) -> Vec<Piece> {
    let piece = |id| Piece {
        id,
        tenant: random.pick(&[Some("t"), Some("t"), Some("T"), None]),
        case: match random.next() % 6 {
            0 => None,
            // Of no ticket that exists.
            1 => Some(CASES + 1),
            _ => Some((random.next() % CASES as u64) as i32 + 1),
        },
        creator: random.pick(&[None, Some(ANN), Some(BEN), Some(CLERK)]),
    };
    (1..=PIECES).map(piece).collect()
}

fn askers(random: &mut Random) -> Vec<Asker> {
    let mut askers = vec![];
    for role in ROLES {
        for tenant in [Some("t"), random.pick(&[Some("T"), Some("t2"), None])] {
            for user in [Some(ANN), random.pick(&[Some(BEN), Some(CLERK), None])] {
                // The setting names no empty role.
                let is_deleter = random.next().is_multiple_of(2) && !role.is_empty();
                askers.push(Asker { tenant, user, role, is_authenticated: true, is_deleter });
            }
        }
    }
    askers.push(Asker {
        tenant: Some("t"),
        user: Some(ANN),
        role: "admin",
        is_authenticated: false,
        is_deleter: true,
    });
    askers
}

fn sql(value: Option<&str>) -> String {
    value.map_or("NULL".to_owned(), |value| format!("'{value}'"))
}

/// The tables, one with partitions and one with an inheritance child, and what tries a statement per row.
const TABLES: &str = "
    CREATE TABLE cases (id int PRIMARY KEY, tenant_id text, owner uuid, creator varchar(40), worker uuid,
                        secret boolean, level text DEFAULT 'low', note text) PARTITION BY RANGE (id);
    CREATE TABLE cases_1 PARTITION OF cases FOR VALUES FROM (0) TO (70);
    CREATE TABLE cases_2 PARTITION OF cases FOR VALUES FROM (70) TO (1000000);
    CREATE TABLE pieces (id int, tenant_id text, case_id int, creator text, note text);
    CREATE TABLE old_pieces () INHERITS (pieces);
    CREATE INDEX ON cases (tenant_id); CREATE INDEX ON cases (owner); CREATE INDEX ON cases (creator);
    CREATE INDEX ON cases (worker); CREATE INDEX ON pieces (case_id);
    CREATE TABLE proposed AS SELECT * FROM cases; CREATE TABLE proposed_pieces AS SELECT * FROM pieces;
    CREATE VIEW seen WITH (security_invoker) AS SELECT * FROM cases;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated;

    CREATE FUNCTION public.try(statement text, count int) RETURNS TABLE (id int, answer text)
        LANGUAGE plpgsql AS $$
    DECLARE
        found bigint;
    BEGIN
        FOR number IN 1..count LOOP
            id := number;
            BEGIN
                EXECUTE statement USING number;
                GET DIAGNOSTICS found = ROW_COUNT;
                RAISE SQLSTATE 'CIVOK';
            EXCEPTION
                WHEN SQLSTATE 'CIVOK' THEN
                    answer := CASE WHEN found > 0 THEN 'Done' ELSE 'Nothing' END;
                WHEN insufficient_privilege THEN answer := 'Refused';
                WHEN OTHERS THEN answer := SQLERRM;
            END;
            RETURN NEXT;
        END LOOP;
    END $$";

/// On a table of 150 rows the planner would never use the policies' indexes. With them every plan counts as so
/// costly that it would be compiled.
const PLANS: [&str; 2] = ["SET enable_seqscan = on", "SET enable_seqscan = off; SET jit = off"];

const PROTECTED: &str = "
    SELECT count(*) FROM civic.protect('cases', owner_columns => '{owner,creator}', assigned_column => 'worker',
                                       sensitive_column => 'secret', guarded_columns => '{level}');
    SELECT count(*) FROM civic.protect('pieces', owner_columns => '{creator}', ticket_column => 'case_id')";

struct World {
    cases: Vec<Case>,
    pieces: Vec<Piece>,
}

impl World {
    fn fill(&self, session: &mut Session) {
        let cases: Vec<_> = self
            .cases
            .iter()
            .map(|it| {
                format!(
                    "({}, {}, {}::uuid, {}, {}::uuid, {}::boolean, {})",
                    it.id,
                    sql(it.tenant),
                    sql(it.owner),
                    sql(it.creator),
                    sql(it.worker),
                    it.secret.map_or("NULL".to_owned(), |secret| secret.to_string()),
                    sql(it.level)
                )
            })
            .collect();
        let pieces: Vec<_> = self
            .pieces
            .iter()
            .map(|it| {
                let case = it.case.map_or("NULL".to_owned(), |case| case.to_string());
                format!("({}, {}, {case}, {})", it.id, sql(it.tenant), sql(it.creator))
            })
            .collect();
        session.run(&format!(
            "INSERT INTO cases (id, tenant_id, owner, creator, worker, secret, level) VALUES {};
             INSERT INTO proposed SELECT * FROM cases;
             INSERT INTO proposed_pieces (id, tenant_id, case_id, creator) VALUES {};
             INSERT INTO pieces SELECT * FROM proposed_pieces WHERE id % 2 = 0;
             INSERT INTO old_pieces SELECT * FROM proposed_pieces WHERE id % 2 = 1",
            cases.join(", "),
            pieces.join(", ")
        ));
    }
}

fn acts_as(session: &mut Session, asker: &Asker) {
    let deleters = if asker.is_deleter { asker.role } else { "nobody" };
    session.run(&format!("RESET ROLE; SET civic.deleters = '{deleters}'"));
    let user = asker.user.unwrap_or_default();
    let role = if asker.is_authenticated { "authenticated" } else { "anon" };
    session.acts_as(role, &claims_of(user, asker.tenant.unwrap_or_default(), asker.role));
}

/// The ids that a statement reaches, which is then rolled back. `with_note`: those whose note it has changed.
fn reached(session: &mut Session, sql: &str) -> Vec<i32> {
    let mut ids: Vec<_> =
        session.column(sql).iter().map(|id| id.parse().expect("a number")).collect();
    ids.sort();
    ids
}

/// The ids of the rows that a statement without RETURNING has changed or removed.
fn touched(session: &mut Session, table: &str, sql: &str) -> Vec<i32> {
    session.run(&format!("BEGIN; {sql}; SET LOCAL ROLE none"));
    let rest = format!("SELECT id FROM {table} WHERE note IS NULL");
    let left = reached(session, &rest);
    session.run("ROLLBACK");
    let count = if table == "cases" { CASES } else { PIECES };
    (1..=count).filter(|id| !left.contains(id)).collect()
}

/// In a transaction that is rolled back.
fn returned(session: &mut Session, sql: &str) -> Vec<i32> {
    session.run("BEGIN");
    let ids = reached(session, sql);
    session.run("ROLLBACK");
    ids
}

/// Under row security the server copies the rows of the named table alone, without its partitions.
fn copied(session: &mut Session) -> Vec<i32> {
    use std::io::Read;
    let mut text = String::new();
    for partition in ["cases_1", "cases_2"] {
        let copy = format!("COPY {partition} (id) TO STDOUT");
        let mut reader = session.client().copy_out(&copy).expect("it copies");
        reader.read_to_string(&mut text).expect("text");
    }
    let mut ids: Vec<_> = text.lines().map(|id| id.parse().expect("a number")).collect();
    ids.sort();
    ids
}

/// The outcome of a statement for each row, whose id is `$1`.
fn tried(session: &mut Session, statement: &str, count: i32) -> BTreeMap<i32, Outcome> {
    let call =
        format!("SELECT id, answer FROM public.try($statement${statement}$statement$, {count})");
    session
        .rows(&call)
        .iter()
        .map(|row| {
            let outcome = match row[1].as_deref().expect("an answer") {
                "Done" => Outcome::Done,
                "Nothing" => Outcome::Nothing,
                "Refused" => Outcome::Refused,
                other => panic!("{statement}: {other}"),
            };
            (row[0].as_deref().expect("an id").parse().expect("a number"), outcome)
        })
        .collect()
}

type Rule = fn(&Case, &Asker) -> bool;
type Reached = fn(&mut Session) -> Vec<i32>;
type PerRow = fn(&Case, &Asker) -> Outcome;

/// Statements that reach a set of cases, and how that set is observed.
const SETS: [(&str, Reached, Rule); 12] = [
    ("SELECT", |s| reached(s, "SELECT id FROM cases"), Case::reads),
    ("COPY TO", copied, Case::reads),
    (
        "SELECT of the partitions",
        |s| {
            let mut ids = reached(s, "SELECT id FROM cases_1 UNION ALL SELECT id FROM cases_2");
            ids.sort();
            ids
        },
        Case::reads,
    ),
    ("SELECT through a view", |s| reached(s, "SELECT id FROM seen"), Case::reads),
    ("FOR UPDATE", |s| returned(s, "SELECT id FROM cases FOR UPDATE"), Case::changes),
    ("UPDATE", |s| touched(s, "cases", "UPDATE cases SET note = 'x'"), Case::changes_blindly),
    (
        "UPDATE of the partitions",
        |s| touched(s, "cases", "UPDATE cases_1 SET note = 'x'; UPDATE cases_2 SET note = 'x'"),
        Case::changes_blindly,
    ),
    (
        "UPDATE through a view",
        |s| touched(s, "cases", "UPDATE seen SET note = 'x'"),
        Case::changes_blindly,
    ),
    (
        "UPDATE WHERE",
        |s| touched(s, "cases", "UPDATE cases SET note = 'x' WHERE id > 0"),
        Case::changes,
    ),
    (
        "UPDATE RETURNING",
        |s| returned(s, "UPDATE cases SET note = 'x' RETURNING id"),
        Case::changes,
    ),
    ("DELETE", |s| touched(s, "cases", "DELETE FROM cases"), Case::deletes_blindly),
    (
        "DELETE WHERE RETURNING",
        |s| returned(s, "DELETE FROM cases WHERE id > 0 RETURNING id"),
        Case::deletes,
    ),
];

const COLUMNS: &str = "tenant_id, owner, creator, worker, secret, level";

/// Statements about the case `$1`.
fn per_row() -> [(&'static str, String, PerRow); 8] {
    let insert = |id: &str| {
        format!(
            "INSERT INTO cases (id, {COLUMNS}) SELECT {id}, {COLUMNS} FROM proposed WHERE id = $1"
        )
    };
    [
        ("INSERT", insert("id + 1000"), Case::inserts),
        (
            "INSERT RETURNING",
            insert("id + 1000") + " RETURNING id",
            Case::inserts_returning,
        ),
        ("upsert", insert("id") + " ON CONFLICT (id) DO UPDATE SET note = 'x'", Case::upserts),
        (
            "MERGE",
            "MERGE INTO cases c USING (SELECT $1 AS id) s ON c.id = s.id
                 WHEN MATCHED THEN UPDATE SET note = 'x'".to_owned(),
            Case::merges,
        ),
        (
            "UPDATE of the tenant",
            "UPDATE cases SET tenant_id = 't2' WHERE id = $1".to_owned(),
            |case, asker| case.moves(asker, "t2"),
        ),
        (
            "UPDATE of the sensitive column",
            "UPDATE cases SET secret = true WHERE id = $1".to_owned(),
            Case::becomes_secret,
        ),
        (
            "UPDATE of the guarded column",
            "UPDATE cases SET level = 'high' WHERE id = $1".to_owned(),
            Case::is_promoted,
        ),
        (
            "MERGE that inserts",
            format!(
                "MERGE INTO cases c USING (SELECT * FROM proposed WHERE id = $1) s ON c.id = s.id + 1000
                     WHEN NOT MATCHED THEN INSERT (id, {COLUMNS})
                     VALUES (s.id + 1000, s.tenant_id, s.owner, s.creator, s.worker, s.secret, s.level)"
            ),
            Case::inserts,
        ),
    ]
}

/// One decision: the command, the row, who asks, what happened, and what the model says.
struct Decision<'a> {
    command: &'static str,
    id: i32,
    asker: &'a Asker,
    found: Outcome,
    expected: Outcome,
}

/// Has the server decide everything, and passes each decision on.
fn decide(
    session: &mut Session,
    world: &World,
    askers: &[Asker],
    mut visit: impl FnMut(Decision<'_>),
) {
    let done = |is_done: bool| if is_done { Outcome::Done } else { Outcome::Nothing };
    for (number, asker) in askers.iter().enumerate() {
        acts_as(session, asker);
        session.run(PLANS[number % 2]);
        let mut visit = |command, id, found, expected| {
            visit(Decision { command, id, asker, found, expected });
        };
        for (command, observe, rule) in SETS {
            let ids = observe(session);
            for case in &world.cases {
                let found = done(ids.binary_search(&case.id).is_ok());
                visit(command, case.id, found, done(rule(case, asker)));
            }
        }
        for (command, statement, rule) in per_row() {
            for (id, found) in tried(session, &statement, CASES) {
                visit(command, id, found, rule(&world.cases[id as usize - 1], asker));
            }
        }
        let of_pieces = [
            ("SELECT of pieces", reached(session, "SELECT id FROM pieces")),
            ("UPDATE of pieces", touched(session, "pieces", "UPDATE pieces SET note = 'x'")),
            ("DELETE of pieces", touched(session, "pieces", "DELETE FROM pieces")),
        ];
        for (command, ids) in of_pieces {
            for piece in &world.pieces {
                let expected = match command {
                    "SELECT of pieces" => piece.reads(asker, &world.cases),
                    "UPDATE of pieces" => piece.changes_blindly(asker, &world.cases),
                    _ => piece.deletes_blindly(asker, &world.cases),
                };
                let found = done(ids.binary_search(&piece.id).is_ok());
                visit(command, piece.id, found, done(expected));
            }
        }
        let insert = "INSERT INTO pieces (id, tenant_id, case_id, creator)
                      SELECT id + 1000, tenant_id, case_id, creator FROM proposed_pieces WHERE id = $1";
        for (id, found) in tried(session, insert, PIECES) {
            let expected = world.pieces[id as usize - 1].inserts(asker, &world.cases);
            visit("INSERT of pieces", id, found, expected);
        }
    }
}

/// A session in a database with the tables, the rows, and what decides.
fn prepared(world: &World, rules: &str) -> Session {
    let mut session = Database::rows().superuser();
    session.run(TABLES);
    world.fill(&mut session);
    session.run(rules);
    session.run("ANALYZE");
    session
}

fn shown(decision: &Decision<'_>) -> String {
    let Decision { command, id, asker, found, expected } = decision;
    format!("{command} of {id}: {found:?}, by the model {expected:?}: {asker:?}")
}

#[test]
fn the_policies_decide_as_the_model_does() {
    let mut random = Random(20260211);
    let world = World { cases: cases(&mut random), pieces: pieces(&mut random) };
    let mut session = prepared(&world, PROTECTED);
    let (mut decisions, mut differences) = (0, vec![]);
    let mut outcomes = BTreeSet::new();
    decide(&mut session, &world, &askers(&mut random), |decision| {
        decisions += 1;
        outcomes.insert((decision.command, decision.found));
        if decision.found != decision.expected {
            differences.push(shown(&decision));
        }
    });
    let some = differences[..differences.len().min(20)].join("\n");
    assert!(differences.is_empty(), "{} of {decisions}:\n{some}", differences.len());
    assert!(decisions > 100_000, "{decisions}");
    // Each command has both succeeded and not.
    let commands: BTreeSet<_> = outcomes.iter().map(|(command, _)| *command).collect();
    assert_eq!(commands.len(), SETS.len() + per_row().len() + 4);
    for command in commands {
        let kinds = outcomes.iter().filter(|(other, _)| *other == command).count();
        assert!(kinds > 1, "{command}: {outcomes:?}");
    }
}
