//! Rights that no policy covers: TRUNCATE, TRIGGER, REFERENCES, MAINTAIN, and locks.

use super::support::{Database, OTHER_TENANT};

const PERSONS: [&str; 2] = ["anon", "authenticated"];

#[test]
fn nobody_truncates_the_objects_or_the_buckets() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{OTHER_TENANT}/a/1')"
    ));
    for role in PERSONS {
        session.run(&format!("SET ROLE {role}"));
        for sql in ["TRUNCATE storage.objects", "TRUNCATE storage.buckets CASCADE"] {
            assert_eq!(session.sqlstate(sql), "42501", "{role}: {sql}");
        }
        session.reset_role();
    }
    assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "1");
}

#[test]
fn nobody_puts_a_trigger_on_the_objects_that_runs_as_service_role() {
    let mut session = Database::guarded().superuser();
    for role in PERSONS {
        session.run(&format!(
            "SET ROLE {role};
             CREATE FUNCTION pg_temp.of_{role}() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RETURN NEW; END'"
        ));
        for table in ["storage.objects", "storage.buckets"] {
            let sql = format!(
                "CREATE TRIGGER bite BEFORE INSERT ON {table}
                     FOR EACH ROW EXECUTE FUNCTION pg_temp.of_{role}()"
            );
            assert_eq!(session.sqlstate(&sql), "42501", "{role}: {table}");
        }
        session.reset_role();
    }
}

#[test]
fn no_foreign_key_tells_whether_another_municipalitys_file_exists() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{OTHER_TENANT}/a/1')"
    ));
    for role in PERSONS {
        session.run(&format!("CREATE SCHEMA of_{role} AUTHORIZATION {role}; SET ROLE {role}"));
        let sql = format!(
            "CREATE TABLE of_{role}.oracle (bucket_id text, name text,
                 FOREIGN KEY (bucket_id, name) REFERENCES storage.objects (bucket_id, name))"
        );
        assert_eq!(session.sqlstate(&sql), "42501", "{role}");
        session.reset_role();
    }
}

#[test]
fn nobody_locks_the_messages_against_another_municipalitys_tickets() {
    let mut session = Database::realtime().superuser();
    let today = session
        .text("SELECT 'realtime.messages_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD')");
    for role in PERSONS {
        session.run(&format!("SET ROLE {role}"));
        for table in ["realtime.messages", &today] {
            for mode in ["ACCESS EXCLUSIVE", "EXCLUSIVE", "SHARE"] {
                let sql = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE");
                assert_eq!(session.sqlstate(&sql), "42501", "{role}: {sql}");
                session.run("ROLLBACK");
            }
        }
        session.reset_role();
    }
}
