//! What `check()` says of Realtime's rate limit and of its public channels, and how it reads them.

use crate::pg_tests::support::{Database, Session};

/// Realtime's own record, as its migrations create it.
const TENANTS: &str = "
    CREATE SCHEMA _realtime;
    CREATE TABLE _realtime.tenants (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, external_id text UNIQUE, jwt_secret text,
        jwt_jwks jsonb, max_concurrent_users int NOT NULL DEFAULT 10000,
        max_events_per_second int NOT NULL DEFAULT 100, private_only boolean NOT NULL DEFAULT false,
        suspend boolean DEFAULT false,
        CONSTRAINT jwt_secret_or_jwt_jwks_required CHECK (jwt_secret IS NOT NULL OR jwt_jwks IS NOT NULL));
    INSERT INTO _realtime.tenants (external_id, jwt_secret) VALUES ('realtime-dev', 'secret');";

const LIMIT: &str = "rate limit of Realtime";
const CHANNELS: &str = "public channels of Realtime";

/// Whether the two findings are right, and their details.
fn found(session: &mut Session) -> [(bool, String); 2] {
    [LIMIT, CHANNELS].map(|component| {
        let sql = format!("SELECT ok, detail FROM civic.check() WHERE component = '{component}'");
        let rows = session.rows(&sql);
        assert_eq!(rows.len(), 1, "{component}: {rows:?}");
        (rows[0][0].as_deref() == Some("t"), rows[0][1].clone().unwrap())
    })
}

fn session(prepared: &str) -> Session {
    let mut session = Database::realtime().superuser();
    session.run(prepared);
    session
}

#[track_caller]
fn is_not_known(session: &mut Session, why: &str) {
    for (ok, detail) in found(session) {
        assert!(ok && detail.starts_with("not known") && detail.contains(why), "{detail}");
    }
}

#[test]
fn the_default_of_realtime_is_reported_with_the_arithmetic_and_the_remedy() {
    let [limit, channels] = found(&mut session(TENANTS));
    assert!(!limit.0 && !channels.0, "{limit:?} {channels:?}");
    for part in [
        "100 a second",
        "4.7 tickets a second before 20 dashboards",
        "TENANT_MAX_EVENTS_PER_SECOND",
    ] {
        assert!(limit.1.contains(part), "{limit:?}");
    }
    for part in ["private: true", "publishable key", "private_only"] {
        assert!(channels.1.contains(part), "{channels:?}");
    }
}

#[test]
fn a_raised_limit_and_closed_channels_are_right() {
    let mut session = session(TENANTS);
    session.run("UPDATE _realtime.tenants SET max_events_per_second = 20000, private_only = true");
    let [limit, channels] = found(&mut session);
    assert!(limit.0 && channels.0, "{limit:?} {channels:?}");
    assert!(limit.1.contains("952.3 tickets a second before 20 dashboards"), "{limit:?}");
    assert_eq!(channels.1, "closed");
}

#[test]
fn the_worst_of_several_tenants_counts() {
    let mut session = session(TENANTS);
    session.run(
        "UPDATE _realtime.tenants SET max_events_per_second = 20000, private_only = true;
         INSERT INTO _realtime.tenants (external_id, jwt_secret, max_events_per_second) VALUES ('b', 's', 200)",
    );
    let [limit, channels] = found(&mut session);
    assert!(!limit.0 && limit.1.starts_with("200 a second"), "{limit:?}");
    assert!(!channels.0, "{channels:?}");
}

#[test]
fn an_older_or_empty_record_is_not_known() {
    let mut older = session(TENANTS);
    older.run("ALTER TABLE _realtime.tenants DROP private_only");
    let [limit, channels] = found(&mut older);
    assert!(!limit.0 && channels.0, "{limit:?} {channels:?}");
    let mut empty = session(&format!("{TENANTS} DELETE FROM _realtime.tenants"));
    is_not_known(&mut empty, "does not name");
}

#[test]
fn a_record_in_another_database_is_not_known() {
    is_not_known(&mut session(""), "no table _realtime.tenants");
}

#[test]
fn without_realtime_there_is_nothing_to_say() {
    for prepared in ["SET civic.event_transport = notify", "SET civic.event_transport = none"] {
        let mut session = session(&format!("{TENANTS} {prepared}"));
        let sql = format!(
            "SELECT count(*) FROM civic.check() WHERE component IN ('{LIMIT}', '{CHANNELS}')"
        );
        assert_eq!(session.text(&sql), "0", "{prepared}");
    }
}

