//! Channels: one shared channel per municipality, and one for sensitive tickets.

use crate::claims::Identity;
use crate::error::Error;
use crate::events::EventError;
use crate::pg;
use crate::settings::Access;

/// Longest channel that NOTIFY accepts, in bytes (NAMEDATALEN - 1).
pub const CHANNEL_LIMIT: usize = 63;

pub const PREFIX: &str = "ticket_updates:";
pub const SENSITIVE_SUFFIX: &str = ":sensitive";
/// The topics of users, which exist in Supabase Realtime only.
const OWNER_PREFIX: &str = "ticket_owner:";

/// Who receives a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every dashboard of the municipality.
    Shared,
    /// Roles that may read GBV evidence.
    Sensitive,
}

/// A channel's name. It is on the stack, because each ticket write makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    bytes: [u8; CHANNEL_LIMIT],
    length: usize,
}

impl Channel {
    /// The parts together; `None` if they are longer than [`CHANNEL_LIMIT`].
    fn of(parts: &[&str]) -> Option<Channel> {
        let mut channel = Channel { bytes: [0; CHANNEL_LIMIT], length: 0 };
        for part in parts {
            let end = channel.length + part.len();
            channel.bytes.get_mut(channel.length..end)?.copy_from_slice(part.as_bytes());
            channel.length = end;
        }
        Some(channel)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("it is made of strings")
    }
}

/// `ticket_updates:{municipality_id}`, with `:sensitive` appended for sensitive events.
///
/// Errors: the municipality is empty; NOTIFY would refuse the channel, or LISTEN would truncate it
/// and so confuse it with another municipality's; the municipality's shared channel would equal the
/// sensitive channel of another.
pub fn channel(municipality_id: &str, audience: Audience) -> Result<Channel, Error> {
    prefixed(PREFIX, municipality_id, audience)
}

/// The same with another prefix.
pub fn prefixed(prefix: &str, municipality_id: &str, audience: Audience) -> Result<Channel, Error> {
    if municipality_id.is_empty() {
        return Err(pg::Error::Empty { what: "municipality_id" }.into());
    }
    if municipality_id.ends_with(SENSITIVE_SUFFIX) {
        return Err(EventError::AmbiguousMunicipality {
            municipality_id: municipality_id.to_owned(),
        }
        .into());
    }
    let suffix = match audience {
        Audience::Shared => "",
        Audience::Sensitive => SENSITIVE_SUFFIX,
    };
    let parts = [prefix, municipality_id, suffix];
    Channel::of(&parts).ok_or_else(|| {
        EventError::ChannelTooLong { channel: parts.concat(), limit: CHANNEL_LIMIT }.into()
    })
}

/// `ticket_owner:{user_id}`: the topic on which a user receives the events of their own tickets. `None` if
/// the id is empty, contains a NUL, or makes the topic longer than [`CHANNEL_LIMIT`].
pub fn owner_topic(user_id: &str) -> Option<Channel> {
    let is_usable = !user_id.is_empty() && !user_id.contains('\0');
    is_usable.then(|| Channel::of(&[OWNER_PREFIX, user_id])).flatten()
}

/// Whether the caller may join a channel: one of the two of their municipality, depending on their
/// role, or their own topic, by their `sub` alone. A member receives everything sent on the channel.
pub fn can_join(identity: &Identity, access: &Access, topic: &[u8]) -> bool {
    let own = identity.user_id().and_then(owner_topic);
    if own.is_some_and(|own| own.as_str().as_bytes() == topic) {
        return true;
    }
    let Some(municipality_id) = identity.tenant_id() else { return false };
    let is = |audience| {
        channel(municipality_id, audience).is_ok_and(|own| own.as_str().as_bytes() == topic)
    };
    (is(Audience::Shared) && identity.has_any_role(&access.event_listeners))
        || (is(Audience::Sensitive) && identity.has_any_role(&access.sensitive_readers))
}

/// Whether the firewall guards a topic of Supabase Realtime.
fn is_guarded(topic: &[u8]) -> bool {
    [PREFIX, OWNER_PREFIX].iter().any(|prefix| topic.starts_with(prefix.as_bytes()))
}

