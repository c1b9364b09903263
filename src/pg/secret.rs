//! Settings whose values are kept away from the server.
//!
//! The server keeps a text setting in a variable. It compares that variable, sends it to parallel
//! workers, shows it to roles that read all settings, and logs changes of the configuration file
//! ("parameter … changed to …"). So this module takes a secret out of the variable when it is set,
//! before the server has read it, and keeps it here. The variable is always empty and never
//! changes. The setting's extra data is a number that stands for the secret: the server may free it
//! without overwriting it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};
use zeroize::Zeroizing;

/// The maximum number of secrets.
const PLACES: usize = 4;

/// A secret and its number. Its memory is overwritten when it is dropped.
struct Value {
    number: u64,
    bytes: Zeroizing<Vec<u8>>,
}

/// This process's state of one secret.
#[derive(Default)]
struct Place {
    /// The value that was checked last and may be assigned next.
    checked: Option<Value>,
    /// The value in use.
    assigned: Option<Value>,
    /// The number of the value that was checked last.
    last: u64,
}

static SECRETS: [Mutex<Place>; PLACES] =
    [const { Mutex::new(Place { checked: None, assigned: None, last: 0 }) }; PLACES];

/// A secret, by its place. Each secret has its own place.
#[derive(Clone, Copy)]
pub struct SecretSetting<const PLACE: usize>;

impl<const PLACE: usize> SecretSetting<PLACE> {
    /// Defines the setting: only the configuration file, the server's command line or ALTER SYSTEM
    /// can set it, so it is never in pg_db_role_setting, which every role can read. SHOW tells a
    /// superuser only whether it is set.
    pub fn define(
        self,
        name: &'static CStr,
        short: &'static CStr,
        long: &'static CStr,
        variable: &'static GucSetting<Option<CString>>,
    ) {
        // SAFETY: the hooks follow the server's rules for setting hooks.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                name,
                short,
                long,
                variable,
                GucContext::Sighup,
                GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL,
                Some(take_secret::<PLACE>),
                Some(secret_assigned::<PLACE>),
                Some(show_secret::<PLACE>),
            );
        }
    }

    /// The value; `None` if it is empty or not UTF-8. The copy is overwritten when it is dropped.
    pub fn get(self) -> Option<Zeroizing<String>> {
        let place = place::<PLACE>();
        let value = super::encoding::text(&place.assigned.as_ref()?.bytes).ok()?;
        (!value.is_empty()).then(|| Zeroizing::new(value.to_owned()))
    }
}

/// Only the process's main thread calls this, and no error unwinds while it holds the lock. So the
/// lock is free and never poisoned.
fn place<const PLACE: usize>() -> MutexGuard<'static, Place> {
    SECRETS[PLACE].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the secret out of the new value, which this hook may change.
///
/// It rejects no value, because the server's error message would repeat the value.
#[pg_guard]
unsafe extern "C-unwind" fn take_secret<const PLACE: usize>(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes a text that it allocated and that ends in NUL, or NULL, and a place
    // for memory that it will free.
    unsafe {
        if (*value).is_null() {
            return true;
        }
        let number = allocate(size_of::<u64>()).cast::<u64>();
        if number.is_null() {
            return false;
        }
        let text = CStr::from_ptr(*value).to_bytes();
        let length = text.len();
        let mut place = place::<PLACE>();
        place.last += 1;
        *number = place.last;
        // Drops the previous checked value if it was never assigned.
        place.checked = Some(Value { number: place.last, bytes: Zeroizing::new(text.to_vec()) });
        libc::explicit_bzero((*value).cast(), length);
        *extra = number.cast();
    }
    true
}

/// Activates the value with this number. An unknown number, possible if the server restores an
/// earlier value, means no secret: functions then refuse to run.
#[pg_guard]
unsafe extern "C-unwind" fn secret_assigned<const PLACE: usize>(
    _value: *const c_char,
    extra: *mut c_void,
) {
    // SAFETY: NULL, or the value from the hook above.
    let number = unsafe { extra.cast::<u64>().as_ref() };
    let mut place = place::<PLACE>();
    let is_meant = |value: &Value| Some(&value.number) == number;
    if !place.assigned.as_ref().is_some_and(is_meant) {
        place.assigned = place.checked.take().filter(is_meant);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn show_secret<const PLACE: usize>() -> *const c_char {
    let is_set = SecretSetting::<PLACE>.get().is_some();
    if is_set { c"********".as_ptr() } else { c"".as_ptr() }
}

/// Memory that the server frees with the setting's value; NULL if there is none.
///
/// # Safety
///
/// The result is passed to the server as a setting's extra data.
unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: allocates; with this error level it raises no error.
    unsafe {
        #[cfg(feature = "pg15")]
        return libc::malloc(size);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::guc_malloc(pg_sys::LOG as i32, size);
    }
}
