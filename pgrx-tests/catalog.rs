//! The complete list of what the extension puts into the catalog, with its grants. Anything
//! undeclared fails a test.

use super::support::{Database, Session};
use crate::setup::privileges::{self, Grantee};

/// Schema of test builds, with the functions that start the server.
const OF_TESTS: &str = "tests";

/// How a function may be called: volatility and parallel safety as in pg_proc, then whether it is
/// STRICT, LEAKPROOF, and its cost.
type Call = (char, char, bool, bool, u32);

/// A function without a search_path looks nothing up by name. None is SECURITY DEFINER. Who may call it is in
/// `privileges::FUNCTIONS`.
const FUNCTIONS: [(&str, &str, Call); 48] = [
    ("bucket_for_media(is_sensitive boolean)", "text", ('i', 's', true, false, 1)),
    ("bucket_for_purpose(purpose text)", "text", ('i', 's', true, false, 1)),
    ("can_join_channel(topic text)", "boolean", ('s', 's', true, false, 5)),
    // Inlined into the query, so neither STRICT nor with a setting.
    ("can_read_object(bucket_id text, name text)", "boolean", ('s', 's', false, false, 10)),
    ("can_upload_object(bucket_id text, name text)", "boolean", ('s', 's', true, false, 5)),
    ("cancel_media_job(job_id uuid)", "void", ('v', 'u', true, false, 100)),
    (
        "check()",
        "TABLE(component text, ok boolean, detail text, fix text)",
        ('s', 'u', true, false, 10000),
    ),
    (
        "confirm_upload(file_id text, purpose text, ticket_id text DEFAULT NULL::text)",
        "jsonb",
        ('v', 'u', false, false, 1000),
    ),
    (
        "confirm_upload(file_uuid uuid, purpose text, ticket_uuid uuid DEFAULT NULL::uuid)",
        "jsonb",
        ('v', 'u', false, false, 1000),
    ),
    // Each answer has an id of its own. Without a ward it is for all of them, so not STRICT.
    (
        "dashboard_events(ward_id text DEFAULT NULL::text)",
        "civic.\"text/event-stream\"",
        ('v', 's', false, false, 50),
    ),
    (
        "download_and_upload_media(media_url text, media_content_type text, ticket_id text, \
         tenant_id text, is_sensitive boolean DEFAULT false)",
        "jsonb",
        ('v', 'u', false, false, 100000),
    ),
    (
        "download_and_upload_media(media_url text, media_content_type text, ticket_uuid uuid, \
         tenant_id text, is_sensitive boolean DEFAULT false)",
        "jsonb",
        ('v', 'u', false, false, 100000),
    ),
    // A NULL is an error, so not STRICT.
    (
        "enqueue_media(media_url text, media_content_type text, ticket_id text, tenant_id text, \
         is_sensitive boolean DEFAULT false)",
        "uuid",
        ('v', 'u', false, false, 1000),
    ),
    (
        "enqueue_media(media_url text, media_content_type text, ticket_uuid uuid, tenant_id text, \
         is_sensitive boolean DEFAULT false)",
        "uuid",
        ('v', 'u', false, false, 1000),
    ),
    ("file_extension(content_type text)", "text", ('i', 's', true, false, 1)),
    (
        "generate_upload_url(purpose text, tenant_id text, file_id text, filename text, content_type text)",
        "jsonb",
        ('i', 's', true, false, 10),
    ),
    // Only in the leader: parallel workers have no secrets.
    (
        "get_signed_url(bucket text, path text, expiry bigint DEFAULT 3600)",
        "text",
        ('v', 'r', false, false, 1000),
    ),
    ("has_role(VARIADIC roles text[])", "boolean", ('s', 's', true, false, 1)),
    ("in_tenant_folder(name text)", "boolean", ('s', 's', true, false, 1)),
    ("in_tenant_folder_support(internal)", "internal", ('i', 's', true, false, 1)),
    ("list_bounds(name text)", "boolean", ('i', 's', false, false, 1)),
    ("list_bounds_support(internal)", "internal", ('i', 's', true, false, 1)),
    // A NULL is an error, so not STRICT; likewise protect and unprotect.
    ("mark_sensitive(ticket_id text)", "void", ('v', 'u', false, false, 1000)),
    ("mark_sensitive(ticket_uuid uuid)", "void", ('v', 'u', false, false, 1000)),
    // It reads the table of jobs as its owner.
    (
        "metrics()",
        "TABLE(name text, labels jsonb, value double precision, help text)",
        ('v', 'u', true, false, 1000),
    ),
    ("notify_ticket_update()", "trigger", ('v', 'u', true, false, 1)),
    ("object_path(tenant_id text, folder text, filename text)", "text", ('i', 's', true, false, 5)),
    (
        "protect(target regclass, tenant_column text DEFAULT 'tenant_id'::text, \
         owner_columns text[] DEFAULT NULL::text[], assigned_column text DEFAULT NULL::text, \
         sensitive_column text DEFAULT NULL::text, ticket_column text DEFAULT NULL::text, \
         guarded_columns text[] DEFAULT NULL::text[], readable text DEFAULT 'staff'::text)",
        "TABLE(component text, action text, detail text)",
        ('v', 'u', false, false, 10000),
    ),
    // A NULL is an error and not silence, so not STRICT. As NOTIFY, not in a parallel worker.
    (
        "publish(municipality_id text, event jsonb, sensitive boolean DEFAULT false)",
        "void",
        ('v', 'r', false, false, 50),
    ),
    ("readable_buckets()", "text[]", ('s', 's', true, true, 1)),
    (
        "relay_stats()",
        "TABLE(running boolean, pid integer, queued bigint, delivered bigint, batches bigint, \
         fell_back jsonb, queue_bytes_used bigint, queue_bytes_highest bigint, queue_bytes bigint, \
         oldest_waiting_ms bigint)",
        ('v', 's', true, false, 10),
    ),
    (
        "request_upload(filename text, content_type text, file_size bigint, purpose text)",
        "jsonb",
        ('v', 's', false, false, 20),
    ),
    ("retry_media_job(job_id uuid)", "void", ('v', 'u', true, false, 100)),
    (
        "setup(tickets regclass DEFAULT NULL::regclass)",
        "TABLE(component text, action text, detail text)",
        ('v', 'u', false, false, 10000),
    ),
    ("staff_floor()", "text", ('s', 's', true, false, 1)),
    ("staff_floor_uuid()", "uuid", ('s', 's', true, false, 1)),
    (
        "teardown()",
        "TABLE(component text, action text, detail text)",
        ('v', 'u', true, false, 10000),
    ),
    ("tenant_folder_end()", "text", ('s', 's', true, true, 1)),
    ("tenant_folder_start()", "text", ('s', 's', true, true, 1)),
    ("tenant_id()", "text", ('s', 's', true, false, 1)),
    ("tenant_uuid()", "uuid", ('s', 's', true, false, 1)),
    ("ticket_channel(municipality_id text)", "text", ('i', 's', true, false, 1)),
    // The transaction's time stands in for a ticket's own.
    ("ticket_payload(operation text, ticket jsonb)", "jsonb", ('s', 's', true, false, 50)),
    (
        "unprotect(target regclass)",
        "TABLE(component text, action text, detail text)",
        ('v', 'u', false, false, 10000),
    ),
    (
        "upload_file(bucket text, path text, content bytea, content_type text)",
        "jsonb",
        ('v', 'u', false, false, 100000),
    ),
    ("user_id()", "text", ('s', 's', true, false, 1)),
    ("user_role()", "text", ('s', 's', true, false, 1)),
    ("user_uuid()", "uuid", ('s', 's', true, false, 1)),
];

