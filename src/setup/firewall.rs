//! The functions behind the restrictive policies. They are not the extension's.
//!
//! A policy that calls a function of an extension goes with the extension at DROP EXTENSION … CASCADE,
//! and one careless permissive policy is then the only one. So these functions stand in the schema of
//! the table that they guard, over the same library: after a CASCADE they go on deciding, in every
//! session, and without the library's file every query on the table is an error.
//!
//! Only a superuser may create a function in C. `setup()` creates these, of constant text, with the
//! bootstrap superuser's rights, once it is known that the caller owns the tables.
//!
//! One function beside them needs nothing but PostgreSQL, see [`Body::PlPgSql`].

use super::policy::{as_owner_of, drop_policy};
use super::{ALREADY, DONE, REMOVED, SKIPPED, Step, catalog, step};
use crate::error::Error;
use crate::setup::SetupError;

pub struct Function {
    schema: &'static str,
    name: &'static str,
    /// The names of its arguments, all of type text.
    arguments: &'static [&'static str],
    body: Body,
    /// Whether the planner may ask it before the conditions of a query: it raises no error that
    /// depends on its arguments.
    is_leakproof: bool,
    comment: &'static str,
}

enum Body {
    /// The library's function of this name. Its name and meaning are frozen (`pg/firewall.rs`).
    C(&'static str),
    /// For a restore to a server without the library, or by a role that is no superuser. Such a restore
    /// makes every policy but the firewall, and goes on. A policy that calls this function passes no row
    /// then. It is IMMUTABLE so that the planner asks it, once a query: the server evaluates a condition
    /// of a policy for each row, and the condition as a subquery costs more than this. Neither answer
    /// outlives what it depends on: the policy "civic firewall" comes and goes with its function, and each
    /// change of a policy discards the plans over its table.
    PlPgSql(&'static str),
}

/// The function's body, for the schema that is named. A role without USAGE on the schema cannot look for the
/// function, and reads through a view alone.
macro_rules! firewall_exists {
    ($schema:literal) => {
        Body::PlPgSql(concat!(
            "BEGIN RETURN NOT pg_catalog.has_schema_privilege('",
            $schema,
            "', 'USAGE') OR pg_catalog.to_regproc('",
            $schema,
            ".civic_firewall') IS NOT NULL; END"
        ))
    };
}

pub const OBJECTS: [Function; 3] = [
    Function {
        schema: "storage",
        name: "civic_firewall",
        arguments: &["bucket_id", "name"],
        body: Body::C("civic_firewall_object_read"),
        is_leakproof: true,
        comment: "of pg_civic: whether an object is of another bucket, or one that the caller may read",
    },
    Function {
        schema: "storage",
        name: "civic_firewall_upload",
        arguments: &["bucket_id", "name"],
        body: Body::C("civic_firewall_object_upload"),
        is_leakproof: false,
        comment: "of pg_civic: whether an object is of another bucket, or one that the caller may add",
    },
    Function {
        schema: "storage",
        name: "civic_firewall_exists",
        arguments: &[],
        body: firewall_exists!("storage"),
        is_leakproof: false,
        comment: "of pg_civic: whether storage.civic_firewall was restored",
    },
];

pub const MESSAGES: [Function; 3] = [
    Function {
        schema: "realtime",
        name: "civic_firewall",
        arguments: &["topic"],
        body: Body::C("civic_firewall_topic_read"),
        is_leakproof: false,
        comment: "of pg_civic: whether a topic is another, or a channel that the caller may join",
    },
    Function {
        schema: "realtime",
        name: "civic_firewall_send",
        arguments: &["topic", "extension"],
        body: Body::C("civic_firewall_topic_send"),
        is_leakproof: false,
        comment: "of pg_civic: whether a topic is another, or a message is presence in a channel that \
                  the caller may join",
    },
    Function {
        schema: "realtime",
        name: "civic_firewall_exists",
        arguments: &[],
        body: firewall_exists!("realtime"),
        is_leakproof: false,
        comment: "of pg_civic: whether realtime.civic_firewall was restored",
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Missing,
    Installed,
    /// Ours, but not as this version makes it.
    Different,
    /// Somebody else's function of this name.
    Others,
}

/// The library as SQL names it, found where the server finds the extension's own.
const LIBRARY: &str = "pg_civic";

impl Body {
    fn language(&self) -> &'static str {
        match self {
            Body::C(_) => "c",
            Body::PlPgSql(_) => "plpgsql",
        }
    }

    fn source(&self) -> &'static str {
        let (Body::C(source) | Body::PlPgSql(source)) = self;
        source
    }

    fn library(&self) -> Option<&'static str> {
        matches!(self, Body::C(_)).then_some(LIBRARY)
    }

