//! civic.get_signed_url(): who gets a link to which file.

use civic_fake_services::verify_jwt;
use serde_json::Value;

use super::{SUB, Town, add_object};
use crate::pg_tests::support::{OTHER_TENANT, Session, TENANT, claims, literal};

fn link(path: &str) -> String {
    format!("SELECT civic.get_signed_url('evidence', {})", literal(path))
}

fn path_of(tenant: &str) -> String {
    format!("{tenant}/8f14e45f-0000-4000-8000-00000000000a/a photo.jpg")
}

/// A town with a file of each municipality in each bucket.
fn with_files() -> Town {
    let town = Town::new();
    let mut session = town.superuser();
    for bucket in ["evidence", "documents", "gbv-evidence"] {
        for tenant in [TENANT, OTHER_TENANT] {
            add_object(&mut session, bucket, &path_of(tenant), SUB);
        }
    }
    town
}

/// The claims in a link's token, after a check of its signature.
fn token_of(town: &Town, url: &str) -> (String, Value) {
    let (_, token) = url.split_once("?token=").expect("a link has a token");
    let payload = verify_jwt(town.storage.jwt_secret(), token).expect("it is well signed");
    let value = serde_json::from_str(&payload).expect("JSON");
    (payload, value)
}

#[test]
fn a_link_contains_its_file_and_expiry() {
    let town = with_files();
    let mut session = town.person("citizen");
    let path = path_of(TENANT);
    for (expiry, seconds) in [("", 3600), (", 1", 1), (", expiry => 604800", 604_800)] {
        let sql = format!("SELECT civic.get_signed_url('evidence', '{path}'{expiry})");
        let url = session.text(&sql);
        let start = format!(
            "{}/object/sign/evidence/{}?token=",
            town.storage.url(),
            path.replace(' ', "%20")
        );
        assert!(url.starts_with(&start), "{url}");
        let (payload, token) = token_of(&town, &url);
        let issued = token["iat"].as_u64().expect("a time");
        assert_eq!(
            payload,
            format!(
                r#"{{"url":"evidence/{path}","scope":"download","iat":{issued},"exp":{}}}"#,
                issued + seconds
            )
        );
        let now = session.text("SELECT extract(epoch FROM clock_timestamp())::bigint");
        let now: u64 = now.parse().expect("a number");
        assert!(now.abs_diff(issued) <= 5, "{issued} is about {now}");
    }
    assert_eq!(town.storage.server().count(), 0, "no request was sent");
}

#[test]
fn a_link_opens_its_file_and_no_other() {
    let town = with_files();
    let upload = format!(
        "SELECT civic.upload_file('evidence', '{}', 'the photo'::bytea, 'image/jpeg')",
        path_of(TENANT)
    );
    town.service_role().run(&upload);
    let url = town.person("citizen").text(&link(&path_of(TENANT)));
    let get = |url: &str| {
        use std::io::{Read, Write};
        let address = town.storage.server().host();
        let target = url.split_once(&address).expect("at the fake").1;
        let mut stream = std::net::TcpStream::connect(&address).expect("it listens");
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    };
    assert!(get(&url).ends_with("the photo"), "{}", get(&url));
    assert!(!get(&url.replace("a%20photo", "b%20photo")).contains("the photo"));
}

#[test]
fn a_link_made_here_equals_the_apis_link() {
    let town = Town::new();
    let path = format!("{TENANT}/f/it's (1) & $2+@=;,.jpg");
    add_object(&mut town.superuser(), "evidence", &path, SUB);
    let sql = format!(
        "SELECT civic.upload_file('evidence', {}, 'x'::bytea, 'image/jpeg')",
        literal(&path)
    );
    town.service_role().run(&sql);
    // Made in the same second; otherwise only the time differs.
    let same = (0..20).any(|_| {
        let here = town.person("citizen").text(&link(&path));
        town.configure(&[("civic.jwt_secret", "")]);
        let asked = town.person("citizen").text(&link(&path));
        town.configure(&[("civic.jwt_secret", town.storage.jwt_secret())]);
        let without_times = |url: &str| {
            let (mut payload, mut token) = token_of(&town, url);
            let iat = token["iat"].take().to_string();
            payload = payload.replace(&iat, "IAT").replace(&token["exp"].to_string(), "EXP");
            (url.split_once("?token=").expect("a token").0.to_owned(), payload)
        };
        assert_eq!(without_times(&here), without_times(&asked));
        here == asked || town.storage.server().count() > 1
    });
    assert!(same);
}

#[test]
fn a_user_gets_links_to_files_that_they_may_read_and_no_others() {
    let town = with_files();
    for (role, reads_gbv) in
        [("citizen", false), ("manager", false), ("saps_liaison", true), ("admin", true)]
    {
        let mut session = town.person(role);
        for bucket in ["evidence", "documents", "gbv-evidence"] {
            for tenant in [TENANT, OTHER_TENANT] {
                let sql = format!("SELECT civic.get_signed_url('{bucket}', '{}')", path_of(tenant));
                let may = tenant == TENANT && (bucket != "gbv-evidence" || reads_gbv);
                if may {
                    session.text(&sql);
                } else {
                    assert_eq!(session.sqlstate(&sql), "PT404", "{role} {bucket} {tenant}");
                }
            }
        }
    }
}

