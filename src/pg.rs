//! Every raw call into PostgreSQL: the one module with unsafe code. Each use says why it is sound.
//!
//! All of it runs in a backend's only thread, which is what PostgreSQL and pgrx ask for.

mod argument;
pub mod event_stream;
mod firewall;
pub mod foreign;
pub mod jit;
pub mod latest;
pub mod lock_budget;
pub mod mailbox;
pub mod memory;
pub mod notify;
mod presence;
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

use std::ffi::{CStr, CString, c_char};

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::{
    FromDatum, GucContext, GucFlags, GucRegistry, GucSetting, IntoDatum, JsonB, PgMemoryContexts,
    direct_function_call, pg_guard, pg_sys,
};

use crate::settings;

pub use argument::{Bytes, ContentType, Json, RawText, Text, Texts, Url};
pub use row::{Column, Row};
pub use text::{TextArrayResult, TextResult};

unsafe extern "C-unwind" {
    /// The value of a setting (utils/guc.h), without pgrx's frame around it.
    fn GetConfigOption(
        name: *const c_char,
        missing_ok: bool,
        restrict_privileged: bool,
    ) -> *const c_char;

    /// When the current transaction began (access/xact.h), without pgrx's frame around it.
    fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
}

/// What a function makes at its first call in a query and has at each later one. The server keeps
/// it exactly as long as the call's own state: a query's, or that of a statement's triggers.
///
/// Each function has one such value, so `T` is the same at each call.
pub fn once_per_query<'a, T, E>(
    fcinfo: pg_sys::FunctionCallInfo,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<&'a T, E> {
    // SAFETY: the server owns flinfo and hands it to the function that is running; fn_extra is that
    // function's own, set here alone, and freed with fn_mcxt.
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

/// A relation as a caller names it (regclass): neither opened nor locked, and perhaps of no relation.
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
        // SAFETY: the server hands an OID over; NULL is taken care of by the Option around it.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Regclass(pg_sys::InvalidOid))
    }
}

// SAFETY: names the type whose representation is read above.
unsafe impl SqlTranslatable for Regclass {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Regclass);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::literal("regclass"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("regclass")));
}

/// Waits until no other transaction has this lock, and has it until the transaction's end. It is on
/// the extension itself, so DROP and ALTER EXTENSION wait too, and readers do not.
pub fn lock_extension() {
    // SAFETY: catalog look-up and lock by a name that ends in NUL; errors unwind.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_civic".as_ptr(), false);
        let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, mode);
    }
}

/// Locks a table as a reader does, until the transaction's end. A table that is gone meanwhile is
/// not missed here.
pub fn lock_for_reading(table: pg_sys::Oid) {
    // SAFETY: a lock that the transaction's end releases; errors unwind.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
}

/// The type that a domain is made of, through other domains too; of another type itself.
pub fn base_type(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a look-up in the catalog; errors unwind.
    unsafe { pg_sys::getBaseType(type_oid) }
}

/// Hands the value of any setting to `read`; `None` where there is no such setting. The value is
/// bytes: settings of the start-up packet are not checked for the database's encoding.
pub fn with_setting<R>(name: &CStr, read: impl FnOnce(Option<&[u8]>) -> R) -> R {
    // SAFETY: `name` ends in NUL. With these arguments the server raises no error: an unknown name
    // gives NULL, and no privilege is asked for. So it needs no frame to catch one, which would cost
    // as much as the look-up, at each row.
    let value = unsafe { GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return read(None);
    }
    // SAFETY: the server's string ends in NUL and lives until the setting is assigned again, which
    // `read` cannot do: it gets no way into the server.
    read(Some(unsafe { CStr::from_ptr(value) }.to_bytes()))
}

#[pg_guard]
unsafe extern "C-unwind" fn access_setting_assigned(
    _value: *const c_char,
    _extra: *mut std::ffi::c_void,
) {
    settings::assigned();
}

/// Refuses a value that is no list of transports.
#[pg_guard]
unsafe extern "C-unwind" fn check_transports(
    value: *mut *mut c_char,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server hands over the new value, which ends in NUL, or NULL for none.
    let value = unsafe { (!(*value).is_null()).then(|| CStr::from_ptr(*value)) };
    value.is_none_or(|value| {
        value.to_str().is_ok_and(|value| settings::EventTransport::parse(value).is_some())
    })
}

