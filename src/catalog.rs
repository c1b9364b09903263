//! Questions to the catalog and statements, as whoever is the current user.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, SpiHeapTupleData};

use crate::error::Error;
use crate::pg::{self, Row};

/// Called before anything is looked at, by what changes the catalog. One such transaction at a time:
/// the next one sees what the one before has done, and neither waits for the other's table locks.
pub fn begin() -> Result<(), Error> {
    pg::lock_extension();
    // After a statement that may write, every query takes a snapshot of its own. Without, they would
    // all see the catalog as it was before the wait.
    execute("SELECT", &[])
}

/// Every row of a query. Everything in `sql` is qualified; values are parameters.
pub fn rows<R>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&Row<'_, '_>) -> Result<R, spi::Error>,
) -> Result<Vec<R>, Error> {
    Spi::connect(|client| {
        let table = client.select(sql, None, arguments)?;
        table.into_iter().map(|row| read_row(&row, &read)).collect()
    })
}

/// Reads one row. A text in it that is none is an error, whatever was made of the others.
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
    static PLANS: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// Every row of a statement that may write, planned once in the life of this process: for what is done
/// again and again. It sees what the transaction has written.
pub fn planned<R, E>(
    sql: &'static str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&Row<'_, '_>) -> Result<R, E>,
) -> Result<Vec<R>, Error>
where
    Error: From<E>,
{
    Spi::connect_mut(|client| {
        let plan = match PLANS.with_borrow(|plans| plans.get(sql).copied()) {
            Some(plan) => plan,
            None => {
                let types: Vec<_> =
                    arguments.iter().map(|argument| PgOid::from(argument.oid())).collect();
                // Never freed: at the end of the process there is nobody left to free it.
                let plan: &'static _ = Box::leak(Box::new(client.prepare_mut(sql, &types)?.keep()));
                PLANS.with_borrow_mut(|plans| plans.insert(sql, plan));
                plan
            }
        };
        // Not `update`, which takes a transaction id for what may turn out to write nothing: an idle
        // worker would store a commit at each look. The plan itself says that it may write.
        let table = client.select(plan, None, arguments)?;
        table.into_iter().map(|row| read_row(&row, &read)).collect()
    })
}

/// Every row that a statement returns of those that it writes.
pub fn written<R>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&Row<'_, '_>) -> Result<R, spi::Error>,
) -> Result<Vec<R>, Error> {
    Spi::connect_mut(|client| {
        let table = client.update(sql, None, arguments)?;
        table.into_iter().map(|row| read_row(&row, &read)).collect()
    })
}

/// Whether a query answers true. No row and NULL are false.
pub fn holds(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<bool, Error> {
    Ok(texts(sql, arguments)?.first().is_some_and(|answer| answer == "true"))
}

/// The first column of a query, as text; NULLs are left out.
pub fn texts(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<Vec<String>, Error> {
    let sql = format!("SELECT answer::pg_catalog.text FROM ({sql}) AS query (answer)");
    Ok(rows(&sql, arguments, |row| row.get::<String>(1))?.into_iter().flatten().collect())
}

pub fn execute(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    Spi::connect_mut(|client| client.update(sql, None, arguments).map(|_| ()))?;
    Ok(())
}

pub fn current_role() -> Result<String, Error> {
    Ok(texts("SELECT current_user", &[])?.concat())
}
