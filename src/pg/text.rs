//! Texts as arguments and as results, without the copies and detours that pgrx makes: they count where
//! a function sees each row of a scan.

use std::ffi::c_char;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{
    FromDatum, pg_sys, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice,
};

/// A text argument, read where it stands. Like `&str`, without a detour through the server for a
/// value that is neither packed nor stored elsewhere, as nearly all are: it counts where a function
/// sees each row of a scan.
pub struct Text<'a>(&'a str);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.0
    }
}

/// A text to return, copied once, into the memory of the caller's row.
pub struct TextResult(pg_sys::Datum);

impl TextResult {
    pub fn new(text: &str) -> TextResult {
        let length = text.len() as i32;
        // SAFETY: the server copies that many bytes; they are its encoding, see `Text`.
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

/// Texts to return as an array, made at once: pgrx would gather them one by one, in a memory context of
/// their own, and each query that reads files asks for one.
pub struct TextArrayResult(pg_sys::Datum);

impl TextArrayResult {
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> TextArrayResult {
        let mut elements: Vec<_> = texts.map(|text| TextResult::new(text).0).collect();
        // SAFETY: as many texts as are said, with the length, passing and alignment of their type.
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
    // SAFETY: the caller's promise; what is packed or elsewhere is unpacked by the server.
    unsafe {
        let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
        if varatt_is_4b_u(varlena) || varatt_is_1b(varlena) && !varatt_is_1b_e(varlena) {
            varlena_to_byte_slice(varlena)
        } else {
            varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(varlena))
        }
    }
}

impl FromDatum for Text<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type_oid: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: the caller's promise of a text. In a database in UTF-8, the one encoding in which
        // this extension can be created, it is valid UTF-8.
        (!is_null).then(|| Text(unsafe { std::str::from_utf8_unchecked(varlena_bytes(datum)) }))
    }
}

// SAFETY: the argument is declared as text below.
unsafe impl<'fcx> ArgAbi<'fcx> for Text<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server hands a text over; a STRICT function is not called with NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Text(""))
    }
}

// SAFETY: names the type whose representation is read above.
unsafe impl SqlTranslatable for Text<'_> {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Text<'_>);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("text"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("text")));
}
