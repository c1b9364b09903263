//! Queries of the catalog as the current user, and statements as the owner of an object.
//!
//! A statement on an object outside the extension may run code of other roles: triggers, casts,
//! defaults, event triggers. So no statement here runs with the caller's own rights; [`Owner`] is
//! the only way to run one.

mod code;
mod error;

pub use error::CatalogError;

use std::cell::RefCell;
use std::collections::HashMap;

use once_cell::unsync::OnceCell;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient, SpiHeapTupleData};

use crate::error::Error;
use crate::pg::jit::without_jit;
use crate::pg::subtransaction::attempt;
use crate::pg::{self, Row, foreign, role};

pub use code::{Change, refuse_code_of_others};

/// Serializes changes of the catalog: call it before looking anything up. Only one transaction at a
/// time continues. The next one sees the changes of the one before, and neither waits for the
/// other's table locks.
///
/// Errors: 25006 on a standby.
pub fn begin() -> Result<(), Error> {
    if pg::is_standby() {
        return Err(CatalogError::Standby.into());
    }
    pg::lock_extension();
    // Citus refuses several changes of a distributed table in one transaction otherwise.
    pg::guc::set_in_transaction_if_known(c"citus.multi_shard_modify_mode", c"sequential");
    // After a statement that may write, every query takes a new snapshot. Otherwise they would all
    // see the catalog as it was before the wait.
    update("SELECT", &[])
}

fn connect<R>(body: impl FnOnce(&SpiClient<'_>) -> R) -> R {
    without_jit(|| Spi::connect(body))
}

fn connect_mut<R>(body: impl FnOnce(&mut SpiClient<'_>) -> R) -> R {
    without_jit(|| Spi::connect_mut(body))
}

/// Every row of a query. All names in `sql` are qualified; values are parameters.
pub fn rows<R>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&Row<'_, '_>) -> Result<R, spi::Error>,
) -> Result<Vec<R>, Error> {
    connect(|client| {
        let table = client.select(sql, None, arguments)?;
        table.into_iter().map(|row| read_row(&row, &read)).collect()
    })
}

/// Reads one row. Invalid text in it is an error, whatever the other values are.
fn read_row<R, E>(
    tuple: &SpiHeapTupleData<'_>,
    read: impl Fn(&Row<'_, '_>) -> Result<R, E>,
) -> Result<R, Error>
where
    Error: From<E>,
{
    let row = Row::new(tuple);
    let value = read(&row);
    row.finish()?;
    Ok(value?)
}

thread_local! {
    /// The plans of [`planned`] by their statements. They are kept until the process ends.
    static PLANS: RefCell<HashMap<&'static str, &'static OnceCell<OwnedPreparedStatement>>> =
        RefCell::default();
}

/// Every row of a statement that may write, planned once per process, for work that is repeated. It
/// sees the transaction's own writes.
pub fn planned<R, E>(
    sql: &'static str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&Row<'_, '_>) -> Result<R, E>,
) -> Result<Vec<R>, Error>
where
    Error: From<E>,
{
    connect_mut(|client| {
        let plan = PLANS.with_borrow_mut(|plans| {
            *plans.entry(sql).or_insert_with(|| Box::leak(Box::default()))
        });
        // A failure to prepare it is not kept: the next call tries again.
        let plan = plan.get_or_try_init(|| {
            let types: Vec<_> =
                arguments.iter().map(|argument| PgOid::from(argument.oid())).collect();
            Ok::<_, spi::Error>(client.prepare_mut(sql, &types)?.keep())
        })?;
        // Not `update`, which assigns a transaction id even if nothing is written: an idle worker
        // would then store a commit at each poll. The plan itself states that it may write.
        let table = client.select(plan, None, arguments)?;
        table.into_iter().map(|row| read_row(&row, &read)).collect()
    })
}

/// Every row that a statement returns with RETURNING.
pub fn written<R>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&Row<'_, '_>) -> Result<R, spi::Error>,
) -> Result<Vec<R>, Error> {
    connect_mut(|client| {
        let table = client.update(sql, None, arguments)?;
        table.into_iter().map(|row| read_row(&row, &read)).collect()
    })
}