const WITH_A_SEARCH_PATH: [&str; 13] = [
    "cancel_media_job(uuid)",
    "check()",
    "confirm_upload(text, text, text)",
    "download_and_upload_media(text, text, text, text, boolean)",
    "enqueue_media(text, text, text, text, boolean)",
    "mark_sensitive(text)",
    "metrics()",
    "protect(regclass, text, text[], text, text, text, text[], text)",
    "retry_media_job(uuid)",
    "setup(regclass)",
    "teardown()",
    "unprotect(regclass)",
    "upload_file(text, text, bytea, text)",
];

/// Settings that a superuser sets.
const SETTINGS: [(&str, &str); 22] = [
    ("civic.bulk_after", "1000"),
    ("civic.claims_setting", "request.jwt.claims"),
    ("civic.column_writers", "admin"),
    ("civic.deleters", ""),
    ("civic.event_listeners", "manager, admin, ward_councillor, saps_liaison"),
    ("civic.event_transport", "auto"),
    ("civic.http_timeout", "30000"),
    ("civic.image_max_size", "10240"),
    ("civic.media_max_size", "51200"),
    ("civic.media_table", "public.media_attachments"),
    ("civic.pdf_max_size", "5120"),
    ("civic.realtime_lock_timeout", "200"),
    ("civic.realtime_rate", "0"),
    ("civic.relay", "on"),
    ("civic.role_claim", "app_metadata.role"),
    ("civic.sensitive_events", "redacted"),
    ("civic.sensitive_readers", "saps_liaison, admin"),
    ("civic.sensitive_uploaders", "manager, saps_liaison, admin"),
    ("civic.staff_readers", "manager, admin, saps_liaison, ward_councillor, executive_mayor"),
    ("civic.staff_writers", "manager, admin, saps_liaison"),
    ("civic.tenant_claim", "app_metadata.tenant_id"),
    ("civic.ticket_owner_columns", "user_id, created_by"),
];

