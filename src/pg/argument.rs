//! Varlena arguments of SQL functions. The size is checked before a value is unpacked or copied,
//! and text is validated before it becomes a `str`.
//!
//! pgrx's own `&str`, `String`, `JsonB` and `VariadicArray<&str>` do neither, so no function takes
//! them.

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use serde_json::Value;

use super::encoding;
use super::error::Error;
use super::memory::may_fail;
use super::text::{jsonb_value, text_array, varlena_bytes, varlena_size};

/// Longest name, id, purpose or path, in bytes.
pub const NAME_LIMIT: usize = 1024;
/// Longest content type, in bytes.
pub const CONTENT_TYPE_LIMIT: usize = 255;
/// Longest URL, in bytes.
pub const URL_LIMIT: usize = 8 * 1024;
/// Longest list of names, in bytes.
pub const LIST_LIMIT: usize = 64 * 1024;
/// Longest JSON document, in bytes, as it is stored and as it is written.
pub const JSON_LIMIT: usize = 1024 * 1024;

/// A varlena argument that is not NULL.
struct Argument {
    fcinfo: pg_sys::FunctionCallInfo,
    place: usize,
    datum: pg_sys::Datum,
}

impl Argument {
    /// `None` for NULL.
    ///
    /// # Safety
    ///
    /// The server has passed the argument, and its type is a varlena.
    unsafe fn of(arg: Arg<'_, '_>) -> Option<Argument> {
        let (place, is_null) = (arg.index(), arg.is_null());
        // SAFETY: pgrx returns the call's own structure for this type, for any argument. The
        // argument at `place` was taken from it, so it has that many.
        unsafe {
            let fcinfo: pg_sys::FunctionCallInfo = arg.unbox_unchecked();
            let datum = (*fcinfo).args.as_slice(place + 1)[place].value;
            (!is_null).then_some(Argument { fcinfo, place, datum })
        }
    }

    /// The size of the unpacked value, in bytes. Unpacks nothing.
    fn size(&self) -> usize {
        // SAFETY: a varlena, see `of`.
        unsafe { varlena_size(self.datum) }
    }

    /// Errors: 54000 if the value is longer.
    fn check_size(&self, bytes: usize, limit: usize) -> Result<(), Error> {
        if bytes <= limit {
            return Ok(());
        }
        Err(Error::ArgumentTooLong { argument: self.name(), bytes, limit })
    }

    /// Errors: 54000 if the value is longer than the limit, 22021 if the bytes are not valid text.
    fn text<'a>(&self, limit: usize) -> Result<&'a str, Error> {
        self.check_size(self.size(), limit)?;
        // SAFETY: a text, which lives as long as the call.
        Ok(encoding::text(unsafe { varlena_bytes(self.datum) })?)
    }

    fn texts<'a>(&self, limit: usize) -> Result<Vec<Option<&'a str>>, Error> {
        self.check_size(self.size(), limit)?;
        // SAFETY: an array of text, which lives as long as the call.
        unsafe { text_array(self.datum) }
    }

    fn json(&self, limit: usize) -> Result<Value, Error> {
        self.check_size(self.size(), limit)?;
        // SAFETY: a jsonb.
        let value = unsafe { jsonb_value(self.datum, |bytes| self.check_size(bytes, limit)) }?;
        value.ok_or_else(|| Error::NestedTooDeep { argument: self.name() })
    }

    /// The argument's name, as declared by the function.
    #[cold]
    fn name(&self) -> String {
        self.declared_name().unwrap_or_else(|| format!("${}", self.place + 1))
    }

    fn declared_name(&self) -> Option<String> {
        // SAFETY: the catalog row of the running function, released below. The server's names end
        // in NUL, and there are as many as it counts.
        unsafe {
            let function = (*self.fcinfo).flinfo.as_ref()?.fn_oid;
            let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
            let row = pg_sys::SearchSysCache1(cache, function.into());
            if row.is_null() {
                return None;
            }
            let (mut types, mut names) = (std::ptr::null_mut(), std::ptr::null_mut());
            let mut modes = std::ptr::null_mut();
            let count = pg_sys::get_func_arg_info(row, &mut types, &mut names, &mut modes);
            let name = (!names.is_null() && self.place < count as usize)
                .then(|| CStr::from_ptr(*names.add(self.place)).to_string_lossy().into_owned());
            pg_sys::ReleaseSysCache(row);
            name.filter(|name| !name.is_empty())
        }
    }
}

/// A text argument: valid UTF-8 without NUL, at most `LIMIT` bytes. It is borrowed from the row
/// unless it is compressed or stored out of line.
pub struct Text<'a, const LIMIT: usize = NAME_LIMIT>(&'a str);

pub type ContentType<'a> = Text<'a, CONTENT_TYPE_LIMIT>;
pub type Url<'a> = Text<'a, URL_LIMIT>;

impl<'a, const LIMIT: usize> Text<'a, LIMIT> {
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<const LIMIT: usize> std::ops::Deref for Text<'_, LIMIT> {
    type Target = str;

    fn deref(&self) -> &str {
        self.0
    }
}

