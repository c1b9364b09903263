//! The firewall's own entry from SQL. It is called for each row of a scan, where the frame that pgrx
//! puts around a function costs several times what the rule does.

use pgrx::pg_sys;
use pgrx::{varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice};

use crate::storage::access::Reader;

unsafe extern "C-unwind" {
    /// The same function as pgrx makes it: it raises errors, unpacks values and makes the rule.
    fn passes_firewall_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// `civic.passes_firewall(bucket_id, name)`, STRICT: answers at once where the query has its rule
/// and both texts stand in the row as they are. All else goes the usual way.
///
/// # Safety
///
/// The server calls it, as the function that it is declared as.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn passes_firewall(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the server hands two texts that are not NULL. What fn_extra points to, `once_per_query`
    // has made in this very function's wrapper. Nothing here calls the server, allocates or panics,
    // and no value is left to drop when the wrapper raises an error through this frame.
    unsafe {
        let reader = (*(*fcinfo).flinfo).fn_extra.cast::<Reader>().as_ref();
        let arguments = (*fcinfo).args.as_slice(2);
        if let Some(reader) = reader
            && let Some(bucket_id) = in_place(arguments[0].value)
            && let Some(name) = in_place(arguments[1].value)
        {
            return pg_sys::Datum::from(reader.passes(bucket_id, name));
        }
        passes_firewall_wrapper(fcinfo)
    }
}

/// Tells the server how the function is to be called.
#[unsafe(no_mangle)]
extern "C" fn pg_finfo_passes_firewall() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

/// A text that is neither packed nor stored elsewhere.
///
/// # Safety
///
/// The datum is a text of the row that is being looked at.
unsafe fn in_place<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise.
    unsafe {
        (varatt_is_4b_u(varlena) || varatt_is_1b(varlena) && !varatt_is_1b_e(varlena))
            .then(|| varlena_to_byte_slice(varlena))
    }
}