/// Settings of the server, set at its start if the library is preloaded.
const OF_THE_SERVER: [(&str, &str); 10] = [
    ("civic.database", "postgres"),
    ("civic.media_attempts", "10"),
    ("civic.media_concurrency", "4"),
    (
        "civic.media_hosts",
        "api.twilio.com, media.twiliocdn.com, mms.twiliocdn.com, s3-external-1.amazonaws.com",
    ),
    ("civic.media_retention", "10080"),
    ("civic.media_tenant_concurrency", "0"),
    ("civic.relay_queue_size", "8192"),
    ("civic.storage_url", ""),
    ("civic.supabase_url", ""),
    ("civic.twilio_account_sid", ""),
];

/// Settings of the server that appear in no list.
const SECRETS: [&str; 3] = ["civic.jwt_secret", "civic.service_key", "civic.twilio_auth_token"];

/// A session in which the library is loaded.
fn loaded(database: &Database) -> Session {
    let mut session = database.superuser();
    session.run("SELECT civic.tenant_id()");
    session
}

#[test]
fn every_function_is_defined_as_listed() {
    let mut session = Database::supabase().superuser();
    let found = session.column(
        "SELECT format('%s(%s) -> %s %s %s %s %s %s', proname, pg_get_function_arguments(oid),
                       pg_get_function_result(oid), provolatile, proparallel, proisstrict,
                       proleakproof, procost)
         FROM pg_proc WHERE pronamespace = 'civic'::regnamespace ORDER BY proname, oid",
    );
    let letter = |yes: bool| if yes { 't' } else { 'f' };
    let listed = FUNCTIONS.map(|(signature, result, call)| {
        let (volatility, parallel, is_strict, is_leakproof, cost) = call;
        let (is_strict, is_leakproof) = (letter(is_strict), letter(is_leakproof));
        format!("{signature} -> {result} {volatility} {parallel} {is_strict} {is_leakproof} {cost}")
    });
    assert_eq!(found, listed);
}

