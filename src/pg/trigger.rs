//! A trigger call: its row, and the row's columns as text.
//!
//! This code runs for every write of a ticket. So a row is deformed once, columns are looked up
//! once per session, and values are appended to a reused buffer.

mod columns;
mod named;

use std::ffi::CStr;
use std::rc::Rc;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

pub use self::columns::{Columns, Tables};
use self::columns::{Reader, Source};
pub use self::named::Named;
use super::UNIX_EPOCH_OFFSET;
use super::subtransaction::try_to;
use super::text::{varlena_bytes, varlena_size};

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Null,
    Boolean,
    Number,
    Text,
    /// A JSON document.
    Json,
    /// Longer than any notification, or of a type whose output function raised an error.
    Unreadable,
}

/// The operation that fired a row trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    Insert,
    Update,
    Delete,
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The result of a trigger function.
pub struct TriggerRow(pg_sys::Datum);

// SAFETY: a trigger returns a pointer to a tuple, or NULL, with isnull unset (chapter "Writing
// Trigger Functions in C").
unsafe impl BoxRet for TriggerRow {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the function returns this datum.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: names the pseudo-type that a trigger function returns.
unsafe impl SqlTranslatable for TriggerRow {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(TriggerRow);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Err(ArgumentError::NotValidAsArgument("trigger"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("trigger")));
}

/// One call of a trigger function.
pub struct TriggerCall<'a> {
    data: &'a pg_sys::TriggerData,
}

impl<'a> TriggerCall<'a> {
    /// `None` if the function was not called as a trigger.
    ///
    /// Pass the argument that the server passed to the running function.
    pub fn from_fcinfo(fcinfo: pg_sys::FunctionCallInfo) -> Option<TriggerCall<'a>> {
        // SAFETY: the caller's promise; the server sets `context` to the trigger's data and keeps
        // both until the function returns.
        unsafe {
            if !pgrx::trigger_support::called_as_trigger(fcinfo) {
                return None;
            }
            let data = (*fcinfo).context.cast::<pg_sys::TriggerData>().as_ref()?;
            Some(TriggerCall { data })
        }
    }

    /// The operation; `None` for a statement trigger, which has no row.
    pub fn fired(&self) -> Option<Fired> {
        use pgrx::trigger_support::*;
        let event = self.data.tg_event;
        if !trigger_fired_for_row(event) {
            None
        } else if trigger_fired_by_insert(event) {
            Some(Fired::Insert)
        } else if trigger_fired_by_update(event) {
            Some(Fired::Update)
        } else {
            Some(Fired::Delete)
        }
    }

    /// The return value that leaves the row as it is, for BEFORE triggers too.
    pub fn unchanged_row(&self) -> TriggerRow {
        TriggerRow(match self.fired() {
            Some(Fired::Update) => pg_sys::Datum::from(self.data.tg_newtuple),
            _ => pg_sys::Datum::from(self.data.tg_trigtuple),
        })
    }

    /// Name of the table.
    pub fn table_name(&self) -> String {
        // SAFETY: the server keeps the relation open during the call, and its name ends in NUL.
        let name =
            unsafe { CStr::from_ptr((*(*self.data.tg_relation).rd_rel).relname.data.as_ptr()) };
        name.to_string_lossy().into_owned()
    }

    /// OID of the table; for a partitioned table, of the partition.
    pub fn table(&self) -> u32 {
        // SAFETY: the server keeps the relation open during the call.
        unsafe { (*self.data.tg_relation).rd_id.to_u32() }
    }

    /// Where this table has the columns of `tables`.
    pub fn columns<const N: usize>(&self, tables: &Tables<N>) -> Rc<Columns<N>> {
        let is_before = pgrx::trigger_support::trigger_fired_before(self.data.tg_event);
        // SAFETY: the server keeps the relation open during the call.
        tables.columns(unsafe { &*self.data.tg_relation }, is_before)
    }

    /// The row of the operation: the new one, or for a DELETE the old one.
    pub fn row<'b, const N: usize>(&'b self, columns: &'b Columns<N>) -> Row<'b, N> {
        let slot = match self.fired() {
            Some(Fired::Update) => self.data.tg_newslot,
            _ => self.data.tg_trigslot,
        };
        // SAFETY: for a row trigger the server fills the slot; all columns in `columns` are
        // deformed here, once.
        unsafe {
            if i32::from((*slot).tts_nvalid) < columns.last {
                pg_sys::slot_getsomeattrs(slot, columns.last);
            }
            Row { slot: &*slot, columns }
        }
    }
}

