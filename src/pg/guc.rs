//! Settings: their values, and hooks of those that the extension defines.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};

unsafe extern "C-unwind" {
    /// The value of a setting (utils/guc.h), without pgrx's frame around it.
    fn GetConfigOption(
        name: *const c_char,
        missing_ok: bool,
        restrict_privileged: bool,
    ) -> *const c_char;
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

/// What is done when a text setting is given a value and when it takes one.
pub trait Hook {
    /// Whether the value can be taken.
    fn accepts(_value: &str) -> bool {
        true
    }

    /// The setting has taken a value.
    fn assigned();
}

/// Defines a text setting that only a superuser sets, with a hook.
pub fn define_text<H: Hook>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
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
    // SAFETY: the server hands over the new value, which ends in NUL, or NULL for none.
    let value = unsafe { (!(*value).is_null()).then(|| CStr::from_ptr(*value)) };
    value.is_none_or(|value| H::accepts(&value.to_string_lossy()))
}

#[pg_guard]
unsafe extern "C-unwind" fn assigned<H: Hook>(_value: *const c_char, _extra: *mut c_void) {
    H::assigned();
}

/// Gives a setting a value until the nest level of settings ends that the caller has opened.
pub(super) fn set_for_now(name: &CStr, value: &CStr) {
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

/// Refuses settings of this prefix that no library has defined, so that a typing mistake is reported.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: `prefix` ends in NUL.
    unsafe {
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Takes the configuration file's settings as they are now.
pub fn reload_settings() {
    // SAFETY: called from a worker's loop, where the server expects it.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}
