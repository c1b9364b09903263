//! Counts of refused uploads, for monitoring. Refused reads are not counted: the read rule runs for each row,
//! and a row that it leaves out is no refusal but what every query of a shared table does.

use super::StorageError;
use super::bucket::{ALL, Bucket};
use crate::error::Error;
use crate::pg::shared::counters::{self, BUCKETS};

const _: () = assert!(ALL.len() == BUCKETS);

/// The rule's answer, counted if it refuses one of our buckets.
pub fn counted(bucket_id: &[u8], is_allowed: bool) -> bool {
    if !is_allowed && let Some(bucket) = Bucket::from_id(bucket_id) {
        // An upload that is refused ends its transaction.
        counters::count(|counters| &counters.refused_uploads[bucket as usize], 1);
    }
    is_allowed
}

/// Counts an error that refuses an upload.
pub fn count_error(error: &Error) {
    if let Some(StorageError::UploadForbidden { bucket }) = error.downcast_ref() {
        counted(bucket.as_bytes(), false);
    }
}