impl<'a> TriggerCall<'a> {
    /// The old row of an UPDATE.
    pub fn old_row<'b, const N: usize>(&'b self, columns: &'b Columns<N>) -> Option<Row<'b, N>> {
        if self.fired() != Some(Fired::Update) {
            return None;
        }
        let slot = self.data.tg_trigslot;
        // SAFETY: for an UPDATE the server fills the slot with a row of this table; all columns that
        // `columns` names are deformed here.
        unsafe {
            if i32::from((*slot).tts_nvalid) < columns.last {
                pg_sys::slot_getsomeattrs(slot, columns.last);
            }
            Some(Row { slot: &*slot, columns })
        }
    }

    /// The old row of an UPDATE, unless this column has the same bytes in both rows. Only this
    /// column of the row may be read.
    pub fn replaced<'b, const N: usize>(
        &'b self,
        columns: &'b Columns<N>,
        column: usize,
    ) -> Option<Row<'b, N>> {
        if self.fired() != Some(Fired::Update) {
            return None;
        }
        let source = columns.sources[column].filter(|source| !source.is_uncomputed)?;
        let (old, new) = (self.data.tg_trigslot, self.data.tg_newslot);
        // SAFETY: for an UPDATE the server fills both slots with rows of this table; the column is
        // deformed before it is read.
        unsafe {
            let value = |slot: *mut pg_sys::TupleTableSlot| {
                if i32::from((*slot).tts_nvalid) <= source.index as i32 {
                    pg_sys::slot_getsomeattrs(slot, source.index as i32 + 1);
                }
                let is_null = *(*slot).tts_isnull.add(source.index);
                (!is_null).then(|| *(*slot).tts_values.add(source.index))
            };
            let is_same = match (value(old), value(new)) {
                (Some(old), Some(new)) => source.is_plainly_same(old, new),
                (None, None) => true,
                _ => false,
            };
            (!is_same).then(|| Row { slot: &*old, columns })
        }
    }
}

/// A row whose columns can be read.
pub struct Row<'a, const N: usize> {
    slot: &'a pg_sys::TupleTableSlot,
    columns: &'a Columns<N>,
}

