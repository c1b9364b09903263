//! Reads what others have committed so far, whatever snapshot the transaction uses.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi;

use super::encoding;
use super::jit::without_jit;

/// Longest value that is read, in bytes.
const VALUE_LIMIT: usize = 8 * 1024;

/// The value; `None` if it is too long or not valid text, because it then equals no searched value.
fn value(text: &CStr) -> Option<String> {
    let text = Some(text.to_bytes()).filter(|text| text.len() <= VALUE_LIMIT)?;
    encoding::text(text).ok().map(str::to_owned)
}

/// What SPI is given beside a statement.
struct Arguments {
    types: Vec<pg_sys::Oid>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<c_char>,
}

impl Arguments {
    fn of(arguments: &[DatumWithOid<'_>]) -> Arguments {
        let types = arguments.iter().map(|argument| argument.oid()).collect();
        let (values, nulls) = arguments
            .iter()
            .map(|argument| match argument.datum() {
                Some(value) => (value.sans_lifetime(), b' ' as c_char),
                None => (pg_sys::Datum::from(0), b'n' as c_char),
            })
            .unzip();
        Arguments { types, values, nulls }
    }

    fn count(&self) -> c_int {
        self.types.len() as c_int
    }
}

fn terminated(sql: &str) -> Result<CString, spi::Error> {
    CString::new(sql).map_err(|_| spi::Error::SpiError(spi::SpiErrorCodes::Argument))
}

thread_local! {
    /// The plans of [`planned`] by their statements. They are kept until the process ends.
    static PLANS: RefCell<HashMap<&'static str, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// Every row of a query with its values as text (`None` for invalid text), under a snapshot taken
/// now: at any isolation level, and whatever the transaction did before. It includes the
/// transaction's own writes.
///
/// By default pgrx uses the caller's older snapshot if nothing was written yet, and otherwise the
/// transaction's, which above READ COMMITTED is as old as the transaction.
pub fn rows(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<Vec<Option<String>>>, spi::Error> {
    let sql = terminated(sql)?;
    let mut arguments = Arguments::of(arguments);
    run(|| {
        // SAFETY: the statement ends in NUL, and the counts of types, values and NULL flags match. Read-only,
        // so that it uses the pushed snapshot.
        Ok(unsafe {
            pg_sys::SPI_execute_with_args(
                sql.as_ptr(),
                arguments.count(),
                arguments.types.as_mut_ptr(),
                arguments.values.as_mut_ptr(),
                arguments.nulls.as_ptr(),
                true,
                0,
            )
        })
    })
}

/// [`rows`] of a statement whose plan is kept, for work that is repeated. A statement is always given
/// arguments of the same types.
pub fn planned(
    sql: &'static str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<Vec<Option<String>>>, spi::Error> {
    let mut arguments = Arguments::of(arguments);
    run(|| {
        let kept = PLANS.with_borrow(|plans| plans.get(sql).copied());
        let plan = kept.map_or_else(|| prepare(sql, &mut arguments), Ok)?;
        // SAFETY: a kept plan is valid until the process ends; the rest as in `rows`.
        Ok(unsafe {
            pg_sys::SPI_execute_plan(
                plan,
                arguments.values.as_mut_ptr(),
                arguments.nulls.as_ptr(),
                true,
                0,
            )
        })
    })
}

/// A failure is not kept: the next call tries again.
fn prepare(sql: &'static str, arguments: &mut Arguments) -> Result<pg_sys::SPIPlanPtr, spi::Error> {
    let text = terminated(sql)?;
    // SAFETY: the statement ends in NUL, and the count of types matches. The plan of SPI_prepare is valid
    // until SPI ends, and one that is kept until the process does.
    let plan = unsafe {
        let plan =
            pg_sys::SPI_prepare(text.as_ptr(), arguments.count(), arguments.types.as_mut_ptr());
        if plan.is_null() {
            let error = Spi::check_status(pg_sys::SPI_result).err();
            return Err(error.unwrap_or(spi::SpiErrorCodes::Argument.into()));
        }
        // It fails only for what is no plan, or is kept already.
        pg_sys::SPI_keepplan(plan);
        plan
    };
    PLANS.with_borrow_mut(|plans| plans.insert(sql, plan));
    Ok(plan)
}

/// Runs a statement within SPI under a snapshot taken now, and reads its rows.
fn run(
    statement: impl FnOnce() -> Result<c_int, spi::Error>,
) -> Result<Vec<Vec<Option<String>>>, spi::Error> {
    Spi::connect(|_| {
        // SAFETY: what is pushed is popped; if an error unwinds, by the end of the (sub)transaction.
        let status = unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let status = without_jit(statement);
            pg_sys::PopActiveSnapshot();
            status?
        };
        Spi::check_status(status)?;
        // SAFETY: the rows of the query above live until SPI ends. Columns are counted from 1, and
        // the text of a value ends in NUL.
        unsafe {
            let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return Ok(vec![]) };
            let text = |tuple, column| {
                let text = pg_sys::SPI_getvalue(tuple, table.tupdesc, column);
                if text.is_null() { None } else { value(CStr::from_ptr(text)) }
            };
            let columns = (*table.tupdesc).natts;
            let row = |place| {
                let tuple = *table.vals.add(place);
                (1..=columns).map(|column| text(tuple, column)).collect()
            };
            Ok((0..table.numvals as usize).map(row).collect())
        }
    })
}
