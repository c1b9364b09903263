//! A token of the database role `anon` whose claims name a municipality and a role. The gateway verifies
//! tokens, so somebody with the JWT secret has made it by mistake.

use super::firewall::{object, own, seen, stocked};
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

fn anonymous(database: &Database) -> Session {
    let mut session = database.superuser();
    session.acts_as("anon", &claims(TENANT, "admin").replace("authenticated", "anon"));
    session
}

fn insert(bucket: &str) -> String {
    format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '{TENANT}/id/new.jpg')"
    )
}

#[test]
fn a_token_of_anon_reads_and_writes_no_file_whatever_its_claims_say() {
    let database = stocked();
    let mut session = anonymous(&database);
    assert_eq!(seen(&mut session), Vec::<String>::new());
    for bucket in ["evidence", "documents", "gbv-evidence"] {
        assert_eq!(session.sqlstate(&insert(bucket)), "42501", "{bucket}");
    }
    for statement in ["UPDATE storage.objects SET version = 'x'", "DELETE FROM storage.objects"] {
        session.run("BEGIN; SET LOCAL storage.allow_delete_query = 'true'");
        assert_eq!(session.affected(statement), 0, "{statement}");
        session.run("ROLLBACK");
    }
    for call in [
        format!("civic.confirm_upload('{OTHER_TENANT}', 'evidence')"),
        format!("civic.get_signed_url('evidence', '{TENANT}/id/evidence.jpg')"),
        "civic.publish('t', '{}')".to_owned(),
        "civic.check()".to_owned(),
    ] {
        assert_eq!(session.sqlstate(&format!("SELECT {call}")), "42501", "{call}");
    }
    assert_eq!(session.sqlstate("SELECT id FROM civic.media_jobs"), "42501");
}

/// Rules over the claims answer, and give nothing away: the policies are for `authenticated`.
#[test]
fn the_rules_answer_a_token_of_anon_by_its_claims_and_open_nothing() {
    let database = stocked();
    let mut session = anonymous(&database);
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT);
    let may =
        format!("SELECT civic.can_read_object('gbv-evidence', '{TENANT}/id/gbv-evidence.jpg')");
    assert_eq!(session.text(&may), "t");
    session.text("SELECT civic.request_upload('a.jpg', 'image/jpeg', 1, 'gbv-evidence')");
    assert_eq!(seen(&mut session), Vec::<String>::new());
}

/// The firewall passes what the claims allow: a policy of others for `anon` opens the folder of the
/// municipality that the token names, and no other.
#[test]
fn a_careless_policy_opens_to_a_token_of_anon_only_the_folder_that_it_names() {
    let database = stocked();
    database
        .superuser()
        .run("CREATE POLICY careless ON storage.objects USING (true) WITH CHECK (true)");
    let mut session = anonymous(&database);
    let mut visible = [TENANT, OTHER_TENANT].map(|tenant| object("avatars", tenant)).to_vec();
    visible.extend(own(TENANT, true));
    assert_eq!(seen(&mut session), visible);
    session.acts_as("anon", r#"{"role": "anon"}"#);
    assert_eq!(seen(&mut session).len(), 2, "of the other bucket only");
}

#[test]
fn a_token_of_anon_joins_no_channel_whatever_its_claims_say() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let claims = claims(TENANT, "admin").replace("authenticated", "anon");
    for suffix in ["", ":sensitive"] {
        let topic = format!("ticket_updates:{TENANT}{suffix}");
        assert_eq!(session.may_join("anon", &claims, &topic), (false, false), "{topic}");
        assert_eq!(session.may_join("authenticated", &claims, &topic), (true, true), "{topic}");
    }
}
