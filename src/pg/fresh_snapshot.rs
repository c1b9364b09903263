//! Reading what others have committed by now, whatever snapshot the transaction has.

use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi;

use super::encoding;
use super::jit::without_jit;

/// Longest value that is read, in bytes.
const VALUE_LIMIT: usize = 8 * 1024;

/// The value, unless it is longer or no text: then it equals nothing that is looked for.
fn value(text: &CStr) -> Option<String> {
    let text = Some(text.to_bytes()).filter(|text| text.len() <= VALUE_LIMIT)?;
    encoding::text(text).ok().map(str::to_owned)
}

/// Every row of a query, its values as text, `None` for what is no text, under a snapshot that is
/// taken now: at any isolation level, and whatever the transaction has done before. What it has
/// written itself is seen too.
///
/// pgrx lets a query read the older snapshot of the caller where nothing is written yet, and where
/// something is, that of the transaction, which above READ COMMITTED is as old as itself.
pub fn rows(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<Vec<Option<String>>>, spi::Error> {
    let sql = CString::new(sql).map_err(|_| spi::Error::SpiError(spi::SpiErrorCodes::Argument))?;
    let mut types: Vec<_> = arguments.iter().map(|argument| argument.oid()).collect();
    let (mut values, nulls): (Vec<_>, Vec<_>) = arguments
        .iter()
        .map(|argument| match argument.datum() {
            Some(value) => (value.sans_lifetime(), b' ' as std::ffi::c_char),
            None => (pg_sys::Datum::from(0), b'n' as std::ffi::c_char),
        })
        .unzip();
    Spi::connect(|_| {
        // SAFETY: the statement ends in NUL, and there are as many types, values and marks of NULL as
        // are said. Where an error unwinds, the end of its (sub)transaction takes the snapshot away.
        let status = unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            // Read-only, so that it takes the snapshot that was pushed.
            let status = without_jit(|| {
                pg_sys::SPI_execute_with_args(
                    sql.as_ptr(),
                    arguments.len() as i32,
                    types.as_mut_ptr(),
                    values.as_mut_ptr(),
                    nulls.as_ptr(),
                    true,
                    0,
                )
            });
            pg_sys::PopActiveSnapshot();
            status
        };
        Spi::check_status(status)?;
        // SAFETY: the rows of the query above, which live until SPI is left; their columns are counted
        // from 1, and a value's text ends in NUL.
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