#[test]
fn functions_are_granted_as_the_table_of_privileges_says() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let plain = database.role("plain", "");
    let found = session.column(&format!(
        "SELECT concat_ws(' ', proname || '(' || oidvectortypes(proargtypes) || ')',
                          CASE WHEN has_function_privilege('{plain}', oid, 'EXECUTE')
                                    OR EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0)
                               THEN 'PUBLIC' END,
                          (SELECT string_agg(grantee::regrole::text, ' '
                                             ORDER BY grantee::regrole::text)
                           FROM aclexplode(proacl) WHERE grantee NOT IN (0, proowner)))
         FROM pg_proc WHERE pronamespace = 'civic'::regnamespace ORDER BY proname, oid"
    ));
    let listed = privileges::FUNCTIONS.map(|(function, grantees)| {
        let by_script = grantees.iter().filter(|grantee| **grantee != Grantee::TicketsOwner);
        let grantees = by_script.map(|grantee| format!(" {}", grantee.role())).collect::<String>();
        format!("{function}{grantees}")
    });
    assert_eq!(found, listed);
    let grants =
        "SELECT grantee::regrole || ' ' || privilege_type FROM pg_namespace, aclexplode(nspacl)
                  WHERE nspname = 'civic' AND grantee <> nspowner";
    assert_eq!(
        session.column(grants),
        ["- USAGE"],
        "PUBLIC uses the schema and creates nothing in it"
    );
}

/// Functions that anybody may call: rules over the caller's own claims, pure functions, and what a browser
/// asks.
const OF_EVERYBODY: [&str; 25] = [
    "bucket_for_media(boolean)",
    "bucket_for_purpose(text)",
    "can_join_channel(text)",
    "can_read_object(text, text)",
    "can_upload_object(text, text)",
    "dashboard_events(text)",
    "file_extension(text)",
    "generate_upload_url(text, text, text, text, text)",
    "has_role(text[])",
    "in_tenant_folder(text)",
    "list_bounds(text)",
    "object_path(text, text, text)",
    "readable_buckets()",
    "request_upload(text, text, bigint, text)",
    "staff_floor()",
    "staff_floor_uuid()",
    "tenant_folder_end()",
    "tenant_folder_start()",
    "tenant_id()",
    "tenant_uuid()",
    "ticket_channel(text)",
    "ticket_payload(text, jsonb)",
    "user_id()",
    "user_role()",
    "user_uuid()",
];

#[test]
fn no_function_of_an_operator_is_for_anon() {
    let mut session = Database::supabase().superuser();
    let open = session.column(
        "SELECT proname || '(' || oidvectortypes(proargtypes) || ')' FROM pg_proc
         WHERE pronamespace = 'civic'::regnamespace AND has_function_privilege('anon', oid, 'EXECUTE')
         ORDER BY 1",
    );
    assert_eq!(open, OF_EVERYBODY);
    for call in [
        "check()",
        "metrics()",
        "protect('public.tickets')",
        "relay_stats()",
        "setup()",
        "setup('public.tickets')",
        "teardown()",
        "unprotect('public.tickets')",
    ] {
        for role in ["anon", "authenticated", "service_role"] {
            session.run(&format!("SET ROLE {role}"));
            let error = session.error(&format!("SELECT * FROM civic.{call}"));
            assert_eq!(error.code().code(), "42501", "{role}: {call}");
            assert!(error.message().starts_with("permission denied for function"), "{error:?}");
            session.reset_role();
        }
    }
}

#[test]
fn those_who_watch_the_server_and_the_databases_owner_call_the_operators_functions() {
    let database = Database::supabase();
    let (monitor, owner) = (database.role("monitor", ""), database.role("owner", ""));
    let mut session = database.superuser();
    let name = database.name().to_owned();
    session.run(&format!("GRANT pg_monitor TO {monitor}; ALTER DATABASE {name} OWNER TO {owner}"));
    for role in [&monitor, &owner] {
        session.run(&format!("SET ROLE {role}"));
        session.text("SELECT count(*) > 5 FROM civic.check()");
        session.text("SELECT count(*) = 1 FROM civic.relay_stats()");
        session.reset_role();
    }
    // Of the other two, whose caller needs the rights of the tables' owners too, only the latter.
    session.run(&format!("SET ROLE {monitor}"));
    assert!(session.error("SELECT civic.setup()").message().starts_with("permission denied"));
    session.run(&format!("SET ROLE {owner}"));
    let lacks = session.error("SELECT civic.setup()");
    assert!(lacks.message().contains("cannot set up pg_civic: it lacks ownership"), "{lacks:?}");
}

