//! Secrets: no role can see one, and where any role could, the service is disabled.

use super::downloads::download;
use super::uploads::SERVER_SIDE;
use super::{PHOTO, Town, wait_until};
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::{APPLICATION, SUPABASE, Session, TENANT, claims};

/// A mark that is part of every secret and of nothing else.
const MARK: &str = "hunter2";

const SECRETS: [&str; 3] = ["civic.service_key", "civic.jwt_secret", "civic.twilio_auth_token"];

fn secret(setting: &str) -> String {
    format!("{MARK}-{}-with-at-least-32-characters", setting.replace('.', "-"))
}

/// A town whose secrets all have the mark.
fn marked() -> Town {
    let town = Town::apart(&[]);
    for setting in SECRETS {
        town.configure(&[(setting, &secret(setting))]);
    }
    town
}

/// Everything that a session can read about settings.
fn shown(session: &mut Session) -> Vec<String> {
    let mut shown = session.column("SELECT s::text FROM pg_settings s");
    let all = session.rows("SHOW ALL");
    shown.extend(all.into_iter().flatten().flatten());
    shown.extend(session.column("SELECT c::text FROM civic.check() c"));
    shown.extend(session.column("SELECT s::text FROM pg_db_role_setting s"));
    shown
}

#[test]
fn no_role_can_see_a_secret() {
    let town = marked();
    let mut superuser = town.superuser();
    // check() is an operator's; were it everybody's, it would show no secret either.
    superuser.run(
        "CREATE ROLE monitor; GRANT pg_monitor TO monitor; CREATE ROLE plain;
         GRANT EXECUTE ON FUNCTION civic.check() TO PUBLIC",
    );
    for role in ["plain", "authenticated", "service_role", "anon", "monitor"] {
        let mut session = town.acting_as(role, &claims(TENANT, "admin"));
        assert!(!shown(&mut session).concat().contains(MARK), "{role}");
        for setting in SECRETS {
            for sql in [
                format!("SHOW {setting}"),
                format!("SELECT current_setting('{setting}')"),
                format!("SELECT current_setting('{setting}', true)"),
            ] {
                match session.client().simple_query(&sql) {
                    Ok(_) => assert_eq!(session.text(&sql), "********", "{role}: {sql}"),
                    Err(error) => assert_eq!(error.code().expect("a state").code(), "42501"),
                }
            }
        }
        let files = session.client().simple_query("SELECT * FROM pg_file_settings");
        assert_eq!(files.expect_err("refused").code().expect("a state").code(), "42501", "{role}");
    }
    // A superuser sees only that there is one. They can read the file itself.
    assert!(!shown(&mut superuser).concat().contains(MARK));
    for setting in SECRETS {
        assert_eq!(superuser.text(&format!("SHOW {setting}")), "********");
        town.configure(&[(setting, "")]);
        assert_eq!(town.superuser().text(&format!("SHOW {setting}")), "");
    }
}

#[test]
fn a_changed_secret_is_not_in_the_servers_log() {
    let town = marked();
    town.configure(&[("civic.http_timeout", "12345")]);
    for setting in SECRETS {
        town.configure(&[(setting, &(secret(setting) + "-anew"))]);
        town.configure(&[(setting, "")]);
        town.configure(&[(setting, &secret(setting))]);
    }
    town.cluster.stop("fast");
    town.cluster.start_again();
    let log = town.cluster.log();
    assert!(
        log.contains("\"civic.http_timeout\" changed to \"12345\""),
        "the log shows other settings"
    );
    assert!(!log.contains(MARK), "{log}");
    for setting in SECRETS {
        assert!(!log.contains(&format!("\"{setting}\" changed")), "{log}");
    }
}

