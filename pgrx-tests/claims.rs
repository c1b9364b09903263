//! The caller's identity: the claims as a session sees them.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::support::{Database, OTHER_TENANT, Session, TENANT, claims, literal};

fn set(session: &mut Session, claims: &str) {
    session.run(&format!("SELECT set_config('request.jwt.claims', {}, false)", literal(claims)));
}

/// Claims with this JSON text as the tenant.
fn with_tenant(json: &str) -> String {
    format!(r#"{{"app_metadata": {{"tenant_id": {json}, "role": "admin"}}}}"#)
}

#[test]
fn tenant_role_and_user_come_from_the_claims() {
    let mut session = Database::plain().superuser();
    set(&mut session, &claims(TENANT, "SAPS_LIAISON"));
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT);
    assert_eq!(session.text("SELECT civic.user_role()"), "SAPS_LIAISON");
    assert_eq!(session.text("SELECT civic.user_id()"), "8f14e45f-0000-4000-8000-000000000000");
    assert_eq!(session.text("SELECT civic.has_role('admin', 'saps_liaison')"), "t");
    assert_eq!(session.text("SELECT civic.has_role('admin')"), "f");
}

#[test]
fn roles_match_in_any_ascii_case_and_not_by_other_folding() {
    let mut session = Database::plain().superuser();
    for (own, asked, has) in [
        ("admin", "'ADMIN'", "t"),
        ("Saps_Liaison", "'manager', 'SAPS_LIAISON'", "t"),
        ("admin", "NULL, 'admin'", "t"),
        ("admin", "NULL", "f"),
        ("admin", "'administrator'", "f"),
        ("admin", "'adm%'", "f"),
        ("admin ", "'admin'", "f"),
        ("", "''", "f"),
        // U+0130 and U+212A fold to ASCII letters in some languages.
        ("adm\u{130}n", "'admin'", "f"),
        ("\u{212a}eeper", "'keeper'", "f"),
    ] {
        set(&mut session, &claims(TENANT, own));
        let answer = session.text(&format!("SELECT civic.has_role({asked})"));
        assert_eq!(answer, has, "{own:?} in {asked}");
    }
    let nested = "SELECT civic.has_role(VARIADIC ARRAY[['x', 'admin'], ['y', 'z']])";
    set(&mut session, &claims(TENANT, "admin"));
    assert_eq!(session.text(nested), "t");
    assert_eq!(session.text("SELECT civic.has_role(VARIADIC '{}')"), "f");
    assert_eq!(session.value("SELECT civic.has_role(VARIADIC NULL)"), None);
}

#[test]
fn without_claims_there_is_no_caller_and_nothing_is_open() {
    let mut session = Database::guarded().superuser();
    let assert_nobody = |session: &mut Session, case: &str| {
        for part in ["tenant_id", "user_role", "user_id", "tenant_folder_start"] {
            let value = session.value(&format!("SELECT civic.{part}()"));
            assert_eq!(value, None, "{part} of claims {case}");
        }
        for (question, answer) in [
            ("civic.has_role('admin', '')", "f"),
            ("civic.readable_buckets()", "{}"),
            ("civic.can_read_object('evidence', '/id/a')", "f"),
            ("civic.can_upload_object('evidence', '/id/a')", "f"),
            ("storage.civic_firewall('evidence', '/id/a')", "f"),
        ] {
            let given = session.text(&format!("SELECT {question}"));
            assert_eq!(given, answer, "{question} with claims {case}");
        }
    };
    assert_nobody(&mut session, "that were never set");
    for claims in ["", "null", " null ", "{}", r#"{"app_metadata": null, "sub": null}"#] {
        set(&mut session, claims);
        assert_nobody(&mut session, claims);
    }
}

