//! Who may join a channel, checked as Realtime's server does, and who may send there.

use super::insert;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

fn shared(tenant_id: &str) -> String {
    format!("ticket_updates:{tenant_id}")
}

fn sensitive(tenant_id: &str) -> String {
    format!("ticket_updates:{tenant_id}:sensitive")
}

/// Whether a user of the municipality may join, as `authenticated`.
fn joins(session: &mut Session, role: &str, topic: &str) -> bool {
    let (broadcast, presence) = session.may_join("authenticated", &claims(TENANT, role), topic);
    assert_eq!(broadcast, presence, "{role} {topic}");
    broadcast
}

const CARELESS: &str = "
    CREATE POLICY careless ON realtime.messages FOR SELECT USING (true);
    CREATE POLICY chatty ON realtime.messages FOR INSERT WITH CHECK (true);
    CREATE POLICY sloppy ON realtime.messages FOR UPDATE USING (true) WITH CHECK (true)";

#[test]
fn the_shared_channel_is_for_the_listener_roles_of_the_municipality() {
    let mut session = Database::realtime().superuser();
    for (role, expected) in [
        ("manager", true),
        ("MANAGER", true),
        ("admin", true),
        ("ward_councillor", true),
        ("saps_liaison", true),
        ("field_worker", false),
        ("citizen", false),
        ("", false),
        ("manager,admin", false),
    ] {
        assert_eq!(joins(&mut session, role, &shared(TENANT)), expected, "{role:?}");
        assert!(!joins(&mut session, role, &shared(OTHER_TENANT)), "{role:?}");
    }
}

#[test]
fn the_sensitive_channel_is_for_liaisons_and_admins_only() {
    let mut session = Database::realtime().superuser();
    for (role, expected) in [
        ("saps_liaison", true),
        ("SAPS_LIAISON", true),
        ("admin", true),
        ("manager", false),
        ("ward_councillor", false),
        ("field_worker", false),
        ("citizen", false),
    ] {
        assert_eq!(joins(&mut session, role, &sensitive(TENANT)), expected, "{role:?}");
        assert!(!joins(&mut session, role, &sensitive(OTHER_TENANT)), "{role:?}");
    }
}

#[test]
fn anon_and_callers_without_claims_join_nothing() {
    let mut session = Database::realtime().superuser();
    for topic in [shared(TENANT), sensitive(TENANT), shared(""), sensitive("")] {
        assert_eq!(session.may_join("anon", &claims(TENANT, "admin"), &topic), (false, false));
        for claims in ["", "{}", "null", r#"{"role": "authenticated"}"#] {
            assert_eq!(session.may_join("authenticated", claims, &topic), (false, false));
        }
    }
}

#[test]
fn a_forged_profile_joins_nothing() {
    let mut session = Database::realtime().superuser();
    let claims = serde_json::json!({
        "app_metadata": {"tenant_id": TENANT, "role": "citizen"},
        "user_metadata": {"tenant_id": TENANT, "role": "admin"},
        "tenant_id": TENANT,
    });
    for topic in [shared(TENANT), sensitive(TENANT)] {
        assert_eq!(session.may_join("authenticated", &claims.to_string(), &topic), (false, false));
    }
}

#[test]
fn claims_that_are_not_an_object_are_an_error_and_never_a_yes() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(TENANT, 1, false));
    session.acts_as("authenticated", "[1]");
    let ask = format!("SELECT civic.can_join_channel('{}')", shared(TENANT));
    assert_eq!(session.sqlstate(&ask), "28000");
    assert_eq!(session.sqlstate("SELECT * FROM realtime.messages"), "28000");
}

