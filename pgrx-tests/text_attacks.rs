//! Arguments that no function may accept as they are: invalid text, and values too large for
//! memory. The tests find each function of the extension in the catalog, so that a function added
//! later is attacked too.
//!
//! The server does not check the encoding of settings in the startup packet. A role without any
//! grant can therefore pass invalid bytes to each function that takes text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

use super::support::cluster::Cluster;
use super::support::{APPLICATION, Database, REALTIME, SUPABASE, Session, TENANT, extent};

/// Bytes that are not UTF-8: a truncated sequence, a lone byte, an overlong form, half a surrogate
/// pair, and a code point after the last one.
const BROKEN: [&[u8]; 5] =
    [b"photo\xe2", b"\xff", b"a\xc0\xaf", b"\xed\xa0\x80b", b"\xf5\x80\x80\x80"];

/// Functions that only compare the bytes of a text with their own. They see rows of other users,
/// where an error would let one row break the queries of all users.
const OPAQUE: [&str; 9] = [
    "civic.can_read_object",
    "civic.can_upload_object",
    "civic.can_join_channel",
    "civic.in_tenant_folder",
    "civic.list_bounds",
    "storage.civic_firewall",
    "storage.civic_firewall_upload",
    "realtime.civic_firewall",
    "realtime.civic_firewall_send",
];

/// An argument of a function, as in the catalog.
#[derive(Debug, Clone)]
struct Argument {
    name: String,
    type_name: String,
}

/// A function of the extension.
#[derive(Debug)]
struct Function {
    /// Qualified and quoted.
    name: String,
    arguments: Vec<Argument>,
    is_variadic: bool,
    /// The role with the fewest rights that may call it.
    caller: String,
}

impl Function {
    /// A call with this value for one argument, and plausible values for the others.
    fn call(&self, place: usize, value: &str) -> String {
        let arguments = self.arguments.iter().enumerate().map(|(index, argument)| {
            let value = if index == place { value } else { plausible(argument) };
            let is_variadic = self.is_variadic && index + 1 == self.arguments.len();
            format!("{}{value}", if is_variadic { "VARIADIC " } else { "" })
        });
        format!("SELECT {}({})", self.name, arguments.collect::<Vec<_>>().join(", "))
    }

    fn is_opaque(&self) -> bool {
        OPAQUE.contains(&self.name.as_str())
    }
}

fn plausible(argument: &Argument) -> &'static str {
    match (argument.type_name.as_str(), argument.name.as_str()) {
        ("text", "tenant_id" | "municipality_id") => "'00000000-0000-0000-0000-000000000001'",
        ("text", "bucket" | "bucket_id" | "purpose") => "'evidence'",
        ("text", "path" | "name") => "'t/f/a.jpg'",
        ("text", "content_type" | "media_content_type") => "'image/jpeg'",
        ("text", "media_url") => "'https://api.twilio.com/a'",
        ("text", "operation") => "'INSERT'",
        ("text", "file_id") => "'8f14e45f-0000-4000-8000-000000000000'",
        ("text", "topic") => "'ticket_updates:t'",
        ("text", _) => "'a1'",
        ("text[]", _) => "ARRAY['admin']",
        ("jsonb", _) => r#"'{"type": "x"}'::jsonb"#,
        ("bytea", _) => r"'\x00'::bytea",
        ("boolean", _) => "true",
        ("integer" | "bigint", _) => "1",
        ("uuid", _) => "'8f14e45f-0000-4000-8000-000000000000'::uuid",
        ("regclass", _) => "'public.tickets'::regclass",
        (other, name) => panic!("no value for {name} of type {other}: give the test one"),
    }
}

