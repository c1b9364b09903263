//! Released SQL is never edited, each upgrade leads to what a fresh installation has, and sessions go on
//! during one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::support::cluster::Cluster;
use super::support::{APPLICATION, Database, SUPABASE, Session, TENANT, claims, wait_until};

/// The version in Cargo.toml.
const CURRENT: &str = env!("CARGO_PKG_VERSION");
const CATALOG: &str = include_str!("fixtures/catalog.sql");

fn sql(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(file)
}

/// The scripts of `sql/released.sha256`, with their checksums.
fn released() -> Vec<(String, String)> {
    let list =
        std::fs::read_to_string(sql("released.sha256")).expect("the list of what is released");
    let line = |line: &str| {
        let (sum, file) = line.split_once("  ").expect("checksum, two spaces, file");
        (file.to_owned(), sum.to_owned())
    };
    list.lines().map(line).collect()
}

/// The versions whose whole SQL is frozen.
fn released_versions() -> Vec<String> {
    let version =
        |file: String| file.strip_prefix("pg_civic--")?.strip_suffix(".sql").map(str::to_owned);
    let whole = released().into_iter().filter_map(|(file, _)| version(file));
    whole.filter(|version| !version.contains("--")).collect()
}

/// The catalog's lines about the extension.
fn catalog(session: &mut Session) -> BTreeSet<String> {
    session.column(CATALOG).into_iter().collect()
}

/// What only one of two catalogs has: `-` for the first, `+` for the second.
fn differences(one: &BTreeSet<String>, other: &BTreeSet<String>) -> Vec<String> {
    let lost = one.difference(other).map(|line| format!("- {line}"));
    let gained = other.difference(one).map(|line| format!("+ {line}"));
    lost.chain(gained).collect()
}

/// A script beside those that are installed, under a version that no other test uses. It is removed with this
/// value.
struct Beside(PathBuf);