#[test]
fn no_error_and_no_log_line_contains_a_secret() {
    let town = marked();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut errors = String::new();
    let mut session = town.superuser();
    session.run("SET log_error_verbosity = verbose");
    session.acts_as("service_role", "");
    for sql in [download(&url), SERVER_SIDE[0].to_owned()] {
        errors.push_str(&format!("{:?}", session.error(&sql)));
    }
    // A secret that cannot be sent unchanged.
    for setting in ["civic.service_key", "civic.twilio_auth_token"] {
        town.configure(&[(setting, &format!("{MARK}\u{1}"))]);
        for sql in [download(&url), SERVER_SIDE[0].to_owned()] {
            errors.push_str(&format!("{:?}", town.service_role().error(&sql)));
        }
        town.configure(&[(setting, &secret(setting))]);
    }
    assert!(!errors.contains(MARK), "{errors}");
    assert!(!town.cluster.log().contains(MARK));
}

#[test]
fn changed_secrets_take_effect() {
    let town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    town.service_role().text(&download(&url));
    let asked = &town.storage.server().requests()[0];
    let bearer = format!("Bearer {}", town.storage.service_key());
    assert_eq!(asked.header("authorization"), Some(bearer.as_str()));
    // An existing session uses the new one too.
    let mut session = town.service_role();
    session.text("SELECT civic.bucket_for_media(true)");
    town.configure(&[("civic.service_key", "another")]);
    wait_until("it is taken", || session.client().simple_query(&download(&url)).is_err());
    assert_eq!(session.sqlstate(&download(&url)), "28000");
}

#[test]
fn the_keys_cannot_be_sent_elsewhere() {
    let town = Town::new();
    let thief = civic_fake_services::FakeServer::start(|_| civic_fake_services::Answer::new(200));
    let mut superuser = town.superuser();
    superuser.run("DO $$ BEGIN CREATE ROLE thief LOGIN; EXCEPTION WHEN duplicate_object THEN END $$; GRANT service_role TO thief");
    let database = &town.database;
    for (setting, value) in [
        ("civic.storage_url", thief.url("")),
        ("civic.supabase_url", thief.url("")),
        ("civic.media_hosts", thief.host()),
        ("civic.service_key", "mine".to_owned()),
        ("civic.jwt_secret", "mine".to_owned()),
    ] {
        for role in ["thief", "service_role"] {
            let mut session = town.superuser();
            session.run(&format!("SET ROLE {role}"));
            for sql in [
                format!("SET {setting} = '{value}'"),
                format!("SELECT set_config('{setting}', '{value}', true)"),
                format!("ALTER ROLE thief SET {setting} = '{value}'"),
                format!("ALTER DATABASE {database} SET {setting} = '{value}'"),
                format!("ALTER SYSTEM SET {setting} = '{value}'"),
                format!(
                    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql
                             SET {setting} = '{value}' AS 'SELECT 1'"
                ),
            ] {
                let refused = session.client().batch_execute(&sql).expect_err(&sql);
                let state = refused.code().expect("a state").code().to_owned();
                assert!(["42501", "55P02"].contains(&state.as_str()), "{sql}: {state}");
            }
        }
        // A superuser cannot either, except for the whole server.
        for sql in [
            format!("SET {setting} = '{value}'"),
            format!("ALTER DATABASE {database} SET {setting} = '{value}'"),
            format!("ALTER ROLE thief SET {setting} = '{value}'"),
        ] {
            assert_eq!(superuser.sqlstate(&sql), "55P02", "{sql}");
        }
    }
    town.service_role().text(SERVER_SIDE[0]);
    assert_eq!(thief.connections(), 0);
}

/// A server that does not preload the library.
fn not_preloaded() -> Cluster {
    let cluster = Cluster::start(&[]);
    let mut session = cluster.superuser();
    for fixture in [SUPABASE, APPLICATION, "CREATE EXTENSION pg_civic"] {
        session.run(fixture);
    }
    session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    session.run("ALTER SYSTEM SET civic.storage_url = 'http://127.0.0.1:1'");
    session.run("ALTER SYSTEM SET civic.twilio_account_sid = 'AC1'");
    for setting in SECRETS {
        session.run(&format!("ALTER SYSTEM SET {setting} = '{}'", secret(setting)));
    }
    cluster.stop("fast");
    cluster.start_again();
    cluster
}

