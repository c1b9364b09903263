//! Reads what others have committed so far, whatever snapshot the transaction uses.

use std::ffi::{CStr, CString};

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
        // SAFETY: the statement ends in NUL, and the counts of types, values and NULL flags match.
        // If an error unwinds, the end of the (sub)transaction pops the snapshot.
        let status = unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            // Read-only, so that it uses the pushed snapshot.
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
