//! What anon and a user of another municipality see during a restore, after each of its statements.

use super::stock;
use crate::pg_tests::support::{Database, claims};

/// Open everything to everybody, if nothing else decides.
const CARELESS: &str = "CREATE POLICY careless ON storage.objects USING (true);
    CREATE POLICY careless ON public.tickets USING (true)";
const NOBODYS_TENANT: &str = "00000000-0000-0000-0000-000000000009";

/// Has every session of the database record how many guarded rows the two roles see after each DDL
/// statement. The restore's data is there before its last ones.
fn watch(database: &Database) {
    let claims = claims(NOBODYS_TENANT, "citizen");
    database.superuser().run(&format!(
        "CREATE SCHEMA watch;
         CREATE TABLE watch.seen (command text, role text, seen bigint);
         CREATE FUNCTION watch.look() RETURNS event_trigger LANGUAGE plpgsql AS $$
         DECLARE
             role text; statement text; number bigint;
         BEGIN
             FOR role, statement IN
                 SELECT r, s FROM unnest(ARRAY['anon', 'authenticated']) r, unnest(ARRAY[
                     'SELECT count(*) FROM storage.objects WHERE bucket_id <> ''avatars''',
                     'SELECT count(*) FROM public.tickets']) s
             LOOP
                 PERFORM set_config('request.jwt.claims', '{claims}', true);
                 PERFORM set_config('role', role, true);
                 BEGIN
                     EXECUTE statement INTO number;
                 EXCEPTION WHEN insufficient_privilege OR undefined_table OR undefined_object
                     OR invalid_schema_name OR undefined_function THEN
                     number := 0;
                 END;
                 PERFORM set_config('role', 'none', true);
                 INSERT INTO watch.seen VALUES (tg_tag, role, number);
             END LOOP;
         END $$;
         CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION watch.look()"
    ));
}

/// Restores a database with careless policies by psql and by pg_restore, into databases that have been
/// prepared. Gives for each where guarded rows were seen.
fn restores(preparation: &str) -> Vec<Vec<String>> {
    let database = Database::protected();
    let mut superuser = database.superuser();
    stock(&mut superuser);
    superuser.run(CARELESS);
    ["psql", "pg_restore"]
        .map(|program| {
            let restored = Database::empty("");
            restored.superuser().run(preparation);
            watch(&restored);
            match program {
                "psql" => {
                    let dump = database.program("pg_dump").output().expect("it runs");
                    restored.run_script(std::str::from_utf8(&dump.stdout).expect("text"));
                }
                _ => {
                    let name = format!("{}_{}", restored.name(), std::process::id());
                    let folder = std::env::temp_dir().join(name);
                    let dump = database
                        .program("pg_dump")
                        .args(["--format=directory", "--file"])
                        .arg(&folder)
                        .output()
                        .expect("it runs");
                    assert!(dump.status.success(), "{dump:?}");
                    let restore = restored
                        .program("pg_restore")
                        .args(["--jobs=2"])
                        .arg(&folder)
                        .output()
                        .expect("it runs");
                    std::fs::remove_dir_all(&folder).expect("it is there");
                    assert!(restore.status.success(), "{restore:?}");
                }
            }
            let mut superuser = restored.superuser();
            assert_eq!(superuser.text("SELECT count(*) FROM public.tickets"), "14", "{program}");
            superuser
                .column("SELECT DISTINCT command || ' ' || role FROM watch.seen WHERE seen > 0")
        })
        .into()
}

#[test]
fn at_no_statement_of_a_restore_anybody_sees_guarded_rows() {
    assert_eq!(restores("SELECT"), [[""; 0]; 2]);
}

/// Then the tables are open from their data to ENABLE ROW LEVEL SECURITY.
#[test]
fn default_privileges_in_the_target_open_the_tables_during_a_restore_as_documented() {
    for seen in restores("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO anon, authenticated") {
        assert!(seen.iter().any(|it| it.ends_with("anon")), "{seen:?}");
    }
}
