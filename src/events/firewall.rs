//! The functions behind the restrictive policy on `realtime.messages`. Their names and meaning are
//! frozen, like those in `storage/firewall.rs`.

use super::channel;
use crate::pg::c_function::c_function;
use crate::{claims, settings};

c_function!(
    /// `realtime.civic_firewall(topic)`: whether a row has another topic, or a channel that the
    /// caller may join.
    civic_firewall_topic_read,
    pg_finfo_civic_firewall_topic_read,
    |[topic]: [&[u8]; 1]| claims::ask(|identity| {
        channel::passes_read(identity, &settings::access(), topic)
    })
);

c_function!(
    /// `realtime.civic_firewall_send(topic, extension)`: whether a row has another topic, or is
    /// presence in a channel that the caller may join.
    civic_firewall_topic_send,
    pg_finfo_civic_firewall_topic_send,
    |[topic, extension]: [&[u8]; 2]| claims::ask(|identity| {
        channel::passes_send(identity, &settings::access(), topic, extension)
    })
);
