//! The SQL in README.md and docs/ runs unchanged.

use super::storage::service::Town;
use super::support::Database;

const DOCUMENTS: [(&str, &str); 5] = [
    ("README.md", include_str!("../README.md")),
    ("docs/sql-api.md", include_str!("../docs/sql-api.md")),
    ("docs/security.md", include_str!("../docs/security.md")),
    ("docs/operations.md", include_str!("../docs/operations.md")),
    ("docs/browsers.md", include_str!("../docs/browsers.md")),
];

/// The code blocks of a document in one language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let rests = document.split(&format!("```{language}\n")).skip(1).collect::<Vec<_>>();
    rests.into_iter().filter_map(|rest| rest.split_once("```").map(|(code, _)| code)).collect()
}

fn sql_blocks(document: &str) -> Vec<&str> {
    blocks(document, "sql")
}

#[test]
fn the_javascript_in_the_documentation_is_javascript() {
    let documents = [DOCUMENTS[1].1, DOCUMENTS[4].1].map(|document| blocks(document, "js"));
    assert!(documents.iter().all(|blocks| !blocks.is_empty()));
    for code in documents.concat() {
        let file = std::env::temp_dir().join(format!("pg_civic_{}.mjs", std::process::id()));
        std::fs::write(&file, code).expect("a file");
        let node = std::process::Command::new("node").arg("--check").arg(&file).output();
        std::fs::remove_file(&file).expect("it was written");
        let node = node.expect("node runs");
        assert!(node.status.success(), "{code}\n{}", String::from_utf8_lossy(&node.stderr));
    }
}

#[test]
fn the_sql_in_the_documentation_runs() {
    for (name, document) in DOCUMENTS {
        let mut blocks = 0;
        for sql in sql_blocks(document) {
            blocks += 1;
            if name == "docs/sql-api.md" {
                // Its functions use the services that a town has.
                let town = Town::new();
                town.configure(&[("civic.media_hosts", "api.twilio.com")]);
                town.superuser().run(sql);
                continue;
            }
            let installs = sql.contains("CREATE EXTENSION");
            let database = match name {
                _ if installs => Database::uninstalled(),
                "docs/browsers.md" => Database::realtime(),
                _ => Database::guarded(),
            };
            database.superuser().run(sql);
        }
        assert!(blocks > 0 || name == "docs/security.md", "{name} has SQL");
    }
}

/// Claims that outlive their transaction are the next client's, through a pooler.
#[test]
fn examples_set_claims_for_one_transaction() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = ["scripts/psql.sh", "crates/demo/src/people.rs"];
    let mut set = 0;
    for example in DOCUMENTS.iter().map(|(name, _)| *name).chain(examples) {
        let text = std::fs::read_to_string(root.join(example)).expect("an example");
        for line in text.lines() {
            let sets = line.contains("SET request.jwt") || line.contains("SET SESSION request.jwt");
            assert!(!sets, "{example}: {line}");
            let local = line.contains("SET LOCAL request.jwt.claims = ");
            let called = line.contains("set_config('request.jwt.claims'");
            assert!(!called || line.contains(", true)"), "{example}: {line}");
            set += usize::from(local || called);
        }
    }
    assert!(set >= 5, "{set}");
}

#[test]
fn every_function_is_in_the_documentation() {
    let functions = Database::plain().superuser().column(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'civic'::regnamespace ORDER BY 1",
    );
    assert!(functions.len() > 20);
    for function in functions {
        assert!(DOCUMENTS[1].1.contains(&format!("`{function}(")), "{function} in docs/sql-api.md");
    }
}

#[test]
fn every_setting_is_in_the_documentation() {
    let mut session = Database::plain().superuser();
    session.run("LOAD 'pg_civic'");
    let mut settings = session.column("SELECT name FROM pg_settings WHERE name LIKE 'civic.%'");
    // No list shows these.
    settings.extend(crate::settings::service::SECRETS.map(str::to_owned));
    for setting in settings {
        assert!(
            DOCUMENTS[1].1.contains(&format!("| `{setting}` |")),
            "{setting} in docs/sql-api.md"
        );
    }
}

/// Files that a release or a run of the bench makes.
const MADE_LATER: [&str; 2] = ["sql/pg_civic--OLD--NEW.sql", "crates/bench/results/latest.json"];

#[test]
fn the_files_that_the_documentation_names_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let others = ["CONTRIBUTING.md", "docs/architecture.md", "docs/performance.md"];
    let mut named = 0;
    for document in DOCUMENTS.iter().map(|(name, _)| *name).chain(others) {
        let text = std::fs::read_to_string(root.join(document)).expect("a document");
        let quoted = text.split('`').skip(1).step_by(2);
        let is_path = |quoted: &&str| {
            let folders = ["src/", "crates/", "pgrx-tests/", "scripts/", "sql/", "docs/"];
            folders.iter().any(|folder| quoted.starts_with(folder)) && !quoted.contains(' ')
        };
        for path in quoted.filter(is_path).filter(|path| !MADE_LATER.contains(path)) {
            assert!(root.join(path).exists(), "{document} names {path}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}
