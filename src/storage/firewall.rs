//! The functions behind the restrictive policies on `storage.objects`.
//!
//! `civic.setup()` declares them outside the extension (`setup/firewall.rs`), so that they still
//! decide after DROP EXTENSION. The names and the meaning of these symbols are therefore frozen: a
//! database that was set up with this version calls them in every later version. To change a rule's
//! arguments, add a symbol; never change or remove one.

use super::access::{self, Reader};
use super::refusal;
use crate::pg::c_function::{c_function, c_function_per_row};
use crate::{claims, settings};

c_function_per_row!(
    /// `storage.civic_firewall(bucket_id, name)`: whether a row is in another bucket, or the caller
    /// may read it.
    civic_firewall_object_read,
    pg_finfo_civic_firewall_object_read,
    read_object,
    Reader,
    || {
        let identity = claims::identity().unwrap_or_else(|error| error.raise());
        Reader::new(identity, &settings::access())
    },
    |reader: &Reader, [bucket_id, name]: [&[u8]; 2]| reader.passes(bucket_id, name)
);

c_function!(
    /// `storage.civic_firewall_upload(bucket_id, name)`: whether a row is in another bucket, or the
    /// caller may add it.
    civic_firewall_object_upload,
    pg_finfo_civic_firewall_object_upload,
    |[bucket_id, name]: [&[u8]; 2]| claims::ask(|identity| {
        let passes = access::passes_upload(identity, &settings::access(), bucket_id, name);
        refusal::counted(bucket_id, passes)
    })
);
