//! Who reads the metrics, where, and what they hold.

use super::{names, served, value};
use crate::pg_tests::support::{Database, TENANT, wait_until};

const JOBS: [&str; 2] = ["pg_civic_media_jobs", "pg_civic_media_oldest_due_seconds"];
const READS: [&str; 2] = ["SELECT * FROM civic.metrics", "SELECT * FROM civic.metrics()"];

/// A statement that adds jobs of a municipality, one per second of age.
fn add_jobs(jobs: usize, state: &str) -> String {
    format!(
        "INSERT INTO civic.media_jobs (kind, tenant_id, ticket_id, is_sensitive, state, bucket,
                                       finished_at, next_attempt_at)
         SELECT 'restrict', '{TENANT}', 'ticket', true, '{state}', 'gbv-evidence',
                CASE '{state}' WHEN 'done' THEN now() END,
                CASE '{state}' WHEN 'queued' THEN now() - number * '1 s'::interval END
         FROM generate_series(1, {jobs}) number"
    )
}

#[test]
fn members_of_pg_monitor_read_the_metrics_and_nobody_else() {
    let database = Database::guarded();
    let monitor = database.role("monitor", "IN ROLE pg_monitor");
    let plain = database.role("plain", "");
    for read in READS {
        database.session_of(&monitor).run(read);
        for role in [plain.as_str(), "anon", "authenticated", "service_role"] {
            let mut session = database.superuser();
            session.run(&format!("SET ROLE {role}"));
            assert_eq!(session.sqlstate(read), "42501", "{role}: {read}");
        }
    }
    let mut session = database.session_of(&monitor);
    assert_eq!(session.sqlstate("SELECT * FROM civic.media_jobs"), "42501");
}

#[test]
fn default_privileges_open_the_metrics_to_nobody() {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon;
         CREATE EXTENSION pg_civic",
    );
    let granted =
        "SELECT grantee::regrole || ' ' || privilege_type FROM pg_class, aclexplode(relacl)
                   WHERE oid = 'civic.metrics'::regclass AND grantee <> relowner";
    assert_eq!(session.column(granted), ["pg_monitor SELECT"]);
    session.run("SET ROLE anon");
    assert!(READS.iter().all(|read| session.sqlstate(read) == "42501"));
}

#[test]
fn without_preloading_the_metrics_are_those_of_the_jobs() {
    let mut session = Database::guarded().superuser();
    session.run(&add_jobs(3, "queued"));
    assert!(names(&mut session).iter().eq(JOBS.iter()));
    let labels = "{\"kind\": \"restrict\", \"state\": \"queued\"}";
    assert_eq!(value(&mut session, "pg_civic_media_jobs", labels), 3.0);
    let oldest =
        value(&mut session, "pg_civic_media_oldest_due_seconds", "{\"kind\": \"restrict\"}");
    assert!(oldest >= 3.0, "{oldest}");
    session.run("UPDATE civic.media_jobs SET next_attempt_at = now() + '1 h'::interval");
    let oldest =
        value(&mut session, "pg_civic_media_oldest_due_seconds", "{\"kind\": \"restrict\"}");
    assert_eq!(oldest, 0.0, "none is due");
}

#[test]
fn names_units_and_labels_follow_the_conventions_and_name_no_municipality() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, tracking_number, category, status, is_sensitive)
         VALUES ('{TENANT}', 'W-1', 'water', 'open', true)"
    ));
    let rows = session.rows("SELECT name, labels, value, help FROM civic.metrics");
    assert!(rows.len() > 80, "{}", rows.len());
    let mut helps = std::collections::BTreeMap::new();
    for row in &rows {
        let [Some(name), Some(labels), Some(value), Some(help)] = &row[..] else {
            panic!("a value is NULL: {row:?}");
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.starts_with("pg_civic_") && name.chars().all(is_name), "{name}");
        let labels: serde_json::Value = serde_json::from_str(labels).expect("JSON");
        let is_label = |(key, text): (&String, &serde_json::Value)| {
            key.chars().all(is_name)
                && text.as_str().is_some_and(|text| text.len() < 30 && !text.contains(TENANT))
        };
        assert!(labels.as_object().expect("an object").iter().all(is_label), "{row:?}");
        let number: f64 = value.parse().expect("a number");
        assert!(number.is_finite() && number >= 0.0, "{row:?}");
        assert!(help.ends_with('.') && help.len() > 20, "{row:?}");
        assert_eq!(helps.entry(name.clone()).or_insert(help.clone()), help, "{name}");
        for unit in ["bytes", "seconds"] {
            let ends = name.ends_with(unit) || name.ends_with(&format!("{unit}_total"));
            assert_eq!(name.contains(unit), ends, "{name}");
        }
    }
    let unique = "SELECT count(*) = count(DISTINCT (name, labels)) FROM civic.metrics";
    assert_eq!(session.text(unique), "t");
}