/// Each function of this library and of schema civic, except trigger functions: those are attacked
/// through a table.
fn functions(session: &mut Session) -> Vec<Function> {
    let rows = session.rows(
        "SELECT format('%I.%I', n.nspname, p.proname),
                ARRAY(SELECT coalesce(p.proargnames[i], '?') || ':'
                             || format_type(p.proargtypes[i - 1], NULL)
                      FROM generate_series(1, p.pronargs) i ORDER BY i),
                p.provariadic <> 0,
                coalesce((SELECT r FROM unnest(ARRAY['plain', 'authenticated', 'service_role'])
                              WITH ORDINALITY AS role (r, place)
                          WHERE has_function_privilege(r, p.oid, 'EXECUTE')
                            AND has_schema_privilege(r, n.oid, 'USAGE')
                          ORDER BY place LIMIT 1), current_user)
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE (n.nspname = 'civic' OR p.probin LIKE '%pg_civic%')
           -- SQL cannot call a function of the planner.
           AND p.prorettype NOT IN ('trigger'::regtype, 'internal'::regtype)
         ORDER BY 1",
    );
    let text = |value: &Option<String>| value.clone().expect("not NULL");
    let argument = |text: &str| {
        let (name, type_name) = text.trim_matches('"').split_once(':').expect("a colon");
        Argument { name: name.to_owned(), type_name: type_name.to_owned() }
    };
    let arguments = |array: String| {
        let array = array.trim_matches(|c| "{}".contains(c)).to_owned();
        array.split(',').filter(|text| !text.is_empty()).map(argument).collect()
    };
    rows.iter()
        .map(|row| Function {
            name: text(&row[0]),
            arguments: arguments(text(&row[1])),
            is_variadic: text(&row[2]) == "t",
            caller: text(&row[3]),
        })
        .collect()
}

/// Held by a test that fills a gigabyte of memory or more: one at a time.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A cluster that preloads the library, after setup, in which each role can log in.
fn cluster(memory: Option<u64>) -> Cluster {
    let settings = [
        "shared_preload_libraries=pg_civic",
        "civic.media_max_size=900MB",
        "civic.storage_url=http://127.0.0.1:1",
        "civic.service_key=a-key",
        "shared_buffers=16MB",
    ];
    let cluster = match memory {
        Some(kilobytes) => Cluster::start_within(kilobytes, &settings),
        None => Cluster::start(&settings),
    };
    let mut session = cluster.superuser();
    for fixture in [SUPABASE, REALTIME, APPLICATION, "CREATE EXTENSION pg_civic"] {
        session.run(fixture);
    }
    session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    session.run(
        "CREATE ROLE plain LOGIN; ALTER ROLE authenticated LOGIN; ALTER ROLE service_role LOGIN",
    );
    cluster
}

