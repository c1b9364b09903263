//! Who is asking: the claims of the request's verified JWT.
//!
//! The claims are parsed once per value of the setting that holds them. A changed value, by
//! SET LOCAL, RESET, rollback or another role, is seen at the next call, since each call compares
//! the setting's bytes with those it has parsed.

mod error;
mod identity;

pub use error::ClaimsError;

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::prelude::*;

use crate::error::Error;
use crate::pg;
use crate::settings::{self, Access};

pub use identity::Identity;

/// The identity that was parsed last, and from what.
struct Parsed {
    generation: u64,
    access: Rc<Access>,
    claims: Option<Vec<u8>>,
    identity: Rc<Identity>,
}

thread_local! {
    static PARSED: RefCell<Option<Parsed>> = const { RefCell::new(None) };
}

/// Longest claims, in bytes. A gateway takes no header of a hundredth of this.
const CLAIMS_LIMIT: usize = 1024 * 1024;

/// A copy of the claims; their size where they are too long to be copied.
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

/// Asks who is asking, by the claims as they are now. Without claims: nobody, who may nothing.
///
/// Claims that are not a JSON object are an error (28000), never an allow.
pub fn with_identity<R>(ask: impl FnOnce(&Rc<Identity>) -> R) -> Result<R, Error> {
    PARSED.with_borrow_mut(|parsed| {
        if let Some(current) = parsed
            && current.is_current()
        {
            return Ok(ask(&current.identity));
        }
        // Nothing of an earlier caller is left where these claims turn out to be invalid.
        *parsed = None;
        Ok(ask(&parsed.insert(Parsed::parse()?).identity))
    })
}

/// [`with_identity`] for a function of SQL: raises what is an error.
pub fn ask<R>(ask: impl FnOnce(&Rc<Identity>) -> R) -> R {
    with_identity(ask).unwrap_or_else(|error| error.raise())
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

    /// The caller's role in the application, as the claims have it.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_role() -> Option<pg::TextResult> {
        ask(|identity| identity.role().map(pg::TextResult::new))
    }

    /// The caller's user id.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_id() -> Option<pg::TextResult> {
        ask(|identity| identity.user_id().map(pg::TextResult::new))
    }

    /// Whether the caller's role is one of these.
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
