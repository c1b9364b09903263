//! Varlena contents, and text results, without pgrx's extra copies: those matter in functions that
//! run for each row of a scan.

use std::ffi::{CStr, c_char};

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{
    direct_function_call, pg_sys, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u,
    varlena_to_byte_slice, varsize_1b,
};
use serde_json::Value;

use super::encoding;
use super::error::Error;
use super::memory::check_available;

/// A text result, copied once, into the memory of the caller's row.
pub struct TextResult(pg_sys::Datum);

impl TextResult {
    pub fn new(text: &str) -> TextResult {
        let length = text.len() as i32;
        // SAFETY: the server copies that many bytes; a `str` is UTF-8, the database's encoding.
        TextResult(pg_sys::Datum::from(unsafe {
            pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), length)
        }))
    }
}

// SAFETY: a pointer to a text, returned by the function that made it.
unsafe impl BoxRet for TextResult {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the function returns this datum.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: names the type that is made above.
unsafe impl SqlTranslatable for TextResult {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(TextResult);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("text"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("text")));
}

/// A text array result, built in one step. pgrx would collect the elements one by one in a separate
/// memory context, and each query on files calls this.
pub struct TextArrayResult(pg_sys::Datum);

impl TextArrayResult {
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> TextArrayResult {
        let mut elements: Vec<_> = texts.map(|text| TextResult::new(text).0).collect();
        // SAFETY: the element count is right; length, passing and alignment are those of text.
        TextArrayResult(pg_sys::Datum::from(unsafe {
            pg_sys::construct_array(
                elements.as_mut_ptr(),
                elements.len() as i32,
                pg_sys::TEXTOID,
                -1,
                false,
                pg_sys::TYPALIGN_INT as c_char,
            )
        }))
    }
}

// SAFETY: a pointer to an array, returned by the function that made it.
unsafe impl BoxRet for TextArrayResult {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the function returns this datum.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: names the type that is made above.
unsafe impl SqlTranslatable for TextArrayResult {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(TextArrayResult);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("text[]"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("text[]")));
}

/// The bytes of a varlena.
///
/// # Safety
///
/// The datum is a varlena that lives for `'a`.
#[inline]
pub(super) unsafe fn varlena_bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller's promise; the server unpacks values that are compressed or out of line.
    unsafe {
        let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
        if varatt_is_4b_u(varlena) || varatt_is_1b(varlena) && !varatt_is_1b_e(varlena) {
            varlena_to_byte_slice(varlena)
        } else {
            varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(varlena))
        }
    }
}

/// The size of a varlena once unpacked, in bytes. Reads only the header.
///
/// # Safety
///
/// The datum is a varlena.
#[inline]
pub(super) unsafe fn varlena_size(datum: pg_sys::Datum) -> usize {
    let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise. Nearly all values have a header of one byte, which needs no
    // call into the server.
    unsafe {
        if varatt_is_1b(varlena) && !varatt_is_1b_e(varlena) {
            varsize_1b(varlena) - 1
        } else {
            (pg_sys::toast_raw_datum_size(datum) as usize).saturating_sub(HEADER)
        }
    }
}

/// Size of a varlena's usual header (VARHDRSZ), which the server includes.
const HEADER: usize = 4;

/// The elements of a text array; `None` for NULL. Check its size first.
///
/// Errors: 22021 if an element is not valid text.
///
/// # Safety
///
/// The datum is an array of text that lives for `'a`.
pub(super) unsafe fn text_array<'a>(datum: pg_sys::Datum) -> Result<Vec<Option<&'a str>>, Error> {
    let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the caller's promise; text has this length, passing and alignment. The server returns
    // as many elements and NULL flags as it counts.
    unsafe {
        pg_sys::deconstruct_array(
            pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast(),
            pg_sys::TEXTOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as c_char,
            &mut elements,
            &mut nulls,
            &mut count,
        );
        let element = |place: usize| {
            let is_null = *nulls.add(place);
            (!is_null).then(|| encoding::text(varlena_bytes(*elements.add(place)))).transpose()
        };
        Ok((0..count as usize).map(element).collect::<Result<_, _>>()?)
    }
}

/// The most bytes of memory that a parsed value takes per byte of text. Worst case `"",`: an
/// element of 32 bytes in an array that doubles its size while the old one is copied.
const VALUE_SIZE: usize = 40;

/// The most bytes that jsonb_out() allocates per byte of a jsonb without numbers: a text buffer
/// that doubles its size while the old one is copied.
const OUTPUT_SIZE: usize = 4;
/// The least memory that copying a server error takes: a grown memory context requests a block of
/// this size. Without it the server panics, see docs/security.md.
const ERROR_SIZE: usize = 2 * 1024 * 1024;

/// Parses a jsonb; `None` if it is nested deeper than 127 levels. `check_size` runs before anything
/// is copied: a number of a few bytes can expand to a hundred thousand digits.
///
/// Errors: those of `check_size`, 22021 if a string in it is not valid text, 53200 if there is not
/// enough memory.
///
/// # Safety
///
/// The datum is a jsonb.
pub(super) unsafe fn jsonb_value(
    datum: pg_sys::Datum,
    check_size: impl FnOnce(usize) -> Result<(), Error>,
) -> Result<Option<Value>, Error> {
    // SAFETY: the caller's promise.
    check_available(unsafe { varlena_size(datum) } * OUTPUT_SIZE + ERROR_SIZE)?;
    // SAFETY: jsonb_out takes a jsonb and returns a text that ends in NUL, in the current context.
    let text: &CStr = unsafe { direct_function_call(pg_sys::jsonb_out, &[Some(datum)]) }
        .ok_or_else(|| Error::Catalog { why: "jsonb_out() gave NULL".to_owned() })?;
    let bytes = text.count_bytes();
    check_size(bytes)?;
    check_available(bytes * VALUE_SIZE)?;
    Ok(serde_json::from_str(encoding::text(text.to_bytes())?).ok())
}
