//! Where events are heard: one shared channel a municipality, and one for sensitive tickets.

use crate::error::Error;

/// Longest channel that NOTIFY takes, in bytes (NAMEDATALEN - 1).
pub const CHANNEL_LIMIT: usize = 63;

const PREFIX: &str = "ticket_updates:";
const SENSITIVE_SUFFIX: &str = ":sensitive";

/// Who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every dashboard of the municipality.
    Shared,
    /// Those who may read GBV evidence.
    Sensitive,
}

/// `ticket_updates:{municipality_id}`, for sensitive events with `:sensitive` behind it.
///
/// Errors: an empty municipality; a channel that NOTIFY would refuse, or that LISTEN would cut and
/// so confuse with another municipality's.
pub fn channel(municipality_id: &str, audience: Audience) -> Result<String, Error> {
    if municipality_id.is_empty() {
        return Err(Error::Empty { what: "municipality_id" });
    }
    let suffix = match audience {
        Audience::Shared => "",
        Audience::Sensitive => SENSITIVE_SUFFIX,
    };
    let channel = format!("{PREFIX}{municipality_id}{suffix}");
    if channel.len() > CHANNEL_LIMIT {
        return Err(Error::ChannelTooLong { channel, limit: CHANNEL_LIMIT });
    }
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_fits_both_channels() {
        let id = "00000000-0000-0000-0000-000000000001";
        let sensitive = channel(id, Audience::Sensitive).unwrap();
        assert_eq!(sensitive, format!("ticket_updates:{id}:sensitive"));
        assert_eq!(channel(id, Audience::Shared).unwrap(), format!("ticket_updates:{id}"));
    }

    #[test]
    fn sixty_three_bytes_are_the_limit() {
        assert!(channel(&"x".repeat(48), Audience::Shared).is_ok());
        assert!(channel(&"x".repeat(49), Audience::Shared).is_err());
        assert!(channel(&"é".repeat(25), Audience::Shared).is_err());
        assert!(channel("", Audience::Shared).is_err());
    }
}
