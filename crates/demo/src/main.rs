//! The story that `make demo` plays: the main functions of pg_civic, in real sessions on a real
//! server.
//!
//! Usage: `pg_civic_demo SOCKET_DIRECTORY`. Recreates the database `demo` and keeps it for
//! `make psql`. Exits with 1 if a step did not give the expected result.

mod people;
mod rows;
mod service;
mod story;

use std::process::ExitCode;

use people::{CITIZEN, Person, Server};
use serde_json::Value;
use service::Outside;
use story::{Story, refused};

const TSHWANE: &str = "00000000-0000-0000-0000-000000000001";
const ETHEKWINI: &str = "00000000-0000-0000-0000-000000000002";
const NEIGHBOUR: &str = "8f14e45f-0000-4000-8000-000000000001";

const FIXTURES: [(&str, &str); 2] = [
    (
        "roles, auth and Storage as Supabase has them",
        include_str!("../../../pgrx-tests/fixtures/supabase.sql"),
    ),
    ("the application's tables", include_str!("../../../pgrx-tests/fixtures/application.sql")),
];

fn main() -> ExitCode {
    let Some(socket) = std::env::args().nth(1) else {
        eprintln!("usage: pg_civic_demo SOCKET_DIRECTORY");
        return ExitCode::from(2);
    };
    match play(&Server::new(socket)) {
        Ok(story) => story.end(),
        Err(error) => {
            eprintln!("\nthe demo failed: {}", story::described(&error));
            ExitCode::FAILURE
        }
    }
}

fn play(server: &Server) -> Result<Story, postgres::Error> {
    let mut story = Story::default();
    server.make_database()?;
    let mut owner = server.connect("postgres")?;
    story.title(&format!("pg_civic on PostgreSQL {}", value(&mut owner, "SHOW server_version")?));

    install(&mut story, server, &mut owner)?;
    tickets(&mut story, server, &mut owner)?;
    relay(&mut story, &mut owner)?;
    files(&mut story, server)?;
    gbv_evidence(&mut story, server)?;
    careless_policy(&mut story, server, &mut owner)?;
    rows::play(&mut story, server, &mut owner)?;
    let outside = Outside::start(&mut story, server, &mut owner)?;
    outside.upload(&mut story, server)?;
    outside.whatsapp(&mut story, server, &mut owner)?;
    outside.end(&mut story, server, &mut owner)?;
    own_tickets(&mut story, server, &mut owner)?;
    removal(&mut story, &mut owner)?;
    Ok(story)
}

fn value(client: &mut postgres::Client, query: &str) -> Result<String, postgres::Error> {
    Ok(client.query_one(query, &[])?.get(0))
}

fn install(
    story: &mut Story,
    server: &Server,
    owner: &mut postgres::Client,
) -> Result<(), postgres::Error> {
    story.chapter("Installation");
    for (what, fixture) in FIXTURES {
        owner.batch_execute(fixture)?;
        story.note(&format!("There are {what}."));
    }
    for statement in ["CREATE EXTENSION pg_civic", "SELECT * FROM civic.setup('public.tickets')"] {
        story.statement(statement);
        let rows = owner.query(statement, &[])?;
        for row in rows {
            story.row(&[row.get(0), row.get(1), row.get(2)]);
        }
    }
    server.wait_for_relay(owner)?;
    let wrong = owner.query("SELECT component FROM civic.check() WHERE NOT ok", &[])?;
    story.step(
        "civic.check() finds no problem",
        "0 findings",
        &format!("{} findings", wrong.len()),
        None,
    );
    Ok(())
}