/// Runs statements as a role, or as the superuser if none is given, in a session whose setting
/// `foo.bar` has these bytes.
fn psql(cluster: &Cluster, role: &str, bytes: &[u8], sql: &str) -> Output {
    let mut options = b"-c foo.bar=".to_vec();
    options.extend_from_slice(bytes);
    cluster
        .program("psql", "postgres")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"])
        .args((!role.is_empty()).then_some(format!("--username={role}")))
        .args(["--set=VERBOSITY=verbose", "--command", sql])
        .env("PGOPTIONS", OsStr::from_bytes(&options))
        .output()
        .expect("psql can be run")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn started(cluster: &Cluster) -> String {
    cluster.superuser_of("postgres").text(
        "SELECT pg_postmaster_start_time()::text || pid FROM
         (SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer') AS checkpointer",
    )
}

/// Asserts that no process of the cluster has crashed.
#[track_caller]
fn assert_stands(cluster: &Cluster, before: &str, what: &str) {
    assert_eq!(started(cluster), before, "the cluster restarted: {what}");
    assert!(!cluster.log().contains("was terminated by signal"), "{what}");
}

/// The values of one type that contain the invalid bytes.
fn broken_values(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "text" => &["current_setting('foo.bar')", "repeat('x', 200) || current_setting('foo.bar')"],
        "text[]" => &["ARRAY['admin', NULL, current_setting('foo.bar')]"],
        "jsonb" => &[
            "to_jsonb(current_setting('foo.bar'))",
            "jsonb_build_object('type', current_setting('foo.bar'))",
            "jsonb_build_object('type', 'x', current_setting('foo.bar'), 1)",
            "jsonb_build_object('type', 'x', 'a', ARRAY[current_setting('foo.bar')])",
        ],
        _ => &[],
    }
}

#[test]
fn no_function_accepts_invalid_text() {
    let cluster = cluster(None);
    let functions = functions(&mut cluster.superuser());
    let before = started(&cluster);
    let mut wrong = vec![];
    let mut attacked = 0;
    for function in &functions {
        for (place, argument) in function.arguments.iter().enumerate() {
            for value in broken_values(&argument.type_name) {
                for bytes in BROKEN {
                    attacked += 1;
                    let sql = function.call(place, value);
                    let output = psql(&cluster, &function.caller, bytes, &sql);
                    let errors = errors(&output);
                    let is_refused = errors.starts_with(
                        "ERROR:  22021: invalid byte sequence for encoding \"UTF8\": 0x",
                    );
                    let is_taken = function.is_opaque() && output.status.success();
                    if !is_refused && !is_taken {
                        let first = errors.lines().next().unwrap_or("no error").to_owned();
                        wrong.push(format!("{} as {}: {first}", sql, function.caller));
                    }
                }
            }
        }
    }
    assert!(attacked > 300, "{attacked}");
    assert!(wrong.is_empty(), "{} of {attacked}\n{}", wrong.len(), wrong.join("\n"));
    assert_stands(&cluster, &before, "broken bytes");
}

/// The type's largest value that the server itself can make within the memory limit.
fn huge_value(type_name: &str) -> Option<&'static str> {
    Some(match type_name {
        "text" => "repeat(repeat('x', 1000), 700000 + (random() * 0)::int)",
        "text[]" => "ARRAY[repeat(repeat('x', 1000), 400000 + (random() * 0)::int)]",
        "jsonb" => "jsonb_build_object('type', repeat(repeat('x', 1000), 200000))",
        "bytea" => "repeat(repeat('x', 1000), 450000 + (random() * 0)::int)::bytea",
        _ => return None,
    })
}