#[test]
fn a_lock_on_the_jobs_leaves_out_their_metrics_and_delays_no_other() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    let mut locker = cluster.superuser();
    let all = names(&mut session);
    for lock in [
        "LOCK TABLE civic.media_jobs IN ACCESS EXCLUSIVE MODE",
        "ALTER INDEX civic.media_jobs_running RENAME TO media_jobs_runs",
        "REINDEX INDEX civic.media_jobs_due",
    ] {
        locker.run(&format!("BEGIN; {lock}"));
        // It is the session's own time-out that a scrape without a limit would meet.
        session.run("SET statement_timeout = '60 s'");
        let left: Vec<_> = all.difference(&names(&mut session)).cloned().collect();
        locker.run("ROLLBACK");
        if lock.starts_with("ALTER") {
            // The server renames an index under a weaker lock.
            assert!(left.is_empty(), "{left:?}");
        } else {
            assert_eq!(left, JOBS, "{lock}");
        }
        assert_eq!(session.text("SHOW lock_timeout"), "0");
        assert_eq!(session.text("SELECT current_user = session_user"), "t");
    }
    assert_eq!(names(&mut session), all);
}

#[test]
fn metrics_are_read_in_a_read_only_transaction_and_on_a_standby() {
    let primary = served(&[]);
    let mut session = primary.superuser();
    session.run("BEGIN READ ONLY");
    let all = names(&mut session);
    session.run("COMMIT");
    session.run(&add_jobs(3, "done"));
    let standby = primary.standby();
    let mut session = standby.superuser_of("postgres");
    assert_eq!(session.text("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(names(&mut session), all);
    let labels = "{\"kind\": \"restrict\", \"state\": \"done\"}";
    wait_until("the jobs are replicated", || {
        value(&mut session, "pg_civic_media_jobs", labels) == 3.0
    });
    assert_eq!(value(&mut session, "pg_civic_worker_up", "{\"worker\": \"relay\"}"), 0.0);
}

#[test]
fn operators_and_tables_of_another_role_in_the_readers_search_path_are_not_used() {
    let database = Database::guarded();
    let monitor = database.role("monitor", "IN ROLE pg_monitor");
    let mut session = database.superuser();
    session.run(&format!(
        "CREATE SCHEMA hostile;
         CREATE FUNCTION hostile.steals(text, text) RETURNS boolean LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$;
         CREATE OPERATOR hostile.= (FUNCTION = hostile.steals, LEFTARG = text, RIGHTARG = text);
         CREATE FUNCTION hostile.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 666::bigint';
         CREATE VIEW hostile.media_jobs AS SELECT 'queued'::text AS state;
         GRANT USAGE ON SCHEMA hostile TO {monitor}"
    ));
    session.run(&add_jobs(2, "queued"));
    let mut reader = database.session_of(&monitor);
    reader.run("SET search_path = hostile, pg_catalog; SET plan_cache_mode = force_custom_plan");
    let sum = "SELECT sum(value) FROM civic.metrics WHERE name OPERATOR(pg_catalog.=) 'pg_civic_media_jobs'";
    assert_eq!(reader.text(sum), "2");
}

#[test]
fn jobs_are_counted_up_to_the_number_that_the_help_names() {
    let mut session = Database::plain().superuser();
    for state in ["queued", "done"] {
        session.run(&add_jobs(100_001, state));
    }
    for state in ["queued", "done"] {
        let labels = format!("{{\"kind\": \"restrict\", \"state\": \"{state}\"}}");
        assert_eq!(value(&mut session, "pg_civic_media_jobs", &labels), 100_000.0);
    }
    let help = "SELECT DISTINCT help FROM civic.metrics WHERE name = 'pg_civic_media_jobs'";
    assert!(session.text(help).contains("up to 100000"));
    // It reads indexes, whatever the planner knows of a table that has just grown.
    let scanned = "SELECT pg_stat_get_xact_numscans('civic.media_jobs'::regclass)";
    session.run("BEGIN; SELECT count(*) FROM civic.metrics");
    assert_eq!(session.text(scanned), "0");
    session.run("COMMIT");
}
