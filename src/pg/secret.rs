//! Settings whose value the server itself never gets to see.
//!
//! The server keeps a text setting in a variable that it compares, sends to parallel workers, hands
//! to whoever reads all settings, and writes into its log when the configuration file is reloaded
//! ("parameter … changed to …"). So a secret is taken out of that variable as soon as it is given,
//! before the server has looked at it, and kept here. The variable is empty at all times, and never
//! changes. What a setting may carry beside its value is a number that stands for the secret: the
//! server frees that without overwriting it, and it may.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};
use zeroize::Zeroizing;

/// How many secrets there can be.
const PLACES: usize = 4;

/// A secret and the number that stands for it. Its memory is overwritten when it is dropped.
struct Value {
    number: u64,
    bytes: Zeroizing<Vec<u8>>,
}

/// What this process knows of one secret.
#[derive(Default)]
struct Place {
    /// The value that was checked last, and may be assigned next.
    checked: Option<Value>,
    /// The value in use.
    assigned: Option<Value>,
    /// The number of the value that was checked last.
    last: u64,
}

static SECRETS: [Mutex<Place>; PLACES] =
    [const { Mutex::new(Place { checked: None, assigned: None, last: 0 }) }; PLACES];

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
                Some(take_secret::<PLACE>),
                Some(secret_assigned::<PLACE>),
                Some(show_secret::<PLACE>),
            );
        }
    }

    /// The value; `None` where it is empty or not UTF-8. The copy is overwritten when it is dropped.
    pub fn get(self) -> Option<Zeroizing<String>> {
        let place = place::<PLACE>();
        let value = super::encoding::text(&place.assigned.as_ref()?.bytes).ok()?;
        (!value.is_empty()).then(|| Zeroizing::new(value.to_owned()))
    }
}

/// Only the process's first thread comes here, and no error unwinds from where it is: the lock is
/// free, and never poisoned.
fn place<const PLACE: usize>() -> MutexGuard<'static, Place> {
    SECRETS[PLACE].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the secret out of the value that the server was given, which is this hook's to change.
///
/// It refuses none: the server's message about a refused value repeats it.
#[pg_guard]
unsafe extern "C-unwind" fn take_secret<const PLACE: usize>(
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
        let number = allocate(size_of::<u64>()).cast::<u64>();
        if number.is_null() {
            return false;
        }
        let text = CStr::from_ptr(*value).to_bytes();
        let length = text.len();
        let mut place = place::<PLACE>();
        place.last += 1;
        *number = place.last;
        // Where the value before was never assigned, this ends it.
        place.checked = Some(Value { number: place.last, bytes: Zeroizing::new(text.to_vec()) });
        libc::explicit_bzero((*value).cast(), length);
        *extra = number.cast();
    }
    true
}

/// Puts the value that the number stands for in use. One that is unknown, as it could be if the server
/// took back an earlier value, is none: without the secret nothing is opened.
#[pg_guard]
unsafe extern "C-unwind" fn secret_assigned<const PLACE: usize>(
    _value: *const c_char,
    extra: *mut c_void,
) {
    // SAFETY: NULL, or what the hook above has made.
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

/// Memory that the server frees when it is done with the setting's value; NULL where there is none.
///
/// # Safety
///
/// It is given to the server as a setting's extra value.
unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: allocates, and with this level raises no error.
    unsafe {
        #[cfg(feature = "pg15")]
        return libc::malloc(size);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::guc_malloc(pg_sys::LOG as i32, size);
    }
}