/// An error as the caller sees it, without the name that the caller gave.
fn seen(session: &mut Session, path: &str) -> (String, String, Option<String>) {
    let error = session.error(&link(path));
    // A long name is cut.
    let (before, _) = error.message().split_once("00000000-").expect("it names the path");
    let (_, after) = error.message().rsplit_once("\" in ").expect("and the bucket");
    let message = format!("{before}{after}");
    (error.code().code().to_owned(), message, error.hint().map(str::to_owned))
}

#[test]
fn a_forbidden_file_looks_like_a_missing_one() {
    let town = with_files();
    let mut session = town.person("citizen");
    let absent = seen(&mut session, &format!("{TENANT}/f/absent.jpg"));
    let elsewhere = seen(&mut session, &format!("{OTHER_TENANT}/f/absent.jpg"));
    let forbidden = seen(&mut session, &path_of(OTHER_TENANT));
    assert_eq!(absent, forbidden);
    assert_eq!(elsewhere, forbidden);
}

#[test]
fn the_server_role_gets_a_link_to_any_existing_file() {
    let town = with_files();
    for mut session in [town.service_role(), town.superuser()] {
        for tenant in [TENANT, OTHER_TENANT] {
            let sql = format!("SELECT civic.get_signed_url('gbv-evidence', '{}')", path_of(tenant));
            session.text(&sql);
        }
        assert_eq!(session.sqlstate(&link("no/such/file")), "PT404");
    }
}

#[test]
fn a_users_claims_apply_even_in_a_role_that_bypasses_every_policy() {
    let town = with_files();
    for role in ["service_role", "postgres"] {
        let mut session = town.superuser();
        session.run("DO $$ BEGIN CREATE ROLE postgres SUPERUSER; EXCEPTION WHEN duplicate_object THEN END $$");
        session.acts_as(role, &claims(TENANT, "manager"));
        session.text(&link(&path_of(TENANT)));
        assert_eq!(session.sqlstate(&link(&path_of(OTHER_TENANT))), "PT404", "{role}");
        let gbv = format!("SELECT civic.get_signed_url('gbv-evidence', '{}')", path_of(TENANT));
        assert_eq!(session.sqlstate(&gbv), "PT404", "{role}");
    }
}

#[test]
fn without_claims_only_the_server_role_gets_a_link() {
    let town = with_files();
    for claims in ["", "{}", r#"{"role": "service_role"}"#, r#"{"role": "authenticated"}"#] {
        let mut session = town.acting_as("authenticated", claims);
        assert_eq!(session.sqlstate(&link(&path_of(TENANT))), "PT404", "{claims}");
    }
    let mut anonymous = town.acting_as("anon", &claims(TENANT, "admin"));
    assert_eq!(anonymous.sqlstate(&link(&path_of(TENANT))), "42501");
}

#[test]
fn a_role_that_sets_claims_for_itself_gets_no_link() {
    let town = with_files();
    let mut session = town.superuser();
    session.run(
        "DO $$ BEGIN CREATE ROLE a_forger; EXCEPTION WHEN duplicate_object THEN END $$;
         GRANT EXECUTE ON FUNCTION civic.get_signed_url(text, text, bigint) TO a_forger;
         GRANT USAGE ON SCHEMA storage TO a_forger; GRANT SELECT ON storage.objects TO a_forger",
    );
    session.acts_as("a_forger", &claims(TENANT, "admin"));
    assert_eq!(session.sqlstate(&link(&path_of(TENANT))), "PT404");
}

#[test]
fn a_careless_policy_gives_no_link_to_gbv_evidence() {
    let town = with_files();
    town.superuser().run("CREATE POLICY careless ON storage.objects USING (true)");
    let sql = format!("SELECT civic.get_signed_url('gbv-evidence', '{}')", path_of(TENANT));
    assert_eq!(town.person("manager").sqlstate(&sql), "PT404");
    // Even after the firewall is removed, the claims are checked.
    town.superuser().run("ALTER TABLE storage.objects DISABLE ROW LEVEL SECURITY");
    assert_eq!(town.person("manager").sqlstate(&sql), "PT404");
    assert_eq!(town.person("admin").sqlstate(&link(&path_of(OTHER_TENANT))), "PT404");
}

#[test]
fn a_table_that_shadows_storage_objects_gives_no_link() {
    let town = with_files();
    let mut session = town.superuser();
    session.run("GRANT CREATE ON SCHEMA public TO authenticated");
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.run(&format!(
        "CREATE TEMP TABLE objects (bucket_id text, name text);
         INSERT INTO pg_temp.objects VALUES ('evidence', '{TENANT}/f/absent.jpg');
         CREATE FUNCTION public.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.always);
         SET search_path = pg_temp, public, pg_catalog, storage"
    ));
    assert_eq!(session.sqlstate(&link(&format!("{TENANT}/f/absent.jpg"))), "PT404");
}