    fn volatility(&self) -> &'static str {
        match self {
            Body::C(_) => "STABLE",
            Body::PlPgSql(_) => "IMMUTABLE",
        }
    }

    /// What stands behind AS.
    fn definition(&self) -> String {
        match self {
            Body::C(symbol) => format!("'{LIBRARY}', '{symbol}'"),
            Body::PlPgSql(body) => format!("$civic${body}$civic$"),
        }
    }
}

impl Function {
    fn signature(&self) -> String {
        let types = vec!["text"; self.arguments.len()].join(", ");
        format!("{}.{}({types})", self.schema, self.name)
    }

    pub fn component(&self) -> String {
        format!("function {}", self.signature())
    }

    /// Whether it is there, and whether it is this one. Any function of this name counts, whatever its
    /// arguments: one that fits a column's type better would be taken for the policy. Ours are those of
    /// this source that a superuser owns or, as a restore may leave it, who owns the schema.
    pub fn state(&self) -> Result<State, Error> {
        let found = catalog::texts(
            "SELECT CASE
                 WHEN NOT (l.lanname = $3 AND p.prosrc = $4
                           AND (p.probin IN ($5, '$libdir/' || $5) OR $5 IS NULL AND p.probin IS NULL)
                           AND (o.rolsuper OR $5 IS NULL AND p.proowner = n.nspowner)
                           AND p.pronargs = $6
                           AND p.proargtypes::pg_catalog.oid[] <@ ARRAY['pg_catalog.text'::pg_catalog.regtype::pg_catalog.oid]
                           AND p.prorettype = 'pg_catalog.bool'::pg_catalog.regtype)
                 THEN 'others'
                 WHEN p.provolatile = $7 AND p.proisstrict AND p.proparallel = 's'
                      AND p.proleakproof = $8 AND p.procost = 1 AND NOT p.prosecdef
                      AND NOT p.proretset AND p.proconfig IS NULL
                      AND pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE')
                 THEN 'installed'
                 ELSE 'different' END
             FROM pg_catalog.pg_proc p
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             JOIN pg_catalog.pg_language l ON l.oid = p.prolang
             JOIN pg_catalog.pg_roles o ON o.oid = p.proowner
             WHERE n.nspname = $1 AND p.proname = $2",
            &[
                self.schema.into(),
                self.name.into(),
                self.body.language().into(),
                self.body.source().into(),
                self.body.library().into(),
                (self.arguments.len() as i16).into(),
                self.body.volatility()[..1].to_lowercase().into(),
                self.is_leakproof.into(),
            ],
        )?;
        Ok(match found.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => State::Missing,
            ["installed"] => State::Installed,
            ["different"] => State::Different,
            _ => State::Others,
        })
    }

    /// `create` is `CREATE`, or `CREATE OR REPLACE` where the function is ours already: to replace another
    /// role's function would leave it to that role.
    fn create(&self, create: &str) -> Result<(), Error> {
        let arguments: Vec<_> =
            self.arguments.iter().map(|name| format!("{name} pg_catalog.text")).collect();
        let signature = self.signature();
        for statement in [
            format!(
                "{create} FUNCTION {}.{}({}) RETURNS pg_catalog.bool
                     LANGUAGE {} {} STRICT {} PARALLEL SAFE COST 1 AS {}",
                self.schema,
                self.name,
                arguments.join(", "),
                self.body.language(),
                self.body.volatility(),
                if self.is_leakproof { "LEAKPROOF" } else { "NOT LEAKPROOF" },
                self.body.definition(),
            ),
            // What somebody has set by hand survives CREATE OR REPLACE.
            format!("ALTER FUNCTION {signature} SECURITY INVOKER RESET ALL"),
            format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"),
            format!("GRANT EXECUTE ON FUNCTION {signature} TO PUBLIC"),
            format!("COMMENT ON FUNCTION {signature} IS '{}'", self.comment),
        ] {
            catalog::execute_as_superuser(&statement)?;
        }
        Ok(())
    }

    fn set_up(&self) -> Result<Step, Error> {
        let state = self.state()?;
        if state == State::Installed {
            return Ok(step(self.component(), ALREADY, "as pg_civic makes it"));
        }
        self.refuse_others(state)?;
        self.create(if state == State::Missing { "CREATE" } else { "CREATE OR REPLACE" })?;
        Ok(match state {
            State::Missing => step(self.component(), DONE, "created"),
            _ => step(self.component(), DONE, "was another, created anew"),
        })
    }

    fn tear_down(&self) -> Result<Step, Error> {
        match self.state()? {
            State::Missing => Ok(step(self.component(), SKIPPED, "there is none")),
            State::Others => Ok(step(self.component(), SKIPPED, "not pg_civic's")),
            State::Installed | State::Different => {
                let drop = format!("DROP FUNCTION {}", self.signature());
                catalog::execute_as_superuser(&drop)?;
                Ok(step(self.component(), REMOVED, "dropped"))
            }
        }
    }

    fn refuse_others(&self, state: State) -> Result<(), Error> {
        match state {
            State::Others => Err(SetupError::NameTaken { object: self.component() }.into()),
            _ => Ok(()),
        }
    }
}

