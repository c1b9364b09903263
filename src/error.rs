//! Every error that a user of pg_civic can meet, with its SQLSTATE, its words and what to do.
//!
//! No message carries a secret or the value of the claims: an error ends up in a log that more
//! people read than may read the data.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::encoding::InvalidText;
use crate::storage::bucket;

mod service;

pub use service::ServiceError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The setting that holds the claims does not hold a JSON object.
    InvalidClaims { setting: String },
    /// A purpose that no bucket serves.
    UnknownPurpose { purpose: String },
    /// A value that must not be empty is empty.
    Empty { what: &'static str },
    /// A tenant or folder that cannot be one segment of an object's path.
    InvalidSegment { what: &'static str, value: String, why: &'static str },
    /// A filename of which nothing is left once it is made safe.
    UnusableFilename { filename: String },
    /// A path longer than the Storage API takes.
    PathTooLong { bytes: usize, limit: usize },
    /// Not of the form `type/subtype`.
    InvalidContentType { content_type: String },
    /// `ticket_payload` knows INSERT, UPDATE and DELETE.
    UnknownOperation { operation: String },
    /// An event or a ticket that is not a JSON object.
    NotAnObject { what: &'static str, found: &'static str },
    /// An event without a string under `type`.
    EventWithoutType,
    /// A payload that NOTIFY would refuse.
    PayloadTooLong { bytes: usize, limit: usize },
    /// A channel that NOTIFY would refuse.
    ChannelTooLong { channel: String, limit: usize },
    /// A municipality whose shared channel would be another's sensitive one.
    AmbiguousMunicipality { municipality_id: String },
    /// The caller is not one of those who read the dashboard's events.
    NoDashboard,
    /// The server's notification queue is nearly full.
    NotificationQueueFull,
    /// There is no memory to keep the events of the transaction.
    NoMemoryForEvents,
    /// The trigger function was called as a plain function.
    NotATrigger { function: &'static str },
    /// `setup` was given the OID of nothing.
    NoRelation { oid: u32 },
    /// `setup` was given something that is not a table.
    NotATable { relation: String, kind: &'static str },
    /// `setup` was given a table that holds no tickets.
    MissingColumns { relation: String, missing: Vec<String>, known: String },
    /// The catalog could not be read: a mistake of pg_civic.
    Catalog { why: String },
    /// Something of somebody else's has the name of an object of ours.
    NameTaken { object: String },
    /// The caller lacks what a step of `setup` or `teardown` needs.
    Privileges { action: &'static str, role: String, missing: Vec<String> },
    /// What is about to be done would run a function of a role that is no superuser with a superuser's
    /// rights.
    WouldRunAsSuperuser { what: String, code: String, remedy: String },
    /// A statement on a table of others has failed.
    Refused { table: &'static str, sqlstate: PgSqlErrorCode, why: String },
    /// A column of Storage's tables has another type than Storage gives it.
    StorageColumns { found: Vec<String> },
    /// Bytes that are no text: of an argument, a setting or the catalog.
    InvalidText(InvalidText),
    /// An argument larger than its function takes.
    ArgumentTooLong { argument: String, bytes: usize, limit: usize },
    /// A JSON document nested deeper than 127 levels.
    NestedTooDeep { argument: String },
    /// Claims larger than any request has.
    ClaimsTooLong { setting: String, bytes: usize, limit: usize },
    /// A value of the catalog or of a table that is longer than anything that is looked for.
    ValueTooLong { bytes: usize, limit: usize },
    /// Memory for a value of this size is not to be had.
    OutOfMemory { bytes: usize },
    /// Of the storage service.
    Service(ServiceError),
}

impl From<InvalidText> for Error {
    fn from(error: InvalidText) -> Error {
        Error::InvalidText(error)
    }
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Error {
        Error::Service(error)
    }
}

/// At most this much of a value from outside is repeated in a message.
const SHOWN: usize = 64;

fn shown(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if value.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

impl Error {
    /// Raises the error. For functions that see each row: a `Result` with the server's report in it
    /// is several hundred bytes, which every call would carry along.
    #[cold]
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return");
    }

    pub fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            Error::InvalidClaims { .. } => ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            Error::UnknownPurpose { .. }
            | Error::Empty { .. }
            | Error::InvalidSegment { .. }
            | Error::UnusableFilename { .. }
            | Error::InvalidContentType { .. }
            | Error::UnknownOperation { .. }
            | Error::NotAnObject { .. }
            | Error::AmbiguousMunicipality { .. }
            | Error::EventWithoutType => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::PathTooLong { .. }
            | Error::PayloadTooLong { .. }
            | Error::ChannelTooLong { .. }
            | Error::ArgumentTooLong { .. }
            | Error::NestedTooDeep { .. }
            | Error::ClaimsTooLong { .. }
            | Error::ValueTooLong { .. }
            | Error::NotificationQueueFull => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Error::InvalidText(_) => ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            Error::OutOfMemory { .. } => ERRCODE_OUT_OF_MEMORY,
            Error::NoMemoryForEvents => ERRCODE_OUT_OF_MEMORY,
            Error::NotATrigger { .. } => ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            Error::NoRelation { .. } => ERRCODE_UNDEFINED_TABLE,
            Error::NotATable { .. } => ERRCODE_WRONG_OBJECT_TYPE,
            Error::MissingColumns { .. } => ERRCODE_UNDEFINED_COLUMN,
            Error::Catalog { .. } => ERRCODE_INTERNAL_ERROR,
            Error::NameTaken { .. } => ERRCODE_DUPLICATE_OBJECT,
            Error::Privileges { .. } | Error::NoDashboard => ERRCODE_INSUFFICIENT_PRIVILEGE,
            Error::WouldRunAsSuperuser { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::StorageColumns { .. } => ERRCODE_DATATYPE_MISMATCH,
            Error::Refused { sqlstate, .. } => *sqlstate,
            Error::Service(error) => error.sqlstate(),
        }
    }

    pub fn message(&self) -> String {
        match self {
            Error::InvalidClaims { setting } => {
                format!("setting \"{setting}\" does not hold a JSON object of claims")
            }
            Error::UnknownPurpose { purpose } => format!("unknown purpose \"{}\"", shown(purpose)),
            Error::Empty { what } => format!("{what} must not be empty"),
            Error::InvalidSegment { what, value, why } => {
                format!("{what} \"{}\" cannot be part of an object's path: {why}", shown(value))
            }
            Error::UnusableFilename { filename } => {
                format!("filename \"{}\" has no character that can be kept", shown(filename))
            }
            Error::PathTooLong { bytes, limit } => {
                format!("object path of {bytes} bytes is too long, the limit is {limit}")
            }
            Error::InvalidContentType { content_type } => {
                format!("content type \"{}\" is not of the form type/subtype", shown(content_type))
            }
            Error::UnknownOperation { operation } => {
                format!("unknown operation \"{}\"", shown(operation))
            }
            Error::NotAnObject { what, found } => {
                format!("{what} must be a JSON object, not {found}")
            }
            Error::EventWithoutType => "event has no \"type\" that is a string".to_owned(),
            Error::PayloadTooLong { bytes, limit } => {
                format!("event of {bytes} bytes is too long, the limit is {limit}")
            }
            Error::ChannelTooLong { channel, limit } => format!(
                "channel \"{}\" of {} bytes is too long, the limit is {limit}",
                shown(channel),
                channel.len()
            ),
            Error::AmbiguousMunicipality { municipality_id } => format!(
                "municipality_id \"{}\" ends like a sensitive channel",
                shown(municipality_id)
            ),
            Error::NoDashboard => {
                "the dashboard's events are for the manager, admin and ward_councillor of a \
                 municipality"
                    .to_owned()
            }
            Error::NotificationQueueFull => {
                "the server's notification queue is nearly full".to_owned()
            }
            Error::NoMemoryForEvents => {
                "there is no memory for the events of the transaction".to_owned()
            }
            Error::NotATrigger { function } => {
                format!("function {function} can only be called as a trigger")
            }
            Error::NoRelation { oid } => format!("there is no relation with OID {oid}"),
            Error::NotATable { relation, kind } => format!("{relation} is {kind}, not a table"),
            Error::MissingColumns { relation, missing, .. } => {
                format!("table {relation} has no column {}", missing.join(", "))
            }
            Error::Catalog { why } => format!("the catalog could not be read: {why}"),
            Error::NameTaken { object } => format!("{object} exists and is not pg_civic's"),
            Error::Privileges { action, role, missing } => {
                format!("role \"{role}\" cannot {action}: it lacks {}", missing.join("; "))
            }
            Error::WouldRunAsSuperuser { what, code, .. } => {
                format!("{what} would run {code} with the rights of a superuser")
            }
            Error::Refused { table, why, .. } => {
                format!("a statement on table {table} failed: {why}")
            }
            Error::StorageColumns { found } => {
                format!("the tables of Storage have columns of other types: {}", found.join("; "))
            }
            Error::InvalidText(error) => error.to_string(),
            Error::ArgumentTooLong { argument, bytes, limit } => format!(
                "argument \"{argument}\" of {bytes} bytes is too long, the limit is {limit}"
            ),
            Error::NestedTooDeep { argument } => {
                format!("argument \"{argument}\" is nested deeper than 127 levels")
            }
            Error::ClaimsTooLong { setting, bytes, limit } => format!(
                "claims of {bytes} bytes in setting \"{setting}\" are too long, the limit is {limit}"
            ),
            Error::ValueTooLong { bytes, limit } => {
                format!("value of {bytes} bytes is too long, the limit is {limit}")
            }
            Error::OutOfMemory { .. } => "out of memory".to_owned(),
            Error::Service(error) => error.message(),
        }
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::InvalidClaims { .. } | Error::ClaimsTooLong { .. } => {
                "The gateway sets it from the verified JWT; leave it empty where there is none."
                    .to_owned()
            }
            Error::UnknownPurpose { .. } => {
                format!("The purposes are {}.", bucket::purposes().join(", "))
            }
            Error::UnusableFilename { .. } => {
                "Give a name with at least one letter or digit, such as photo.jpg.".to_owned()
            }
            Error::InvalidContentType { .. } => "Give a media type such as image/jpeg.".to_owned(),
            Error::UnknownOperation { .. } => {
                "The operations are INSERT, UPDATE, DELETE.".to_owned()
            }
            Error::EventWithoutType => {
                "Give an event such as {\"type\": \"sla_breach\", \"data\": {}}.".to_owned()
            }
            Error::PayloadTooLong { .. } => {
                "Send identifiers, and let the listener read the rest from its table.".to_owned()
            }
            Error::AmbiguousMunicipality { .. } => {
                "Its shared channel would be the sensitive one of another municipality: give it \
                 another id."
                    .to_owned()
            }
            Error::NoDashboard => "Log in as one of them.".to_owned(),
            Error::ChannelTooLong { .. } => {
                "The municipality's id is part of the channel: use a shorter one, such as a UUID."
                    .to_owned()
            }
            Error::NotificationQueueFull => {
                "A session that listens has been in a transaction for long: the server's log names \
                 it. End it, and see pg_notification_queue_usage()."
                    .to_owned()
            }
            Error::NoMemoryForEvents => {
                "They are kept until the transaction ends: change fewer tickets in one transaction."
                    .to_owned()
            }
            Error::NoRelation { .. } | Error::NotATable { .. } => {
                "Give the table that holds the tickets, such as 'public.tickets'.".to_owned()
            }
            Error::MissingColumns { known, .. } => format!("setup looks for the columns {known}."),
            Error::NameTaken { .. } => {
                "Rename or drop it, then run civic.setup() again.".to_owned()
            }
            Error::Privileges { .. } => {
                "Run it as a superuser, or as a role that is a member of the owner.".to_owned()
            }
            Error::WouldRunAsSuperuser { remedy, .. } => remedy.clone(),
            Error::StorageColumns { .. } => {
                "Give the columns the types that Supabase Storage creates them with.".to_owned()
            }
            Error::OutOfMemory { bytes } => {
                format!("{bytes} bytes were asked for: send a smaller value.")
            }
            Error::Service(error) => return error.hint(),
            Error::InvalidText(_)
            | Error::ArgumentTooLong { .. }
            | Error::NestedTooDeep { .. }
            | Error::ValueTooLong { .. }
            | Error::Empty { .. }
            | Error::InvalidSegment { .. }
            | Error::PathTooLong { .. }
            | Error::NotAnObject { .. }
            | Error::NotATrigger { .. }
            | Error::Refused { .. }
            | Error::Catalog { .. } => return None,
        };
        Some(hint)
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Error::Catalog { why: error.to_string() }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let report = ErrorReport::new(error.sqlstate(), error.message(), "pg_civic");
        match error.hint() {
            Some(hint) => report.set_hint(hint),
            None => report,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_from_outside_is_cut_in_a_message() {
        let error = Error::UnknownPurpose { purpose: "x".repeat(1_000_000) };
        assert!(error.message().len() < 200);
    }

    #[test]
    fn control_characters_are_not_repeated_raw() {
        let error = Error::UnknownPurpose { purpose: "a\nb".to_owned() };
        assert_eq!(error.message(), "unknown purpose \"a\\nb\"");
    }

    #[test]
    fn an_unknown_purpose_lists_the_known_ones() {
        let hint = Error::UnknownPurpose { purpose: String::new() }.hint().unwrap();
        assert_eq!(hint, "The purposes are evidence, documents, gbv-evidence, proof_of_residence.");
    }
}
