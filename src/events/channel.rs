//! Where events are heard: one shared channel a municipality, and one for sensitive tickets.

use std::ffi::CStr;

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

/// A channel's name, with the NUL that the server wants behind it. It lives on the stack: each
/// ticket's write makes one.
#[derive(Debug)]
pub struct Channel {
    bytes: [u8; CHANNEL_LIMIT + 1],
    length: usize,
}

impl Channel {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("it is made of strings")
    }

    /// `None` for a name that itself holds a NUL, which no text of PostgreSQL does.
    pub fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).ok()
    }
}

/// `ticket_updates:{municipality_id}`, for sensitive events with `:sensitive` behind it.
///
/// Errors: an empty municipality; a channel that NOTIFY would refuse, or that LISTEN would cut and
/// so confuse with another municipality's.
pub fn channel(municipality_id: &str, audience: Audience) -> Result<Channel, Error> {
    if municipality_id.is_empty() {
        return Err(Error::Empty { what: "municipality_id" });
    }
    let suffix = match audience {
        Audience::Shared => "",
        Audience::Sensitive => SENSITIVE_SUFFIX,
    };
    let parts = [PREFIX, municipality_id, suffix];
    if parts.iter().map(|part| part.len()).sum::<usize>() > CHANNEL_LIMIT {
        return Err(Error::ChannelTooLong { channel: parts.concat(), limit: CHANNEL_LIMIT });
    }
    let mut channel = Channel { bytes: [0; CHANNEL_LIMIT + 1], length: 0 };
    for part in parts {
        let end = channel.length + part.len();
        channel.bytes[channel.length..end].copy_from_slice(part.as_bytes());
        channel.length = end;
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
        assert_eq!(sensitive.as_str(), format!("ticket_updates:{id}:sensitive"));
        let shared = channel(id, Audience::Shared).unwrap();
        assert_eq!(shared.as_str(), format!("ticket_updates:{id}"));
    }

    #[test]
    fn a_channel_of_any_length_ends_in_nul() {
        for length in 1..=48 {
            let id = "x".repeat(length);
            let channel = channel(&id, Audience::Shared).unwrap();
            assert_eq!(channel.as_c_str().unwrap().to_str().unwrap(), channel.as_str());
        }
        assert!(channel("a\0b", Audience::Shared).unwrap().as_c_str().is_none());
    }

    #[test]
    fn sixty_three_bytes_are_the_limit() {
        assert!(channel(&"x".repeat(48), Audience::Shared).is_ok());
        assert!(channel(&"x".repeat(49), Audience::Shared).is_err());
        assert!(channel(&"é".repeat(25), Audience::Shared).is_err());
        assert!(channel("", Audience::Shared).is_err());
    }
}