impl<const N: usize> Row<'_, N> {
    fn value(&self, column: usize) -> Option<(Source, pg_sys::Datum)> {
        let source = self.columns.sources[column].filter(|source| !source.is_uncomputed)?;
        // SAFETY: the slot is deformed up to the last of these columns.
        unsafe {
            (!*self.slot.tts_isnull.add(source.index))
                .then(|| (source, *self.slot.tts_values.add(source.index)))
        }
    }

    /// A finite timestamp in microseconds since 1970-01-01 UTC; `None` for other types.
    pub fn micros(&self, column: usize) -> Option<i64> {
        let (source, datum) = self.value(column)?;
        let micros = match source.type_oid {
            pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID => datum.value() as i64,
            pg_sys::DATEOID => match datum.value() as i32 {
                i32::MIN | i32::MAX => return None,
                days => i64::from(days).checked_mul(MICROS_PER_DAY)?,
            },
            _ => return None,
        };
        // The ends of the range mean -infinity and infinity.
        (micros != i64::MIN && micros != i64::MAX).then(|| micros.checked_add(UNIX_EPOCH_OFFSET))?
    }

    /// Appends the value's text to `out`.
    pub fn append(&self, column: usize, out: &mut Vec<u8>) -> Form {
        use std::io::Write;
        let Some((source, datum)) = self.value(column) else { return Form::Null };
        // SAFETY: a type with a limit is a varlena, and this is a value of the row.
        if source.limit.is_some_and(|limit| unsafe { varlena_size(datum) } > limit) {
            return Form::Unreadable;
        }
        let integer = |out: &mut Vec<u8>, value: i64| {
            write!(out, "{value}").expect("writing to memory does not fail");
            Form::Number
        };
        match source.reader {
            Reader::Boolean => {
                out.extend_from_slice(if datum.value() as u8 != 0 { b"true" } else { b"false" });
                Form::Boolean
            }
            Reader::Int16 => integer(out, i64::from(datum.value() as i16)),
            Reader::Int32 => integer(out, i64::from(datum.value() as i32)),
            Reader::Int64 => integer(out, datum.value() as i64),
            Reader::Varlena => append_varlena(datum, out),
            Reader::Uuid => append_uuid(datum, out),
            Reader::DateTime => append_datetime(source.type_oid, datum, out),
            Reader::Number => {
                let start = out.len();
                append_output(source.output, datum, out);
                if is_json_number(&out[start..]) { Form::Number } else { Form::Text }
            }
            // A number of a few bytes can expand to a hundred thousand digits, and a document of
            // such numbers can exceed what the server can write.
            Reader::Json => match append_foreign_output(source.output, datum, out) {
                Form::Text => Form::Json,
                other => other,
            },
            Reader::Output => append_output(source.output, datum, out),
            Reader::ForeignOutput => append_foreign_output(source.output, datum, out),
        }
    }
}

/// False for `NaN`, `Infinity` and `-Infinity`, the numbers that JSON does not have.
fn is_json_number(text: &[u8]) -> bool {
    text.strip_prefix(b"-").unwrap_or(text).first().is_some_and(u8::is_ascii_digit)
}

fn append_varlena(datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    // SAFETY: a text, varchar or char of the row. The memory that unpacking allocates is freed with
    // the context of this trigger call.
    out.extend_from_slice(unsafe { varlena_bytes(datum) });
    Form::Text
}

fn append_uuid(datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    // SAFETY: a uuid is 16 bytes at the datum, without alignment.
    let uuid = uuid::Uuid::from_bytes(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() });
    out.extend_from_slice(
        uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes(),
    );
    Form::Text
}

/// A date or time in the form of to_jsonb, for any DateStyle.
fn append_datetime(type_oid: pg_sys::Oid, datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    let mut buffer = [0; pg_sys::MAXDATELEN as usize + 1];
    // SAFETY: the buffer has the length that the function requires; it writes a NUL after the text.
    let text = unsafe {
        pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), datum, type_oid, std::ptr::null());
        CStr::from_ptr(buffer.as_ptr())
    };
    out.extend_from_slice(text.to_bytes());
    Form::Text
}

/// Longest output that is copied, in bytes. An event holds less than a hundredth of it.
const OUTPUT_LIMIT: usize = 1024 * 1024;

fn append_output(output: pg_sys::Oid, datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    // SAFETY: the output function of the value's own type, which returns a text that ends in NUL.
    let text = unsafe { CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, datum)) };
    if text.count_bytes() > OUTPUT_LIMIT {
        return Form::Unreadable;
    }
    out.extend_from_slice(text.to_bytes());
    Form::Text
}

/// Calls an output function that may raise an error in a subtransaction, so that an error loses
/// only the value, not the row.
fn append_foreign_output(output: pg_sys::Oid, datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    let start = out.len();
    match try_to(|| append_output(output, datum, out)) {
        Ok(form) => form,
        Err(_) => {
            out.truncate(start);
            Form::Unreadable
        }
    }
}
