//! A trigger's call: which row it is about, and its columns as text.
//!
//! This is on the path of every ticket's write, so the row is deformed once, the columns are
//! looked up once a statement, and values are appended to a buffer that is used again.

use std::convert::Infallible;
use std::ffi::CStr;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{PgTupleDesc, pg_sys};

use super::UNIX_EPOCH_OFFSET;
use super::subtransaction::attempt;

/// What a value turned out to be.
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

/// The operation that fired a trigger for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    Insert,
    Update,
    Delete,
}

/// How the values of a type become text.
#[derive(Clone, Copy)]
enum Reader {
    Boolean,
    Int16,
    Int32,
    Int64,
    Varlena,
    Uuid,
    DateTime,
    Json,
    /// Through the type's output function, whose text may be a number.
    Number,
    Output,
    /// The same, of a type that somebody made: the function may raise an error.
    ForeignOutput,
}

#[derive(Clone, Copy)]
struct Source {
    index: usize,
    type_oid: pg_sys::Oid,
    reader: Reader,
    output: pg_sys::Oid,
    /// Longest value that is unpacked, in bytes; `None` for a type of fixed length.
    limit: Option<usize>,
    /// A generated column whose value the row does not hold yet, or never.
    is_uncomputed: bool,
}

/// Where a table has the columns that were asked for.
pub struct Columns<const N: usize> {
    sources: [Option<Source>; N],
    last: i32,
}

/// A text longer than this is not read: it could not be sent.
const TEXT_LIMIT: usize = 8000;
/// The same for types whose text may be much shorter than the value: of the zeros in an array or a
/// document each takes 12 bytes or more, and two in the text.
const PACKED_LIMIT: usize = 16 * TEXT_LIMIT;

/// What pg_attribute.attgenerated is for a stored column.
const STORED: u8 = b's';

const MICROS_PER_DAY: i64 = 86_400_000_000;

impl<const N: usize> Columns<N> {
    fn of(tuple_desc: &PgTupleDesc<'_>, names: &[&str; N], is_before: bool) -> Self {
        let mut sources = [None; N];
        for (index, attribute) in tuple_desc.iter().enumerate() {
            if attribute.is_dropped() {
                continue;
            }
            if let Some(wanted) = names.iter().position(|name| *name == attribute.name()) {
                let is_uncomputed = match attribute.attgenerated as u8 {
                    0 => false,
                    // A stored one is computed after the BEFORE triggers; until then the row holds
                    // what it was.
                    STORED => is_before,
                    _ => true,
                };
                let source = Source::of(index, attribute.atttypid);
                sources[wanted] = Some(Source { is_uncomputed, ..source });
            }
        }
        let last = sources.iter().flatten().map(|source| source.index as i32 + 1).max();
        Columns { sources, last: last.unwrap_or(0) }
    }

    pub fn has(&self, column: usize) -> bool {
        self.sources[column].is_some()
    }

    /// Whether the column is a `char(n)`, whose trailing blanks mean nothing.
    pub fn is_padded(&self, column: usize) -> bool {
        self.sources[column].is_some_and(|source| source.type_oid == pg_sys::BPCHAROID)
    }
}

impl Source {
    fn of(index: usize, declared_type: pg_sys::Oid) -> Source {
        // SAFETY: catalog look-ups of a type that a column of an open table has.
        let type_oid = unsafe { pg_sys::getBaseType(declared_type) };
        let mut output = pg_sys::InvalidOid;
        let mut is_varlena = false;
        let (kind, element);
        // SAFETY: as above; the results are written to variables of this frame.
        unsafe {
            pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
            kind = pg_sys::get_typtype(type_oid) as u8;
            element = pg_sys::get_element_type(type_oid);
        }
        let is_builtin = output.to_u32() < pg_sys::FirstNormalObjectId
            && matches!(kind, b'b' | b'e')
            && element == pg_sys::InvalidOid;
        let reader = match type_oid {
            pg_sys::BOOLOID => Reader::Boolean,
            pg_sys::INT2OID => Reader::Int16,
            pg_sys::INT4OID => Reader::Int32,
            pg_sys::INT8OID => Reader::Int64,
            pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => Reader::Number,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Reader::Varlena,
            pg_sys::UUIDOID => Reader::Uuid,
            pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID | pg_sys::DATEOID => Reader::DateTime,
            pg_sys::JSONOID | pg_sys::JSONBOID => Reader::Json,
            _ if is_builtin => Reader::Output,
            _ => Reader::ForeignOutput,
        };
        let limit = match reader {
            Reader::Varlena => TEXT_LIMIT,
            _ => PACKED_LIMIT,
        };
        let limit = is_varlena.then_some(limit);
        Source { index, type_oid, reader, output, limit, is_uncomputed: false }
    }
}

/// What a trigger function returns.
pub struct TriggerRow(pg_sys::Datum);

// SAFETY: a trigger returns a pointer to a tuple, or NULL, with isnull unset (the chapter "Writing
// Trigger Functions in C").
unsafe impl BoxRet for TriggerRow {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the function returns this datum.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: names the pseudo-type that such a function is declared to return.
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
    fcinfo: pg_sys::FunctionCallInfo,
    data: &'a pg_sys::TriggerData,
}

