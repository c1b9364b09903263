//! The destination of a ticket's media, whatever the caller says.

use serde_json::json;

use super::{PHOTO, Town, json as answer};
use crate::pg_tests::support::{OTHER_TENANT, Session, TENANT, literal};

const TICKET: &str = "8f14e45f-ceea-467f-a83c-6d8b04dd5d30";

fn download(town: &Town, ticket: &str, rest: &str) -> String {
    let url = town.twilio.offer("image/jpeg", PHOTO);
    format!(
        "SELECT civic.download_and_upload_media({}, 'image/jpeg', {}, '{TENANT}'{rest})",
        literal(&url),
        literal(ticket)
    )
}

/// The bucket of a ticket's media.
#[track_caller]
fn bucket(town: &Town, ticket: &str, rest: &str) -> String {
    let answer = answer(&mut town.service_role(), &download(town, ticket, rest));
    let (bucket, path) = (answer["bucket"].as_str().unwrap(), answer["path"].as_str().unwrap());
    assert!(town.storage.object(bucket, path).is_some(), "it is at the returned path");
    bucket.to_owned()
}

fn add_ticket(session: &mut Session, tenant: &str, is_sensitive: bool) {
    session.run(&format!(
        "INSERT INTO public.tickets (id, tenant_id, is_sensitive)
         VALUES ('{TICKET}', '{tenant}', {is_sensitive})"
    ));
}

#[test]
fn a_sensitive_tickets_media_goes_behind_the_firewall_whatever_the_argument_says() {
    let town = Town::new();
    add_ticket(&mut town.superuser(), TENANT, true);
    for rest in ["", ", false", ", true", ", NULL"] {
        assert_eq!(bucket(&town, TICKET, rest), "gbv-evidence", "{rest}");
    }
    // In any spelling of its id.
    for spelling in [TICKET.to_uppercase(), format!("{{{TICKET}}}"), TICKET.replace('-', "")] {
        assert_eq!(bucket(&town, &spelling, ""), "gbv-evidence", "{spelling}");
    }
}

#[test]
fn an_ordinary_tickets_media_goes_to_the_callers_bucket() {
    let town = Town::new();
    add_ticket(&mut town.superuser(), TENANT, false);
    assert_eq!(bucket(&town, TICKET, ""), "evidence");
    assert_eq!(bucket(&town, TICKET, ", true"), "gbv-evidence");
    assert_eq!(bucket(&town, TICKET, ", NULL"), "gbv-evidence");
    let unknown = "00000000-ceea-467f-a83c-6d8b04dd5d30";
    assert_eq!(bucket(&town, unknown, ""), "evidence");
    assert_eq!(bucket(&town, unknown, ", true"), "gbv-evidence");
    assert_eq!(bucket(&town, "no-uuid", ""), "evidence");
}

/// Starts the download for an ordinary ticket; returns its result.
fn begin(town: &Town, sql: String) -> std::thread::JoinHandle<Result<String, String>> {
    let mut session = town.service_role();
    std::thread::spawn(move || match session.client().query_one(&format!("{sql}::text"), &[]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(error.code().expect("a state").code().to_owned()),
    })
}

#[test]
fn a_ticket_that_becomes_sensitive_during_the_download_goes_behind_the_firewall() {
    let town = Town::new();
    let mut session = town.superuser();
    add_ticket(&mut session, TENANT, false);
    let gate = town.twilio.holds();
    let thread = begin(&town, download(&town, TICKET, ""));
    town.twilio.api().wait_for(1);
    session.run("UPDATE public.tickets SET is_sensitive = true");
    gate.open();
    let answer = thread.join().expect("no panic").expect("it is stored");
    assert!(answer.contains("gbv-evidence"), "{answer}");
    let buckets: Vec<_> = town.storage.objects().into_iter().map(|object| object.bucket).collect();
    assert_eq!(buckets, ["gbv-evidence"]);
}

#[test]
fn a_ticket_that_becomes_sensitive_during_the_upload_leaves_no_public_file() {
    let town = Town::new();
    let gate = town.storage.holds();
    let mut session = town.superuser();
    add_ticket(&mut session, TENANT, false);
    let thread = begin(&town, download(&town, TICKET, ""));
    town.storage.server().wait_for(1);
    session.run("UPDATE public.tickets SET is_sensitive = true");
    gate.open();
    assert_eq!(thread.join().expect("no panic"), Err("40001".to_owned()));
    assert!(town.storage.objects().is_empty());
    assert_eq!(bucket(&town, TICKET, ""), "gbv-evidence");
}

#[test]
fn a_transaction_with_an_old_snapshot_does_not_bypass_the_firewall() {
    let town = Town::new();
    let mut session = town.superuser();
    add_ticket(&mut session, TENANT, false);
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        // A transaction that has written reads differently from one that has not.
        for first in ["SELECT 1", "SELECT pg_current_xact_id()"] {
            session.run("UPDATE public.tickets SET is_sensitive = false");
            let mut caller = town.service_role();
            caller.run(&format!("BEGIN ISOLATION LEVEL {isolation}; {first}"));
            let before = answer(&mut caller, &download(&town, TICKET, ""));
            assert_eq!(before["bucket"], "evidence");
            session.run("UPDATE public.tickets SET is_sensitive = true");
            let after = answer(&mut caller, &download(&town, TICKET, ""));
            assert_eq!(after["bucket"], "gbv-evidence", "{isolation}, {first}");
        }
    }
}

