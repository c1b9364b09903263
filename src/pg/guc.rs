//! Values of settings, and hooks for the extension's own settings.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};

unsafe extern "C-unwind" {
    /// The value of a setting (utils/guc.h), without pgrx's error frame.
    fn GetConfigOption(
        name: *const c_char,
        missing_ok: bool,
        restrict_privileged: bool,
    ) -> *const c_char;
}

/// Passes the value of any setting to `read`; `None` if there is no such setting. The value is
/// bytes: the server does not check settings in the startup packet for the database's encoding.
pub fn with_setting<R>(name: &CStr, read: impl FnOnce(Option<&[u8]>) -> R) -> R {
    // SAFETY: `name` ends in NUL. With these arguments the server raises no error: an unknown name
    // gives NULL, and no privilege is checked. So it needs no error frame, which would cost as much
    // as the lookup, for each row.
    let value = unsafe { GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return read(None);
    }
    // SAFETY: the server's string ends in NUL and lives until the setting is assigned again. `read`
    // has no access to the server, so it cannot assign it.
    read(Some(unsafe { CStr::from_ptr(value) }.to_bytes()))
}

/// Callbacks that check and observe the values of a text setting.
pub trait Hook {
    /// Whether the value is valid.
    fn accepts(_value: &str) -> bool {
        true
    }

    /// The setting has a new value.
    fn assigned();
}

/// Defines a text setting that only a superuser can set, with a hook.
pub fn define_text<H: Hook>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    // SAFETY: the hooks cannot panic, and are guarded anyway.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Suset,
            GucFlags::default(),
            Some(check::<H>),
            Some(assigned::<H>),
            None,
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check<H: Hook>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes the new value, which ends in NUL, or NULL for none.
    let value = unsafe { (!(*value).is_null()).then(|| CStr::from_ptr(*value)) };
    value.is_none_or(|value| H::accepts(&value.to_string_lossy()))
}

#[pg_guard]
unsafe extern "C-unwind" fn assigned<H: Hook>(_value: *const c_char, _extra: *mut c_void) {
    H::assigned();
}

/// Sets a setting until the end of the nest level of settings that the caller has opened.
pub(super) fn set_for_now(name: &CStr, value: &CStr) {
    // SAFETY: the server knows the setting; the texts end in NUL.
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

/// Sets a setting of this process, over what roles, databases and the configuration file say.
pub(super) fn set_in_process(name: &CStr, value: &CStr) {
    // SAFETY: the server knows the setting; the texts end in NUL.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Sets a setting of this process as a superuser's SET does, or resets it.
pub(super) fn set_in_session(name: &CStr, value: Option<&CStr>) {
    // SAFETY: the server knows the setting; the texts end in NUL, and without a value it is reset.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.map_or(std::ptr::null(), CStr::as_ptr),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SET,
            true,
            0,
            false,
        );
    }
}

/// Sets a setting of another extension until the end of the transaction, where that extension is loaded.
pub fn set_in_transaction_if_known(name: &CStr, value: &CStr) {
    if with_setting(name, |value| value.is_none()) {
        return;
    }
    // SAFETY: the server knows the setting; the texts end in NUL. A refused value is a WARNING.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            pg_sys::WARNING as i32,
            false,
        );
    }
}

/// Makes names and operators mean those of pg_catalog, until the nest level of settings ends that
/// [`super::role::acting_as`] has opened.
pub fn fix_search_path() {
    set_for_now(c"search_path", c"pg_catalog, pg_temp");
}

/// Makes plans read as little as an index allows, as [`fix_search_path`] does: of a table that has just grown
/// or shrunk the planner knows nothing yet.
pub fn prefer_index_scans() {
    set_for_now(c"enable_seqscan", c"off");
    set_for_now(c"enable_bitmapscan", c"off");
}

/// Rejects settings of this prefix that no library has defined, so that a misspelled name is
/// reported.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: `prefix` ends in NUL.
    unsafe {
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Rereads the configuration file.
pub fn reload_settings() {
    // SAFETY: called from a worker's loop, where the server expects it.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}