impl<'a> TriggerCall<'a> {
    /// `None` where the function was not called as a trigger.
    ///
    /// Call it with what the server handed to the function that is running.
    pub fn from_fcinfo(fcinfo: pg_sys::FunctionCallInfo) -> Option<TriggerCall<'a>> {
        // SAFETY: the caller's promise; the server sets `context` to the trigger's data and keeps
        // both until the function returns.
        unsafe {
            if !pgrx::trigger_support::called_as_trigger(fcinfo) {
                return None;
            }
            let data = (*fcinfo).context.cast::<pg_sys::TriggerData>().as_ref()?;
            Some(TriggerCall { fcinfo, data })
        }
    }

    /// The operation; `None` for a statement's trigger, which has no row.
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

    /// What to return so that the row is written as it is, BEFORE triggers included.
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

    /// Where this table has these columns. Looked up once a statement: no column can change in
    /// between.
    pub fn columns<const N: usize>(&self, names: &[&str; N]) -> &'a Columns<N> {
        let found = super::once_per_query(self.fcinfo, || {
            // SAFETY: the relation, and with it the descriptor, is open during the call.
            let tuple_desc =
                unsafe { PgTupleDesc::from_pg_unchecked((*self.data.tg_relation).rd_att) };
            let is_before = pgrx::trigger_support::trigger_fired_before(self.data.tg_event);
            Ok::<_, Infallible>(Columns::of(&tuple_desc, names, is_before))
        });
        match found {
            Ok(columns) => columns,
            Err(never) => match never {},
        }
    }

    /// The row that the operation is about: the new one, for a DELETE the old one.
    pub fn row<const N: usize>(&self, columns: &'a Columns<N>) -> Row<'a, N> {
        let slot = match self.fired() {
            Some(Fired::Update) => self.data.tg_newslot,
            _ => self.data.tg_trigslot,
        };
        // SAFETY: for a row's trigger the server fills the slot; all columns that `columns` names
        // are deformed here, once.
        unsafe {
            if i32::from((*slot).tts_nvalid) < columns.last {
                pg_sys::slot_getsomeattrs(slot, columns.last);
            }
            Row { slot: &*slot, columns }
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

    /// A finite point in time, in microseconds since 1970-01-01 UTC; `None` for another type.
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
        if source.limit.is_some_and(|limit| unsafe { raw_size(datum) } > limit) {
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
            Reader::Json => {
                append_output(source.output, datum, out);
                Form::Json
            }
            Reader::Output => {
                append_output(source.output, datum, out);
                Form::Text
            }
            Reader::ForeignOutput => append_foreign_output(source.output, datum, out),
        }
    }
}

/// PostgreSQL's numbers that are none in JSON are `NaN`, `Infinity` and `-Infinity`.
fn is_json_number(text: &[u8]) -> bool {
    text.strip_prefix(b"-").unwrap_or(text).first().is_some_and(u8::is_ascii_digit)
}

/// Size of a varlena once it is unpacked. Asks its header, and unpacks nothing.
///
/// # Safety
///
/// The datum is a varlena.
unsafe fn raw_size(datum: pg_sys::Datum) -> usize {
    let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise. A value with a header of one byte has at most 126 and is asked
    // without a detour through the server, as nearly all are.
    unsafe {
        if pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena) {
            pgrx::varsize_1b(varlena)
        } else {
            pg_sys::toast_raw_datum_size(datum) as usize
        }
    }
}

fn append_varlena(datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    // SAFETY: a text, varchar or char of the row; what unpacking allocates goes with the context of
    // this trigger's call.
    out.extend_from_slice(unsafe { super::varlena_bytes(datum) });
    Form::Text
}

fn append_uuid(datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    // SAFETY: a uuid is 16 bytes behind the datum, of no alignment.
    let uuid = uuid::Uuid::from_bytes(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() });
    out.extend_from_slice(
        uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes(),
    );
    Form::Text
}

/// A date or time as to_jsonb writes it, whatever DateStyle is.
fn append_datetime(type_oid: pg_sys::Oid, datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    let mut buffer = [0; pg_sys::MAXDATELEN as usize + 1];
    // SAFETY: the buffer has the length that the function asks for; it writes a NUL behind the text.
    let text = unsafe {
        pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), datum, type_oid, std::ptr::null());
        CStr::from_ptr(buffer.as_ptr())
    };
    out.extend_from_slice(text.to_bytes());
    Form::Text
}

fn append_output(output: pg_sys::Oid, datum: pg_sys::Datum, out: &mut Vec<u8>) {
    // SAFETY: the output function of the value's own type, which gives a text that ends in NUL.
    let text = unsafe { CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, datum)) };
    out.extend_from_slice(text.to_bytes());
}

/// Calls an output function that may raise an error, in a subtransaction, so that the error costs
/// the value and not the row.
fn append_foreign_output(output: pg_sys::Oid, datum: pg_sys::Datum, out: &mut Vec<u8>) -> Form {
    let start = out.len();
    match attempt(|| append_output(output, datum, out)) {
        Ok(()) => Form::Text,
        Err(_) => {
            out.truncate(start);
            Form::Unreadable
        }
    }
}