#[test]
fn a_topic_that_only_resembles_a_channel_is_not_joined() {
    let mut session = Database::realtime().superuser();
    let id = TENANT;
    for topic in [
        String::new(),
        "ticket_updates".to_owned(),
        "ticket_updates:".to_owned(),
        "ticket_updates:%".to_owned(),
        format!("ticket_updates:{id}:"),
        format!("ticket_updates:{id} "),
        format!("ticket_updates:{id}:SENSITIVE"),
        format!("ticket_updates:{id}:sensitive:sensitive"),
        format!("ticket_updates:{}", id.to_uppercase().replace('0', "O")),
        format!("realtime:ticket_updates:{id}"),
        format!("TICKET_UPDATES:{id}"),
    ] {
        assert!(!joins(&mut session, "admin", &topic), "{topic:?}");
    }
}

#[test]
fn joining_twice_in_one_session_uses_the_current_claims_each_time() {
    let mut session = Database::realtime().superuser();
    for _ in 0..3 {
        for (tenant_id, role, expected) in [
            (TENANT, "admin", true),
            (TENANT, "citizen", false),
            (OTHER_TENANT, "admin", false),
            (TENANT, "saps_liaison", true),
        ] {
            let topic = sensitive(TENANT);
            let joins = session.may_join("authenticated", &claims(tenant_id, role), &topic);
            assert_eq!(joins, (expected, expected), "{tenant_id} {role}");
        }
    }
}

#[test]
fn a_prepared_query_uses_the_current_claims() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(TENANT, 1, false));
    session.run("SET ROLE authenticated; PREPARE seen AS SELECT count(*) FROM realtime.messages");
    for (role, seen) in [("manager", "1"), ("citizen", "0"), ("manager", "1"), ("citizen", "0")] {
        for _ in 0..6 {
            session.acts_as("authenticated", &claims(TENANT, role));
            assert_eq!(session.text("EXECUTE seen"), seen, "{role}");
        }
    }
}

#[test]
fn changed_lists_of_roles_apply_at_once() {
    let mut session = Database::realtime().superuser();
    assert!(!joins(&mut session, "field_worker", &shared(TENANT)));
    session.run("SET civic.event_listeners = 'Field_Worker'");
    assert!(joins(&mut session, "field_worker", &shared(TENANT)));
    assert!(!joins(&mut session, "admin", &shared(TENANT)));
    assert!(joins(&mut session, "admin", &sensitive(TENANT)));
    session.run("SET civic.sensitive_readers = ''; SET civic.event_listeners = ''");
    for role in ["admin", "saps_liaison", "", "field_worker"] {
        assert!(!joins(&mut session, role, &shared(TENANT)), "{role}");
        assert!(!joins(&mut session, role, &sensitive(TENANT)), "{role}");
    }
}

#[test]
fn a_careless_policy_does_not_open_our_channels() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(&(insert(TENANT, 1, true) + CARELESS));
    for role in ["citizen", "manager"] {
        assert!(!joins(&mut session, role, &sensitive(TENANT)), "{role}");
    }
    assert!(!joins(&mut session, "citizen", &shared(TENANT)));
    assert!(!joins(&mut session, "admin", &shared(OTHER_TENANT)));
    assert_eq!(session.may_join("anon", "", &shared(TENANT)), (false, false));
    // Nor by SQL, whatever topic the session sets.
    for (role, seen) in [("citizen", "0"), ("manager", "1"), ("saps_liaison", "2")] {
        let mut person = database.person(TENANT, role);
        for topic in ["chat", &sensitive(TENANT)] {
            person.run(&format!("SET realtime.topic = '{topic}'"));
            assert_eq!(person.text("SELECT count(*) FROM realtime.messages"), seen, "{role}");
        }
    }
}

#[test]
fn other_topics_are_left_to_other_policies() {
    let mut session = Database::realtime().superuser();
    for topic in ["chat", "room:1", "ticket-updates:x", "ticketXupdates:x", "ticket_update"] {
        assert!(!joins(&mut session, "admin", topic), "{topic}");
    }
    session.run(
        "CREATE POLICY rooms ON realtime.messages FOR SELECT TO authenticated
         USING ((SELECT realtime.topic()) NOT LIKE 'private:%')",
    );
    for topic in ["chat", "room:1", "ticket-updates:x", "ticketXupdates:x", "ticket_update"] {
        assert!(joins(&mut session, "citizen", topic), "{topic}");
    }
    assert!(!joins(&mut session, "citizen", "private:1"));
}

