//! What `setup()`, `teardown()` and `check()` walk over: one list of components.

use super::SetupError;
use crate::catalog::CatalogError;
use crate::error::Error;
use crate::pg;

/// One row of `setup()` or `teardown()`: the component, the action, the detail.
pub type Step = (String, &'static str, String);

/// One row of `check()`: the component, whether it is right, the detail, the statement that repairs it.
pub type Finding = (String, bool, String, Option<String>);

pub const DONE: &str = "done";
pub const ALREADY: &str = "already there";
pub const SKIPPED: &str = "skipped";
pub const REMOVED: &str = "removed";
pub const KEPT: &str = "kept";

/// The fix of most findings.
pub const SETUP: &str = "SELECT * FROM civic.setup();";

pub const AS_MADE: &str = "as pg_civic creates it";

pub fn step(component: impl Into<String>, action: &'static str, detail: impl Into<String>) -> Step {
    (component.into(), action, detail.into())
}

pub fn good(component: impl Into<String>, detail: impl Into<String>) -> Finding {
    (component.into(), true, detail.into(), None)
}

pub fn bad(
    component: impl Into<String>,
    detail: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    (component.into(), false, detail.into(), Some(fix.into()))
}

/// A finding without a statement that repairs it.
pub fn unrepaired(component: impl Into<String>, detail: impl Into<String>) -> Finding {
    (component.into(), false, detail.into(), None)
}

/// What the catalog says of a component, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As pg_civic creates it.
    Installed(String),
    Missing(String),
    /// Present, but not as pg_civic creates it.
    Different(String),
    /// Not needed in this database.
    Unneeded(String),
    /// Hidden from the caller.
    Unknown(String),
    /// Another role's object has the name.
    Foreign,
}

impl State {
    pub fn is_missing(&self) -> bool {
        matches!(self, State::Missing(_))
    }
}

/// An object that `setup()` creates, `teardown()` removes and `check()` looks at.
pub trait Component {
    fn name(&self) -> String;

    fn state(&self) -> Result<State, Error>;

    /// Creates it. Called if it is missing or different.
    fn make(&self, was: &State) -> Result<Vec<Step>, Error>;

    /// Removes it. Called if it is installed or different. What `teardown()` leaves as it is has no step.
    fn remove(&self) -> Result<Vec<Step>, Error> {
        Ok(vec![])
    }

    /// The statement that repairs it. Called if it is missing or different.
    fn fix(&self, _state: &State) -> String {
        SETUP.to_owned()
    }

    /// The step of a component that was created, or replaced because it was different.
    fn made(&self, was: &State) -> Vec<Step> {
        let detail =
            if was.is_missing() { "created" } else { "was different, and has been replaced" };
        vec![step(self.name(), DONE, detail)]
    }

    /// The step of a component that was dropped.
    fn dropped(&self) -> Vec<Step> {
        vec![step(self.name(), REMOVED, "dropped")]
    }
}

pub type Components = Vec<Box<dyn Component>>;

pub fn boxed(components: impl IntoIterator<Item = impl Component + 'static>) -> Components {
    components.into_iter().map(|component| Box::new(component) as Box<dyn Component>).collect()
}

/// In the place of components that are not looked at, and why.
pub struct Skipped(pub String, pub State);

impl Component for Skipped {
    fn name(&self) -> String {
        self.0.clone()
    }

    fn state(&self) -> Result<State, Error> {
        Ok(self.1.clone())
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        Ok(vec![])
    }
}

/// In the place of components that this database does not need.
pub fn unneeded(name: &str, why: impl Into<String>) -> Box<dyn Component> {
    Box::new(Skipped(name.to_owned(), State::Unneeded(why.into())))
}

/// Errors: 42710 if another role's object has the name.
pub fn set_up(component: &dyn Component) -> Result<Vec<Step>, Error> {
    let name = component.name();
    Ok(match component.state()? {
        State::Installed(detail) => vec![step(name, ALREADY, detail)],
        State::Unneeded(detail) | State::Unknown(detail) => vec![step(name, SKIPPED, detail)],
        State::Foreign => return Err(SetupError::NameTaken { object: name }.into()),
        was => component.make(&was)?,
    })
}

pub fn tear_down(component: &dyn Component) -> Result<Vec<Step>, Error> {
    let name = component.name();
    Ok(match component.state()? {
        State::Installed(_) | State::Different(_) => component.remove()?,
        State::Foreign => vec![step(name, SKIPPED, "is not pg_civic's")],
        State::Missing(detail) | State::Unneeded(detail) | State::Unknown(detail) => {
            vec![step(name, SKIPPED, detail)]
        }
    })
}

/// The rows of all components, in their order.
pub fn walk<R>(
    components: Components,
    step: fn(&dyn Component) -> Result<Vec<R>, Error>,
) -> Result<Vec<R>, Error> {
    let rows: Result<Vec<_>, _> =
        components.iter().map(|component| step(component.as_ref())).collect();
    Ok(rows?.into_iter().flatten().collect())
}

pub fn check(component: &dyn Component) -> Result<Vec<Finding>, Error> {
    let name = component.name();
    let finding = component.state().map(|state| match state {
        State::Installed(detail) | State::Unneeded(detail) => good(&name, detail),
        State::Unknown(detail) => unrepaired(&name, detail),
        State::Foreign => bad(
            &name,
            "is not pg_civic's",
            format!("{SETUP} -- after {name} is renamed or dropped"),
        ),
        State::Missing(ref detail) | State::Different(ref detail) => {
            bad(&name, detail, component.fix(&state))
        }
    });
    readable(&name, finding.map(|finding| vec![finding]))
}

/// Whether a statement on a table of another role failed.
pub fn is_refused(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(CatalogError::Refused { .. }))
}

/// The findings of one part. What cannot be read in the catalog does not hide the other parts.
pub fn readable(
    component: &str,
    findings: Result<Vec<Finding>, Error>,
) -> Result<Vec<Finding>, Error> {
    let error = match findings {
        Err(error) => error,
        findings => return findings,
    };
    let detail = match error.downcast_ref() {
        Some(pg::Error::InvalidText(why)) => {
            format!("not checked: a name in the catalog is not valid text: {why}")
        }
        Some(error @ pg::Error::ValueTooLong { .. }) => {
            format!("not checked: the catalog has a {error}")
        }
        _ if is_refused(&error) => error.message(),
        _ => return Err(error),
    };
    Ok(vec![unrepaired(component, detail)])
}