/// A text argument that is valid if the function asks for it: for a function that answers an invalid one
/// by an error of its own. At most `LIMIT` bytes.
pub struct Given<'a, const LIMIT: usize = NAME_LIMIT>(Result<&'a str, Error>);

impl<'a, const LIMIT: usize> Given<'a, LIMIT> {
    /// Errors: 22023 for NULL, 54000 if the value is longer than the limit, 22021 if it is not valid text.
    pub fn required(what: &'static str, given: Option<Self>) -> Result<&'a str, Error> {
        required(what, given)?.0
    }

    /// NULL is `None`. Errors: as [`Given::required`].
    pub fn optional(given: Option<Self>) -> Result<Option<&'a str>, Error> {
        given.map(|given| given.0).transpose()
    }
}

/// A text argument as unchecked bytes of any length, for a function that sees rows of other users
/// and only compares. An error there would let one row break the queries of all users.
pub struct RawText<'a>(&'a [u8]);

impl std::ops::Deref for RawText<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

/// The elements of a `text[]` argument, at most [`LIST_LIMIT`] bytes in total; `None` for NULL.
pub struct Texts<'a>(Vec<Option<&'a str>>);

impl<'a> std::ops::Deref for Texts<'a> {
    type Target = [Option<&'a str>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A jsonb argument of at most [`JSON_LIMIT`] bytes.
pub struct Json(pub Value);

/// A bytea argument. It is unpacked and copied only on request.
pub struct Bytes(Option<Argument>);

impl Bytes {
    /// The size in bytes.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(0, Argument::size)
    }

    /// A copy that can be sent to another thread. Check the size first.
    ///
    /// Errors: 53200 if there is not enough memory.
    pub fn to_vec(&self) -> Result<Vec<u8>, Error> {
        let mut copy = Vec::new();
        if let Some(argument) = &self.0 {
            let size = argument.size();
            may_fail(|| copy.try_reserve_exact(size))
                .map_err(|_| Error::OutOfMemory { bytes: size })?;
            // SAFETY: a bytea, which lives as long as the call.
            copy.extend_from_slice(unsafe { varlena_bytes(argument.datum) });
        }
        Ok(copy)
    }
}

/// Takes an argument. NULL gives `null`: a STRICT function never gets one, and other functions use
/// an `Option` around the type.
///
/// # Safety
///
/// The server has passed the argument, and its type is a varlena.
unsafe fn take<T>(arg: Arg<'_, '_>, null: T, take: impl FnOnce(Argument) -> Result<T, Error>) -> T {
    // SAFETY: the caller's promise.
    match unsafe { Argument::of(arg) } {
        Some(argument) => take(argument).unwrap_or_else(|error| error.raise()),
        None => null,
    }
}

// SAFETY: the argument is declared as text below.
unsafe impl<'fcx, const LIMIT: usize> ArgAbi<'fcx> for Text<'fcx, LIMIT> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes a text.
        unsafe { take(arg, Text(""), |argument| argument.text(LIMIT).map(Text)) }
    }
}

// SAFETY: the argument is declared as text below.
unsafe impl<'fcx, const LIMIT: usize> ArgAbi<'fcx> for Given<'fcx, LIMIT> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes a text.
        unsafe { take(arg, Given(Ok("")), |argument| Ok(Given(argument.text(LIMIT)))) }
    }
}

// SAFETY: the argument is declared as text below.
unsafe impl<'fcx> ArgAbi<'fcx> for RawText<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes a text, which lives as long as the call.
        unsafe { take(arg, RawText(&[]), |argument| Ok(RawText(varlena_bytes(argument.datum)))) }
    }
}

// SAFETY: the argument is declared as text[] below.
unsafe impl<'fcx> ArgAbi<'fcx> for Texts<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes an array of text.
        unsafe { take(arg, Texts(vec![]), |argument| argument.texts(LIST_LIMIT).map(Texts)) }
    }
}

// SAFETY: the argument is declared as jsonb below.
unsafe impl<'fcx> ArgAbi<'fcx> for Json {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes a jsonb.
        unsafe { take(arg, Json(Value::Null), |argument| argument.json(JSON_LIMIT).map(Json)) }
    }
}

// SAFETY: the argument is declared as bytea below.
unsafe impl<'fcx> ArgAbi<'fcx> for Bytes {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes a bytea.
        unsafe { take(arg, Bytes(None), |argument| Ok(Bytes(Some(argument)))) }
    }
}

/// Requires an argument that is not NULL, for functions with an effect: there NULL is an error.
///
/// Errors: 22023.
pub fn required<T>(what: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::Empty { what })
}

macro_rules! declared_as {
    ($type:ty, $sql:literal $(, const $limit:ident)?) => {
        // SAFETY: names the type that the code above reads.
        unsafe impl $(<const $limit: usize>)? SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!($type);
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
                Ok(SqlMappingRef::literal($sql));
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
                Ok(ReturnsRef::One(SqlMappingRef::literal($sql)));
        }
    };
}

declared_as!(Text<'_, LIMIT>, "text", const LIMIT);
declared_as!(Given<'_, LIMIT>, "text", const LIMIT);
declared_as!(RawText<'_>, "text");
declared_as!(Texts<'_>, "text[]");
declared_as!(Json, "jsonb");
declared_as!(Bytes, "bytea");
