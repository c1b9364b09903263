//! Why a statement on an object of another role is not run, or fails.

use pgrx::PgSqlErrorCode;

use crate::error::{Report, reported};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// The caller lacks rights that a step needs.
    #[error("role \"{role}\" cannot {action}: it lacks {}", missing.join("; "))]
    Privileges { action: &'static str, role: String, missing: Vec<String> },
    /// A function of a role without superuser rights would run with a superuser's rights.
    #[error("{what} would run {code} with the rights of a superuser")]
    WouldRunAsSuperuser { what: String, code: String, remedy: String },
    #[error("this server is a standby, which cannot be set up itself")]
    Standby,
    #[error("a statement on table {table} failed: {why}")]
    Refused { table: &'static str, sqlstate: PgSqlErrorCode, why: String },
}

reported!(CatalogError);

impl Report for CatalogError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            CatalogError::Privileges { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            CatalogError::WouldRunAsSuperuser { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            CatalogError::Standby => PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            CatalogError::Refused { sqlstate, .. } => *sqlstate,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CatalogError::Privileges { .. } => Some(
                "Run it as a superuser, or as a role that is a member of the owner.".to_owned(),
            ),
            CatalogError::WouldRunAsSuperuser { remedy, .. } => Some(remedy.clone()),
            CatalogError::Standby => {
                Some("Call it on the primary: the standby receives what it changes.".to_owned())
            }
            CatalogError::Refused { .. } => None,
        }
    }
}
