//! C functions that SQL declares outside the extension, over texts that they only compare.
//!
//! They never convert arguments to `str`: a row of another user may hold any bytes.

use pgrx::pg_sys;
use pgrx::{
    IntoDatum, PgMemoryContexts, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u,
    varlena_to_byte_slice,
};

use super::text::varlena_bytes;

/// Defines a STRICT function of N texts: `c_function!(symbol, pg_finfo_symbol, |[a, b]| rule(a, b))`.
macro_rules! c_function {
    ($(#[$doc:meta])* $symbol:ident, $info:ident, $rule:expr) => {
        $crate::pg::c_function::declare!($info);

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The server calls it, as the function that SQL declares.
        #[allow(unsafe_code)]
        #[::pgrx::pg_guard]
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the caller's promise: the arguments are texts, and none is NULL.
            let texts = unsafe { $crate::pg::c_function::texts(fcinfo) };
            ::pgrx::pg_sys::Datum::from(($rule)(texts))
        }
    };
}

/// Defines a STRICT function of N texts that runs for each row of a scan:
/// `c_function_per_row!(symbol, pg_finfo_symbol, slow, Rule, make, answer)`.
///
/// `make` builds the query's rule at the first row and raises errors; `answer` applies it to the
/// texts of each row. pgrx's error frame costs several times as much as a rule. So a call answers
/// directly if the query has its rule and the texts are stored in line in the row. `answer` must
/// not allocate, panic or call the server.
macro_rules! c_function_per_row {
    ($(#[$doc:meta])* $symbol:ident, $info:ident, $slow:ident, $rule:ty, $make:expr, $answer:expr) => {
        $crate::pg::c_function::declare!($info);

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The server calls it, as the function that SQL declares.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the caller's promise. The value that the function keeps for a query is of
            // this type, because only `$slow` makes it. Nothing is left to drop if `$slow` raises
            // an error here.
            unsafe {
                if let Some((rule, texts)) = $crate::pg::c_function::at_once::<$rule, _>(fcinfo) {
                    return ::pgrx::pg_sys::Datum::from(($answer)(rule, texts));
                }
                $slow(fcinfo)
            }
        }

        #[allow(unsafe_code)]
        #[::pgrx::pg_guard]
        unsafe extern "C-unwind" fn $slow(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            let Ok(rule) = $crate::pg::once_per_query(fcinfo, || {
                Ok::<$rule, std::convert::Infallible>(($make)())
            });
            // SAFETY: only the function above calls this, with its own arguments.
            let texts = unsafe { $crate::pg::c_function::texts(fcinfo) };
            ::pgrx::pg_sys::Datum::from(($answer)(rule, texts))
        }
    };
}

/// Defines a function without arguments that has one answer for a whole query:
/// `c_function_per_query!(symbol, pg_finfo_symbol, slow, || answer)`.
///
/// The first call in a query makes the answer and raises errors. Each later call returns it, without
/// pgrx's error frame, which costs more than the answer.
macro_rules! c_function_per_query {
    ($(#[$doc:meta])* $symbol:ident, $info:ident, $slow:ident, $answer:expr) => {
        $crate::pg::c_function::declare!($info);

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The server calls it, as the function that SQL declares.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the caller's promise. Only `$slow` keeps a value for this function. Nothing is
            // left to drop if it raises an error here.
            unsafe {
                match $crate::pg::c_function::Answer::kept(fcinfo) {
                    Some(answer) => answer.give(fcinfo),
                    None => $slow(fcinfo),
                }
            }
        }

        #[allow(unsafe_code)]
        #[::pgrx::pg_guard]
        unsafe extern "C-unwind" fn $slow(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: only the function above calls this, with its own arguments.
            unsafe { $crate::pg::c_function::Answer::keep(fcinfo, ($answer)()).give(fcinfo) }
        }
    };
}

/// Defines a function of an AFTER trigger: `c_trigger!(symbol, pg_finfo_symbol, |call| rule(call))`. The rule
/// gets `None` if the function was not called as a trigger.
macro_rules! c_trigger {
    ($(#[$doc:meta])* $symbol:ident, $info:ident, $rule:expr) => {
        $crate::pg::c_function::declare!($info);

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The server calls it, as the function that SQL declares.
        #[allow(unsafe_code)]
        #[::pgrx::pg_guard]
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            ($rule)($crate::pg::trigger::TriggerCall::from_fcinfo(fcinfo));
            // The server ignores the result of an AFTER trigger.
            ::pgrx::pg_sys::Datum::null()
        }
    };
}

