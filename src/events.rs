//! Events: the SQL functions over the rules in this folder.

pub mod buffer;
mod bulk;
pub mod channel;
mod error;
mod firewall;
mod limit;
mod owner;
pub mod payload;
mod pending;
pub mod publish;
mod rate;
pub mod realtime;
mod record;
pub mod report;
mod settle;
pub mod sse;
pub mod ticket;
pub mod transaction;

pub use error::EventError;

use pgrx::datum::ToIsoString;
use pgrx::datum::datetime_support::clock_timestamp;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};

use crate::error::Report;
use crate::pg::event_stream::EventStream;
use crate::pg::trigger::{TriggerCall, TriggerRow};
use crate::{claims, pg, settings};
use channel::Audience;

/// Observes the ends of this process's transactions. Call it after [`crate::relay::initialize`]:
/// the observer registered last is called first, and gives its events to the relay.
pub fn initialize() {
    pg::transaction::observe::<transaction::Settled>();
}

#[pg_schema]
mod civic {
    use super::*;

    /// The channel that receives a municipality's changes.
    #[pg_extern(immutable, parallel_safe, cost = 1)]
    fn ticket_channel(municipality_id: pg::Text<'_>) -> Result<String, ErrorReport> {
        Ok(channel::channel(&municipality_id, Audience::Shared)?.as_str().to_owned())
    }

    /// The event that the trigger sends for a ticket, given its row as JSON.
    #[pg_extern(stable, parallel_safe, cost = 50)]
    fn ticket_payload(operation: pg::Text<'_>, ticket: pg::Json) -> Result<JsonB, ErrorReport> {
        let payload = ticket::payload_of(&operation, &ticket.0)?;
        Ok(JsonB(serde_json::from_str(&payload).unwrap_or_default()))
    }

    /// Trigger: publishes each change of a ticket. The write succeeds whatever the row holds.
    #[pg_extern(volatile, parallel_unsafe)]
    fn notify_ticket_update(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
        let Some(call) = TriggerCall::from_fcinfo(fcinfo) else {
            EventError::NotATrigger { function: "civic.notify_ticket_update" }.raise()
        };
        ticket::notify(&call);
        call.unchanged_row()
    }

    /// Sends an event of the application. A NULL counts as missing, and for `sensitive` as true: an
    /// event not known to be ordinary must not reach the shared channel.
    #[pg_extern(volatile, parallel_restricted, cost = 50)]
    fn publish(
        municipality_id: Option<pg::Text<'_>>,
        event: Option<pg::Json>,
        sensitive: default!(Option<bool>, false),
    ) -> Result<(), ErrorReport> {
        let event = event.map(|event| event.0).unwrap_or_default();
        let municipality_id = municipality_id.map_or("", |text| text.as_str());
        Ok(publish::publish(municipality_id, &event, sensitive.unwrap_or(true))?)
    }

    /// Whether the caller may join a Supabase Realtime channel: one of the two of their
    /// municipality, depending on their role. False for any other topic.
    #[pg_extern(stable, parallel_safe, cost = 5)]
    fn can_join_channel(topic: pg::RawText<'_>) -> bool {
        claims::ask(|identity| channel::can_join(identity, &settings::access(), &topic))
    }

    /// The deprecated endpoint of Server-Sent Events. Errors: 42501 if the caller has no dashboard.
    #[pg_extern(volatile, parallel_safe, cost = 50, requires = ["event_stream"])]
    fn dashboard_events(
        ward_id: default!(Option<pg::Text<'_>>, "NULL"),
    ) -> Result<EventStream, ErrorReport> {
        let now = clock_timestamp().to_iso_string_with_timezone("UTC").unwrap_or_default();
        let identity = claims::identity()?;
        Ok(EventStream::new(&sse::stream(
            &identity,
            ward_id.as_deref(),
            &pg::random_uuid().to_string(),
            &now,
        )?))
    }
}
