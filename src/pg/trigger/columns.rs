//! Finds the columns that a trigger reads in a table, and how their values become text.
//!
//! Most statements write one ticket, so the result is cached across statements, until the server
//! reports that a table has changed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::{PgTupleDesc, pg_guard, pg_sys};

/// How the values of a type become text.
#[derive(Clone, Copy)]
pub(super) enum Reader {
    Boolean,
    Int16,
    Int32,
    Int64,
    Varlena,
    Uuid,
    DateTime,
    Json,
    /// Through the type's output function; the text may be a number.
    Number,
    Output,
    /// Like `Output`, for a user-defined type: the function may raise an error.
    ForeignOutput,
}

#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) index: usize,
    pub(super) type_oid: pg_sys::Oid,
    pub(super) reader: Reader,
    pub(super) output: pg_sys::Oid,
    /// Longest value that is unpacked, in bytes; `None` for a type of fixed length.
    pub(super) limit: Option<usize>,
    /// Bytes of a value; -1 for a varlena.
    pub(super) length: i16,
    /// Whether the datum is the value itself.
    pub(super) is_by_value: bool,
    /// A generated column whose value is not in the row yet, or never is.
    pub(super) is_uncomputed: bool,
}

/// Where a table has the requested columns.
pub struct Columns<const N: usize> {
    pub(super) sources: [Option<Source>; N],
    pub(super) last: i32,
}

/// A longer text is not read: it could not be sent.
const TEXT_LIMIT: usize = 7996;
/// The same for types whose text may be much shorter than the value: each zero in an array or a
/// document takes 12 bytes or more, and two in the text.
const PACKED_LIMIT: usize = 16 * TEXT_LIMIT;

/// The value of pg_attribute.attgenerated for a stored column.
const STORED: u8 = b's';

impl<const N: usize> Columns<N> {
    fn of(tuple_desc: &PgTupleDesc<'_>, names: &[String; N], is_before: bool) -> Self {
        let mut sources = [None; N];
        for (index, attribute) in tuple_desc.iter().enumerate() {
            if attribute.is_dropped() {
                continue;
            }
            // Compared as bytes: a name need not be valid UTF-8.
            // SAFETY: a name of the catalog ends in NUL within its array.
            let column = unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes();
            if let Some(wanted) = names.iter().position(|name| name.as_bytes() == column) {
                let is_uncomputed = match attribute.attgenerated as u8 {
                    0 => false,
                    // A stored column is computed after the BEFORE triggers; before that the row
                    // holds the old value.
                    STORED => is_before,
                    _ => true,
                };
                let source = Source::of(index, attribute);
                sources[wanted] = Some(Source { is_uncomputed, ..source });
            }
        }
        let last = sources.iter().flatten().map(|source| source.index as i32 + 1).max();
        Columns { sources, last: last.unwrap_or(0) }
    }

    /// Whether the table has one of the columns.
    pub fn has_any(&self) -> bool {
        self.last > 0
    }

    pub fn has(&self, column: usize) -> bool {
        self.sources[column].is_some()
    }

    /// Whether the trigger's rows hold the column's value: there is such a column, and it is not a generated
    /// one whose value is missing.
    pub fn is_known(&self, column: usize) -> bool {
        self.sources[column].is_some_and(|source| !source.is_uncomputed)
    }

    /// Whether the column is a `char(n)`, whose trailing blanks are not significant.
    pub fn is_padded(&self, column: usize) -> bool {
        self.sources[column].is_some_and(|source| source.type_oid == pg_sys::BPCHAROID)
    }
}

impl Source {
    fn of(index: usize, attribute: &pg_sys::FormData_pg_attribute) -> Source {
        // SAFETY: catalog lookups of the type of a column in an open table.
        let type_oid = unsafe { pg_sys::getBaseType(attribute.atttypid) };
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
        let (length, is_by_value) = (attribute.attlen, attribute.attbyval);
        let is_uncomputed = false;
        Source { index, type_oid, reader, output, limit, length, is_by_value, is_uncomputed }
    }

    /// Whether two values are the same bytes. A value that is compressed or stored out of line may
    /// equal one that is not; that counts as different.
    ///
    /// # Safety
    ///
    /// Both are values of this column.
    pub(super) unsafe fn is_plainly_same(&self, one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
        if self.is_by_value {
            return one == other;
        }
        // SAFETY: the caller's promise. The datum points to as many bytes as the type has, or to a
        // varlena, whose header holds the length.
        unsafe {
            let bytes = |datum: pg_sys::Datum| {
                let length = match self.length {
                    -1 => pgrx::varsize_any(datum.cast_mut_ptr()),
                    length => usize::try_from(length).ok()?,
                };
                Some(std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>().cast_const(), length))
            };
            matches!((bytes(one), bytes(other)), (Some(one), Some(other)) if one == other)
        }
    }
}

thread_local! {
    /// Incremented whenever a table may have changed.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// Whether the server reports changes of tables to this process.
    static IS_OBSERVED: Cell<bool> = const { Cell::new(false) };
}

#[pg_guard]
unsafe extern "C-unwind" fn table_changed(_argument: pg_sys::Datum, _table: pg_sys::Oid) {
    GENERATION.set(GENERATION.get() + 1);
}

/// A session's cache of the tables that have a trigger.
pub struct Tables<const N: usize> {
    names: [String; N],
    generation: Cell<u64>,
    /// By table, and by whether the trigger is a BEFORE trigger.
    known: RefCell<BTreeMap<(u32, bool), Rc<Columns<N>>>>,
}

impl<const N: usize> Tables<N> {
    /// An empty name stands for no column.
    pub fn new(names: [String; N]) -> Self {
        // Once: the server has room for ten such functions.
        if !IS_OBSERVED.replace(true) {
            // SAFETY: the function lives as long as the library, which is never unloaded.
            unsafe {
                pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), pg_sys::Datum::null());
            }
        }
        Tables { names, generation: Cell::new(0), known: RefCell::default() }
    }

    /// The columns of a table that the server holds open.
    pub(super) fn columns(&self, table: &pg_sys::RelationData, is_before: bool) -> Rc<Columns<N>> {
        if self.generation.replace(GENERATION.get()) != GENERATION.get() {
            self.known.borrow_mut().clear();
        }
        let key = (table.rd_id.to_u32(), is_before);
        if let Some(columns) = self.known.borrow().get(&key) {
            return Rc::clone(columns);
        }
        // A type lookup may process an invalidation; the next row then looks the columns up again.
        // SAFETY: the relation, and with it the descriptor, is open during the call.
        let descriptor = unsafe { PgTupleDesc::from_pg_unchecked(table.rd_att) };
        let columns = Rc::new(Columns::of(&descriptor, &self.names, is_before));
        self.known.borrow_mut().insert(key, Rc::clone(&columns));
        columns
    }
}