#[test]
fn without_preloading_the_service_is_disabled_because_every_role_can_show_the_secrets() {
    let cluster = not_preloaded();
    let mut plain = cluster.superuser();
    plain.run("CREATE ROLE plain; SET ROLE plain");
    // The reason for the rule.
    assert_eq!(plain.text("SHOW civic.service_key"), secret("civic.service_key"));

    let mut session = cluster.superuser();
    super::add_object(&mut session, "evidence", &format!("{TENANT}/f/a.jpg"), "x");
    let link = format!("SELECT civic.get_signed_url('evidence', '{TENANT}/f/a.jpg')");
    for sql in SERVER_SIDE.into_iter().chain([link.as_str()]) {
        let error = session.error(sql);
        assert_eq!(error.code().code(), "55000", "{sql}");
        assert!(error.hint().expect("a hint").contains("shared_preload_libraries"), "{error:?}");
    }
    let wrong = session.rows(
        "SELECT detail, fix FROM civic.check() WHERE component = 'secrets of the storage service'
         AND NOT ok",
    );
    assert_eq!(wrong.len(), 1);
    assert!(
        wrong[0][0].as_deref().expect("a detail").contains("every role can read them with SHOW")
    );
    assert!(!format!("{wrong:?}").contains(MARK));

    // Once the library is loaded, a session shows nothing any more.
    assert_eq!(session.text("SHOW civic.service_key"), "********");

    // The reported fix works.
    let fix = wrong[0][1].as_deref().expect("a fix");
    fix.split_inclusive("; ").for_each(|statement| session.run(statement));
    cluster.stop("fast");
    cluster.start_again();
    let mut session = cluster.superuser();
    session.text(&link);
    session.run("SET ROLE plain");
    assert_eq!(session.sqlstate("SHOW civic.service_key"), "42501");
}

#[test]
fn a_value_set_by_a_user_before_the_library_was_loaded_is_not_used() {
    let cluster = not_preloaded();
    let mut session = cluster.superuser();
    session.run("SET civic.storage_url = 'http://thief.example'; SET civic.jwt_secret = 'mine'");
    session.run("SELECT civic.tenant_id()");
    assert_eq!(session.text("SHOW civic.storage_url"), "http://127.0.0.1:1");
    assert_eq!(session.warnings().len(), 2);
}

#[test]
fn a_secret_on_a_database_or_a_role_is_found() {
    let cluster = not_preloaded();
    let mut session = cluster.superuser();
    session.run("CREATE ROLE \"of the app\"");
    // If the library is loaded the server refuses them; before, it does not know them.
    for (on, place) in [
        ("DATABASE postgres", "database postgres"),
        ("ROLE \"of the app\"", "role \"of the app\""),
        ("ROLE \"of the app\" IN DATABASE postgres", "role \"of the app\" in database postgres"),
        ("ROLE ALL", "all roles"),
    ] {
        let mut before = cluster.superuser();
        before.run(&format!("ALTER {on} SET civic.jwt_secret = '{}'", secret("civic.jwt_secret")));
        let sql =
            "SELECT detail FROM civic.check() WHERE component = 'secrets of the storage service'";
        let detail = session.text(sql);
        assert!(detail.starts_with(&format!("a secret is set for {place}, ")), "{on}: {detail}");
        assert!(!detail.contains(MARK), "{detail}");
        session.run(&format!("ALTER {on} RESET ALL"));
        let detail = session.text(sql);
        assert!(!detail.contains("a secret is set for"), "{on}: {detail}");
    }
}