#[test]
fn a_policy_of_another_role_is_evaluated_as_in_the_callers_own_query() {
    let town = with_files();
    let path = path_of(TENANT);
    let mut superuser = town.superuser();
    superuser.run(&format!(
        "CREATE TABLE public.quarantine (name text);
         GRANT SELECT ON public.quarantine TO authenticated;
         INSERT INTO public.quarantine VALUES ('{path}');
         CREATE FUNCTION public.is_clean(text) RETURNS boolean LANGUAGE plpgsql STABLE AS
             'BEGIN RETURN NOT EXISTS (SELECT FROM quarantine q WHERE q.name = $1); END';
         CREATE POLICY clean ON storage.objects AS RESTRICTIVE USING (public.is_clean(name))"
    ));
    let mut session = town.person("citizen");
    assert_eq!(session.sqlstate(&link(&path)), "PT404");
    superuser.run("DELETE FROM public.quarantine");
    session.text(&link(&path));
}

#[test]
fn a_link_is_valid_for_a_second_to_a_week() {
    let town = with_files();
    let mut session = town.person("citizen");
    for seconds in ["0", "-1", "604801", "2147483647", "-2147483648"] {
        let sql =
            format!("SELECT civic.get_signed_url('evidence', '{}', {seconds})", path_of(TENANT));
        let error = session.error(&sql);
        assert_eq!(error.code().code(), "22023", "{seconds}");
        assert!(error.hint().expect("a hint").contains("604800"));
    }
    for nothing in ["NULL, 'a'", "'evidence', NULL", "'evidence', 'a', NULL"] {
        let sql = format!("SELECT civic.get_signed_url({nothing})");
        assert_eq!(session.sqlstate(&sql), "22023", "{nothing}");
    }
}

#[test]
fn a_hostile_path_is_treated_as_a_missing_file() {
    let town = with_files();
    let mut session = town.person("citizen");
    let path = path_of(TENANT);
    for hostile in [
        format!("{TENANT}/../{}", path_of(OTHER_TENANT)),
        format!("{path}?token=x"),
        format!("{path}' OR true --"),
        format!("/{path}"),
        format!("{path}/"),
        path.to_uppercase(),
        "%".to_owned(),
        String::new(),
        "x".repeat(1024),
    ] {
        let state = session.sqlstate(&link(&hostile));
        assert_eq!(state, "PT404", "{}", &hostile[..hostile.len().min(99)]);
    }
}

#[test]
fn a_link_is_made_in_a_read_only_transaction() {
    let town = with_files();
    let mut session = town.person("citizen");
    session.run("BEGIN READ ONLY");
    session.text(&link(&path_of(TENANT)));
    session.run("COMMIT");
}

#[test]
fn a_kept_plan_applies_each_roles_own_policies() {
    let town = with_files();
    let mut session = town.superuser();
    for _ in 0..3 {
        session.acts_as("authenticated", &claims(TENANT, "citizen"));
        session.text(&link(&path_of(TENANT)));
        session.acts_as("authenticated", &claims(OTHER_TENANT, "citizen"));
        assert_eq!(session.sqlstate(&link(&path_of(TENANT))), "PT404");
        session.acts_as("service_role", "");
        session.text(&link(&path_of(TENANT)));
        session.acts_as("authenticated", "");
        assert_eq!(session.sqlstate(&link(&path_of(TENANT))), "PT404");
        session.reset_role();
        // The table is changed after the plan was made.
        session.run("ALTER TABLE storage.objects ADD COLUMN IF NOT EXISTS archived_at timestamptz");
    }
}

#[test]
fn a_bucket_id_with_a_slash_does_not_reach_a_file_of_another_bucket() {
    let town = with_files();
    let mut session = town.superuser();
    let (tenant, rest) = (TENANT, path_of(TENANT).split_once('/').expect("a folder").1.to_owned());
    for bucket in ["gbv-evidence", "evidence"] {
        // Storage rejects this bucket; the table does not.
        session.run(&format!(
            "INSERT INTO storage.buckets (id, name) VALUES ('{bucket}/{tenant}', '{bucket}/{tenant}');
             INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}/{tenant}', '{rest}')"
        ));
        for id in [format!("{bucket}/{tenant}"), format!("{bucket}/"), format!("/{bucket}")] {
            for (role, mut caller) in [
                ("citizen", town.person("citizen")),
                ("admin", town.person("admin")),
                ("service_role", town.service_role()),
                ("superuser", town.superuser()),
            ] {
                let sql = format!("SELECT civic.get_signed_url('{id}', '{rest}')");
                let error = caller.error(&sql);
                assert_eq!(error.code().code(), "22023", "{role} {id}: {error:?}");
            }
        }
    }
}