#[test]
fn no_function_ends_the_cluster_with_a_value_too_large_for_memory() {
    let _alone = alone();
    let cluster = cluster(Some(1_800_000));
    let functions = functions(&mut cluster.superuser());
    let before = started(&cluster);
    let mut wrong = vec![];
    let mut number = 0;
    for function in functions.iter().filter(|function| !function.is_opaque()) {
        for (place, argument) in function.arguments.iter().enumerate() {
            let Some(value) = huge_value(&argument.type_name) else { continue };
            number += 1;
            if number % extent(3, 1) != 0 {
                continue;
            }
            let sql = function.call(place, value);
            let errors = errors(&psql(&cluster, &function.caller, b"", &sql));
            let of_browsers =
                ["request_upload", "confirm_upload", "get_signed_url", "mark_sensitive"];
            let is_of_browsers =
                of_browsers.iter().any(|name| function.name == format!("civic.{name}"));
            let too_long = match is_of_browsers {
                true => "ERROR:  PT400: argument ",
                false => "ERROR:  54000: argument ",
            };
            let is_bytea = argument.type_name == "bytea";
            let is_refused = errors.starts_with(too_long)
                || is_bytea && errors.starts_with("ERROR:  53200: out of memory");
            if !is_refused {
                let first = errors.lines().next().unwrap_or("no error").to_owned();
                wrong.push(format!("{sql} as {}: {first}", function.caller));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_stands(&cluster, &before, "huge values");
}

#[test]
fn claims_too_large_for_memory_allow_nothing_and_do_not_end_the_server() {
    let _alone = alone();
    let cluster = cluster(Some(1_800_000));
    let before = started(&cluster);
    for kilobytes in extent(&[1100][..], &[1100, 200_000]) {
        // What the query itself holds leaves no room for another copy.
        let sql = format!(
            "SELECT length(set_config('request.jwt.claims',
                        '{{\"a\": \"' || repeat(repeat('x', 1000), {kilobytes}) || '\"}}', false));
             SELECT length(repeat(repeat('x', 1000), 1050000 + (random() * 0)::int)), civic.tenant_id()"
        );
        let output = psql(&cluster, "plain", b"", &sql);
        let errors = errors(&output);
        assert!(errors.starts_with("ERROR:  54000: "), "{kilobytes}: {errors}");
    }
    assert_stands(&cluster, &before, "huge claims");
}

/// A document of a few kilobytes can expand to gigabytes, or be nested without end.
#[test]
fn a_document_that_expands_beyond_the_limit_is_refused() {
    let mut session = Database::plain().superuser();
    let nested = |depth| format!("{}1{}", r#"{"id": "#.repeat(depth), "}".repeat(depth));
    let sql = |ticket: &str| format!("SELECT civic.ticket_payload('INSERT', {ticket})");
    session.text(&sql(&format!("'{}'::jsonb", nested(100))));
    let tickets = [
        (
            format!("'{}'::jsonb", nested(200)),
            "argument \"ticket\" is nested deeper than 127 levels",
        ),
        (
            "jsonb_build_object('id', (SELECT array_agg(1e100000) FROM generate_series(1, 100)))"
                .to_owned(),
            "argument \"ticket\" of 10000",
        ),
        (
            "jsonb_build_object('id', (SELECT array_agg(1e100000) FROM generate_series(1, 20000)))"
                .to_owned(),
            "",
        ),
    ];
    for (ticket, message) in &tickets[..extent(2, 3)] {
        let error = session.error(&sql(ticket));
        assert_eq!(error.code().code(), "54000", "{error:?}");
        assert!(error.message().starts_with(message), "{error:?}");
    }
    // In a ticket this value is lost, but the write is not.
    session.makes_ticket_table("id jsonb, tenant_id text, is_sensitive boolean");
    session.listens_to("t");
    session.run(&format!(
        "INSERT INTO ticket SELECT jsonb_build_object('a', array_agg(1e100000)), 't', false
         FROM generate_series(1, {})",
        extent(1000, 10_000)
    ));
    let events = session.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["truncated"], true, "{events:?}");
}

/// The trigger reads any content of a row, and never loses a ticket.
#[test]
fn a_ticket_with_invalid_text_is_written_and_does_not_end_the_server() {
    let cluster = cluster(None);
    let before = started(&cluster);
    let mut session = cluster.superuser();
    session.run(
        "CREATE TABLE public.notes (id text, tracking_number text, status varchar(99),
             category text, tenant_id text, ward_id text, is_sensitive text, updated_at text,
             created_at jsonb);
         CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON public.notes
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update();
         GRANT ALL ON public.notes TO plain",
    );
    let columns = [
        "id",
        "tracking_number",
        "status",
        "category",
        "tenant_id",
        "ward_id",
        "is_sensitive",
        "updated_at",
        "created_at",
    ];
    for column in columns {
        for bytes in BROKEN {
            let value = |name: &str| match (name == column, name) {
                (true, "created_at") => "to_jsonb(current_setting('foo.bar'))".to_owned(),
                (true, _) => "current_setting('foo.bar')".to_owned(),
                (false, "tenant_id") => format!("'{TENANT}'"),
                (false, "is_sensitive") => "'false'".to_owned(),
                (false, _) => "NULL".to_owned(),
            };
            let values: Vec<_> = columns.into_iter().map(value).collect();
            let sql = format!(
                "INSERT INTO public.notes VALUES ({}); DELETE FROM public.notes",
                values.join(", ")
            );
            let output = psql(&cluster, "plain", bytes, &sql);
            assert!(output.status.success(), "{column} {bytes:?}: {}", errors(&output));
        }
    }
    assert_stands(&cluster, &before, "broken tickets");
}

