//! The guarded columns.

use super::{CITIZEN, outcome, session_of};
use crate::pg_tests::support::{Database, TENANT, claims_of};

const NEW: &str = "8f14e45f-0000-4000-8000-0000000000aa";

#[test]
fn the_error_names_the_column() {
    let database = Database::protected();
    let mut session = session_of(&database, CITIZEN, "manager");
    for (set, column) in [
        ("role = 'ADMIN'", "role"),
        ("id = gen_random_uuid()", "id"),
        ("full_name = 'x', role = 'MANAGER'", "role"),
    ] {
        let error = session.error(&format!("UPDATE users SET {set} WHERE id = '{CITIZEN}'"));
        assert_eq!(error.code().code(), "42501");
        let expected = format!("column \"{column}\" of table \"users\" is guarded");
        assert_eq!(error.message(), expected);
        assert!(error.hint().is_some_and(|hint| hint.contains("civic.column_writers")));
    }
}

#[test]
fn a_manager_changes_other_columns_and_an_admin_every_one() {
    let database = Database::protected();
    let set = |what: &str| format!("UPDATE users SET {what} WHERE id = '{CITIZEN}'");
    let mut manager = session_of(&database, CITIZEN, "manager");
    assert_eq!(outcome(&mut manager, &set("full_name = 'x'")), None);
    assert_eq!(outcome(&mut manager, &set("role = 'CITIZEN', full_name = 'x'")), None, "as it is");
    let mut admin = session_of(&database, CITIZEN, "ADMIN");
    assert_eq!(outcome(&mut admin, &set("role = 'MANAGER'")), None);
}

#[test]
fn harmless_values_are_inserted_by_whoever_inserts() {
    let database = Database::protected();
    for (user, role, values, is_allowed) in [
        (NEW, "citizen", format!("'{NEW}', '{TENANT}', 'CITIZEN'"), true),
        (NEW, "citizen", format!("'{NEW}', '{TENANT}', DEFAULT"), true),
        (NEW, "citizen", format!("'{NEW}', '{TENANT}', 'MANAGER'"), false),
        (CITIZEN, "manager", format!("'{NEW}', '{TENANT}', DEFAULT"), false),
        (CITIZEN, "manager", format!("DEFAULT, '{TENANT}', DEFAULT"), false),
        (CITIZEN, "admin", format!("'{NEW}', '{TENANT}', 'ADMIN'"), true),
    ] {
        let mut session = session_of(&database, user, role);
        let insert = format!("INSERT INTO users (id, tenant_id, role) VALUES ({values})");
        let expected = (!is_allowed).then(|| "42501".to_owned());
        assert_eq!(outcome(&mut session, &insert), expected, "{role}: {values}");
    }
}

#[test]
fn a_trigger_that_changes_the_row_before_does_not_pass_the_guard() {
    let database = Database::protected();
    database.superuser().run(
        "CREATE FUNCTION promote() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.role := 'ADMIN'; RETURN NEW; END $$;
         CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION promote()",
    );
    let mut session = session_of(&database, CITIZEN, "manager");
    let update = format!("UPDATE users SET full_name = 'x' WHERE id = '{CITIZEN}'");
    assert_eq!(outcome(&mut session, &update).as_deref(), Some("42501"));
}

#[test]
fn the_owner_and_bypassrls_pass_the_guard() {
    let database = Database::protected();
    let owner = database.role("app", "");
    let mut session = database.superuser();
    session.run(&format!("ALTER TABLE users OWNER TO {owner}"));
    for role in [owner.as_str(), "service_role"] {
        session.run(&format!("SET ROLE {role}"));
        let update = format!("UPDATE users SET role = 'ADMIN' WHERE id = '{CITIZEN}'");
        assert_eq!(outcome(&mut session, &update), None, "{role}");
        session.reset_role();
    }
}

#[test]
fn the_guard_holds_while_row_security_is_off() {
    let database = Database::protected();
    database.superuser().run("ALTER TABLE users DISABLE ROW LEVEL SECURITY");
    let mut session = session_of(&database, CITIZEN, "citizen");
    let update = format!("UPDATE users SET role = 'ADMIN' WHERE id = '{CITIZEN}'");
    assert_eq!(outcome(&mut session, &update).as_deref(), Some("42501"));
}

#[test]
fn values_are_compared_as_they_are_however_they_are_stored() {
    let database = Database::rows();
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "CREATE TABLE profiles (tenant_id text, user_id uuid, limits jsonb DEFAULT '{{\"a\": 1}}', note text,
                                level int DEFAULT 1, plan varchar(9) DEFAULT 'free');
         GRANT ALL ON profiles TO authenticated;
         SELECT count(*) FROM civic.protect('profiles', guarded_columns => '{{limits,level,plan,note}}');
         INSERT INTO profiles VALUES ('{TENANT}', '{CITIZEN}',
             (SELECT jsonb_object_agg(i, repeat(i::text, 100)) FROM generate_series(1, 500) i), repeat('x', 100000))"
    ));
    let mut session = database.authenticated(&claims_of(CITIZEN, TENANT, "manager"));
    let mut update = |set: &str| outcome(&mut session, &format!("UPDATE profiles SET {set}"));
    assert_eq!(update("limits = limits || '{}', note = note || '', level = level + 0"), None);
    for set in
        ["limits = limits || '{\"z\": 1}'", "note = note || 'y'", "level = NULL", "plan = 'paid'"]
    {
        assert_eq!(update(set).as_deref(), Some("42501"), "{set}");
    }
    let mut insert = |columns: &str, values: &str| {
        let (columns, values) =
            (format!("tenant_id, user_id{columns}"), format!("'{TENANT}', '{CITIZEN}'{values}"));
        outcome(&mut session, &format!("INSERT INTO profiles ({columns}) VALUES ({values})"))
    };
    assert_eq!(insert("", ""), None);
    assert_eq!(insert(", limits, level, plan, note", ", '{\"a\":1}', 1, 'free', NULL"), None);
    for (column, value) in
        [(", level", ", 2"), (", plan", ", 'paid'"), (", note", ", ''"), (", limits", ", '{}'")]
    {
        assert_eq!(insert(column, value).as_deref(), Some("42501"), "{column}");
    }
}

#[test]
fn a_guarded_column_that_was_renamed_closes_the_table_and_is_reported() {
    let database = Database::protected();
    let mut superuser = database.superuser();
    superuser.run("ALTER TABLE users RENAME COLUMN role TO app_role");
    let mut session = session_of(&database, CITIZEN, "manager");
    let update = format!("UPDATE users SET full_name = 'x' WHERE id = '{CITIZEN}'");
    assert_eq!(outcome(&mut session, &update).as_deref(), Some("42703"));
    let wrong = superuser.wrong();
    assert!(wrong.iter().any(|(name, ..)| name == "table public.users"), "{wrong:?}");
}

#[test]
fn the_function_can_only_be_called_as_a_trigger() {
    let mut session = Database::protected().superuser();
    assert_eq!(session.sqlstate("SELECT civic_firewall.guard_columns()"), "39P01");
}
