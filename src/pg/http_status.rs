//! Errors that PostgREST answers with an HTTP status of our choice: it turns SQLSTATE `PT404` into 404.
//!
//! pgrx knows the server's own SQLSTATEs only, and raises any other as XX000. So a function leaves such an
//! error behind and returns; the symbol that SQL calls raises it, outside of pgrx.

use std::cell::Cell;
use std::ffi::CString;
use std::ptr::null_mut;

use pgrx::{PgLogLevel, pg_sys};

thread_local! {
    /// The error of the function that has just returned, in the memory of its call.
    static LEFT: Cell<*mut pg_sys::ErrorData> = const { Cell::new(null_mut()) };
}

unsafe extern "C-unwind" {
    /// Raises an error (utils/elog.h), without pgrx's error frame, which would catch it.
    fn ThrowErrorData(error: *mut pg_sys::ErrorData);
}

/// The SQLSTATE `PT` with a status of three digits (MAKE_SQLSTATE in utils/elog.h).
fn sqlstate(status: u16) -> i32 {
    let characters = format!("PT{status:03}");
    let digits = characters.bytes().take(5).enumerate();
    digits.map(|(place, byte)| i32::from((byte - b'0') & 0x3f) << (6 * place)).sum()
}

/// Leaves an error behind that `answers_http!` raises when the function returns.
pub fn leave(status: u16, message: &str, detail: Option<&str>, hint: Option<&str>) {
    let text = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
    let copy = |given: Option<&str>| match given.map(text) {
        // SAFETY: copies a text that ends in NUL into the memory of the call.
        Some(given) => unsafe { pg_sys::pstrdup(given.as_ptr()) },
        None => null_mut(),
    };
    // SAFETY: memory of this size, all zeros, is an ErrorData without any part.
    let error = unsafe {
        &mut *pg_sys::palloc0(size_of::<pg_sys::ErrorData>()).cast::<pg_sys::ErrorData>()
    };
    error.elevel = PgLogLevel::ERROR as i32;
    error.sqlerrcode = sqlstate(status);
    error.message = copy(Some(message));
    error.detail = copy(detail);
    error.hint = copy(hint);
    LEFT.set(error);
}

/// Forgets what an earlier call has left, which ended in an error after that.
pub fn forget() {
    LEFT.set(null_mut());
}

/// Raises what the function has left.
///
/// # Safety
///
/// No frame between this and the server has anything to drop: the server leaves by longjmp.
pub unsafe fn raise_left() {
    let left = LEFT.replace(null_mut());
    if !left.is_null() {
        // SAFETY: made by `leave` in this call, whose memory still exists; the caller's promise.
        unsafe { ThrowErrorData(left) };
    }
}

/// Defines the symbol that SQL calls for a function that may [`leave`] an error: `$wrapper` is pgrx's.
macro_rules! answers_http {
    ($symbol:ident, $info:ident, $wrapper:path) => {
        $crate::pg::c_function::declare!($info);

        /// # Safety
        ///
        /// The server calls it, as the function that SQL declares.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the caller's promise; nothing here is dropped.
            unsafe {
                $crate::pg::http_status::forget();
                let answer = $wrapper(fcinfo);
                $crate::pg::http_status::raise_left();
                answer
            }
        }
    };
}

pub(crate) use answers_http;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_part_of_the_sqlstate() {
        // MAKE_SQLSTATE('P', 'T', '4', '0', '4').
        let expected = 32 | 36 << 6 | 4 << 12 | 4 << 24;
        assert_eq!(sqlstate(404), expected);
    }
}