#[test]
fn media_jobs_are_granted_as_the_table_of_privileges_says() {
    let mut session = Database::plain().superuser();
    let granted = session.column(
        "SELECT concat_ws(' ', 'table', grantee::regrole, privilege_type)
         FROM pg_class, aclexplode(relacl)
         WHERE oid = 'civic.media_jobs'::regclass AND grantee <> relowner
         UNION ALL
         SELECT DISTINCT concat_ws(' ', 'columns', grantee::regrole, privilege_type)
         FROM pg_attribute, aclexplode(attacl) WHERE attrelid = 'civic.media_jobs'::regclass
         UNION ALL
         SELECT concat_ws(' ', 'policy', roles, cmd) FROM pg_policies WHERE schemaname = 'civic'",
    );
    let expected = [
        "table service_role SELECT",
        "columns authenticated SELECT",
        "policy {authenticated} SELECT",
    ];
    assert_eq!(granted, expected);
    for (grantee, hidden) in privileges::MEDIA_JOBS {
        let not_granted = format!(
            "SELECT attname FROM pg_attribute
             WHERE attrelid = 'civic.media_jobs'::regclass AND attnum > 0
               AND NOT has_column_privilege('{}', attrelid, attnum, 'SELECT')",
            grantee.role()
        );
        assert_eq!(session.column(&not_granted), hidden, "{}", grantee.role());
    }
}

#[test]
fn no_function_is_security_definer_and_those_that_look_up_names_set_the_search_path() {
    let mut session = Database::plain().superuser();
    let definers = "SELECT oid::regprocedure FROM pg_proc
                    WHERE pronamespace = 'civic'::regnamespace AND prosecdef";
    assert_eq!(session.column(definers), Vec::<String>::new());
    let configured = session.rows(
        "SELECT proname || '(' || oidvectortypes(proargtypes) || ')', proconfig FROM pg_proc
         WHERE pronamespace = 'civic'::regnamespace AND proconfig IS NOT NULL ORDER BY 1",
    );
    let found: Vec<_> = configured.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(found, WITH_A_SEARCH_PATH);
    for row in configured {
        assert_eq!(row[1].as_deref(), Some("{\"search_path=pg_catalog, pg_temp\"}"), "{row:?}");
    }
}

#[test]
fn the_extension_owns_exactly_its_schema_functions_one_domain_its_tables_and_a_view() {
    let mut session = Database::plain().superuser();
    let owned = session.column(&format!(
        "SELECT object.type || ' ' || object.identity
         FROM pg_depend, pg_identify_object(classid, objid, objsubid) object
         WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_civic')
           AND object.identity <> '{OF_TESTS}' AND object.schema IS DISTINCT FROM '{OF_TESTS}'
           -- A table's row type and the array of each type, which newer servers list beside them.
           AND NOT EXISTS (SELECT FROM pg_type t
                           WHERE classid = 'pg_type'::regclass AND t.oid = objid AND t.typtype <> 'd')
         ORDER BY object.type, object.identity"
    ));
    let mut listed = session.column(
        "SELECT 'function ' || object.identity
         FROM pg_proc, pg_identify_object('pg_proc'::regclass, oid, 0) object
         WHERE pronamespace = 'civic'::regnamespace ORDER BY object.identity",
    );
    listed.push("schema civic".to_owned());
    listed.push("sequence civic.prepared_events_id_seq".to_owned());
    listed.push("table civic.changed_privileges".to_owned());
    listed.push("table civic.changed_publications".to_owned());
    listed.push("table civic.media_jobs".to_owned());
    listed.push("table civic.prepared_events".to_owned());
    listed.push("table civic.protected_tables".to_owned());
    listed.push("type civic.\"text/event-stream\"".to_owned());
    listed.push("view civic.metrics".to_owned());
    assert_eq!(owned, listed);
    assert_eq!(listed.len(), FUNCTIONS.len() + 9);
    let inside = "SELECT objid::regclass FROM pg_depend
                  WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'civic'::regnamespace
                    AND classid NOT IN ('pg_proc'::regclass, 'pg_type'::regclass)
                  ORDER BY objid::regclass::text";
    assert_eq!(
        session.column(inside),
        [
            "civic.changed_privileges",
            "civic.changed_publications",
            "civic.media_jobs",
            "civic.metrics",
            "civic.prepared_events",
            "civic.prepared_events_id_seq",
            "civic.protected_tables",
        ]
    );
}