/// Defines [`define_access_setting`]'s kind of setting for a list of transports.
pub fn define_transport_setting(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_checked_setting(name, short, long, setting, Some(check_transports));
}

/// Defines a text setting that only a superuser sets and whose every assignment is noticed.
pub fn define_access_setting(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_checked_setting(name, short, long, setting, None);
}

fn define_checked_setting(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    check: pg_sys::GucStringCheckHook,
) {
    // SAFETY: the hooks cannot panic, and are guarded all the same.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Suset,
            GucFlags::default(),
            check,
            Some(access_setting_assigned),
            None,
        );
    }
}

/// Gives a setting a value until the nest level of settings ends that the caller has opened.
fn set_for_now(name: &CStr, value: &CStr) {
    // SAFETY: a setting that the server knows, and texts that end in NUL.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Has names and operators mean those of pg_catalog, until the nest level of settings ends that
/// [`role::acting_as`] has opened.
pub fn fix_search_path() {
    set_for_now(c"search_path", c"pg_catalog, pg_temp");
}

/// Refuses settings of this prefix that no library has defined, so that a typing mistake is told.
pub fn reserve_setting_prefix(prefix: &'static CStr) {
    // SAFETY: `prefix` ends in NUL.
    unsafe {
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
    }
}

/// A number in the text that jsonb gives it (`->>`); `None` where numeric cannot hold it.
pub fn number_text(literal: &str) -> Option<String> {
    AnyNumeric::try_from(literal).ok().map(|number| number.to_string())
}

/// A JSON value in the text that jsonb gives it.
pub fn jsonb_text(value: &serde_json::Value) -> String {
    let Some(datum) = JsonB(value.clone()).into_datum() else { return String::new() };
    // SAFETY: jsonb_out takes the jsonb that was just made and gives a text that ends in NUL.
    unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) }
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A point in time in ISO 8601, in microseconds since 1970-01-01; UTC where it names no offset, as
/// EXTRACT(EPOCH …) takes it. `None` for infinity and for what is no such text.
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

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
pub const UNIX_EPOCH_OFFSET: i64 = 946_684_800_000_000;

/// The five characters of an SQLSTATE.
pub fn sqlstate_text(code: pgrx::PgSqlErrorCode) -> String {
    // Six bits a character, the first one lowest (MAKE_SQLSTATE in utils/elog.h).
    let code = code as u32;
    (0..5).map(|place| char::from(((code >> (6 * place)) & 0x3f) as u8 + b'0')).collect()
}

/// A random number from 0 to 1.
pub fn random() -> f64 {
    let mut bytes = [0; 4];
    // SAFETY: fills the bytes that it is given. Where it cannot, they stay 0, which is one of the
    // numbers.
    unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// Whether the library is being loaded by shared_preload_libraries.
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// A new UUID from the server's own strong source.
pub fn random_uuid() -> pgrx::Uuid {
    // SAFETY: a function of the catalog that takes no argument and returns a uuid.
    unsafe { direct_function_call::<pgrx::Uuid>(pg_sys::gen_random_uuid, &[]) }
        .expect("gen_random_uuid() returns no NULL")
}

/// Takes the configuration file's settings as they are now.
pub fn reload_settings() {
    // SAFETY: called from a worker's loop, where the server expects it.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}

/// Ends a background worker so that the server starts it anew: only an exit code other than 0 does.
pub fn end_process_to_be_restarted() {
    // SAFETY: the way in which a process of the server ends.
    unsafe { pg_sys::proc_exit(1) }
}

/// When the current transaction began, in microseconds since 1970-01-01 UTC.
pub fn transaction_start() -> i64 {
    // SAFETY: reads a variable of this backend and raises no error, so it needs no frame to catch one.
    unsafe { GetCurrentTransactionStartTimestamp() + UNIX_EPOCH_OFFSET }
}

/// A number that each transaction of this backend has to itself. Its time is no such thing: several
/// transactions in one message of the client begin at the same.
pub fn transaction_number() -> pg_sys::LocalTransactionId {
    // SAFETY: reads this backend's own entry, which it has for as long as it lives.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        let number = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
        let number = (*pg_sys::MyProc).vxid.lxid;
        number
    }
}