/// Declares a function's calling convention to the server, as PG_FUNCTION_INFO_V1 does.
macro_rules! declare {
    ($info:ident) => {
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn $info() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            const VERSION_1: ::pgrx::pg_sys::Pg_finfo_record =
                ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}

pub(crate) use {c_function, c_function_per_query, c_function_per_row, c_trigger, declare};

/// The answer of a function for the whole of a query.
pub struct Answer {
    datum: pg_sys::Datum,
    is_null: bool,
}

impl Answer {
    /// The answer that the function has kept for the query.
    ///
    /// # Safety
    ///
    /// The server passes `fcinfo` to the running function, and what that function keeps for a query
    /// (`fn_extra`) is an answer, or nothing yet.
    pub unsafe fn kept<'a>(fcinfo: pg_sys::FunctionCallInfo) -> Option<&'a Answer> {
        // SAFETY: the caller's promise. Nothing here calls the server, allocates or panics.
        unsafe { (*(*fcinfo).flinfo).fn_extra.cast::<Answer>().as_ref() }
    }

    /// Keeps an answer for the query.
    ///
    /// # Safety
    ///
    /// As [`Answer::kept`].
    pub unsafe fn keep<'a>(
        fcinfo: pg_sys::FunctionCallInfo,
        value: Option<impl IntoDatum>,
    ) -> &'a Answer {
        let Ok(answer) = super::once_per_query(fcinfo, || {
            // SAFETY: the server owns the context, in which what the function keeps lives as well.
            let datum = unsafe {
                PgMemoryContexts::For((*(*fcinfo).flinfo).fn_mcxt)
                    .switch_to(|_| value.and_then(IntoDatum::into_datum))
            };
            Ok::<_, std::convert::Infallible>(Answer {
                datum: datum.unwrap_or(pg_sys::Datum::null()),
                is_null: datum.is_none(),
            })
        });
        answer
    }

    /// Returns the answer from the running function.
    ///
    /// # Safety
    ///
    /// The server passes `fcinfo` to the running function.
    pub unsafe fn give(&self, fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
        // SAFETY: the caller's promise.
        unsafe { (*fcinfo).isnull = self.is_null };
        self.datum
    }
}

/// The bytes of the arguments.
///
/// # Safety
///
/// The running function has N arguments, all of type text and not NULL.
pub unsafe fn texts<'a, const N: usize>(fcinfo: pg_sys::FunctionCallInfo) -> [&'a [u8]; N] {
    // SAFETY: the caller's promise; the arguments live as long as the call.
    unsafe {
        let arguments = (*fcinfo).args.as_slice(N);
        std::array::from_fn(|place| varlena_bytes(arguments[place].value))
    }
}

/// The query's rule and the bytes of the arguments, if neither needs to be made first.
///
/// # Safety
///
/// As [`texts`], and what the function keeps for a query (`fn_extra`) is a `T`, or nothing yet.
pub unsafe fn at_once<'a, T, const N: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<(&'a T, [&'a [u8]; N])> {
    // SAFETY: the caller's promise. Nothing here calls the server, allocates or panics.
    unsafe {
        let rule = (*(*fcinfo).flinfo).fn_extra.cast::<T>().as_ref()?;
        let arguments = (*fcinfo).args.as_slice(N);
        let mut texts: [&[u8]; N] = [&[]; N];
        for (text, argument) in texts.iter_mut().zip(arguments) {
            *text = in_place(argument.value)?;
        }
        Some((rule, texts))
    }
}

/// The bytes of a text that is neither compressed nor out of line.
///
/// # Safety
///
/// The datum is a text of the current row.
unsafe fn in_place<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise.
    unsafe {
        (varatt_is_4b_u(varlena) || varatt_is_1b(varlena) && !varatt_is_1b_e(varlena))
            .then(|| varlena_to_byte_slice(varlena))
    }
}
