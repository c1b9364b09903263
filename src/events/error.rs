//! Errors of events and channels.

use pgrx::PgSqlErrorCode;

use crate::error::{Report, reported, shown};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// `ticket_payload` accepts INSERT, UPDATE and DELETE.
    #[error("unknown operation \"{}\"", shown(operation))]
    UnknownOperation { operation: String },
    #[error("{what} must be a JSON object, not {found}")]
    NotAnObject { what: &'static str, found: &'static str },
    #[error("event has no \"type\" that is a string")]
    WithoutType,
    /// NOTIFY would refuse the payload.
    #[error("event of {bytes} bytes is too long, the limit is {limit}")]
    PayloadTooLong { bytes: usize, limit: usize },
    /// NOTIFY would refuse the channel.
    #[error("channel \"{}\" of {} bytes is too long, the limit is {limit}", shown(channel), channel.len())]
    ChannelTooLong { channel: String, limit: usize },
    /// The municipality's shared channel would equal another's sensitive channel.
    #[error("municipality_id \"{}\" ends like a sensitive channel", shown(municipality_id))]
    AmbiguousMunicipality { municipality_id: String },
    /// The caller has no right to read the dashboard's events.
    #[error(
        "the dashboard's events are for the manager, admin and ward_councillor of a municipality"
    )]
    NoDashboard,
    #[error("the server's notification queue is nearly full")]
    NotificationQueueFull,
    #[error("there is no memory for the events of the transaction")]
    NoMemory,
    #[error("this server is a standby, from which no event can be sent")]
    Standby,
    #[error("the transaction is prepared: {why}")]
    Prepared { why: String },
    /// The trigger function was called as a plain function.
    #[error("function {function} can only be called as a trigger")]
    NotATrigger { function: &'static str },
}

reported!(EventError);

impl Report for EventError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            EventError::UnknownOperation { .. }
            | EventError::NotAnObject { .. }
            | EventError::AmbiguousMunicipality { .. }
            | EventError::WithoutType => ERRCODE_INVALID_PARAMETER_VALUE,
            EventError::PayloadTooLong { .. }
            | EventError::ChannelTooLong { .. }
            | EventError::NotificationQueueFull => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            EventError::Standby => ERRCODE_READ_ONLY_SQL_TRANSACTION,
            EventError::Prepared { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            EventError::NoMemory => ERRCODE_OUT_OF_MEMORY,
            EventError::NotATrigger { .. } => ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            EventError::NoDashboard => ERRCODE_INSUFFICIENT_PRIVILEGE,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            EventError::UnknownOperation { .. } => "The operations are INSERT, UPDATE, DELETE.",
            EventError::WithoutType => {
                "Give an event such as {\"type\": \"sla_breach\", \"data\": {}}."
            }
            EventError::PayloadTooLong { .. } => {
                "Send identifiers, and let the listener read the rest from its table."
            }
            EventError::AmbiguousMunicipality { .. } => {
                "Its shared channel would be the sensitive one of another municipality: use another \
                 id."
            }
            EventError::NoDashboard => "Requires role manager, admin or ward_councillor.",
            EventError::ChannelTooLong { .. } => {
                "The municipality's id is part of the channel: use a shorter one, such as a UUID."
            }
            EventError::NotificationQueueFull => {
                "A listening session has been in a transaction for a long time: the server's log \
                 names it. End it, and see pg_notification_queue_usage()."
            }
            EventError::NoMemory => {
                "Events stay in memory until the transaction ends: change fewer tickets in one \
                 transaction."
            }
            EventError::Standby => "Call it on the primary.",
            EventError::Prepared { .. } => {
                "The relay keeps the events of prepared transactions: see civic.check() for its state."
            }
            EventError::NotAnObject { .. } | EventError::NotATrigger { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