fn tickets(
    story: &mut Story,
    server: &Server,
    owner: &mut postgres::Client,
) -> Result<(), postgres::Error> {
    story.chapter("Every change of a ticket is published at once");
    let channel = format!("ticket_updates:{TSHWANE}");
    let mut dashboard = server.listener(&[&channel])?;
    let mut liaison = server.listener(&[&format!("{channel}:sensitive")])?;
    story.note(&format!(
        "A dashboard listens on {channel}, a liaison listens on {channel}:sensitive."
    ));

    let open =
        "INSERT INTO public.tickets (tenant_id, tracking_number, category, status, is_sensitive)
                VALUES ($1, $2, $3, 'open', $4) RETURNING id::text";
    let pipe: String =
        owner.query_one(open, &[&TSHWANE, &"TKT-20260211-A1B2C3", &"water", &false])?.get(0);
    let event = dashboard.next_event()?;
    story.step(
        "A citizen reports a burst pipe: the dashboard receives the event",
        "INSERT open",
        &fields(&event, &["type", "status"]),
        Some(&event),
    );

    owner.execute(
        "UPDATE public.tickets SET status = 'in_progress', updated_at = now() WHERE id = $1::text::uuid",
        &[&pipe],
    )?;
    let event = dashboard.next_event()?;
    story.step(
        "A team is on its way: the dashboard receives the change",
        "UPDATE in_progress",
        &fields(&event, &["type", "status"]),
        Some(&event),
    );

    owner.execute(open, &[&TSHWANE, &"TKT-20260211-D4E5F6", &"gbv", &true])?;
    let event = dashboard.next_event()?;
    story.step(
        "A citizen reports violence: the dashboard receives only that there is a ticket",
        "INSERT null null",
        &fields(&event, &["type", "category", "tracking_number"]),
        Some(&event),
    );
    let event = liaison.next_event()?;
    story.step(
        "The liaison receives the whole event",
        "INSERT gbv TKT-20260211-D4E5F6",
        &fields(&event, &["type", "category", "tracking_number"]),
        Some(&event),
    );

    owner.execute(
        open,
        &[
            &"a-municipality-whose-name-is-far-longer-than-any-channel-can-be",
            &"TKT-20260211-G7H8I9",
            &"water",
            &false,
        ],
    )?;
    let tickets = value(owner, "SELECT count(*)::text FROM public.tickets")?;
    story.step(
        "A ticket whose channel is too long cannot be published, but it is saved",
        "3 tickets",
        &format!("{tickets} tickets"),
        None,
    );

    owner.execute("DELETE FROM public.tickets WHERE id = $1::text::uuid", &[&pipe])?;
    let event = dashboard.next_event()?;
    story.step(
        "The burst pipe had been reported twice and is deleted: it leaves the dashboard",
        &format!("DELETE {pipe}"),
        &fields(&event, &["type", "ticket_id"]),
        Some(&event),
    );
    Ok(())
}

/// With Supabase Realtime, whose server is not needed to see who may receive what.
fn own_tickets(
    story: &mut Story,
    server: &Server,
    owner: &mut postgres::Client,
) -> Result<(), postgres::Error> {
    story.chapter("A citizen receives their own tickets, through Supabase Realtime");
    owner.batch_execute(include_str!("../../../pgrx-tests/fixtures/realtime.sql"))?;
    story.note("There is Supabase Realtime's table of messages.");
    let setup = "SELECT * FROM civic.setup('public.tickets')";
    story.statement(setup);
    owner.batch_execute(setup)?;
    let report = "INSERT INTO public.tickets (tenant_id, user_id, category, status, is_sensitive)
                  VALUES ($1, $2::text::uuid, $3, 'open', $4)";
    for (user, category, is_sensitive) in
        [(CITIZEN, "water", false), (CITIZEN, "gbv", true), (NEIGHBOUR, "roads", false)]
    {
        owner.execute(report, &[&TSHWANE, &user, &category, &is_sensitive])?;
    }
    story.note("The citizen reports a burst pipe, and violence. A neighbour reports a pothole.");
    let mut citizen = server.person(TSHWANE, "citizen")?;
    let received = citizen.value(
        "SELECT string_agg(concat_ws(' ', topic, event, payload ->> 'category'), ', ')
         FROM realtime.messages",
    )?;
    story.step(
        "On their own topic the citizen receives the burst pipe, and nothing else",
        &format!("ticket_owner:{CITIZEN} INSERT water"),
        &received,
        None,
    );
    Ok(())
}

fn relay(story: &mut Story, owner: &mut postgres::Client) -> Result<(), postgres::Error> {
    story.chapter("The relay issued NOTIFY, so that no ticket waited for it");
    let query = "SELECT running, queued, delivered, batches, fell_back::text, queue_bytes_highest,
                        queue_bytes FROM civic.relay_stats()";
    let row = owner.query_one(query, &[])?;
    story.statement("SELECT * FROM civic.relay_stats()");
    for (index, column) in row.columns().iter().enumerate().skip(1) {
        let value = match column.type_() {
            &postgres::types::Type::TEXT => row.get(index),
            _ => row.get::<_, i64>(index).to_string(),
        };
        story.row(&[column.name().to_owned(), value, String::new()]);
    }
    let delivered =
        format!("running {}, delivered {}", row.get::<_, bool>(0), row.get::<_, i64>(2));
    story.step("It has delivered all five events", "running true, delivered 5", &delivered, None);
    Ok(())
}