/// Errors: 42723 where a function of somebody else's has one of the names.
pub fn refuse_others() -> Result<(), Error> {
    OBJECTS
        .iter()
        .chain(&MESSAGES)
        .try_for_each(|function| function.refuse_others(function.state()?))
}

pub fn set_up(functions: &[Function]) -> Result<Vec<Step>, Error> {
    functions.iter().map(Function::set_up).collect()
}

/// To be called once the policies that use them are gone.
pub fn tear_down(functions: &[Function]) -> Result<Vec<Step>, Error> {
    functions.iter().map(Function::tear_down).collect()
}

/// Removes the policies, and their function, by which earlier versions shut the tables once the
/// firewall was gone. To be called once the firewall stands.
pub fn remove_former(schema: &'static str, table: &'static str) -> Result<Vec<Step>, Error> {
    const POLICIES: [&str; 2] = ["civic deadbolt", "civic channels deadbolt"];
    const FUNCTION: &str = "storage.civic_firewall_stands(regclass)";
    let mut steps = vec![];
    for name in POLICIES {
        let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_policies
                      WHERE schemaname = $1 AND tablename = $2 AND policyname = $3)";
        if catalog::holds(exists, &[schema.into(), table.into(), name.into()])? {
            drop_policy(schema, table, name)?;
            let component = format!("policy \"{name}\" on {schema}.{table}");
            steps.push(step(component, REMOVED, "of an earlier version, replaced"));
        }
    }
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p
                  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                  WHERE n.nspname = $1 AND p.oid = pg_catalog.to_regprocedure($2))";
    if catalog::holds(exists, &[schema.into(), FUNCTION.into()])? {
        as_owner_of(schema, table, &format!("DROP FUNCTION {FUNCTION}"))?;
        steps.push(step(
            format!("function {FUNCTION}"),
            REMOVED,
            "of an earlier version, replaced",
        ));
    }
    Ok(steps)
}