#[test]
fn without_a_table_of_tickets_all_media_counts_as_sensitive() {
    let town = Town::new();
    let mut session = town.superuser();
    add_ticket(&mut session, TENANT, true);
    session.run("ALTER TABLE public.tickets DISABLE TRIGGER ALL");
    assert_eq!(
        bucket(&town, TICKET, ""),
        "gbv-evidence",
        "a disabled trigger still marks its table"
    );
    for loss in [
        "DROP TRIGGER ticket_update_notify ON public.tickets",
        "SELECT count(*) FROM civic.setup()",
        // A table without ids cannot be searched.
        "CREATE TABLE public.nameless (tenant_id text);
         CREATE TRIGGER t AFTER INSERT ON public.nameless
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
        "SELECT count(*) FROM civic.teardown()",
    ] {
        session.run(loss);
        let stored = town.storage.objects().len();
        let error = town.service_role().error(&download(&town, TICKET, ", false"));
        assert_eq!(error.code().code(), "55000", "{loss}");
        assert!(error.hint().expect("a hint").contains("civic.setup("), "{loss}: {error:?}");
        assert_eq!(town.storage.objects().len(), stored, "{loss}");
        assert_eq!(bucket(&town, TICKET, ", true"), "gbv-evidence", "{loss}");
    }
}

#[test]
fn a_ticket_of_another_municipality_gets_no_media() {
    let town = Town::new();
    add_ticket(&mut town.superuser(), OTHER_TENANT, false);
    let error = town.service_role().error(&download(&town, TICKET, ""));
    assert_eq!(error.code().code(), "22023");
    assert!(error.message().contains(TICKET), "{error:?}");
    assert!(town.storage.objects().is_empty());
    assert_eq!(town.twilio.api().count(), 0, "nothing was fetched");
}

#[test]
fn a_ticket_that_the_caller_cannot_see_still_counts() {
    let town = Town::new();
    let mut session = town.superuser();
    add_ticket(&mut session, TENANT, true);
    session.run(
        "REVOKE ALL ON public.tickets FROM PUBLIC, service_role;
         REVOKE ALL ON SCHEMA public FROM service_role;
         ALTER TABLE public.tickets ENABLE ROW LEVEL SECURITY",
    );
    assert_eq!(bucket(&town, TICKET, ""), "gbv-evidence");
}

#[test]
fn a_table_that_cannot_be_read_completely_stops_the_media() {
    let town = Town::new();
    let mut session = town.superuser();
    session.run(
        "DO $$ BEGIN CREATE ROLE keeper; EXCEPTION WHEN duplicate_object THEN END $$;
         GRANT USAGE ON SCHEMA public TO keeper;
         ALTER TABLE public.tickets OWNER TO keeper;
         ALTER TABLE public.tickets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    );
    add_ticket(&mut session, TENANT, true);
    let error = town.service_role().error(&download(&town, TICKET, ""));
    assert_eq!(error.code().code(), "55000");
    assert!(error.message().contains("public.tickets"), "{error:?}");
    session.run(
        "ALTER TABLE public.tickets NO FORCE ROW LEVEL SECURITY;
         REVOKE ALL ON public.tickets FROM keeper",
    );
    assert_eq!(town.service_role().sqlstate(&download(&town, TICKET, "")), "42501");
    assert!(town.storage.objects().is_empty());
    session.run("GRANT SELECT ON public.tickets TO keeper");
    assert_eq!(bucket(&town, TICKET, ""), "gbv-evidence");
}

#[test]
fn every_table_with_the_trigger_is_searched() {
    let town = Town::new();
    let mut session = town.superuser();
    for (table, columns, id, spelling) in [
        ("of_numbers", "id bigint, is_sensitive boolean", "42", "42"),
        ("of_texts", "id varchar(40), is_sensitive boolean", "'T-1'", "T-1"),
        (
            "of_uuids_as_text",
            "id text, is_sensitive boolean",
            &format!("'{TICKET}'"),
            &TICKET.to_uppercase(),
        ),
        ("of_odd_types", "id numeric, is_sensitive text", "7", "7"),
        ("of_words", "id int, is_sensitive text DEFAULT 'yes'", "8", "8"),
    ] {
        session.run(&format!(
            "CREATE TABLE public.{table} ({columns}, tenant_id text);
             SELECT count(*) FROM civic.setup('public.{table}');
             INSERT INTO public.{table} (id, tenant_id, is_sensitive) VALUES ({id}, '{TENANT}', 'true')"
        ));
        assert_eq!(bucket(&town, spelling, ""), "gbv-evidence", "{table}");
        session.run(&format!("UPDATE public.{table} SET is_sensitive = NULL"));
        assert_eq!(bucket(&town, spelling, ""), "gbv-evidence", "{table}, NULL");
        session.run(&format!("UPDATE public.{table} SET is_sensitive = 'false'"));
        assert_eq!(bucket(&town, spelling, ""), "evidence", "{table}");
        session.run(&format!("DROP TABLE public.{table}"));
    }
}

