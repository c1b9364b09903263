//! Settings whose value the server itself never gets to see.
//!
//! The server keeps a text setting in a variable that it compares, sends to parallel workers, hands
//! to whoever reads all settings, and writes into its log when the configuration file is reloaded
//! ("parameter … changed to …"). So a secret is taken out of that variable as soon as it is given,
//! before the server has looked at it, and put into what a setting may carry beside its value. The
//! variable is empty at all times, and never changes.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};

/// How many secrets there can be.
const PLACES: usize = 4;

/// The secrets as they are now. The server owns the memory, and keeps it until it has told of the
/// next value.
static VALUES: [AtomicPtr<c_char>; PLACES] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES];

/// A secret, by its place. No two have the same.
#[derive(Clone, Copy)]
pub struct SecretSetting<const PLACE: usize>;

impl<const PLACE: usize> SecretSetting<PLACE> {
    /// Defines it: from the configuration file, the server's command line or ALTER SYSTEM alone, so
    /// never where everybody reads it (pg_db_role_setting). SHOW tells a superuser whether it is set.
    pub fn define(
        self,
        name: &'static CStr,
        short: &'static CStr,
        long: &'static CStr,
        variable: &'static GucSetting<Option<CString>>,
    ) {
        // SAFETY: the hooks keep to what the server asks of such hooks.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                name,
                short,
                long,
                variable,
                GucContext::Sighup,
                GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL,
                Some(take_secret),
                Some(secret_assigned::<PLACE>),
                Some(show_secret::<PLACE>),
            );
        }
    }

    /// The value; `None` where it is empty or not UTF-8.
    pub fn get(self) -> Option<String> {
        let value = VALUES[PLACE].load(Ordering::Relaxed);
        if value.is_null() {
            return None;
        }
        // SAFETY: made below, ends in NUL, and lives until the setting is assigned again, which
        // happens in this thread alone.
        let value = unsafe { CStr::from_ptr(value) }.to_str().ok()?;
        Some(value.to_owned()).filter(|value| !value.is_empty())
    }
}

/// Takes the secret out of the value that the server was given, which is this hook's to change.
///
/// It refuses none: the server's message about a refused value repeats it.
#[pg_guard]
unsafe extern "C-unwind" fn take_secret(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server hands over a text of its own making that ends in NUL, or NULL, and a place
    // for memory that it will free as its own.
    unsafe {
        if (*value).is_null() {
            return true;
        }
        let length = CStr::from_ptr(*value).count_bytes();
        let copy = allocate(length + 1).cast::<c_char>();
        if copy.is_null() {
            return false;
        }
        std::ptr::copy_nonoverlapping(*value, copy, length + 1);
        std::ptr::write_bytes(*value, 0, length);
        *extra = copy.cast();
    }
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn secret_assigned<const PLACE: usize>(
    _value: *const c_char,
    extra: *mut c_void,
) {
    VALUES[PLACE].store(extra.cast(), Ordering::Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn show_secret<const PLACE: usize>() -> *const c_char {
    let is_set = SecretSetting::<PLACE>.get().is_some();
    if is_set { c"********".as_ptr() } else { c"".as_ptr() }
}

/// Memory that the server frees when it is done with the setting's value; NULL where there is none.
///
/// # Safety
///
/// It is given to the server as a setting's extra value.
unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: allocates, and with this level raises no error.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return libc::malloc(size);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        return pg_sys::guc_malloc(pg_sys::LOG as i32, size);
    }
}
