//! The firewall's entries from SQL: the C functions behind the restrictive policies.
//!
//! `civic.setup()` declares them outside the extension (`setup/firewall.rs`), so that they go on
//! deciding after DROP EXTENSION. The names and the meaning of these symbols are therefore frozen: a
//! database that was set up with this version calls them in every later one. To change a rule's
//! arguments, add a symbol; never change or remove one.
//!
//! They compare bytes and make no `str` of what they are given: a row of another bucket or topic may
//! hold anything.

use pgrx::prelude::*;
use pgrx::{varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice};

use super::once_per_query;
use super::text::varlena_bytes;
use crate::claims;
use crate::error::Error;
use crate::events::channel;
use crate::settings;
use crate::storage::access::{self, Reader};

/// Tells the server that a function follows its calling convention, as PG_FUNCTION_INFO_V1 does.
macro_rules! declare {
    ($info:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}

declare!(pg_finfo_civic_firewall_object_read);
declare!(pg_finfo_civic_firewall_object_upload);
declare!(pg_finfo_civic_firewall_topic_read);
declare!(pg_finfo_civic_firewall_topic_send);

/// `storage.civic_firewall(bucket_id, name)`, STRICT: whether a row of `storage.objects` is of another
/// bucket, or is one that the caller may read.
///
/// It sees each row of a scan, where the frame that pgrx puts around a function costs several times
/// what the rule does. So it answers at once where the query has its rule and both texts stand in the
/// row as they are.
///
/// # Safety
///
/// The server calls it, as the function that it is declared as.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn civic_firewall_object_read(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the server hands two texts that are not NULL. What fn_extra points to, `once_per_query`
    // has made in `read_object`. Nothing here calls the server, allocates or panics, and no value is
    // left to drop when `read_object` raises an error through this frame.
    unsafe {
        let reader = (*(*fcinfo).flinfo).fn_extra.cast::<Reader>().as_ref();
        let arguments = (*fcinfo).args.as_slice(2);
        if let Some(reader) = reader
            && let Some(bucket_id) = in_place(arguments[0].value)
            && let Some(name) = in_place(arguments[1].value)
        {
            return pg_sys::Datum::from(reader.passes(bucket_id, name));
        }
        read_object(fcinfo)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn read_object(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let reader = once_per_query(fcinfo, || {
        Ok::<_, Error>(Reader::new(claims::identity()?, &settings::access()))
    });
    let reader = reader.unwrap_or_else(|error| error.raise());
    // SAFETY: called by `civic_firewall_object_read` alone, with its arguments.
    let [bucket_id, name] = unsafe { texts(fcinfo) };
    pg_sys::Datum::from(reader.passes(bucket_id, name))
}

/// `storage.civic_firewall_upload(bucket_id, name)`, STRICT: whether a row of `storage.objects` is of
/// another bucket, or is one that the caller may add.
///
/// # Safety
///
/// The server calls it, as the function that it is declared as.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn civic_firewall_object_upload(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    let [bucket_id, name] = unsafe { texts(fcinfo) };
    let passes = claims::ask(|identity| {
        access::passes_upload(identity, &settings::access(), bucket_id, name)
    });
    pg_sys::Datum::from(passes)
}

/// `realtime.civic_firewall(topic)`, STRICT: whether a row of `realtime.messages` is of another topic,
/// or of a channel that the caller may join.
///
/// # Safety
///
/// The server calls it, as the function that it is declared as.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn civic_firewall_topic_read(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    let [topic] = unsafe { texts(fcinfo) };
    let passes = claims::ask(|identity| channel::passes_read(identity, &settings::access(), topic));
    pg_sys::Datum::from(passes)
}

/// `realtime.civic_firewall_send(topic, extension)`, STRICT: whether a row of `realtime.messages` is of
/// another topic, or is presence in a channel that the caller may join.
///
/// # Safety
///
/// The server calls it, as the function that it is declared as.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn civic_firewall_topic_send(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    let [topic, extension] = unsafe { texts(fcinfo) };
    let passes = claims::ask(|identity| {
        channel::passes_send(identity, &settings::access(), topic, extension)
    });
    pg_sys::Datum::from(passes)
}

/// The bytes of the arguments.
///
/// # Safety
///
/// The function that is running has N arguments, all of type text and none of them NULL.
unsafe fn texts<'a, const N: usize>(fcinfo: pg_sys::FunctionCallInfo) -> [&'a [u8]; N] {
    // SAFETY: the caller's promise; the arguments live as long as the call.
    unsafe {
        let arguments = (*fcinfo).args.as_slice(N);
        std::array::from_fn(|place| varlena_bytes(arguments[place].value))
    }
}

/// The bytes of a text that is neither packed nor stored elsewhere.
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
