//! A row of a query. Its texts are validated before they become a `str`.

use std::cell::Cell;

use pgrx::spi::{self, SpiHeapTupleData};
use pgrx::{FromDatum, IntoDatum, Uuid, pg_sys};
use serde_json::Value;

use super::argument::{JSON_LIMIT, Json};
use super::encoding;
use super::error::Error;
use super::text::{jsonb_value, text_array, varlena_bytes, varlena_size};

/// Longest text that is read, in bytes. No legitimate name, path or expression of the catalog is
/// this long.
const TEXT_LIMIT: usize = 1024 * 1024;

/// A row of a query.
pub struct Row<'row, 'conn> {
    tuple: &'row SpiHeapTupleData<'conn>,
    /// The first value that was rejected.
    refused: Cell<Option<Error>>,
}

impl<'row, 'conn> Row<'row, 'conn> {
    pub fn new(tuple: &'row SpiHeapTupleData<'conn>) -> Self {
        Row { tuple, refused: Cell::new(None) }
    }

    /// A column's value, counted from 1; `None` for NULL. A rejected value is `None` too, and makes
    /// the row an error: see [`Row::finish`].
    pub fn get<T: Column>(&self, place: usize) -> Result<Option<T>, spi::Error> {
        T::read(self, place)
    }

    /// Errors: 22021 if a text that was read is not valid, 54000 if a value is too long, 53200 if
    /// there is not enough memory.
    pub fn finish(self) -> Result<(), Error> {
        self.refused.into_inner().map_or(Ok(()), Err)
    }

    fn checked<T>(&self, place: usize) -> Result<Option<T>, spi::Error>
    where
        Checked<T>: FromDatum + IntoDatum,
    {
        match self.tuple.get::<Checked<T>>(place)? {
            Some(Checked(Ok(value))) => Ok(Some(value)),
            Some(Checked(Err(error))) => {
                let first = self.refused.take();
                self.refused.set(first.or(Some(error)));
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

/// A type that can be read from a row.
pub trait Column: Sized {
    fn read(row: &Row<'_, '_>, place: usize) -> Result<Option<Self>, spi::Error>;
}

/// Types that pgrx reads correctly for every value.
macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Column for $type {
            fn read(row: &Row<'_, '_>, place: usize) -> Result<Option<Self>, spi::Error> {
                row.tuple.get(place)
            }
        })*
    };
}

plain!(bool, i16, i32, i64, f64, pg_sys::Oid, Uuid, Vec<u8>);

/// Types that hold text.
macro_rules! checked {
    ($($type:ty),*) => {
        $(impl Column for $type {
            fn read(row: &Row<'_, '_>, place: usize) -> Result<Option<Self>, spi::Error> {
                row.checked(place)
            }
        })*
    };
}

checked!(String, Vec<String>, Json);

/// A value, or the reason to reject it.
struct Checked<T>(Result<T, Error>);

/// Defines how a type is read from a non-NULL value, and its SQL type.
macro_rules! taken_from {
    ($type:ty, $oid:expr, $take:expr) => {
        impl FromDatum for Checked<$type> {
            unsafe fn from_polymorphic_datum(
                datum: pg_sys::Datum,
                is_null: bool,
                _type_oid: pg_sys::Oid,
            ) -> Option<Self> {
                // SAFETY: pgrx has compared the column's type with the type below.
                (!is_null).then(|| Checked(unsafe { $take(datum) }))
            }
        }

        impl IntoDatum for Checked<$type> {
            fn into_datum(self) -> Option<pg_sys::Datum> {
                None
            }

            fn type_oid() -> pg_sys::Oid {
                $oid
            }
        }
    };
}

taken_from!(String, pg_sys::TEXTOID, take_text);
taken_from!(Vec<String>, pg_sys::TEXTARRAYOID, take_texts);
taken_from!(Json, pg_sys::JSONBOID, take_json);

fn check_size(bytes: usize, limit: usize) -> Result<(), Error> {
    if bytes > limit { Err(Error::ValueTooLong { bytes, limit }) } else { Ok(()) }
}

/// # Safety
///
/// The datum is a text.
unsafe fn take_text(datum: pg_sys::Datum) -> Result<String, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        check_size(varlena_size(datum), TEXT_LIMIT)?;
        Ok(encoding::text(varlena_bytes(datum))?.to_owned())
    }
}

/// # Safety
///
/// The datum is an array of text.
unsafe fn take_texts(datum: pg_sys::Datum) -> Result<Vec<String>, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        check_size(varlena_size(datum), TEXT_LIMIT)?;
        Ok(text_array(datum)?.into_iter().flatten().map(str::to_owned).collect())
    }
}

/// # Safety
///
/// The datum is a jsonb.
unsafe fn take_json(datum: pg_sys::Datum) -> Result<Json, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        check_size(varlena_size(datum), JSON_LIMIT)?;
        let value: Value =
            jsonb_value(datum, |bytes| check_size(bytes, JSON_LIMIT))?.ok_or_else(|| {
                Error::Catalog { why: "a document is nested deeper than 127 levels".to_owned() }
            })?;
        Ok(Json(value))
    }
}
