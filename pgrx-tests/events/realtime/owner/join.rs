//! Who may join the topic of a user.

use super::{CITIZEN, NEIGHBOUR, insert, topic};
use crate::pg_tests::support::{Database, OTHER_TENANT, TENANT, claims, literal};

#[test]
fn each_user_joins_their_own_topic_and_no_other() {
    let mut session = Database::realtime().superuser();
    for role in ["citizen", "manager", "admin", "saps_liaison", ""] {
        let own = claims(TENANT, role);
        for (topic, expected) in [
            (topic(CITIZEN), true),
            (topic(NEIGHBOUR), false),
            (topic(""), false),
            (topic(&CITIZEN.to_uppercase()), false),
            (topic(CITIZEN) + ":sensitive", false),
            (topic(CITIZEN) + " ", false),
            (topic("%"), false),
            (topic(TENANT), false),
        ] {
            let joins = session.may_join("authenticated", &own, &topic);
            assert_eq!(joins, (expected, expected), "{role} {topic}");
        }
    }
}

#[test]
fn without_a_sub_nobody_joins_a_users_topic() {
    let mut session = Database::realtime().superuser();
    for claims in [
        "",
        "{}",
        "null",
        r#"{"sub": ""}"#,
        r#"{"sub": null}"#,
        r#"{"sub": {}}"#,
        r#"{"user_metadata": {"sub": "8f14e45f-0000-4000-8000-000000000000"}}"#,
        r#"{"app_metadata": {"sub": "8f14e45f-0000-4000-8000-000000000000", "role": "admin"}}"#,
    ] {
        for topic in [topic(CITIZEN), topic(""), topic("null")] {
            assert_eq!(
                session.may_join("authenticated", claims, &topic),
                (false, false),
                "{claims}"
            );
        }
    }
    let own = claims(TENANT, "citizen");
    assert_eq!(session.may_join("anon", &own, &topic(CITIZEN)), (false, false), "not logged in");
}

#[test]
fn a_careless_policy_opens_no_users_topic_and_lets_nobody_send_there() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(&(insert(CITIZEN, false) + &insert(NEIGHBOUR, false)));
    session.run(
        "CREATE POLICY careless ON realtime.messages FOR SELECT USING (true);
         CREATE POLICY chatty ON realtime.messages FOR INSERT WITH CHECK (true)",
    );
    let own = claims(TENANT, "citizen");
    assert_eq!(session.may_join("authenticated", &own, &topic(NEIGHBOUR)), (false, false));
    assert_eq!(session.may_join("anon", "", &topic(NEIGHBOUR)), (false, false));
    let mut citizen = database.person(TENANT, "citizen");
    assert_eq!(citizen.column("SELECT topic FROM realtime.messages"), [topic(CITIZEN)]);
    for user in [CITIZEN, NEIGHBOUR] {
        let forged = format!(
            "INSERT INTO realtime.messages (topic, extension, event, payload, private)
             VALUES ({}, 'broadcast', 'UPDATE', '{{}}', true)",
            literal(&topic(user))
        );
        assert_eq!(citizen.sqlstate(&forged), "42501", "{user}");
    }
}

#[test]
fn without_the_extension_the_firewall_still_guards_the_topics_of_users() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(&(insert(CITIZEN, false) + &insert(NEIGHBOUR, false)));
    session.run("CREATE POLICY careless ON realtime.messages FOR SELECT USING (true)");
    session.run("DROP EXTENSION pg_civic CASCADE");
    let mut citizen = database.person(OTHER_TENANT, "citizen");
    assert_eq!(citizen.column("SELECT topic FROM realtime.messages"), [topic(CITIZEN)]);
}
