//! The SQL in README.md and docs/ runs unchanged. crates/fake-services/tests/browser.rs runs the JavaScript.

use super::storage::service::Town;
use super::support::{Database, OTHER_TENANT, TENANT, claims};

const DOCUMENTS: [(&str, &str); 5] = [
    ("README.md", include_str!("../README.md")),
    ("docs/sql-api.md", include_str!("../docs/sql-api.md")),
    ("docs/security.md", include_str!("../docs/security.md")),
    ("docs/operations.md", include_str!("../docs/operations.md")),
    ("docs/browsers.md", include_str!("../docs/browsers.md")),
];

fn sql_blocks(document: &str) -> Vec<&str> {
    let rests = document.split("```sql\n").skip(1);
    rests.filter_map(|rest| rest.split_once("```").map(|(code, _)| code)).collect()
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

/// The block of docs/browsers.md that creates the policy, run in a database with tickets of two users.
fn with_policy(name: &str) -> Database {
    let blocks = sql_blocks(DOCUMENTS[4].1);
    let block = blocks.iter().find(|sql| sql.contains(&format!("CREATE POLICY \"{name}\"")));
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(block.expect("the policy is there"));
    for (tenant_id, number, user_id, is_sensitive) in [
        (TENANT, 1, "8f14e45f-0000-4000-8000-000000000000", false),
        (TENANT, 2, "8f14e45f-0000-4000-8000-000000000000", true),
        (TENANT, 3, "00000000-0000-4000-8000-000000000009", false),
        (OTHER_TENANT, 4, "8f14e45f-0000-4000-8000-000000000000", false),
    ] {
        session.run(&format!(
            "INSERT INTO tickets (tenant_id, tracking_number, category, status, user_id, is_sensitive)
             VALUES ('{tenant_id}', '{number}', 'water', 'open', '{user_id}', {is_sensitive})"
        ));
    }
    database
}

const SEEN: &str =
    "SELECT coalesce(string_agg(tracking_number, '' ORDER BY tracking_number), '') FROM tickets";

#[test]
fn the_documented_policy_for_dashboards_shows_the_list_of_each_role() {
    let database = with_policy("dashboards");
    for (role, seen) in [
        ("manager", "13"),
        ("ward_councillor", "13"),
        ("admin", "123"),
        ("SAPS_LIAISON", "123"),
        ("field_worker", ""),
        ("citizen", ""),
        ("", ""),
    ] {
        assert_eq!(database.person(TENANT, role).text(SEEN), seen, "{role:?}");
    }
    assert_eq!(database.person(OTHER_TENANT, "admin").text(SEEN), "4");
    assert_eq!(database.person("", "admin").text(SEEN), "");
}

#[test]
fn the_documented_policy_for_citizens_shows_their_own_ordinary_tickets() {
    let database = with_policy("own tickets");
    for role in ["citizen", "manager", ""] {
        assert_eq!(database.person(TENANT, role).text(SEEN), "1", "{role:?}");
    }
    assert_eq!(database.authenticated("{\"role\": \"authenticated\"}").text(SEEN), "");
}

#[test]
fn the_documented_policy_for_postgres_changes_opens_its_own_topic_only() {
    let mut session = with_policy("citizens join my-tickets").superuser();
    let mut joins =
        |role: &str, topic: &str| session.may_join(role, &claims(TENANT, "citizen"), topic).0;
    assert!(joins("authenticated", "my-tickets"));
    assert!(!joins("anon", "my-tickets"));
    assert!(!joins("authenticated", "your-tickets"));
    assert!(!joins("authenticated", &format!("ticket_updates:{TENANT}")));
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
const MADE_LATER: [&str; 3] =
    ["sql/pg_civic--OLD--NEW.sql", "sql/pg_civic--VERSION.sql", "crates/bench/results/latest.json"];

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