/// A column name may be invalid text, too.
#[test]
fn a_table_with_invalid_names_accepts_tickets() {
    let cluster = cluster(None);
    let before = started(&cluster);
    cluster.superuser().run(
        "GRANT CREATE ON SCHEMA public TO plain;
         GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO plain",
    );
    let output = psql(
        &cluster,
        "plain",
        b"name\xe2",
        "DO $$ BEGIN
             EXECUTE format('CREATE TABLE public.%I (tenant_id text, %I text, is_sensitive boolean)',
                            current_setting('foo.bar'), current_setting('foo.bar'));
             EXECUTE format('CREATE TRIGGER tell AFTER INSERT ON public.%I
                                 FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()',
                            current_setting('foo.bar'));
             EXECUTE format('INSERT INTO public.%I VALUES (''t'', ''x'', false)',
                            current_setting('foo.bar'));
         END $$",
    );
    assert!(output.status.success(), "{}", errors(&output));
    // Other tables are not affected: check() works, and so does setup of another table.
    let mut session = cluster.superuser();
    session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    let found = session.column("SELECT component FROM civic.check()");
    assert!(found.len() > 5, "{found:?}");
    assert_stands(&cluster, &before, "broken names");
}

/// An error of another role's code carries invalid bytes to the place where it is caught.
#[test]
fn an_error_with_invalid_text_loses_no_ticket_and_does_not_end_the_server() {
    let cluster = cluster(None);
    let before = started(&cluster);
    let mut session = cluster.superuser();
    session.run(
        "CREATE FUNCTION realtime.bite() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION USING MESSAGE = current_setting('foo.bar'),
                   DETAIL = current_setting('foo.bar'), HINT = current_setting('foo.bar'); END $$;
         CREATE TRIGGER bite BEFORE INSERT ON realtime.messages
             FOR EACH ROW EXECUTE FUNCTION realtime.bite();
         SET civic.event_transport = realtime",
    );
    for bytes in BROKEN {
        let sql = format!("INSERT INTO public.tickets (tenant_id) VALUES ('{TENANT}')");
        let output = psql(&cluster, "", bytes, &sql);
        assert!(output.status.success(), "{bytes:?}: {}", errors(&output));
    }
    assert_stands(&cluster, &before, "broken errors");
}

/// Fills its session's memory with ever smaller blocks, and then calls one of our functions.
const FILL: &str = "CREATE FUNCTION pg_temp.fill(bytes int, low int, list text[], document jsonb)
        RETURNS text LANGUAGE plpgsql AS $$
    DECLARE block text;
    BEGIN
        IF bytes < low THEN
            IF document IS NULL THEN RETURN civic.has_role(VARIADIC list)::text; END IF;
            RETURN civic.ticket_payload('INSERT', document)::text;
        END IF;
        BEGIN
            block := repeat('x', bytes + (random() * 0)::int);
        EXCEPTION WHEN out_of_memory THEN
            bytes := bytes / 2;
        END;
        RETURN pg_temp.fill(bytes, low, list, document);
    END $$;";

/// Rust aborts if it gets no memory, and that restarts the cluster. Any login can fill a session's
/// memory so far that the next block is missing. With less left than this it may crash
/// nevertheless (docs/security.md, "Not guarded").
#[test]
fn a_session_that_has_filled_its_memory_ends_without_the_cluster() {
    let _alone = alone();
    let cluster = cluster(Some(700_000));
    let before = started(&cluster);
    let list = "array_fill(''::text, ARRAY[12900])";
    let document = "('{\"a\": [' || repeat('\"\",', 249000) || '0]}')::jsonb";
    let mut refused = 0;
    let fillings = [
        (8_000_000, "NULL", document),
        (2_000_000, "NULL", document),
        (250_000, list, "NULL"),
        (200_000, list, "NULL"),
        (150_000, list, "NULL"),
        (if cfg!(feature = "pg17") { 150_000 } else { 110_000 }, list, "NULL"),
    ];
    for (low, list, document) in fillings.into_iter().step_by(extent(5, 1)) {
        let sql = format!(
            "{FILL} SET request.jwt.claims = '{{\"app_metadata\": {{\"role\": \"admin\"}}}}';
             SELECT civic.has_role('x');
             SELECT length(pg_temp.fill(256000000, {low}, {list}, {document}))"
        );
        let output = psql(&cluster, "plain", b"", &sql);
        let errors = errors(&output);
        let is_refused = errors.contains("53200: out of memory");
        assert!(is_refused || output.status.success(), "{low}: {errors}");
        refused += usize::from(is_refused);
    }
    assert!(refused >= extent(1, 3), "{refused}");
    assert_stands(&cluster, &before, "filled memory");
}

