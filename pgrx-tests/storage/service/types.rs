//! What one function returns another takes, also through drivers that declare the types of parameters.

use postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{SUB, Town, add_object};
use crate::pg_tests::support::{Database, TENANT};

#[test]
fn the_file_id_of_a_request_is_confirmed_as_text_and_as_uuid() {
    let database = Database::guarded();
    let mut person = database.person(TENANT, "citizen");
    let client = person.client();
    for declared in [Type::TEXT, Type::VARCHAR, Type::UUID] {
        let request =
            "SELECT a ->> 'file_id', a ->> 'path' FROM civic.request_upload($1, $2, $3, $4) a";
        let types = [Type::TEXT, Type::VARCHAR, Type::INT8, Type::TEXT];
        let request = client.prepare_typed(request, &types).expect("it resolves");
        let row = client
            .query_one(&request, &[&"a.jpg", &"image/jpeg", &1000_i64, &"evidence"])
            .expect("it is allowed");
        let (file_id, path): (String, String) = (row.get(0), row.get(1));
        add_object(&mut database.superuser(), "evidence", &path, SUB);
        let uuid = Uuid::parse_str(&file_id).expect("a UUID");
        let parameter: &(dyn ToSql + Sync) = if declared == Type::UUID { &uuid } else { &file_id };
        let confirm = "SELECT civic.confirm_upload($1, $2) ->> 'file_id'";
        let confirm = client.prepare_typed(confirm, &[declared.clone(), Type::TEXT]);
        let confirm = confirm.unwrap_or_else(|error| panic!("{declared}: {error}"));
        let row = client.query_one(&confirm, &[parameter, &"evidence"]).expect("it is confirmed");
        assert_eq!(row.get::<_, String>(0), file_id, "{declared}");
    }
}

#[test]
fn a_number_of_any_integer_type_is_a_size_and_an_expiry() {
    let town = Town::new();
    let path = format!("{TENANT}/f/a.jpg");
    add_object(&mut town.superuser(), "evidence", &path, SUB);
    let mut person = town.person("citizen");
    let client = person.client();
    for (declared, value) in
        [(Type::INT2, &60_i16 as &(dyn ToSql + Sync)), (Type::INT4, &60_i32), (Type::INT8, &60_i64)]
    {
        let request = "SELECT civic.request_upload('a.jpg', 'image/jpeg', $1, 'evidence')::text";
        let request =
            client.prepare_typed(request, std::slice::from_ref(&declared)).expect("it resolves");
        client.query_one(&request, &[value]).expect("it is allowed");
        let link = "SELECT civic.get_signed_url('evidence', $1, $2)";
        let link = client.prepare_typed(link, &[Type::TEXT, declared]).expect("it resolves");
        client.query_one(&link, &[&path, value]).expect("there is a link");
    }
}

#[test]
fn a_tickets_id_is_taken_as_the_table_holds_it() {
    let town = Town::new();
    let mut superuser = town.superuser();
    let ticket = superuser.text(&format!(
        "INSERT INTO tickets (tenant_id, is_sensitive) VALUES ('{TENANT}', true) RETURNING id"
    ));
    let url = town.twilio.offer("image/jpeg", super::PHOTO);
    let mut server = town.service_role();
    let client = server.client();
    let uuid = Uuid::parse_str(&ticket).expect("a UUID");
    for (declared, value) in [
        (Type::UUID, &uuid as &(dyn ToSql + Sync)),
        (Type::TEXT, &ticket),
        (Type::VARCHAR, &ticket),
    ] {
        let types = [Type::TEXT, Type::TEXT, declared.clone(), Type::VARCHAR];
        let call = client
            .prepare_typed("SELECT civic.enqueue_media($1, $2, $3, $4)::text", &types)
            .unwrap_or_else(|error| panic!("{declared}: {error}"));
        client.query_one(&call, &[&url, &"image/jpeg", value, &TENANT]).expect("it is queued");
        let sql = "SELECT civic.download_and_upload_media($1, $2, $3, $4) ->> 'bucket'";
        let call = client.prepare_typed(sql, &types).expect("it resolves");
        let row = client.query_one(&call, &[&url, &"image/jpeg", value, &TENANT]).expect("stored");
        assert_eq!(row.get::<_, String>(0), "gbv-evidence", "{declared}");
    }
    // A column of the table, and a literal without a type.
    let mut session = town.superuser();
    for id in ["t.id".to_owned(), "t.id::text".to_owned(), format!("'{ticket}'")] {
        let job = session.text(&format!(
            "SELECT civic.enqueue_media('{url}', 'image/jpeg', {id}, t.tenant_id) FROM tickets t
             WHERE t.id = '{ticket}'"
        ));
        let found =
            session.text(&format!("SELECT ticket_id FROM civic.media_jobs WHERE id = '{job}'"));
        assert_eq!(found, ticket, "{id}");
    }
}

#[test]
fn a_call_without_types_is_not_ambiguous() {
    let town = Town::new();
    add_object(&mut town.superuser(), "evidence", &format!("{TENANT}/{SUB}/a.jpg"), SUB);
    let mut person = town.person("citizen");
    person.text(&format!("SELECT civic.confirm_upload('{SUB}', 'evidence')"));
    person.text(&format!("SELECT civic.confirm_upload(file_id => '{SUB}', purpose => 'evidence')"));
    person
        .text(&format!("SELECT civic.confirm_upload(file_uuid => '{SUB}', purpose => 'evidence')"));
    assert_eq!(person.sqlstate("SELECT civic.confirm_upload(NULL, NULL)"), "22023");
    let inferred =
        person.client().prepare("SELECT civic.confirm_upload($1, $2)").expect("it resolves");
    assert_eq!(inferred.params(), [Type::TEXT, Type::TEXT]);
    let mut server = town.service_role();
    let inferred = server
        .client()
        .prepare("SELECT civic.enqueue_media($1, $2, $3, $4, $5)")
        .expect("it resolves");
    assert_eq!(inferred.params()[2], Type::TEXT);
}

/// PostgREST chooses among functions of one name by the names of the arguments in the request, and
/// answers PGRST203 if two fit.
#[test]
fn no_request_to_postgrest_fits_two_functions() {
    let mut session = Database::plain().superuser();
    let rows = session.rows(
        "SELECT proname, coalesce(proargnames[:pronargs], '{}'), pronargs - pronargdefaults
         FROM pg_proc WHERE pronamespace = 'civic'::regnamespace ORDER BY proname",
    );
    let functions: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |place: usize| row[place].clone().expect("not NULL");
            let names = text(1).trim_matches(|c| "{}".contains(c)).to_owned();
            let names: Vec<_> =
                names.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
            let required: usize = text(2).parse().expect("a number");
            (text(0), names[..required.min(names.len())].to_vec(), names)
        })
        .collect();
    let mut pairs = 0;
    for (place, (name, required, names)) in functions.iter().enumerate() {
        for (other, other_required, other_names) in &functions[place + 1..] {
            if name != other {
                continue;
            }
            pairs += 1;
            let both_fit = required.iter().all(|it| other_names.contains(it))
                && other_required.iter().all(|it| names.contains(it));
            assert!(!both_fit, "{name}: {names:?} and {other_names:?}");
        }
    }
    assert!(pairs >= 3, "{pairs}");
}