/// Whether the firewall lets the caller see a message: always for other topics; for our channels
/// only if they may join. A topic that is not valid text is not a channel.
pub fn passes_read(identity: &Identity, access: &Access, topic: &[u8]) -> bool {
    !is_guarded(topic) || can_join(identity, access, topic)
}

/// Whether the firewall lets the caller add a message: always for other topics; on our channels
/// only presence, and only if they may join. Only the database broadcasts there.
pub fn passes_send(identity: &Identity, access: &Access, topic: &[u8], extension: &[u8]) -> bool {
    !is_guarded(topic) || extension == b"presence" && passes_read(identity, access, topic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn access() -> Access {
        let list = |items: &[&str]| items.iter().map(|item| item.to_string()).collect();
        Access {
            claims_setting: Default::default(),
            tenant_claim: list(&["tenant"]),
            role_claim: list(&["role"]),
            sensitive_uploaders: vec![],
            sensitive_readers: list(&["saps_liaison", "admin"]),
            event_listeners: list(&["manager", "admin"]),
            ..Access::default()
        }
    }

    fn joins(tenant_id: &str, role: &str, topic: &str) -> bool {
        let access = access();
        let claims = serde_json::json!({"tenant": tenant_id, "role": role}).to_string();
        let identity =
            Identity::parse(claims.as_bytes(), &access.tenant_claim, &access.role_claim, |_| None);
        can_join(&identity.unwrap(), &access, topic.as_bytes())
    }

    #[test]
    fn each_channel_has_its_own_list_of_roles() {
        for (role, shared, sensitive) in [
            ("manager", true, false),
            ("MANAGER", true, false),
            ("admin", true, true),
            ("saps_liaison", false, true),
            ("citizen", false, false),
            ("", false, false),
        ] {
            assert_eq!(joins("t", role, "ticket_updates:t"), shared, "{role:?}");
            assert_eq!(joins("t", role, "ticket_updates:t:sensitive"), sensitive, "{role:?}");
        }
    }

    fn of_user(claims: &str) -> Identity {
        let access = access();
        Identity::parse(claims.as_bytes(), &access.tenant_claim, &access.role_claim, |number| {
            Some(number.to_owned())
        })
        .unwrap()
    }

    #[test]
    fn a_users_own_topic_is_joined_by_their_sub_alone() {
        for (claims, topic, expected) in [
            (r#"{"sub": "u"}"#, "ticket_owner:u", true),
            (r#"{"sub": "u", "tenant": "t", "role": "citizen"}"#, "ticket_owner:u", true),
            (r#"{"sub": "u", "tenant": "t", "role": "admin"}"#, "ticket_owner:v", false),
            (r#"{"sub": "u"}"#, "ticket_owner:U", false),
            (r#"{"sub": "u"}"#, "ticket_owner:u ", false),
            (r#"{"sub": "u"}"#, "ticket_owner:", false),
            (r#"{"sub": "u"}"#, "ticket_owner:u:sensitive", false),
            (r#"{"sub": ""}"#, "ticket_owner:", false),
            (r#"{"sub": null}"#, "ticket_owner:null", false),
            (r#"{"sub": ["u"]}"#, "ticket_owner:u", false),
            (r#"{"sub": "\u0000"}"#, "ticket_owner:", false),
            (r#"{"tenant": "u", "role": "admin"}"#, "ticket_owner:u", false),
            ("", "ticket_owner:", false),
        ] {
            let identity = of_user(claims);
            assert_eq!(
                can_join(&identity, &access(), topic.as_bytes()),
                expected,
                "{claims} {topic}"
            );
            assert_eq!(
                passes_read(&identity, &access(), topic.as_bytes()),
                expected,
                "{claims} {topic}"
            );
            assert!(!passes_send(&identity, &access(), topic.as_bytes(), b"broadcast"), "{topic}");
        }
    }

    #[test]
    fn a_users_topic_is_as_long_as_a_channel_at_most() {
        assert!(owner_topic(&"u".repeat(50)).is_some() && owner_topic(&"u".repeat(51)).is_none());
        let claims = format!(r#"{{"sub": "{}"}}"#, "u".repeat(51));
        let topic = format!("ticket_owner:{}", "u".repeat(51));
        assert!(!can_join(&of_user(&claims), &access(), topic.as_bytes()));
        assert!(!can_join(&of_user(&claims), &access(), &topic.as_bytes()[..63]));
    }

    #[test]
    fn the_firewall_allows_other_topics_and_no_broadcast_in_ours() {
        let manager = Identity::parse(
            br#"{"tenant": "t", "role": "manager"}"#,
            &access().tenant_claim,
            &access().role_claim,
            |_| None,
        )
        .unwrap();
        let reads = |topic: &[u8]| passes_read(&manager, &access(), topic);
        let sends =
            |topic: &[u8], extension: &[u8]| passes_send(&manager, &access(), topic, extension);
        assert!(reads(b"chat") && reads(b"\xe2") && reads(b"ticket_updates:t"));
        assert!(!reads(b"ticket_updates:u") && !reads(b"ticket_updates:\xe2"));
        assert!(!reads(b"ticket_updates:t:sensitive"));
        assert!(sends(b"chat", b"broadcast") && sends(b"ticket_updates:t", b"presence"));
        assert!(!sends(b"ticket_updates:t", b"broadcast"));
        assert!(!sends(b"ticket_updates:u", b"presence"));
    }

    #[test]
    fn a_channel_that_only_resembles_the_callers_is_not_joined() {
        for topic in [
            "",
            "ticket_updates:",
            "ticket_updates:u",
            "ticket_updates:t ",
            " ticket_updates:t",
            "ticket_updates:T",
            "Ticket_updates:t",
            "ticket_updates:t:",
            "ticket_updates:t:Sensitive",
            "ticket_updates:t:sensitive:sensitive",
            "ticket_updates:t\0",
            "realtime:ticket_updates:t",
            "ticket_updates::sensitive",
        ] {
            assert!(!joins("t", "admin", topic), "{topic:?}");
        }
        assert!(!joins("", "admin", "ticket_updates:"));
        assert!(!joins("", "admin", "ticket_updates::sensitive"));
    }

    /// Otherwise the manager of "t:sensitive" would receive events for the liaisons of "t" only.
    #[test]
    fn a_municipality_whose_id_ends_like_a_sensitive_channel_has_no_channel() {
        assert!(channel("t:sensitive", Audience::Shared).is_err());
        assert!(!joins("t:sensitive", "manager", "ticket_updates:t:sensitive"));
        assert!(!joins("t:sensitive", "admin", "ticket_updates:t:sensitive:sensitive"));
    }

    proptest! {
        #[test]
        fn channels_are_equal_only_for_the_same_municipality_and_audience(
            one in "[ab:]{0,2}(:sensitive)?[ab]?", other in "[ab:]{0,2}(:sensitive)?[ab]?"
        ) {
            for a in [Audience::Shared, Audience::Sensitive] {
                for b in [Audience::Shared, Audience::Sensitive] {
                    if let (Ok(x), Ok(y)) = (channel(&one, a), channel(&other, b)) {
                        prop_assert_eq!(x.as_str() == y.as_str(), one == other && a == b);
                    }
                }
            }
        }

        #[test]
        fn only_members_of_the_municipality_join(tenant in "[a-b:]{0,3}", topic in "ticket_updates:[a-b:]{0,3}(:sensitive)?") {
            if joins(&tenant, "admin", &topic) {
                let shared = format!("ticket_updates:{tenant}");
                prop_assert!(topic == shared || topic == shared + ":sensitive");
            }
        }
    }

    #[test]
    fn a_uuid_fits_both_channels() {
        let id = "00000000-0000-0000-0000-000000000001";
        let sensitive = channel(id, Audience::Sensitive).unwrap();
        assert_eq!(sensitive.as_str(), format!("ticket_updates:{id}:sensitive"));
        let shared = channel(id, Audience::Shared).unwrap();
        assert_eq!(shared.as_str(), format!("ticket_updates:{id}"));
    }

    #[test]
    fn the_limit_is_sixty_three_bytes() {
        assert!(channel(&"x".repeat(48), Audience::Shared).is_ok());
        assert!(channel(&"x".repeat(49), Audience::Shared).is_err());
        assert!(channel(&"é".repeat(25), Audience::Shared).is_err());
        assert!(channel("", Audience::Shared).is_err());
    }
}