/// Freed memory of a backend comes back in the next allocation. Bytes that are no text must not show
/// what stood there, and what stood there must not be a secret any more.
#[test]
fn memory_freed_by_a_link_shows_no_secret_in_the_next_call() {
    use std::os::unix::ffi::OsStrExt;
    let town = marked();
    let mut session = town.superuser();
    super::add_object(&mut session, "evidence", &format!("{TENANT}/f/a.jpg"), "x");
    for length in 0..64 {
        let sql = [
            format!("SELECT civic.get_signed_url('evidence', '{TENANT}/f/a.jpg') <> ''"),
            format!(
                "SELECT civic.bucket_for_purpose(repeat('x', {length}) || current_setting('foo.bar'))"
            ),
        ];
        let output = town
            .cluster
            .program("psql", &town.database)
            .args(["--no-psqlrc", "--command", &sql[0], "--command", &sql[1]])
            .env("PGOPTIONS", std::ffi::OsStr::from_bytes(b"-c foo.bar=\xf0"))
            .output()
            .expect("psql can be run");
        let output = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.starts_with("ERROR:  invalid byte sequence for encoding \"UTF8\": 0xf0"),
            "{length}: {output}"
        );
    }
}

/// How often each of these occurs in a process's writable memory.
fn copies(process: &str, needles: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<usize>> {
    use std::io::{Read, Seek, SeekFrom};
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
    let mut memory = std::fs::File::open(format!("/proc/{process}/mem"))?;
    let mut found = vec![0; needles.len()];
    let starts = |byte: u8| needles.iter().any(|(_, bytes)| bytes[0] == byte);
    let is_start: Vec<bool> = (0..=u8::MAX).map(starts).collect();
    for map in maps.lines() {
        let mut fields = map.split(' ');
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        if !rights.starts_with("rw-p") {
            continue;
        }
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (address(start), address(end));
        let mut content = vec![0; (end - start) as usize];
        memory.seek(SeekFrom::Start(start))?;
        if memory.read_exact(&mut content).is_ok() {
            for (place, byte) in content.iter().enumerate() {
                if !is_start[usize::from(*byte)] {
                    continue;
                }
                for (count, (_, bytes)) in found.iter_mut().zip(needles) {
                    *count += usize::from(content[place..].starts_with(bytes));
                }
            }
        }
    }
    Ok(found)
}

/// The server's own copies, from reading its configuration file, remain. No copy is added.
#[test]
fn a_session_that_has_used_the_secrets_holds_no_additional_copies() {
    use base64::Engine;
    let town = marked();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    super::add_object(&mut town.superuser(), "evidence", &format!("{TENANT}/f/a.jpg"), "x");
    let mut session = town.superuser();
    let process = session.text("SELECT pg_backend_pid()");
    // The allocator overwrites the first bytes of freed memory, so search for the ends.
    let end = |name: &str| format!("{name}-with-at-least-32-char").into_bytes();
    let [key, secret_end, token] = ["key", "secret", "token"].map(end);
    let pair = format!("{}:{}", super::ACCOUNT, secret("civic.twilio_auth_token"));
    let basic = base64::prelude::BASE64_STANDARD.encode(pair).split_off(40).into_bytes();
    // The HMAC's two blocks are the key, changed in this way.
    let [inner, outer] = [0x36, 0x5c].map(|pad| secret_end.iter().map(|byte| byte ^ pad).collect());
    let needles: [(&str, Vec<u8>); 6] = [
        ("service key", key),
        ("JWT secret", secret_end),
        ("Twilio's token", token),
        ("Basic authentication", basic),
        ("HMAC's inner block", inner),
        ("HMAC's outer block", outer),
    ];

    let count = || copies(&process, &needles);
    let before = match count() {
        Ok(before) => before,
        Err(error) => return eprintln!("not tested: a server's memory cannot be read: {error}"),
    };
    assert!(before[..3].iter().all(|copies| *copies > 0), "{before:?}");
    session.text(&format!("SELECT civic.get_signed_url('evidence', '{TENANT}/f/a.jpg')"));
    session.acts_as("service_role", "");
    for sql in [download(&url), SERVER_SIDE[0].to_owned()] {
        // The keys of this test are invalid: they were sent, and refused.
        assert_eq!(session.sqlstate(&sql), "28000", "{sql}");
    }
    let after = count().expect("it could be read before");
    for ((name, _), (before, after)) in needles.iter().zip(before.iter().zip(&after)) {
        assert!(after <= before, "{name}: {before} copies before, {after} after");
    }
}