/// Whether a query returns true. No row and NULL are false.
pub fn holds(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<bool, Error> {
    Ok(texts(sql, arguments)?.first().is_some_and(|answer| answer == "true"))
}

/// The first column of a query, as text, without NULLs.
pub fn texts(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<Vec<String>, Error> {
    let sql = format!("SELECT answer::pg_catalog.text FROM ({sql}) AS query (answer)");
    Ok(rows(&sql, arguments, |row| row.get::<String>(1))?.into_iter().flatten().collect())
}

/// [`texts`] with the transaction's own writes, in a subtransaction too. A plan that may write
/// takes its own snapshot, and this one needs no transaction id.
fn fresh_texts(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<Vec<String>, Error> {
    let sql = format!("SELECT answer::pg_catalog.text FROM ({sql}) AS query (answer)");
    connect_mut(|client| {
        let types: Vec<_> = arguments.iter().map(|argument| PgOid::from(argument.oid())).collect();
        let plan = client.prepare_mut(sql.as_str(), &types)?;
        let table = client.select(&plan, None, arguments)?;
        let answer = |row: &Row<'_, '_>| row.get::<String>(1);
        let answers = table.into_iter().map(|row| read_row(&row, answer));
        Ok(answers.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
}

/// A statement that writes, for the functions of this module and the actions of [`with_own_table`].
pub fn update(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    connect_mut(|client| client.update(sql, None, arguments).map(|_| ()))?;
    Ok(())
}

/// Changes a setting of the session or the transaction (SET …). Such a statement names no object
/// that could run code of other roles.
pub fn set(sql: &str) -> Result<(), Error> {
    update(sql, &[])
}

/// The owner of an object. Statements on the object run with only that role's rights, in the
/// server's security-restricted operation. Code that they run cannot become the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pg_sys::Oid);

impl Owner {
    /// Errors: 42501 if the current user lacks the rights of this role. pg_civic gives no role
    /// additional rights.
    pub fn new(owner: pg_sys::Oid) -> Result<Owner, Error> {
        if role::has_rights_of(owner) {
            return Ok(Owner(owner));
        }
        let name = texts("SELECT pg_catalog.pg_get_userbyid($1)", &[owner.into()])?.concat();
        Err(CatalogError::Privileges {
            action: "act as the owner",
            role: current_role()?,
            missing: vec![format!("the rights of role {name}")],
        }
        .into())
    }

    /// See [`refuse_code_of_others`]. Changes of a table that a superuser may own call it first.
    pub fn refuse_code_of_others(
        self,
        table: pg_sys::Oid,
        name: &'static str,
        change: Change,
    ) -> Result<(), Error> {
        self.bounded(name, || refuse_code_of_others(table, self.0, name, change))
    }

    /// Runs one statement. All names in it are qualified; values are parameters.
    pub fn execute(self, sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
        define(self.0, || update(sql, arguments))
    }

    /// Like [`Owner::execute`], for a change of a table's rows, which runs triggers, defaults and
    /// constraints of other roles. It is cancelled after [`foreign::LIMIT`]. A change that fails is
    /// rolled back.
    pub fn change(
        self,
        table: &'static str,
        sql: &str,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<(), Error> {
        self.bounded(table, || define(self.0, || update(sql, arguments)))
    }

    /// [`texts`] of a table's rows, within [`foreign::LIMIT`]: casts and index expressions are code
    /// of other roles too.
    pub fn texts(
        self,
        table: &'static str,
        sql: &str,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<Vec<String>, Error> {
        self.bounded(table, || fresh_texts(sql, arguments))
    }

    /// Rolls back an action that fails.
    fn bounded<R>(
        self,
        table: &'static str,
        action: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        attempt(
            || foreign::run(self.0, table, foreign::LIMIT, action),
            |sqlstate, message| {
                CatalogError::Refused { table, sqlstate, why: message.to_owned() }.into()
            },
        )
    }
}

/// Reads or writes one of the extension's own tables with the rights of its owner, because no other
/// role has rights on it. `None` if there is no such table; a table of this name that does not
/// belong to the extension is not used. All names in the action's statements are qualified; values
/// are parameters.
pub fn with_own_table<R>(
    table: &str,
    action: impl FnOnce() -> Result<R, Error>,
) -> Result<Option<R>, Error> {
    let owners = rows(
        "SELECT c.relowner
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'civic'
         JOIN pg_catalog.pg_depend d
           ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
          AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
         JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_civic'
         WHERE c.relname = $1 AND c.relkind = 'r'",
        &[table.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    owners.into_iter().flatten().next().map(|owner| role::acting_as(owner, action)).transpose()
}

/// Runs a statement that creates or changes an object of pg_civic and needs a superuser. It runs as
/// the bootstrap superuser, for any caller. So `sql` is constant except for names that the server
/// has quoted, and the caller must have checked who may request it. Event triggers of other roles
/// do not run with these rights.
///
/// Errors: 55000 on servers before 17 if there is such an event trigger.
pub fn execute_as_superuser(sql: &str) -> Result<(), Error> {
    define(role::BOOTSTRAP_SUPERUSER, || update(sql, &[]))
}

fn define<R>(owner: pg_sys::Oid, act: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    if role::is_superuser(owner)
        && !role::CAN_DISABLE_EVENT_TRIGGERS
        && let Some(EventTrigger { name, function, owner }) =
            event_triggers_of_others()?.into_iter().next()
    {
        return Err(CatalogError::WouldRunAsSuperuser {
            what: format!("event trigger {name}"),
            code: format!("function {function} of role \"{owner}\""),
            remedy: format!("Disable it first: ALTER EVENT TRIGGER {name} DISABLE;"),
        }
        .into());
    }
    role::defining_as(owner, act)
}

/// An event trigger whose function can be replaced by a role without superuser rights. It runs with
/// the rights of each role that changes the catalog.
pub struct EventTrigger {
    /// Quoted.
    pub name: String,
    /// Qualified and quoted, with its argument types.
    pub function: String,
    pub owner: String,
}

/// The enabled event triggers of this kind.
pub fn event_triggers_of_others() -> Result<Vec<EventTrigger>, Error> {
    rows(
        "SELECT pg_catalog.quote_ident(e.evtname), p.oid::pg_catalog.regprocedure::pg_catalog.text,
                r.rolname::pg_catalog.text
         FROM pg_catalog.pg_event_trigger e
         JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
         JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
         WHERE e.evtenabled <> 'D' AND NOT r.rolsuper AND NOT p.prosecdef
         ORDER BY e.evtname",
        &[],
        |row| {
            Ok(EventTrigger {
                name: row.get(1)?.unwrap_or_default(),
                function: row.get(2)?.unwrap_or_default(),
                owner: row.get(3)?.unwrap_or_default(),
            })
        },
    )
}

/// Plans a query of every row of a table as another role, within [`foreign::LIMIT`]: functions of policies
/// may run. The caller must have checked that the current user may become the role. `table` is qualified
/// and quoted. Why it fails, or `None`.
pub fn explain_as(role: &str, table: &str) -> Result<Option<String>, Error> {
    let sql = "SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1";
    let roles = rows(sql, &[role.into()], |row| row.get::<pg_sys::Oid>(1))?;
    let Some(role) = roles.into_iter().flatten().next() else { return Ok(None) };
    let explain = format!("EXPLAIN SELECT FROM {table}");
    let planned: Result<(), CatalogError> = attempt(
        || {
            let run = || update(&explain, &[]);
            foreign::run(role, table, foreign::LIMIT, run).map_err(|error| CatalogError::Refused {
                table: "the application",
                sqlstate: error.sqlstate(),
                why: error.message(),
            })
        },
        |sqlstate, message| CatalogError::Refused {
            table: "the application",
            sqlstate,
            why: message.to_owned(),
        },
    );
    Ok(match planned {
        Err(CatalogError::Refused { why, .. }) => Some(why),
        _ => None,
    })
}

pub fn current_role() -> Result<String, Error> {
    Ok(texts("SELECT current_user", &[])?.concat())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Source files of the code that touches other schemas, by name under `src/setup`.
    fn sources(directory: &Path) -> Vec<(String, String)> {
        let mut found = vec![];
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(sources(&path));
            } else {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
        found
    }

    #[test]
    fn setup_and_check_run_statements_only_through_this_module() {
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/setup");
        let sources = sources(&setup);
        assert!(sources.len() > 10, "{}", sources.len());
        for (name, source) in &sources {
            for way in ["Spi::", "acting_as", "defining_as", "catalog::planned", "catalog::set("] {
                assert!(!source.contains(way), "{name} has {way}: use catalog::Owner");
            }
            // The callers of this function name the extension's own tables.
            let is_ledger = ["ledger.rs", "registry.rs"].contains(&name.as_str());
            assert!(is_ledger || !source.contains("catalog::update"), "{name}: use catalog::Owner");
        }
    }

    #[test]
    fn each_statement_on_the_rows_of_others_is_listed_here() {
        const LISTED: [(&str, &str); 6] = [
            ("realtime_tenant.rs", "FROM ONLY _realtime.tenants\""),
            ("storage.rs", "FROM storage.buckets\n"),
            ("storage.rs", "FROM storage.objects\n"),
            ("storage.rs", "DELETE FROM storage.buckets WHERE"),
            ("storage.rs", "INSERT INTO storage.buckets (id"),
            ("storage.rs", "UPDATE storage.buckets SET"),
        ];
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/setup");
        for (name, source) in sources(&setup) {
            for verb in ["FROM ", "FROM ONLY ", "JOIN ", "INTO ", "UPDATE "] {
                for schema in ["storage.", "realtime.", "_realtime.", "public.", "auth."] {
                    let statement = format!("{verb}{schema}");
                    for (place, _) in source.match_indices(&statement) {
                        let start = place.saturating_sub("DELETE ".len());
                        let around: String = source[start..].chars().take(60).collect();
                        let is_listed = LISTED
                            .iter()
                            .any(|(file, text)| *file == name && around.contains(text));
                        assert!(is_listed, "{name}: {around}");
                    }
                }
            }
        }
    }
}