impl Beside {
    fn put(session: &mut Session, file: &str, script: &str) -> Beside {
        let shared = session.text("SELECT setting FROM pg_config WHERE name = 'SHAREDIR'");
        let path = Path::new(&shared).join("extension").join(file);
        std::fs::write(&path, script).expect("the tests install into this directory");
        Beside(path)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_released_script_is_as_it_was_released() {
    let released = released();
    for (file, sum) in &released {
        let script = std::fs::read(sql(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let digest = Sha256::digest(&script);
        let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            found, *sum,
            "sql/{file} is released: a change belongs into the next version's script"
        );
    }
    for entry in std::fs::read_dir(sql("")).expect("it is there") {
        let file = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let is_next = file.ends_with(&format!("--{CURRENT}.sql"));
        let is_listed = released.iter().any(|(listed, _)| *listed == file);
        let is_of_a_version = file.starts_with("pg_civic--");
        assert!(
            !is_of_a_version || is_listed || is_next,
            "sql/{file} leads to a version that is not this one"
        );
    }
}

#[test]
fn the_metadata_for_pgxn_names_this_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let metadata = std::fs::read_to_string(root.join("META.json")).expect("it is there");
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let provided = &metadata["provides"]["pg_civic"];
    for version in [&metadata["version"], &provided["version"]] {
        assert_eq!(version, CURRENT);
    }
    for file in ["file", "docfile"] {
        let file = provided[file].as_str().expect("a path");
        assert!(root.join(file).exists(), "{file}");
    }
    assert_eq!(metadata["license"], "postgresql");
}

#[test]
fn each_released_version_becomes_by_its_updates_what_a_new_installation_is() {
    let fresh = catalog(&mut Database::plain().superuser());
    let versions = released_versions();
    assert!(!versions.is_empty());
    for version in versions {
        let script =
            std::fs::read_to_string(sql(&format!("pg_civic--{version}.sql"))).expect("it is there");
        let mut session = Database::empty("").superuser();
        // The name of the current version is taken by what the tree itself generates.
        let name = if version == CURRENT { format!("released_{version}") } else { version.clone() };
        let _script = Beside::put(&mut session, &format!("pg_civic--{name}.sql"), &script);
        session.run(&format!("CREATE EXTENSION pg_civic VERSION '{name}'"));
        if version != CURRENT {
            session.run("ALTER EXTENSION pg_civic UPDATE");
        }
        let found = differences(&catalog(&mut session), &fresh);
        assert!(
            found.is_empty(),
            "the SQL of version {version}, updated to {CURRENT}, is not that of a new installation. Either \
             sql/pg_civic--{version}--NEXT.sql lacks something, or the SQL has changed since {version} was \
             released and Cargo.toml needs the next version (CONTRIBUTING.md, Releasing):\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn the_comparison_sees_every_kind_of_drift() {
    let database = Database::plain();
    let mut session = database.superuser();
    let before = catalog(&mut session);
    assert!(before.len() > 250, "{}", before.len());
    assert!(!before.iter().any(|line| line.ends_with("not described")), "{before:#?}");
    for drift in [
        "GRANT EXECUTE ON FUNCTION civic.publish(text, jsonb, boolean) TO PUBLIC",
        "REVOKE SELECT ON civic.media_jobs FROM PUBLIC; GRANT INSERT ON civic.media_jobs TO PUBLIC",
        "ALTER FUNCTION civic.tenant_id() VOLATILE",
        "ALTER FUNCTION civic.tenant_id() COST 7",
        "ALTER FUNCTION civic.check() RESET search_path",
        "COMMENT ON FUNCTION civic.tenant_id() IS 'else'",
        "CREATE FUNCTION civic.more() RETURNS int LANGUAGE sql RETURN 1; ALTER EXTENSION pg_civic ADD FUNCTION civic.more()",
        "ALTER EXTENSION pg_civic DROP FUNCTION civic.tenant_id()",
        "ALTER TABLE civic.media_jobs ADD COLUMN more int",
        "ALTER TABLE civic.media_jobs ALTER COLUMN attempts SET DEFAULT 7",
        "ALTER TABLE civic.media_jobs DISABLE ROW LEVEL SECURITY",
        "CREATE INDEX ON civic.media_jobs (state, attempts)",
        "ALTER TABLE civic.media_jobs ADD CHECK (attempts >= 0)",
        "CREATE POLICY more ON civic.media_jobs USING (true)",
        "ALTER VIEW civic.metrics SET (security_barrier)",
        "UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'pg_civic'",
    ] {
        session.run("BEGIN");
        session.run(drift);
        let found = differences(&before, &catalog(&mut session));
        assert!(!found.is_empty(), "{drift}");
        session.run("ROLLBACK");
    }
    assert_eq!(differences(&before, &catalog(&mut session)), Vec::<String>::new());
}

/// A script that replaces every function by itself and changes a table, as an update may.
fn drill(session: &mut Session) -> String {
    let functions = session.column(
        "SELECT pg_get_functiondef(objid) FROM pg_depend
         WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_civic')",
    );
    assert!(functions.len() > 40);
    let more = "ALTER TABLE civic.media_jobs ADD COLUMN drill integer".to_owned();
    functions.into_iter().chain([more]).map(|statement| format!("{statement};\n")).collect()
}

#[test]
fn sessions_relay_and_media_worker_go_on_through_an_update() {
    let cluster = Cluster::preloaded("upgrade", &["civic.database=postgres"], |cluster| {
        let mut session = cluster.superuser();
        for fixture in [SUPABASE, APPLICATION, "CREATE EXTENSION pg_civic"] {
            session.run(fixture);
        }
        session.run("SELECT count(*) FROM civic.setup('public.tickets')");
        session.run(&format!(
            "INSERT INTO storage.objects (bucket_id, name)
             SELECT bucket, tenant || '/f/x' FROM unnest(array['evidence', 'gbv-evidence']) bucket,
                    unnest(array['{TENANT}', 'other']) tenant"
        ));
    });
    let mut admin = cluster.superuser();
    let script = drill(&mut admin);
    let file = format!("pg_civic--{CURRENT}--{CURRENT}_drill.sql");
    let _script = Beside::put(&mut admin, &file, &script);
    let ticket = format!("INSERT INTO public.tickets (tenant_id) VALUES ('{TENANT}')");
    let delivered = "SELECT delivered FROM civic.relay_stats()";
    wait_until("the relay runs", || admin.text("SELECT running FROM civic.relay_stats()") == "t");

    // What sessions have planned, bound and begun under the old version.
    let mut reader = cluster.superuser();
    reader.acts_as("authenticated", &claims(TENANT, "manager"));
    reader.run("PREPARE files AS SELECT count(*) FROM storage.objects WHERE name LIKE '%/x'");
    for _ in 0..6 {
        assert_eq!(reader.text("EXECUTE files"), "1", "of two municipalities and two buckets");
    }
    let mut writer = cluster.superuser();
    writer.run(&format!("BEGIN; {ticket}"));

    let postmaster = admin.text("SELECT pg_postmaster_start_time()");
    admin.run(&format!("ALTER EXTENSION pg_civic UPDATE TO '{CURRENT}_drill'"));
    assert_eq!(reader.text("EXECUTE files"), "1");
    assert_eq!(reader.text("SELECT count(*) FROM storage.objects"), "1");
    assert_eq!(reader.text("SELECT civic.tenant_id()"), TENANT);
    writer.run(&format!("{ticket}; COMMIT"));
    writer.run(&ticket);
    wait_until("three tickets reach the relay's listeners", || admin.text(delivered) == "3");
    let worker = "SELECT detail FROM civic.check() WHERE component = 'media worker' AND NOT ok";
    assert_eq!(admin.column(worker), Vec::<String>::new());
    assert_eq!(admin.text("SELECT pg_postmaster_start_time()"), postmaster);
}
