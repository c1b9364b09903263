//! The caller's identity: the claims of the request's verified JWT.
//!
//! The claims are parsed once per value of their setting. Each call compares the setting's bytes
//! with the parsed ones, so it sees every change, by SET LOCAL, RESET, rollback or another role.

pub mod access;
mod error;
mod firewall;
mod guard;
mod identity;

pub use error::ClaimsError;

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::prelude::*;

use crate::error::Error;
use crate::pg;
use crate::settings::{self, Access};

pub use identity::Identity;

/// The identity that was parsed last, with its source.
struct Parsed {
    generation: u64,
    access: Rc<Access>,
    claims: Option<Vec<u8>>,
    identity: Rc<Identity>,
}

thread_local! {
    static PARSED: RefCell<Option<Parsed>> = const { RefCell::new(None) };
}

/// Longest claims, in bytes. Gateways accept no header of even a hundredth of this.
const CLAIMS_LIMIT: usize = 1024 * 1024;

/// A copy of the claims; `Err` with their size if they are too long to copy.
fn copied(claims: &[u8]) -> Result<Vec<u8>, usize> {
    if claims.len() > CLAIMS_LIMIT { Err(claims.len()) } else { Ok(claims.to_vec()) }
}

impl Parsed {
    fn is_current(&self) -> bool {
        self.generation == settings::generation()
            && pg::guc::with_setting(&self.access.claims_setting, |claims| {
                self.claims.as_deref() == claims
            })
    }

    fn parse() -> Result<Parsed, Error> {
        let access = settings::access();
        let setting = || access.claims_setting.to_string_lossy().into_owned();
        let claims =
            pg::guc::with_setting(&access.claims_setting, |claims| claims.map(copied).transpose())
                .map_err(|bytes| ClaimsError::TooLong {
                    setting: setting(),
                    bytes,
                    limit: CLAIMS_LIMIT,
                })?;
        let identity = Identity::parse(
            claims.as_deref().unwrap_or_default(),
            &access.tenant_claim,
            &access.role_claim,
            pg::number_text,
        )
        .ok_or_else(|| ClaimsError::Invalid { setting: setting() })?;
        Ok(Parsed {
            generation: settings::generation(),
            access,
            claims,
            identity: Rc::new(identity),
        })
    }
}

/// Passes the identity of the current claims to `ask`. Without claims it is the identity that may
/// do nothing.
///
/// Errors: 28000 if the claims are not a JSON object; they never allow anything.
pub fn with_identity<R>(ask: impl FnOnce(&Rc<Identity>) -> R) -> Result<R, Error> {
    PARSED.with_borrow_mut(|parsed| {
        if let Some(current) = parsed
            && current.is_current()
        {
            return Ok(ask(&current.identity));
        }
        // Forget the previous caller even if the new claims are invalid.
        *parsed = None;
        Ok(ask(&parsed.insert(Parsed::parse()?).identity))
    })
}

/// [`with_identity`] for a SQL function: raises the error.
pub fn ask<R>(ask: impl FnOnce(&Rc<Identity>) -> R) -> R {
    with_identity(ask).unwrap_or_else(|error| error.raise())
}

fn is_reading_staff() -> bool {
    ask(|identity| access::reads_all(identity, &settings::access()))
}

pub fn identity() -> Result<Rc<Identity>, Error> {
    with_identity(Rc::clone)
}

#[pg_schema]
mod civic {
    use super::*;

    /// The caller's municipality.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn tenant_id() -> Option<pg::TextResult> {
        ask(|identity| identity.tenant_id().map(pg::TextResult::new))
    }

    /// The caller's role in the application, as in the claims.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_role() -> Option<pg::TextResult> {
        ask(|identity| identity.role().map(pg::TextResult::new))
    }

    /// The caller's user id.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_id() -> Option<pg::TextResult> {
        ask(|identity| identity.user_id().map(pg::TextResult::new))
    }

    /// The caller's municipality as a UUID.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn tenant_uuid() -> Option<pgrx::Uuid> {
        ask(|identity| identity.tenant_uuid().map(pgrx::Uuid::from_bytes))
    }

    /// The caller's user id as a UUID.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_uuid() -> Option<pgrx::Uuid> {
        ask(|identity| identity.user_uuid().map(pgrx::Uuid::from_bytes))
    }

    /// The least text for reading staff, NULL for everybody else: `tenant_id >= civic.staff_floor()`.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn staff_floor() -> Option<pg::TextResult> {
        is_reading_staff().then(|| pg::TextResult::new(""))
    }

    /// The least UUID for reading staff, NULL for everybody else.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn staff_floor_uuid() -> Option<pgrx::Uuid> {
        is_reading_staff().then(|| pgrx::Uuid::from_bytes([0; 16]))
    }

    /// Whether the caller has one of these roles.
    #[pg_extern(
        stable,
        parallel_safe,
        cost = 1,
        sql = r#"
CREATE FUNCTION civic.has_role(VARIADIC roles text[]) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'has_role_wrapper';
"#
    )]
    fn has_role(roles: pg::Texts<'_>) -> bool {
        ask(|identity| roles.iter().flatten().any(|role| identity.has_role(role)))
    }
}
