//! Who is asking: the claims of the request's verified JWT.
//!
//! The claims are parsed once per value of the setting that holds them. A changed value, by
//! SET LOCAL, RESET, rollback or another role, is seen at the next call, since each call compares
//! the setting's bytes with those it has parsed.

mod identity;

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;
use crate::{pg, settings};

pub use identity::Identity;

/// The identity that was parsed last, and from what.
struct Parsed {
    generation: u64,
    claims: Option<Vec<u8>>,
    identity: Rc<Identity>,
}

thread_local! {
    static PARSED: RefCell<Option<Parsed>> = const { RefCell::new(None) };
}

/// Who is asking, by the claims as they are now. Without claims: nobody, who may nothing.
///
/// Claims that are not a JSON object are an error (28000), never an allow.
pub fn identity() -> Result<Rc<Identity>, Error> {
    let access = settings::access();
    pg::with_setting(&access.claims_setting, |claims| {
        PARSED.with_borrow_mut(|parsed| {
            let generation = settings::generation();
            if let Some(parsed) = parsed
                && parsed.generation == generation
                && parsed.claims.as_deref() == claims
            {
                return Ok(Rc::clone(&parsed.identity));
            }
            // Nothing of an earlier caller is left where these claims turn out to be invalid.
            *parsed = None;
            let identity = Identity::parse(
                claims.unwrap_or_default(),
                &access.tenant_claim,
                &access.role_claim,
                pg::number_text,
            )
            .ok_or_else(|| Error::InvalidClaims {
                setting: access.claims_setting.to_string_lossy().into_owned(),
            })?;
            let identity = Rc::new(identity);
            *parsed = Some(Parsed {
                generation,
                claims: claims.map(<[u8]>::to_vec),
                identity: Rc::clone(&identity),
            });
            Ok(identity)
        })
    })
}

#[pg_schema]
mod civic {
    use super::*;

    /// The caller's municipality.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn tenant_id() -> Result<Option<String>, ErrorReport> {
        Ok(identity()?.tenant_id().map(str::to_owned))
    }

    /// The caller's role in the application, as the claims have it.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_role() -> Result<Option<String>, ErrorReport> {
        Ok(identity()?.role().map(str::to_owned))
    }

    /// The caller's user id.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn user_id() -> Result<Option<String>, ErrorReport> {
        Ok(identity()?.user_id().map(str::to_owned))
    }

    /// Whether the caller's role is one of these.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn has_role(roles: VariadicArray<'_, &str>) -> Result<bool, ErrorReport> {
        let identity = identity()?;
        Ok(roles.iter().flatten().any(|role| identity.has_role(role)))
    }
}
