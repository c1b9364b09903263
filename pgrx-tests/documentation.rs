//! The SQL in README.md and docs/ runs as it stands.

use super::support::Database;

const DOCUMENTS: [(&str, &str); 4] = [
    ("README.md", include_str!("../README.md")),
    ("docs/sql-api.md", include_str!("../docs/sql-api.md")),
    ("docs/security.md", include_str!("../docs/security.md")),
    ("docs/operations.md", include_str!("../docs/operations.md")),
];

/// The blocks of a document that are marked as SQL.
fn sql_blocks(document: &str) -> impl Iterator<Item = &str> {
    document.split("```sql\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(sql, _)| sql))
}

#[test]
fn the_sql_in_the_documentation_runs() {
    for (name, document) in DOCUMENTS {
        let mut blocks = 0;
        for sql in sql_blocks(document) {
            let installs = sql.contains("CREATE EXTENSION");
            let database = if installs { Database::uninstalled() } else { Database::guarded() };
            database.superuser().run(sql);
            blocks += 1;
        }
        assert!(blocks > 0 || name == "docs/security.md", "{name} has SQL");
    }
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
    // No list has these.
    settings.extend(crate::settings::service::SECRETS.map(str::to_owned));
    for setting in settings {
        assert!(
            DOCUMENTS[1].1.contains(&format!("| `{setting}` |")),
            "{setting} in docs/sql-api.md"
        );
    }
}
