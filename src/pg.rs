//! Every raw call into PostgreSQL: the one module with unsafe code. Each use says why it is sound.
//!
//! All of it runs in a backend's only thread, which is what PostgreSQL and pgrx ask for.

pub mod notify;
pub mod trigger;

use std::ffi::{CStr, CString};

use pgrx::prelude::*;
use pgrx::{
    GucContext, GucFlags, GucRegistry, GucSetting, IntoDatum, JsonB, direct_function_call,
    pg_guard, pg_sys,
};

use crate::settings;

/// Hands the value of any setting to `read`; `None` where there is no such setting. The value is
/// bytes: settings of the start-up packet are not checked for the database's encoding.
pub fn with_setting<R>(name: &CStr, read: impl FnOnce(Option<&[u8]>) -> R) -> R {
    // SAFETY: `name` ends in NUL; with missing_ok an unknown name gives NULL and no error.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return read(None);
    }
    // SAFETY: the server's string ends in NUL and lives until the setting is assigned again, which
    // `read` cannot do: it gets no way into the server.
    read(Some(unsafe { CStr::from_ptr(value) }.to_bytes()))
}

#[pg_guard]
unsafe extern "C-unwind" fn access_setting_assigned(
    _value: *const std::ffi::c_char,
    _extra: *mut std::ffi::c_void,
) {
    settings::assigned();
}

/// Defines a text setting that only a superuser sets and whose every assignment is noticed.
pub fn define_access_setting(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    // SAFETY: the hook cannot panic, and is guarded all the same.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Suset,
            GucFlags::default(),
            None,
            Some(access_setting_assigned),
            None,
        );
    }
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

/// When the current transaction began, in microseconds since 1970-01-01 UTC.
pub fn transaction_start() -> i64 {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() + UNIX_EPOCH_OFFSET }
}