#[test]
fn a_table_without_the_column_has_no_sensitive_tickets() {
    let town = Town::new();
    town.superuser().run(&format!(
        "CREATE TABLE public.repairs (id int, tenant_id text);
         SELECT count(*) FROM civic.setup('public.repairs');
         INSERT INTO public.repairs VALUES (9, '{TENANT}')"
    ));
    assert_eq!(bucket(&town, "9", ""), "evidence");
}

#[test]
fn the_path_contains_tenant_ticket_and_a_new_file() {
    let town = Town::new();
    let answer = answer(&mut town.service_role(), &download(&town, TICKET, ""));
    let file_id = answer["file_id"].as_str().expect("a file id");
    assert_eq!(
        answer,
        json!({
            "bucket": "evidence",
            "path": format!("{TENANT}/{TICKET}/{file_id}.jpg"),
            "file_id": file_id,
            "content_type": "image/jpeg",
            "file_size": PHOTO.len(),
        })
    );
}

#[test]
fn a_tenant_or_ticket_that_cannot_be_a_folder_is_refused() {
    let town = Town::new();
    let mut session = town.service_role();
    for ticket in ["", "..", "a/b", "é", &"x".repeat(300)] {
        assert_eq!(session.sqlstate(&download(&town, ticket, "")), "22023", "{ticket}");
    }
    let in_tenant =
        |tenant: &str| download(&town, TICKET, "").replace(&literal(TENANT), &literal(tenant));
    for tenant in ["", "..", "a/b", "a\nb"] {
        assert_eq!(session.sqlstate(&in_tenant(tenant)), "22023", "{tenant}");
    }
    assert_eq!(town.twilio.api().count(), 0);
}

#[test]
fn a_cast_of_the_tickets_owner_is_not_executed_and_its_ticket_is_sensitive() {
    let town = Town::new();
    let mut session = town.superuser();
    session.run(&format!(
        "DO $$ BEGIN CREATE ROLE owner_of_tickets; EXCEPTION WHEN duplicate_object THEN END $$;
         GRANT CREATE, USAGE ON SCHEMA public TO owner_of_tickets;
         CREATE TABLE public.seen (who text); GRANT ALL ON public.seen TO PUBLIC;
         SET ROLE owner_of_tickets;
         CREATE TYPE public.secrecy AS (level text);
         CREATE FUNCTION public.spies(public.secrecy) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.seen VALUES (current_user); RETURN 'no'; END $$;
         CREATE CAST (public.secrecy AS text) WITH FUNCTION public.spies(public.secrecy);
         CREATE TABLE public.traps (id int, tenant_id text, is_sensitive public.secrecy);
         RESET ROLE;
         SELECT count(*) FROM civic.setup('public.traps');
         INSERT INTO public.traps VALUES (1, '{TENANT}', ROW('x'))"
    ));
    assert_eq!(bucket(&town, "1", ""), "gbv-evidence");
    assert_eq!(session.text("SELECT count(*) FROM public.seen"), "0");
}

#[test]
fn a_domain_is_read_as_its_base_type() {
    let town = Town::new();
    let mut session = town.superuser();
    session.run(&format!(
        "CREATE DOMAIN public.ticket_id AS uuid;
         CREATE DOMAIN public.short_id AS public.ticket_id;
         CREATE DOMAIN public.secrecy AS boolean;
         CREATE TABLE public.of_domains (id public.short_id, tenant_id text, is_sensitive public.secrecy);
         SELECT count(*) FROM civic.setup('public.of_domains');
         INSERT INTO public.of_domains VALUES ('{TICKET}', '{TENANT}', false)"
    ));
    assert_eq!(bucket(&town, TICKET, ""), "evidence");
    session.run("UPDATE public.of_domains SET is_sensitive = true");
    assert_eq!(bucket(&town, TICKET, ""), "gbv-evidence");
}

#[test]
fn an_id_or_tenant_of_an_unsupported_type_stops_the_media_and_is_named() {
    let town = Town::new();
    let mut session = town.superuser();
    session.run("CREATE TYPE public.odd AS ENUM ('1')");
    for (columns, column) in
        [("id public.odd, tenant_id text", "id"), ("id int, tenant_id public.odd", "tenant_id")]
    {
        session.run(&format!(
            "CREATE TABLE public.odd_tickets ({columns}, is_sensitive boolean);
             CREATE TRIGGER tell AFTER INSERT ON public.odd_tickets
                 FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
        ));
        let error = town.service_role().error(&download(&town, "1", ""));
        assert_eq!(error.code().code(), "55000", "{error:?}");
        for part in ["public.odd_tickets", &format!("column {column} "), "public.odd,"] {
            assert!(error.message().contains(part), "{error:?}");
        }
        session.run("DROP TABLE public.odd_tickets");
    }
}
