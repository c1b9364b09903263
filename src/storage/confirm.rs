//! Records an upload that has taken place.

use pgrx::pg_sys;
use serde_json::Value;

use super::StorageError;
use super::access;
use super::attachment::{Attachment, Attachments};
use super::bucket::Bucket;
use super::object::{self, Object};
use crate::claims::{self, Identity};
use crate::error::Error;
use crate::pg::{self, foreign};
use crate::settings::{self, Access, service};
use crate::tickets::TicketError;
use crate::tickets::attach::{self, Attachable};
use crate::tickets::transitions::{self, Transition};

/// A file id as `request_upload()` writes it.
///
/// Errors: 22P02 if it is not a UUID.
pub fn file_id(given: &str) -> Result<String, StorageError> {
    let uuid = uuid::Uuid::try_parse(given.trim());
    uuid.map(|uuid| uuid.to_string())
        .map_err(|_| StorageError::InvalidFileId { file_id: given.to_owned() })
}

/// Records the caller's upload and returns its row; every call returns the same row. A caller
/// cannot confirm a file that another user or the server has uploaded, because the row is evidence
/// of who uploaded it. Nor can they take the id of another user's upload by adding a file to its
/// folder.
///
/// Only the caller's own folder is searched. So files of another municipality affect neither the
/// answer nor its timing.
///
/// `ticket_id`: the file belongs to this ticket, to which the caller may attach files. If the ticket is
/// sensitive, its files are moved to the restricted bucket when the transaction commits.
///
/// Errors: P0002 if there is no upload that the caller may confirm, or no such ticket.
pub fn confirm(file_id: &str, purpose: &str, ticket_id: Option<&str>) -> Result<Value, Error> {
    let bucket = Bucket::for_purpose(purpose)?;
    let no_upload = || Error::from(StorageError::NoUpload { file_id: file_id.to_owned() });
    let (identity, access) = (claims::identity()?, settings::access());
    let tenant_id = identity.tenant_id().ok_or_else(no_upload)?;
    let user_id = identity.user_id().ok_or_else(no_upload)?;
    let folder = format!("{tenant_id}/{file_id}");
    let owner = object::owner()?.ok_or_else(no_upload)?;
    let is_readable = access::can_read_in(&identity, &access, bucket);
    let found = if is_readable {
        object::uploaded_by(user_id, bucket.id(), &folder)?
    } else {
        unreadable(owner, user_id, &identity, &access, bucket, &folder)?
    };
    let object = found.ok_or_else(no_upload)?;
    // Other users of the municipality can see file names, and the row would claim the id.
    if foreign::run(owner, object::TABLE, foreign::LIMIT, || {
        object::is_anothers_folder(user_id, &folder)
    })? {
        return Err(no_upload());
    }

    let ticket = match ticket_id {
        Some(ticket_id) => Some(ticket_of(ticket_id, &identity, &access)?),
        None => None,
    };

    let attachments = Attachments::find(&service::media_table())?;
    let attachment = Attachment {
        tenant_id,
        ticket_id: ticket.as_ref().map(|ticket| ticket.id.as_str()),
        file_id,
        bucket: bucket.id(),
        path: &object.name,
        content_type: object.content_type.as_deref(),
        size: object.size,
        purpose,
        source: "web",
        created_by: Some(user_id),
    };
    if let Some(row) = attachments.find_recorded(&attachment)? {
        // A caller who may not read the file may not read its row later either.
        return if is_readable { Ok(row) } else { Err(no_upload()) };
    }
    match attachments.record(&attachment)? {
        Some(row) => {
            if let Some(ticket) = ticket.filter(|ticket| ticket.is_sensitive) {
                let (tenant_id, ticket_id) = (tenant_id.to_owned(), ticket.id);
                let transition = Transition { tenant_id, ticket_id, was_open: true };
                transitions::note(pg::transaction::level(), transition);
            }
            Ok(row)
        }
        // Another session was faster, or the id belongs to another municipality, which is not
        // revealed.
        None if is_readable => attachments.find_recorded(&attachment)?.ok_or_else(no_upload),
        None => Err(no_upload()),
    }
}

/// Errors: P0002 if the caller attaches no files to such a ticket.
fn ticket_of(ticket_id: &str, identity: &Identity, access: &Access) -> Result<Attachable, Error> {
    let found = attach::attachable(ticket_id, identity, access)?;
    found.ok_or_else(|| TicketError::NotFound { ticket_id: ticket_id.to_owned() }.into())
}

/// A file that the caller may upload but not read, and has uploaded. It is looked up in the
/// caller's own folder, as the owner of Storage's table.
fn unreadable(
    owner: pg_sys::Oid,
    user_id: &str,
    identity: &Identity,
    access: &Access,
    bucket: Bucket,
    folder: &str,
) -> Result<Option<Object>, Error> {
    let name = format!("{folder}/filename");
    let may_upload = access::can_upload(identity, access, bucket.id().as_bytes(), name.as_bytes());
    if !may_upload {
        return Ok(None);
    }
    foreign::run(owner, object::TABLE, foreign::LIMIT, || {
        object::uploaded_by(user_id, bucket.id(), folder)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_id_is_a_uuid_in_lower_case() {
        let id = "8f14e45f-ceea-467f-a83c-6d8b04dd5d30";
        for given in
            [id, "8F14E45F-CEEA-467F-A83C-6D8B04DD5D30", "{8f14e45f-ceea-467f-a83c-6d8b04dd5d30}"]
        {
            assert_eq!(file_id(given).as_deref(), Ok(id), "{given}");
        }
        for given in ["", "t/f", "../other", "8f14e45f-ceea-467f-a83c-6d8b04dd5d3", "8f14e45f%"] {
            assert!(file_id(given).is_err(), "{given}");
        }
    }
}