#[test]
fn no_user_can_broadcast_on_our_channels_even_with_a_permissive_policy() {
    let database = Database::realtime();
    database.superuser().run(&(insert(TENANT, 1, false) + CARELESS));
    let say = |topic: &str, extension: &str| {
        format!(
            "INSERT INTO realtime.messages (topic, extension, event, payload, private)
             VALUES ('{topic}', '{extension}', 'INSERT', '{{}}', true)"
        )
    };
    for role in ["admin", "citizen"] {
        let mut person = database.person(TENANT, role);
        for topic in [shared(TENANT), sensitive(TENANT), shared(OTHER_TENANT), shared("")] {
            assert_eq!(person.sqlstate(&say(&topic, "broadcast")), "42501", "{role} {topic}");
        }
        person.run(&say("chat", "broadcast"));
        let send = format!("SELECT realtime.send('{{}}', 'INSERT', '{}', true)", shared(TENANT));
        person.run(&send);
        assert_eq!(person.warnings().len(), 1, "Realtime's own function is refused too");
        let change = format!("UPDATE realtime.messages SET topic = '{}'", shared(TENANT));
        assert_eq!(person.sqlstate(&change), "42501");
    }
    assert_eq!(database.superuser().messages().len(), 3, "the ticket's, and two in the chat");
}

#[test]
fn presence_is_for_members_if_a_policy_of_the_application_permits_it() {
    let database = Database::realtime();
    let track = |topic: &str| {
        format!("INSERT INTO realtime.messages (topic, extension) VALUES ('{topic}', 'presence')")
    };
    let mut manager = database.person(TENANT, "manager");
    assert_eq!(manager.sqlstate(&track(&shared(TENANT))), "42501", "no policy of ours permits it");
    database.superuser().run(
        "CREATE POLICY tracks ON realtime.messages FOR INSERT TO authenticated
         WITH CHECK (extension = 'presence')",
    );
    manager.run(&track(&shared(TENANT)));
    assert_eq!(manager.sqlstate(&track(&sensitive(TENANT))), "42501");
    assert_eq!(manager.sqlstate(&track(&shared(OTHER_TENANT))), "42501");
    let mut citizen = database.person(TENANT, "citizen");
    assert_eq!(citizen.sqlstate(&track(&shared(TENANT))), "42501");
}

#[test]
fn without_the_extension_the_firewall_still_decides_who_reads_our_channels() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(&(insert(TENANT, 1, true) + CARELESS));
    session.run("DROP EXTENSION pg_civic CASCADE");
    let mut admin = database.person(TENANT, "admin");
    assert_eq!(admin.text("SELECT count(*) FROM realtime.messages"), "2");
    let mut manager = database.person(TENANT, "manager");
    assert_eq!(manager.text("SELECT count(*) FROM realtime.messages"), "1");
    let mut stranger = database.person(OTHER_TENANT, "admin");
    assert_eq!(stranger.text("SELECT count(*) FROM realtime.messages"), "0");
    assert!(joins(&mut session, "citizen", "chat"));
    // After reinstallation and setup, members can join again.
    session.run("CREATE EXTENSION pg_civic; SELECT civic.setup('public.tickets')");
    let mut admin = database.person(TENANT, "admin");
    assert_eq!(admin.text("SELECT count(*) FROM realtime.messages"), "2");
}

#[test]
fn the_answer_for_null_is_null_and_for_another_topic_false() {
    let mut session = Database::realtime().person(TENANT, "admin");
    assert_eq!(session.value("SELECT civic.can_join_channel(NULL)"), None);
    assert_eq!(session.text("SELECT civic.can_join_channel('chat')"), "f");
    assert_eq!(session.text(&format!("SELECT civic.can_join_channel('{}')", shared(TENANT))), "t");
}