#[test]
fn every_function_and_the_schema_have_a_comment() {
    let mut session = Database::plain().superuser();
    let silent = "SELECT oid::regprocedure FROM pg_proc
                  WHERE pronamespace = 'civic'::regnamespace
                    AND coalesce(obj_description(oid, 'pg_proc'), '') = ''";
    assert_eq!(session.column(silent), Vec::<String>::new());
    session.text("SELECT obj_description('civic'::regnamespace, 'pg_namespace')");
    session.text(
        "SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'pg_civic'",
    );
}

#[test]
fn every_setting_is_listed_described_and_set_only_by_a_superuser() {
    let mut session = loaded(&Database::plain());
    let found = session.rows(
        "SELECT name, boot_val, context, short_desc, extra_desc FROM pg_settings
         WHERE name LIKE 'civic.%' ORDER BY name",
    );
    let listed: Vec<_> =
        found.iter().map(|row| (row[0].as_deref().unwrap(), row[1].as_deref().unwrap())).collect();
    let mut expected = [&SETTINGS[..], &OF_THE_SERVER].concat();
    expected.sort();
    assert_eq!(listed, expected);
    for row in found {
        let is_of_the_server =
            OF_THE_SERVER.iter().any(|(name, _)| row[0].as_deref() == Some(name));
        let context = if is_of_the_server { "sighup" } else { "superuser" };
        assert_eq!(row[2].as_deref(), Some(context), "{row:?}");
        for description in &row[3..] {
            let description = description.as_deref().unwrap_or_default();
            assert!(description.len() > 10 && description.ends_with('.'), "{row:?}");
        }
    }
}

#[test]
fn secret_settings_appear_in_no_list() {
    let mut session = loaded(&Database::plain());
    for name in SECRETS {
        assert_eq!(session.text(&format!("SHOW {name}")), "", "{name}");
        assert_eq!(session.sqlstate(&format!("SET {name} = 'x'")), "55P02", "{name}");
        session.run("SET ROLE pg_read_all_stats");
        assert_eq!(session.sqlstate(&format!("SHOW {name}")), "42501", "{name}");
        session.reset_role();
    }
}

#[test]
fn only_a_superuser_changes_who_reads_evidence() {
    let database = Database::supabase();
    for (name, _) in SETTINGS {
        let mut session = loaded(&database);
        session.run("SET ROLE authenticated");
        assert_eq!(session.sqlstate(&format!("SET {name} = 'full'")), "42501", "{name}");
        let set_config = format!("SELECT set_config('{name}', 'full', true)");
        assert_eq!(session.sqlstate(&set_config), "42501", "{name}");
    }
}

#[test]
fn a_value_set_by_a_user_before_the_library_was_loaded_is_not_used() {
    let database = Database::supabase();
    let role = database.role("person", "");
    for (name, default) in SETTINGS {
        let mut session = database.session_of(&role);
        session.run(&format!("SET {name} = 'full'; SELECT civic.tenant_id()"));
        let setting = format!("SELECT setting FROM pg_settings WHERE name = '{name}'");
        assert_eq!(session.text(&setting), default, "{name}");
    }
}

#[test]
fn an_unknown_setting_is_refused_once_the_library_is_loaded() {
    let mut session = loaded(&Database::plain());
    for name in ["civic.sensitive_reader", "civic.unknown"] {
        assert_eq!(session.sqlstate(&format!("SET {name} = 'x'")), "42602", "{name}");
    }
}