#[test]
fn a_tenant_that_cannot_be_a_folder_opens_nothing_without_an_error() {
    let cases = [
        ("null", "null"),
        (r#""""#, ""),
        (r#""a/b""#, "a/b"),
        (r#""/""#, ""),
        (r#"".""#, "."),
        (r#""..""#, ".."),
        ("true", "true"),
        ("false", "false"),
        ("{}", "{}"),
        (r#"{"a": 1}"#, r#"{"a": 1}"#),
        (r#"{"$serde_json::private::Number": "42"}"#, "42"),
        ("[]", "[]"),
        (r#"["t"]"#, r#"["t"]"#),
        (r#""\u0000""#, ""),
    ];
    let database = Database::guarded();
    let mut superuser = database.superuser();
    let mut session = database.superuser();
    for (tenant, folder) in cases {
        let name = literal(&format!("{folder}/id/a.jpg"));
        superuser.run(&format!(
            "INSERT INTO storage.objects (bucket_id, name)
             SELECT id, {name} FROM storage.buckets ON CONFLICT DO NOTHING"
        ));
        session.acts_as("authenticated", &with_tenant(tenant));
        assert_eq!(session.value("SELECT civic.tenant_id()"), None, "{tenant}");
        assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "0", "{tenant}");
        for bucket in ["evidence", "documents", "gbv-evidence"] {
            let upload = format!(
                "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', 'x' || {name})"
            );
            assert_eq!(session.sqlstate(&upload), "42501", "{tenant} in {bucket}");
        }
    }
}

#[test]
fn a_number_counts_as_its_jsonb_text() {
    let mut session = Database::plain().superuser();
    for (number, text) in [
        ("42", "42"),
        ("1.50", "1.50"),
        ("-0", "0"),
        ("-0.0", "0.0"),
        ("1e2", "100"),
        ("1E+2", "100"),
        ("12345678901234567890", "12345678901234567890"),
        ("0.1234567890123456789012345678901", "0.1234567890123456789012345678901"),
        ("1e-3", "0.001"),
        ("-7", "-7"),
    ] {
        let claims = format!(
            r#"{{"sub": {number}, "app_metadata": {{"tenant_id": {number}, "role": {number}}}}}"#
        );
        set(&mut session, &claims);
        assert_eq!(session.text("SELECT civic.tenant_id()"), text, "{number}");
        for (ours, theirs) in [
            ("civic.tenant_id()", "-> 'app_metadata' ->> 'tenant_id'"),
            ("civic.user_role()", "-> 'app_metadata' ->> 'role'"),
            ("civic.user_id()", "->> 'sub'"),
        ] {
            let theirs = format!("current_setting('request.jwt.claims')::jsonb {theirs}");
            let same = session.text(&format!("SELECT {ours} = {theirs}"));
            assert_eq!(same, "t", "{ours} is {theirs} for {number}");
        }
    }
    // The server's own jsonb rejects this one.
    set(&mut session, &with_tenant("1e200000"));
    assert_eq!(session.value("SELECT civic.tenant_id()"), None);
}

#[test]
fn the_last_of_duplicate_claims_counts_as_in_jsonb() {
    let mut session = Database::plain().superuser();
    set(&mut session, r#"{"app_metadata": {"tenant_id": "first", "tenant_id": "last"}}"#);
    assert_eq!(session.text("SELECT civic.tenant_id()"), "last");
    set(&mut session, r#"{"app_metadata": {"tenant_id": "first"}, "app_metadata": {}}"#);
    assert_eq!(session.value("SELECT civic.tenant_id()"), None);
}

#[test]
fn claims_that_are_not_an_object_are_an_error_that_shows_the_setting_and_not_its_value() {
    let database = Database::guarded();
    let mut session = database.superuser();
    for claims in [
        r#"["s3cret"]"#,
        r#""s3cret""#,
        "1",
        "true",
        " ",
        "s3cret",
        r#"{"s3cret""#,
        r#"{"s3cret": 1} {}"#,
        r#"{"s3cret": 1,}"#,
        r#"{'s3cret': 1}"#,
        r#"{"s3cret": NaN}"#,
        r#"{"app_metadata": {"tenant_id": "s3cret\ud800"}}"#,
    ] {
        session.acts_as("authenticated", claims);
        for statement in [
            "SELECT civic.tenant_id()",
            "SELECT civic.user_role()",
            "SELECT civic.user_id()",
            "SELECT civic.has_role('admin')",
            "SELECT civic.readable_buckets()",
            "SELECT civic.can_read_object('evidence', 'a/b/c')",
            "SELECT civic.can_upload_object('evidence', 'a/b/c')",
            "SELECT storage.civic_firewall('evidence', 'a/b/c')",
            "SELECT count(*) FROM storage.objects",
            "INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', 'a/b/c')",
        ] {
            let error = session.error(statement);
            assert_eq!(error.code().code(), "28000", "{statement} with {claims}");
            assert!(error.message().contains("request.jwt.claims"), "{error:?}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }
    // The session still works, and nothing of an earlier caller is left.
    session.acts_as("authenticated", &claims(TENANT, "admin"));
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT);
    session.acts_as("authenticated", "{");
    assert_eq!(session.sqlstate("SELECT civic.tenant_id()"), "28000");
}

#[test]
fn deeply_nested_claims_neither_crash_the_server_nor_open_anything() {
    let mut session = Database::plain().superuser();
    for depth in [129, 1_000, 500_000] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for claims in [deep.clone(), with_tenant(&deep), format!(r#"{{"x": {deep}}}"#)] {
                set(&mut session, &claims);
                match session.client().simple_query("SELECT civic.tenant_id()") {
                    Ok(_) => assert_eq!(session.value("SELECT civic.tenant_id()"), None),
                    Err(error) => {
                        let state = error.code().expect("a state").code();
                        let expected = if claims.len() > 1 << 20 { "54000" } else { "28000" };
                        assert_eq!(state, expected, "{depth}");
                    }
                }
            }
        }
    }
    set(&mut session, &claims(TENANT, "citizen"));
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT);
}

#[test]
fn claims_of_a_megabyte_are_accepted() {
    let mut session = Database::plain().superuser();
    let padded = |length: usize| {
        let claims = |padding: &str| {
            json!({"padding": padding, "app_metadata": {"tenant_id": "t"}}).to_string()
        };
        claims(&"x".repeat(length - claims("").len()))
    };
    set(&mut session, &padded(1 << 20));
    assert_eq!(session.text("SELECT civic.tenant_id()"), "t");
    // One more byte is rejected, and nothing read before stays open.
    set(&mut session, &padded((1 << 20) + 1));
    let error = session.error("SELECT civic.tenant_id()");
    assert_eq!(error.code().code(), "54000");
    assert!(error.message().contains("claims of 1048577 bytes in setting"), "{error:?}");
    let length = (1 << 20) - 1000;
    set(&mut session, &with_tenant(&format!("\"{}\"", "t".repeat(length))));
    assert_eq!(session.text("SELECT length(civic.tenant_id())"), length.to_string());
}

/// The answer to a query in a session whose startup packet has these bytes as options. No driver
/// sends such bytes. Returns SQLSTATE and message of the error, or nothing.
fn error_with_options(database: &Database, options: &[u8], query: &str) -> Option<String> {
    let (port, user) = database.address();
    let mut stream = TcpStream::connect(("localhost", port)).unwrap();
    let mut packet = 196_608_u32.to_be_bytes().to_vec();
    for text in [b"user", user.as_bytes(), b"database", database.name().as_bytes(), b"options"] {
        packet.extend([text, b"\0"].concat());
    }
    packet.extend([options, b"\0\0"].concat());
    stream.write_all(&[&(packet.len() as u32 + 4).to_be_bytes(), &packet[..]].concat()).unwrap();
    let mut error = None;
    let mut is_asked = false;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
        stream.read_exact(&mut body).unwrap();
        match head[0] {
            b'E' => error = Some(String::from_utf8_lossy(&body).replace('\0', "\n")),
            b'Z' if is_asked => return error,
            b'Z' => {
                is_asked = true;
                let length = (query.len() as u32 + 5).to_be_bytes();
                stream.write_all(&[b"Q", &length[..], query.as_bytes(), b"\0"].concat()).unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn claims_that_are_not_utf_8_are_an_error_and_never_text() {
    let database = Database::plain();
    let claims = |tenant: &[u8]| {
        let start = b"-c request.jwt.claims={\"app_metadata\":{\"tenant_id\":\"".as_slice();
        [start, tenant, b"\"}}"].concat()
    };
    let query = "SELECT civic.tenant_id()";
    assert_eq!(error_with_options(&database, &claims(b"t"), query), None);
    for tenant in [b"\xff".as_slice(), b"t\xc3", b"\xed\xa0\x80", b"\xc0\xaf"] {
        let error = error_with_options(&database, &claims(tenant), query).expect("an error");
        assert!(error.contains("C28000"), "{tenant:?}: {error}");
        assert!(!error.contains("app_metadata"), "{tenant:?}: {error}");
    }
}

#[test]
fn metadata_that_users_can_set_themselves_never_counts() {
    let mut session = Database::plain().superuser();
    let forged = json!({
        "sub": "u", "role": "admin", "tenant_id": "forged",
        "user_metadata": {"tenant_id": "forged", "role": "admin",
                          "app_metadata": {"tenant_id": "forged", "role": "admin"}},
        "app_metadata.tenant_id": "forged", "app_metadata.role": "admin",
    });
    set(&mut session, &forged.to_string());
    assert_eq!(session.value("SELECT civic.tenant_id()"), None);
    assert_eq!(session.value("SELECT civic.user_role()"), None);
    assert_eq!(session.text("SELECT civic.readable_buckets()"), "{}");
}

#[test]
fn a_database_in_another_encoding_is_rejected_at_creation() {
    let database = Database::plain();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("{}_{}", database.name(), encoding.to_lowercase());
        database.superuser().run(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ));
        let mut session = Database::named(name).superuser();
        let error = session.error("CREATE EXTENSION pg_civic");
        assert_eq!(error.code().code(), "0A000");
        assert!(error.message().contains(encoding), "{error:?}");
    }
}

#[test]
fn claims_of_a_transaction_end_with_it() {
    let mut session = Database::supabase().superuser();
    for end in ["COMMIT", "ROLLBACK"] {
        // As PostgREST and the Storage API do.
        session.run(&format!(
            "BEGIN; SET LOCAL ROLE authenticated;
             SELECT set_config('request.jwt.claims', {}, true)",
            literal(&claims(OTHER_TENANT, "admin"))
        ));
        assert_eq!(session.text("SELECT civic.tenant_id()"), OTHER_TENANT);
        session.run(end);
        assert_eq!(session.value("SELECT civic.tenant_id()"), None, "after {end}");
        assert_eq!(session.text("SELECT civic.readable_buckets()"), "{}", "after {end}");
    }
}
