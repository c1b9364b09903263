//! A stored file's row in the application's table of attachments, as the application itself would
//! write it: with that the ticket shows the file, whether or not anybody listens.

use super::queue::{Claim, briefly};
use super::target::is_sensitive;
use crate::catalog::set;
use crate::error::Error;
use crate::media::MediaError;
use crate::settings::service::media_table;
use crate::storage::StorageError;
use crate::storage::attachment::{Attachment, Attachments};

/// Records a file. The caller is in a restricted operation, so that nothing of the table's owner waits
/// for the transaction's end, where it would run with the worker's own rights.
///
/// Where there is no such table, or `civic.media_table` is empty, there is nothing to
/// do: the application may keep its files otherwise.
///
/// Errors: the table refuses the row; the ticket has become sensitive meanwhile. Then nothing is recorded.
pub fn attach(claim: &Claim, content_type: &str, size: u64) -> Result<(), Error> {
    let table = media_table();
    if table.is_empty() {
        return Ok(());
    }
    let file_id = claim.file_id.to_string();
    let attachment = Attachment {
        tenant_id: &claim.tenant_id,
        ticket_id: Some(&claim.ticket_id),
        file_id: &file_id,
        bucket: &claim.bucket,
        path: &claim.path,
        content_type: Some(content_type),
        size: size as i64,
        // A bucket's name is the purpose that it serves.
        purpose: &claim.bucket,
        source: "whatsapp",
        created_by: None,
    };
    let record = || match set("SET CONSTRAINTS ALL IMMEDIATE")
        .and_then(|()| Attachments::find(&table))
    {
        Err(error) if matches!(error.downcast_ref(), Some(StorageError::NoMediaTable { .. })) => {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(attachments) => {
            if attachments.find_recorded(&attachment)?.is_none() {
                attachments.record(&attachment)?;
            }
            // What the owner has put on the table takes its time, and the ticket may have changed.
            if !claim.is_sensitive && is_sensitive(&claim.tenant_id, &claim.ticket_id, false)? {
                return Err(MediaError::NowSensitive.into());
            }
            Ok(())
        }
    };
    briefly(record, |sqlstate| MediaError::AttachmentRefused { sqlstate })
}
