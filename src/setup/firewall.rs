//! The functions behind the restrictive policies. They do not belong to the extension.
//!
//! DROP EXTENSION … CASCADE drops each policy that calls a function of the extension, and one careless
//! permissive policy is then the only one. So these functions are created in the schema of the table that
//! they guard, over the same library: after a CASCADE they go on deciding, in every session, and without
//! the library's file every query on the table is an error.
//!
//! Only a superuser may create a function in C. `setup()` creates these, whose text is constant, with the
//! rights of the bootstrap superuser, once it is known that the caller owns the tables.
//!
//! One function beside them needs nothing but PostgreSQL, see [`Body::PlPgSql`].

use super::plan::{AS_MADE, Component, State, Step};
use crate::catalog;
use crate::error::Error;

#[derive(Clone, Copy)]
pub struct Function {
    schema: &'static str,
    name: &'static str,
    /// The names of its arguments, all of type text.
    arguments: &'static [&'static str],
    /// The name of its type in pg_catalog.
    returns: &'static str,
    body: Body,
    /// Whether the planner may call it before the conditions of a query: it raises no error that depends
    /// on its arguments.
    is_leakproof: bool,
    comment: &'static str,
}

#[derive(Clone, Copy)]
enum Body {
    /// The library's function of this name. Its name and meaning are frozen (`pg/firewall.rs`).
    C(&'static str),
    /// As `C`, for a trigger.
    Trigger(&'static str),
    /// For a restore to a server without the library, or by a role that is not a superuser. That restore
    /// creates every policy but the firewall, and continues. A policy that calls this function then passes
    /// no row. It is IMMUTABLE so that the planner calls it, once a query: the server evaluates a condition
    /// of a policy for each row, and the condition as a subquery costs more than this. Neither answer
    /// outlives what it depends on: the policy "civic firewall" is created and dropped with its function,
    /// and each change of a policy discards the plans over its table.
    PlPgSql(&'static str),
}

/// The function's body for a schema. A role without USAGE on the schema cannot look for the function, and
/// reads only through a view.
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

const fn in_c(
    schema: &'static str,
    name: &'static str,
    arguments: &'static [&'static str],
    symbol: &'static str,
    comment: &'static str,
) -> Function {
    let body = Body::C(symbol);
    Function { schema, name, arguments, returns: "bool", body, is_leakproof: false, comment }
}

const fn exists(schema: &'static str, body: Body, comment: &'static str) -> Function {
    let name = "civic_firewall_exists";
    let returns = "bool";
    Function { schema, name, arguments: &[], returns, body, is_leakproof: false, comment }
}

/// A function without arguments for the policies of protected tables.
const fn of_rows(
    name: &'static str,
    returns: &'static str,
    symbol: &'static str,
    comment: &'static str,
) -> Function {
    Function { returns, ..in_c(ROWS, name, &[], symbol, comment) }
}

pub const OBJECT_FUNCTIONS: [Function; 3] = [
    Function {
        is_leakproof: true,
        ..in_c(
            "storage",
            "civic_firewall",
            &["bucket_id", "name"],
            "civic_firewall_object_read",
            "of pg_civic: whether an object is of another bucket, or one that the caller may read",
        )
    },
    in_c(
        "storage",
        "civic_firewall_upload",
        &["bucket_id", "name"],
        "civic_firewall_object_upload",
        "of pg_civic: whether an object is of another bucket, or one that the caller may add",
    ),
    exists(
        "storage",
        firewall_exists!("storage"),
        "of pg_civic: whether storage.civic_firewall was restored",
    ),
];

pub const MESSAGE_FUNCTIONS: [Function; 3] = [
    in_c(
        "realtime",
        "civic_firewall",
        &["topic"],
        "civic_firewall_topic_read",
        "of pg_civic: whether a topic is another, or a channel that the caller may join",
    ),
    in_c(
        "realtime",
        "civic_firewall_send",
        &["topic", "extension"],
        "civic_firewall_topic_send",
        "of pg_civic: whether a topic is another, or a message is presence in a channel that the caller \
         may join",
    ),
    exists(
        "realtime",
        firewall_exists!("realtime"),
        "of pg_civic: whether realtime.civic_firewall was restored",
    ),
];

/// The schema of the functions behind the policies of protected tables, which `protect()` creates.
pub const ROWS: &str = "civic_firewall";

pub const ROW_FUNCTIONS: [Function; 11] = [
    of_rows(
        "tenant_id",
        "text",
        "civic_firewall_tenant_id",
        "of pg_civic: the caller''s municipality",
    ),
    of_rows(
        "tenant_uuid",
        "uuid",
        "civic_firewall_tenant_uuid",
        "of pg_civic: the caller''s municipality as a uuid",
    ),
    of_rows("user_id", "text", "civic_firewall_user_id", "of pg_civic: the caller''s user id"),
    of_rows(
        "user_uuid",
        "uuid",
        "civic_firewall_user_uuid",
        "of pg_civic: the caller''s user id as a uuid",
    ),
    of_rows(
        "staff_floor",
        "text",
        "civic_firewall_staff_floor",
        "of pg_civic: the least text for reading staff, else NULL",
    ),
    of_rows(
        "staff_floor_uuid",
        "uuid",
        "civic_firewall_staff_floor_uuid",
        "of pg_civic: the least uuid for reading staff, else NULL",
    ),
    of_rows(
        "reads_sensitive",
        "bool",
        "civic_firewall_reads_sensitive",
        "of pg_civic: whether the caller reads sensitive rows",
    ),
    of_rows(
        "writes",
        "bool",
        "civic_firewall_writes",
        "of pg_civic: whether the caller changes rows that do not name them",
    ),
    of_rows(
        "deletes",
        "bool",
        "civic_firewall_deletes",
        "of pg_civic: whether the caller deletes rows",
    ),
    Function {
        body: Body::Trigger("civic_firewall_guard_columns"),
        ..of_rows(
            "guard_columns",
            "trigger",
            "",
            "of pg_civic: trigger: only some roles set the guarded columns",
        )
    },
    // PUBLIC has USAGE on this schema. A role without it gets an error, and no row.
    Function {
        name: "is_restored",
        ..exists(
            ROWS,
            Body::PlPgSql(
                "BEGIN RETURN pg_catalog.to_regproc('civic_firewall.tenant_id') IS NOT NULL; END",
            ),
            "of pg_civic: whether civic_firewall.tenant_id was restored",
        )
    },
];

/// The schema of [`ROW_FUNCTIONS`]. A superuser owns it, or the owner of the database, as a restore may
/// leave it.
pub struct RowSchema;

impl Component for RowSchema {
    fn name(&self) -> String {
        format!("schema {ROWS}")
    }

    fn state(&self) -> Result<State, Error> {
        let found = catalog::texts(
            "SELECT CASE
                 WHEN NOT (o.rolsuper OR o.oid = d.datdba) THEN 'others'
                 WHEN o.rolsuper AND pg_catalog.has_schema_privilege('public', n.oid, 'USAGE')
                      AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(n.nspacl) a
                                      WHERE a.grantee <> n.nspowner AND a.privilege_type = 'CREATE')
                 THEN 'installed'
                 ELSE 'different' END
             FROM pg_catalog.pg_namespace n
             JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
             JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
             WHERE n.nspname = $1",
            &[ROWS.into()],
        )?;
        Ok(match found.first().map(String::as_str) {
            None => State::Missing("missing".to_owned()),
            Some("installed") => State::Installed(AS_MADE.to_owned()),
            Some("different") => State::Different(format!("not {AS_MADE}")),
            Some(_) => State::Foreign,
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        let create = if was.is_missing() {
            format!("CREATE SCHEMA {ROWS}")
        } else {
            format!("ALTER SCHEMA {ROWS} OWNER TO CURRENT_USER")
        };
        for statement in [
            create,
            // Privileges of others: default privileges, or what a restore has left.
            format!(
                "DO $civic$ DECLARE grantee pg_catalog.regrole; BEGIN
                     FOR grantee IN
                         SELECT DISTINCT a.grantee
                         FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
                         WHERE n.nspname OPERATOR(pg_catalog.=) '{ROWS}'
                           AND a.grantee OPERATOR(pg_catalog.<>) 0
                           AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner
                     LOOP
                         EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA {ROWS} FROM %s CASCADE', grantee);
                     END LOOP;
                 END $civic$"
            ),
            format!("REVOKE ALL ON SCHEMA {ROWS} FROM PUBLIC"),
            format!("GRANT USAGE ON SCHEMA {ROWS} TO PUBLIC"),
            format!(
                "COMMENT ON SCHEMA {ROWS} IS 'of pg_civic: functions behind the policies of protected tables'"
            ),
        ] {
            catalog::execute_as_superuser(&statement)?;
        }
        Ok(self.made(was))
    }

    /// To be called once the functions are dropped. Others may have put something into the schema.
    fn remove(&self) -> Result<Vec<Step>, Error> {
        catalog::execute_as_superuser(&format!("DROP SCHEMA {ROWS}"))?;
        Ok(self.dropped())
    }
}

/// The library as SQL names it, found where the server finds the extension's own.
const LIBRARY: &str = "pg_civic";

impl Body {
    /// Language, source, library and volatility, as `pg_proc` has them.
    fn in_catalog(&self) -> (&'static str, &'static str, Option<&'static str>, &'static str) {
        match self {
            Body::C(symbol) => ("c", symbol, Some(LIBRARY), "STABLE"),
            Body::Trigger(symbol) => ("c", symbol, Some(LIBRARY), "VOLATILE"),
            Body::PlPgSql(source) => ("plpgsql", source, None, "IMMUTABLE"),
        }
    }

    /// What follows AS.
    fn definition(&self) -> String {
        match self {
            Body::C(symbol) | Body::Trigger(symbol) => format!("'{LIBRARY}', '{symbol}'"),
            Body::PlPgSql(source) => format!("$civic${source}$civic$"),
        }
    }
}

impl Function {
    fn signature(&self) -> String {
        let types = vec!["text"; self.arguments.len()].join(", ");
        format!("{}.{}({types})", self.schema, self.name)
    }
}

impl Component for Function {
    fn name(&self) -> String {
        format!("function {}", self.signature())
    }

    /// Any function of this name counts, whatever its arguments: the policy would call one that fits a
    /// column's type better. pg_civic's are those of this source that belong to a superuser or, as a
    /// restore may leave it, to the owner of the schema.
    fn state(&self) -> Result<State, Error> {
        let (language, source, library, volatility) = self.body.in_catalog();
        let found = catalog::texts(
            "SELECT CASE
                 WHEN NOT (l.lanname = $3 AND p.prosrc = $4
                           AND (p.probin IN ($5, '$libdir/' || $5) OR $5 IS NULL AND p.probin IS NULL)
                           AND (o.rolsuper OR $5 IS NULL AND p.proowner = n.nspowner)
                           AND p.pronargs = $6
                           AND p.proargtypes::pg_catalog.oid[] <@ ARRAY['pg_catalog.text'::pg_catalog.regtype::pg_catalog.oid]
                           AND p.prorettype = ('pg_catalog.' || $9)::pg_catalog.regtype)
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
                language.into(),
                source.into(),
                library.into(),
                (self.arguments.len() as i16).into(),
                volatility[..1].to_lowercase().into(),
                self.is_leakproof.into(),
                self.returns.into(),
            ],
        )?;
        Ok(match found.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => State::Missing("missing".to_owned()),
            ["installed"] => State::Installed(AS_MADE.to_owned()),
            ["different"] => State::Different(format!("not {AS_MADE}")),
            _ => State::Foreign,
        })
    }

    /// CREATE OR REPLACE only where the function is pg_civic's already: to replace another role's function
    /// would leave it to that role.
    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        let create = if was.is_missing() { "CREATE" } else { "CREATE OR REPLACE" };
        let (language, _, _, volatility) = self.body.in_catalog();
        let arguments: Vec<_> =
            self.arguments.iter().map(|name| format!("{name} pg_catalog.text")).collect();
        let signature = self.signature();
        for statement in [
            format!(
                "{create} FUNCTION {}.{}({}) RETURNS pg_catalog.{}
                     LANGUAGE {language} {volatility} STRICT {} PARALLEL SAFE COST 1 AS {}",
                self.schema,
                self.name,
                arguments.join(", "),
                self.returns,
                if self.is_leakproof { "LEAKPROOF" } else { "NOT LEAKPROOF" },
                self.body.definition(),
            ),
            // Settings and privileges survive CREATE OR REPLACE.
            format!("ALTER FUNCTION {signature} SECURITY INVOKER RESET ALL"),
            format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"),
            format!("GRANT EXECUTE ON FUNCTION {signature} TO PUBLIC"),
            format!("COMMENT ON FUNCTION {signature} IS '{}'", self.comment),
        ] {
            catalog::execute_as_superuser(&statement)?;
        }
        Ok(self.made(was))
    }

    /// To be called once the policies that use it are dropped.
    fn remove(&self) -> Result<Vec<Step>, Error> {
        catalog::execute_as_superuser(&format!("DROP FUNCTION {}", self.signature()))?;
        Ok(self.dropped())
    }
}