/// The values of some keys of an event.
fn fields(event: &str, keys: &[&str]) -> String {
    let Ok(event) = serde_json::from_str::<Value>(event) else { return event.to_owned() };
    let text = |key: &&str| match &event[*key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    keys.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn files(story: &mut Story, server: &Server) -> Result<(), postgres::Error> {
    story.chapter("A municipality's files stay its own");
    let mut citizen = server.person(TSHWANE, "citizen")?;
    let path = citizen.value(&format!(
        "SELECT civic.generate_upload_url('evidence', '{TSHWANE}', 'f1', '../../é/burst pipe.jpg', 'image/jpeg') ->> 'path'"
    ))?;
    story.step(
        "A citizen of Tshwane requests a path for the file \"../../é/burst pipe.jpg\"",
        &format!("{TSHWANE}/f1/burst pipe.jpg"),
        &path,
        None,
    );
    story.step("The citizen uploads it there", "1 row", &citizen.upload("evidence", &path), None);
    story.step("The citizen sees it", "1 row", &citizen.count("evidence"), None);
    story.step(
        "The citizen uploads into eThekwini's folder",
        &refused("42501"),
        &citizen.upload("evidence", &format!("{ETHEKWINI}/f2/photo.jpg")),
        None,
    );
    story.step(
        "The citizen uploads to a path with \"..\"",
        &refused("42501"),
        &citizen.upload("evidence", &format!("{TSHWANE}/../{ETHEKWINI}/photo.jpg")),
        None,
    );
    let mut neighbour = server.person(ETHEKWINI, "admin")?;
    story.step(
        "An admin of eThekwini looks for Tshwane's files",
        "0 rows",
        &neighbour.count("evidence"),
        None,
    );
    let mut anonymous = server.anonymous()?;
    story.step("An anonymous caller looks for files", "0 rows", &anonymous.count("evidence"), None);
    Ok(())
}

fn gbv_evidence(story: &mut Story, server: &Server) -> Result<(), postgres::Error> {
    story.chapter("Evidence of gender-based violence is read by liaisons and admins only (SEC-05)");
    let name = format!("{TSHWANE}/5d3c9a52-6f0e-4a8e-9a37-0e4c1f2b7d11/statement.pdf");
    let mut manager = server.person(TSHWANE, "manager")?;
    story.step("A manager uploads evidence", "1 row", &manager.upload("gbv-evidence", &name), None);
    story.step("The manager cannot read it", "0 rows", &manager.count("gbv-evidence"), None);
    for (who, tenant_id, role, expected) in [
        ("A police liaison", TSHWANE, "SAPS_LIAISON", "1 row"),
        ("An admin", TSHWANE, "admin", "1 row"),
        ("A citizen", TSHWANE, "citizen", "0 rows"),
        ("An admin of eThekwini", ETHEKWINI, "admin", "0 rows"),
    ] {
        let seen = server.person(tenant_id, role)?.count("gbv-evidence");
        story.step(&format!("{who} looks for it"), expected, &seen, None);
    }
    story.step(
        "A citizen uploads evidence",
        &refused("42501"),
        &server.person(TSHWANE, "citizen")?.upload("gbv-evidence", &format!("{TSHWANE}/f3/x.pdf")),
        None,
    );
    Ok(())
}

fn careless_policy(
    story: &mut Story,
    server: &Server,
    owner: &mut postgres::Client,
) -> Result<(), postgres::Error> {
    story.chapter("A careless policy opens no guarded bucket");
    owner.batch_execute(
        "INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars');
         INSERT INTO storage.objects (bucket_id, name) VALUES ('avatars', 'portrait.png')",
    )?;
    let policy =
        "CREATE POLICY \"just make it work\" ON storage.objects FOR ALL TO PUBLIC USING (true)";
    story.statement(policy);
    owner.batch_execute(policy)?;
    let mut citizen = server.person(TSHWANE, "citizen")?;
    story.step(
        "It does open another bucket, as intended",
        "1 row",
        &citizen.count("avatars"),
        None,
    );
    let mut manager = server.person(TSHWANE, "manager")?;
    story.step(
        "The manager still cannot read GBV evidence",
        "0 rows",
        &manager.count("gbv-evidence"),
        None,
    );
    let mut neighbour = server.person(ETHEKWINI, "admin")?;
    story.step(
        "eThekwini's admin still sees no file of Tshwane's",
        "0 rows",
        &neighbour.count("evidence"),
        None,
    );
    let mut liaison = server.person(TSHWANE, "saps_liaison")?;
    let moved = liaison
        .run("UPDATE storage.objects SET bucket_id = 'avatars' WHERE bucket_id = 'gbv-evidence'");
    story.step("Even a liaison cannot move evidence out of its bucket", "0 rows", &moved, None);
    Ok(())
}

fn removal(story: &mut Story, owner: &mut postgres::Client) -> Result<(), postgres::Error> {
    story.chapter("It is not removed by accident");
    let statement = "DROP EXTENSION pg_civic";
    let happened = Person::outcome(owner.execute(statement, &[]));
    story.step(statement, &refused("2BP01"), &happened, None);
    Ok(())
}
