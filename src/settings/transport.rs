//! `civic.event_transport`: how events travel.

/// How events travel (`civic.event_transport`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventTransport {
    /// By NOTIFY, and to Supabase Realtime if it is installed.
    #[default]
    Auto,
    /// Only by these.
    Listed { notify: bool, realtime: bool },
}

impl EventTransport {
    /// `None` for anything but `auto`, `none` or a list of transports.
    pub fn parse(value: &str) -> Option<EventTransport> {
        let value = value.trim().to_ascii_lowercase();
        if value == "auto" {
            return Some(EventTransport::Auto);
        }
        let (mut notify, mut realtime) = (false, false);
        if value != "none" {
            for transport in value.split(',') {
                match transport.trim() {
                    "notify" => notify = true,
                    "realtime" => realtime = true,
                    _ => return None,
                }
            }
        }
        Some(EventTransport::Listed { notify, realtime })
    }

    pub fn has_notify(self) -> bool {
        matches!(self, EventTransport::Auto | EventTransport::Listed { notify: true, .. })
    }

    /// Whether events go to Supabase Realtime, if it is installed.
    pub fn has_realtime(self) -> bool {
        matches!(self, EventTransport::Auto | EventTransport::Listed { realtime: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_a_list_in_any_order_and_case() {
        let listed = |notify, realtime| Some(EventTransport::Listed { notify, realtime });
        for (value, parsed) in [
            ("auto", Some(EventTransport::Auto)),
            (" AUTO ", Some(EventTransport::Auto)),
            ("none", listed(false, false)),
            ("notify", listed(true, false)),
            ("realtime", listed(false, true)),
            ("Realtime ,notify", listed(true, true)),
            ("notify,notify", listed(true, false)),
            ("", None),
            ("notify,", None),
            ("auto, notify", None),
            ("notify none", None),
            ("websocket", None),
        ] {
            assert_eq!(EventTransport::parse(value), parsed, "{value:?}");
        }
    }
}
