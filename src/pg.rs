//! Every raw call into PostgreSQL, and all unsafe code. Each use states why it is sound.
//!
//! The code runs in the only thread of a backend, as PostgreSQL and pgrx require.

pub mod argument;
pub mod c_function;
pub mod encoding;
pub mod error;
pub mod event_stream;
pub mod foreign;
pub mod fresh_snapshot;
pub mod guc;
pub mod http_status;
pub mod jit;
pub mod lock_budget;
pub mod mailbox;
pub mod memory;
pub mod notify;
pub mod planner;
pub mod realtime;
pub mod role;
mod row;
pub mod secret;
pub mod shared;
pub mod subtransaction;
pub mod table;
mod text;
pub mod transaction;
pub mod trigger;
pub mod wait;
pub mod worker;
pub mod worker_slot;

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum, JsonB, PgMemoryContexts, direct_function_call, pg_sys};

pub use argument::{Bytes, ContentType, Given, Json, RawText, Text, Texts, Url, required};
pub use error::Error;
pub use row::{Column, Row};
pub use text::{TextArrayResult, TextResult};

unsafe extern "C-unwind" {
    /// When the current transaction began (access/xact.h), without pgrx's error frame.
    fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
}

/// A value that a function makes at its first call in a query and reuses at each later call. The
/// server keeps it as long as the call's own state: for the query, or for the triggers of a
/// statement.
///
/// Each function has one such value, so `T` is the same at each call.
pub fn once_per_query<'a, T, E>(
    fcinfo: pg_sys::FunctionCallInfo,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<&'a T, E> {
    // SAFETY: the server owns flinfo and passes it to the running function. fn_extra belongs to
    // that function, is set only here, and is freed with fn_mcxt.
    unsafe {
        let flinfo = &mut *(*fcinfo).flinfo;
        if flinfo.fn_extra.is_null() {
            let value = make()?;
            flinfo.fn_extra =
                PgMemoryContexts::For(flinfo.fn_mcxt).leak_and_drop_on_delete(value).cast();
        }
        Ok(&*flinfo.fn_extra.cast::<T>())
    }
}

/// A relation that the caller names (regclass). It is neither opened nor locked, and may not exist.
pub struct Regclass(pub pg_sys::Oid);

impl FromDatum for Regclass {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        type_oid: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: a regclass is an OID, passed by value.
        unsafe { pg_sys::Oid::from_polymorphic_datum(datum, is_null, type_oid) }.map(Regclass)
    }
}

// SAFETY: the argument is declared as regclass below.
unsafe impl<'fcx> ArgAbi<'fcx> for Regclass {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the server passes an OID; the surrounding Option handles NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Regclass(pg_sys::InvalidOid))
    }
}

// SAFETY: names the type that the code above reads.
unsafe impl SqlTranslatable for Regclass {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Regclass);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::literal("regclass"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("regclass")));
}

/// Takes a lock on the extension itself until the end of the transaction, and waits while another
/// transaction holds it. DROP and ALTER EXTENSION wait too; readers do not.
pub fn lock_extension() {
    // SAFETY: catalog lookup and lock by a name that ends in NUL; errors unwind.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_civic".as_ptr(), false);
        let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, mode);
    }
}

/// Locks a table as a reader does, until the end of the transaction. Raises no error if the table
/// no longer exists.
pub fn lock_for_reading(table: pg_sys::Oid) {
    // SAFETY: the end of the transaction releases the lock; errors unwind.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
}

/// The base type of a domain, through nested domains too; of any other type, the type itself.
pub fn base_type(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalog lookup; errors unwind.
    unsafe { pg_sys::getBaseType(type_oid) }
}

/// A number in the text form of jsonb (`->>`); `None` if numeric cannot hold it.
pub fn number_text(literal: &str) -> Option<String> {
    AnyNumeric::try_from(literal).ok().map(|number| number.to_string())
}

/// A JSON value in the text form of jsonb.
pub fn jsonb_text(value: &serde_json::Value) -> String {
    let Some(datum) = JsonB(value.clone()).into_datum() else { return String::new() };
    // SAFETY: jsonb_out takes the jsonb that was just made and returns a text that ends in NUL.
    unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) }
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Parses an ISO 8601 timestamp into microseconds since 1970-01-01. Without an offset it counts as
/// UTC, as in EXTRACT(EPOCH …). `None` for infinity and for other text.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let time_of_day = text.split_once(['T', ' ']).map_or("", |(_, time)| time);
    let micros: i64 = if time_of_day.contains(['+', '-', 'Z', 'z']) {
        text.parse::<TimestampWithTimeZone>().ok()?.into()
    } else {
        text.parse::<Timestamp>().ok()?.into()
    };
    (micros != i64::MIN && micros != i64::MAX).then(|| micros.checked_add(UNIX_EPOCH_OFFSET))?
}

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
pub const UNIX_EPOCH_OFFSET: i64 = 946_684_800_000_000;

/// The five characters of an SQLSTATE.
pub fn sqlstate_text(code: pgrx::PgSqlErrorCode) -> String {
    // Six bits per character, the first one lowest (MAKE_SQLSTATE in utils/elog.h).
    let code = code as u32;
    (0..5).map(|place| char::from(((code >> (6 * place)) & 0x3f) as u8 + b'0')).collect()
}

/// A random number from 0 to 1.
pub fn random() -> f64 {
    let mut bytes = [0; 4];
    // SAFETY: fills the given bytes. If it fails, they stay 0, which is a valid result.
    unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// Whether the library is being loaded by shared_preload_libraries.
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether this server is a standby, or still recovers from a crash: nothing can be written.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory of the server.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// A new UUID from the server's strong random source.
pub fn random_uuid() -> pgrx::Uuid {
    // SAFETY: a catalog function without arguments that returns a uuid.
    unsafe { direct_function_call::<pgrx::Uuid>(pg_sys::gen_random_uuid, &[]) }
        .expect("gen_random_uuid() returns no NULL")
}

/// Ends a background worker so that the server restarts it. It only restarts after a non-zero exit
/// code.
pub fn end_process_to_be_restarted() {
    // SAFETY: a process of the server ends with this call.
    unsafe { pg_sys::proc_exit(1) }
}

/// When the current transaction began, in microseconds since 1970-01-01 UTC.
pub fn transaction_start() -> i64 {
    // SAFETY: reads a variable of this backend and raises no error, so it needs no error frame.
    unsafe { GetCurrentTransactionStartTimestamp() + UNIX_EPOCH_OFFSET }
}

/// A number that identifies a transaction within this backend. The transaction's start time does
/// not: transactions in one client message can share it.
pub fn transaction_number() -> pg_sys::LocalTransactionId {
    // SAFETY: reads this backend's own entry, which exists as long as the backend.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let number = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let number = (*pg_sys::MyProc).vxid.lxid;
        number
    }
}