/// NOTIFY copies each event, and if there is no memory for the copy, the server fails the
/// transaction.
#[test]
fn tickets_are_written_if_memory_does_not_hold_their_events_twice() {
    let _alone = alone();
    let cluster = cluster(Some(400_000));
    let before = started(&cluster);
    cluster.superuser().run(
        "CREATE TABLE public.many (id int, tenant_id text, category text, is_sensitive boolean);
         CREATE TRIGGER tell AFTER INSERT ON public.many
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
    );
    let sql = "SET civic.relay = off; SET civic.event_transport = notify; SET civic.bulk_after = 0;
               INSERT INTO public.many SELECT i, 't', repeat('x', 100), false
               FROM generate_series(1, 300000) i";
    let output = psql(&cluster, "", b"", sql);
    let errors = errors(&output);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("there is no memory for the events of the transaction"), "{errors}");
    let count = cluster.superuser_of("postgres").text("SELECT count(*) FROM public.many");
    assert_eq!(count, "300000");
    assert_stands(&cluster, &before, "events that memory does not hold");
}

/// The message of an error of another role's code can have any length.
#[test]
fn a_huge_error_of_another_role_is_shortened_in_the_warning() {
    let cluster = cluster(None);
    cluster.superuser().run(
        "CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text,
                 private boolean DEFAULT true) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION '%', repeat('x', 50000000); END $$",
    );
    let sql = format!("INSERT INTO public.tickets (tenant_id) VALUES ('{TENANT}')");
    let output = psql(&cluster, "", b"", &sql);
    assert!(output.status.success());
    assert!(errors(&output).contains("realtime.send raised: xxx"));
    assert!(output.stderr.len() < 10_000, "{}", output.stderr.len());
    assert!(cluster.log().len() < 1_000_000, "{}", cluster.log().len());
}

/// A role, policy, column or event trigger with an invalid name is one finding and hides no other.
#[test]
fn an_invalid_name_in_the_catalog_does_not_hide_findings_of_check() {
    let cluster = cluster(None);
    let mut session = cluster.superuser();
    session.run(
        "CREATE FUNCTION public.ignores() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         ALTER FUNCTION public.ignores() OWNER TO plain;
         ALTER TABLE storage.objects DISABLE ROW LEVEL SECURITY",
    );
    let output = psql(
        &cluster,
        "",
        b"name\xe2",
        "DO $$
         DECLARE name text := current_setting('foo.bar');
         BEGIN
             EXECUTE format('CREATE ROLE %I', name);
             EXECUTE format('GRANT TRUNCATE ON storage.objects TO %I', name);
             EXECUTE format('GRANT %I TO anon', name);
             EXECUTE format('GRANT UPDATE ON realtime.messages TO %I', name);
             EXECUTE format('CREATE POLICY %I ON storage.objects USING (true)', name);
             EXECUTE format('ALTER TABLE storage.objects ADD COLUMN %I int', name);
             EXECUTE format('CREATE EVENT TRIGGER %I ON sql_drop EXECUTE FUNCTION public.ignores()', name);
         END $$",
    );
    assert!(output.status.success(), "{}", errors(&output));
    let wrong = session.wrong();
    let finds = |component: &str, part: &str| {
        wrong.iter().any(|(found, detail, _)| found == component && detail.contains(part))
    };
    assert!(finds("row security of storage.objects", "disabled"), "{wrong:?}");
    assert!(finds("event triggers", "not checked"), "{wrong:?}");
    assert!(finds("rights in schema storage", "not checked"), "{wrong:?}");
}