#[test]
fn a_role_without_the_rights_of_its_owner_does_not_read_it() {
    let database = Database::realtime();
    database.superuser().run(&format!(
        "{TENANTS} GRANT USAGE ON SCHEMA _realtime TO PUBLIC; GRANT SELECT ON _realtime.tenants TO PUBLIC"
    ));
    let mut plain = database.session_of(&database.operator("plain", ""));
    is_not_known(&mut plain, "another role");
}

/// Reports the role that runs it.
const TRAP: &str = "
    CREATE FUNCTION public.trap() RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE WARNING 'trap runs as %', current_user; RETURN true; END $$;";

/// The roles that have run the trap.
fn trapped(session: &mut Session) -> Vec<String> {
    let warnings = session.all_warnings();
    let of_trap = warnings.iter().filter_map(|it| it.message().strip_prefix("trap runs as "));
    of_trap.map(str::to_owned).collect()
}

#[test]
fn a_view_of_the_name_is_not_read() {
    let mut session = session(&format!(
        "CREATE SCHEMA _realtime; {TRAP}
         CREATE VIEW _realtime.tenants AS
             SELECT 100 AS max_events_per_second, public.trap() AS private_only"
    ));
    is_not_known(&mut session, "no table _realtime.tenants");
    assert_eq!(trapped(&mut session), [""; 0]);
}

#[test]
fn a_policy_of_a_hostile_owner_runs_as_that_owner_and_not_as_a_superuser() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let hostile = database.role("hostile", "");
    session.run(&format!(
        "{TENANTS} {TRAP}
         ALTER SCHEMA _realtime OWNER TO {hostile}; ALTER TABLE _realtime.tenants OWNER TO {hostile};
         ALTER TABLE _realtime.tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY trap ON _realtime.tenants USING (public.trap())"
    ));
    found(&mut session);
    let mut ran = trapped(&mut session);
    ran.dedup();
    assert_eq!(ran, [hostile.as_str()], "the trap works, with the rights of its owner only");
    session.run("CREATE OR REPLACE FUNCTION public.trap() RETURNS boolean LANGUAGE plpgsql AS
                     $$ BEGIN EXECUTE 'ALTER ROLE ' || current_user || ' SUPERUSER'; RETURN true; END $$");
    is_not_known(&mut session, "_realtime.tenants");
    let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{hostile}'");
    assert_eq!(session.text(&is_superuser), "f");
}

#[test]
fn a_table_of_a_superuser_with_code_of_another_role_is_not_read() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let hostile = database.role("hostile", "");
    session.run(&format!(
        "{TENANTS}
         CREATE FUNCTION public.evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RAISE WARNING 'trap runs as %', current_user; RETURN 1; END $$;
         ALTER FUNCTION public.evil(int) OWNER TO {hostile};
         CREATE INDEX ON _realtime.tenants ((public.evil(1)))"
    ));
    session.all_warnings();
    is_not_known(&mut session, "public.evil");
    assert_eq!(trapped(&mut session), [""; 0]);
}

#[test]
fn columns_of_other_types_and_tables_that_inherit_are_not_read() {
    let mut other = session(&format!(
        "CREATE SCHEMA _realtime; {TRAP}
         CREATE DOMAIN public.yes AS boolean CHECK (public.trap());
         CREATE TYPE public.rate AS ENUM ('100');
         CREATE TABLE _realtime.tenants (max_events_per_second public.rate, private_only public.yes);
         INSERT INTO _realtime.tenants VALUES ('100', false)"
    ));
    other.all_warnings();
    is_not_known(&mut other, "does not name");
    assert_eq!(trapped(&mut other), [""; 0]);

    let mut parent = session(TENANTS);
    parent.run(
        "UPDATE _realtime.tenants SET max_events_per_second = 20000, private_only = true;
         CREATE TABLE _realtime.more () INHERITS (_realtime.tenants);
         INSERT INTO _realtime.more (external_id, jwt_secret) VALUES ('c', 's')",
    );
    let [limit, channels] = found(&mut parent);
    assert!(limit.0 && channels.0, "{limit:?} {channels:?}");
}

#[test]
fn a_lock_on_it_does_not_hold_up_the_check() {
    let database = Database::realtime();
    database.superuser().run(TENANTS);
    let mut locker = database.superuser();
    locker.run("BEGIN; LOCK TABLE _realtime.tenants");
    let mut session = database.superuser();
    is_not_known(&mut session, "_realtime.tenants");
    locker.run("ROLLBACK");
    assert!(!found(&mut session)[0].0);
}
