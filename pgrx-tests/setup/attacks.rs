//! Names and search paths that would have civic.setup(), civic.teardown() and civic.check() do
//! something else, with the rights of whoever runs them.

use crate::pg_tests::support::installation::{SETUP, TEARDOWN, actions};
use crate::pg_tests::support::{Database, Session, literal};

/// Each raises an error when it is used.
const EVIL: &str = r#"
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.bite() RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'bitten'; END $$;
    CREATE FUNCTION evil.format(text, name) RETURNS text RETURN evil.bite();
    CREATE FUNCTION evil.format(text, name, name) RETURNS text RETURN evil.bite();
    CREATE FUNCTION evil.concat_ws(text, text, text, name[], text, text) RETURNS text RETURN evil.bite();
    CREATE FUNCTION evil.to_regclass(text) RETURNS regclass RETURN evil.bite()::regclass;
    CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text RETURN evil.bite();
    CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text RETURN evil.bite();
    CREATE FUNCTION evil.pg_has_role(name, oid, text) RETURNS boolean RETURN evil.bite()::boolean;
    CREATE FUNCTION evil.same(name, name) RETURNS boolean RETURN evil.bite()::boolean;
    CREATE FUNCTION evil.same(name, text) RETURNS boolean RETURN evil.bite()::boolean;
    CREATE FUNCTION evil.same(text, text) RETURNS boolean RETURN evil.bite()::boolean;
    CREATE FUNCTION evil.same(oid, oid) RETURNS boolean RETURN evil.bite()::boolean;
    CREATE FUNCTION evil.joined(text, text) RETURNS text RETURN evil.bite();
    CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = name, RIGHTARG = name);
    CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = name, RIGHTARG = text);
    CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
    CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = oid, RIGHTARG = oid);
    CREATE OPERATOR evil.<> (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
    CREATE OPERATOR evil.|| (FUNCTION = evil.joined, LEFTARG = text, RIGHTARG = text);
    CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.bite() IS NULL);
"#;

/// Empty look-alikes of what is read.
const LOOK_ALIKES: [&str; 9] = [
    "pg_class",
    "pg_namespace",
    "pg_policy",
    "pg_policies",
    "pg_trigger",
    "pg_roles",
    "pg_index",
    "pg_extension",
    "pg_settings",
];

fn policies(session: &mut Session) -> Vec<Vec<Option<String>>> {
    session.run("SET search_path = pg_catalog, pg_temp");
    let policies = session.rows("SELECT * FROM pg_catalog.pg_policies ORDER BY 2, 3");
    session.run("RESET search_path");
    policies
}

#[test]
fn objects_on_the_callers_search_path_are_not_used() {
    let expected = policies(&mut Database::guarded().superuser());
    let look_alikes = |schema: &str| {
        LOOK_ALIKES
            .map(|name| format!("CREATE TABLE {schema}.{name} (LIKE pg_catalog.{name});"))
            .concat()
    };
    for (case, made, path) in [
        ("a schema", format!("{EVIL}{}", look_alikes("evil")), "evil, pg_catalog, public"),
        ("pg_temp", look_alikes("pg_temp"), "pg_temp, pg_catalog, public"),
        ("both", format!("{EVIL}{}", look_alikes("pg_temp")), "pg_temp, evil, pg_catalog"),
    ] {
        let mut session = Database::supabase().superuser();
        session.run(&made);
        let before = session.traces();
        let on_the_path = |session: &mut Session, sql: &str| {
            session.run(&format!("SET search_path = {path}"));
            let rows = session.rows(sql);
            session.run("RESET search_path");
            rows
        };
        on_the_path(&mut session, SETUP);
        assert_eq!(policies(&mut session), expected, "{case}");
        let found = on_the_path(&mut session, "SELECT component, ok FROM civic.check()");
        assert!(found.iter().all(|row| row[1].as_deref() == Some("t")), "{case}: {found:?}");
        on_the_path(&mut session, TEARDOWN);
        assert_eq!(session.traces(), before, "{case}");
    }
}

#[test]
fn hostile_names_inject_nothing() {
    let mut session = Database::supabase().superuser();
    let hostile = [
        "t\"; DROP TABLE public.canary; --",
        "t'; DROP TABLE public.canary; --",
        "t\\'; DROP TABLE public.canary; --",
        "%I %s %L $1",
        "$$; DROP TABLE public.canary; --",
    ];
    session.run("CREATE TABLE public.canary ()");
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for name in hostile {
        let name = quoted(name);
        let table = format!("{name}.{name}");
        session.run(&format!(
            "CREATE SCHEMA {name}; CREATE TABLE {table} (tenant_id text, {name} text)"
        ));
        let setup = format!("SELECT * FROM civic.setup({})", literal(&table));
        session.run(&setup);
        assert_eq!(actions(&session.steps(&setup)).first(), Some(&"already there"), "{name}");
        let component = format!("trigger ticket_update_notify on {table}");
        for tampered in [
            format!("ALTER TABLE {table} DISABLE TRIGGER ticket_update_notify"),
            format!(
                "DROP TRIGGER ticket_update_notify ON {table};
                 CREATE TRIGGER ticket_update_notify AFTER INSERT ON {table}
                 FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
            ),
        ] {
            session.run(&tampered);
            let (found, _, fix) = session.wrong().remove(0);
            assert_eq!(found, component);
            session.run(&fix.expect("a fix"));
            assert_eq!(session.wrong(), [], "{name}");
        }
        session.run(&format!(
            "CREATE TRIGGER {name} AFTER DELETE ON {table}
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update();
             ALTER TABLE {table} DISABLE TRIGGER {name}"
        ));
        let (_, _, fix) = session.wrong().remove(0);
        session.run(&fix.expect("a fix"));
        assert_eq!(session.wrong(), [], "{name}");
    }
    session.run("CREATE FUNCTION public.notify_ticket_update() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'");
    for name in hostile.map(quoted) {
        session.run(&format!(
            "CREATE OR REPLACE TRIGGER {name} AFTER INSERT ON {name}.{name}
             FOR EACH ROW WHEN (false) EXECUTE FUNCTION public.notify_ticket_update()"
        ));
        let (_, _, fix) = session.wrong().remove(0);
        session.run(&fix.expect("a fix"));
        assert_eq!(session.wrong(), [], "{name}");
    }
    for name in hostile.map(quoted) {
        session.run(&format!(
            "CREATE TRIGGER {name} AFTER DELETE ON {name}.{name}
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
        ));
    }
    session.run(TEARDOWN);
    assert_eq!(session.text("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgfoid = 'civic.notify_ticket_update'::regproc"), "0");
    assert_eq!(session.text("SELECT to_regclass('public.canary') IS NOT NULL"), "t");
}

#[test]
fn an_error_repeats_a_hostile_name_and_runs_none_of_it() {
    let database = Database::supabase();
    let mut session = database.superuser();
    session.run("CREATE VIEW \"v\"\"; DROP TABLE tickets; --\" AS SELECT 1");
    let error = session.error("SELECT civic.setup('\"v\"\"; DROP TABLE tickets; --\"')");
    assert_eq!(error.message(), "public.\"v\"\"; DROP TABLE tickets; --\" is a view, not a table");
    session.run("SELECT FROM tickets");
}
