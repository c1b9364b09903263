//! Where a ticket's media goes. That of a sensitive ticket goes to the restricted bucket, whatever the caller
//! says.

use pgrx::Uuid;

use super::MediaError;
use crate::error::Error;
use crate::pg;
use crate::storage::bucket::{self, Bucket, file_extension};
use crate::storage::path;
use crate::tickets::sensitivity;
use crate::tickets::ticket::TicketId;

/// Where a file goes, fixed before it is fetched: however often that is tried, it is this one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub bucket: Bucket,
    pub path: String,
    pub file_id: Uuid,
    pub is_sensitive: bool,
}

impl Target {
    /// Puts the file where it belongs, now that it is known whether the ticket is sensitive.
    pub fn decide(&mut self, is_sensitive: bool) {
        self.is_sensitive = is_sensitive;
        self.bucket = Bucket::for_media(is_sensitive);
    }
}

/// What the webhook says that a file is, without parameters. 22023 for what is not on the list.
pub fn media_type(content_type: &str) -> Result<&str, MediaError> {
    let essence = civic_http::essence(content_type);
    if bucket::MEDIA_TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(essence);
    }
    Err(MediaError::MediaType { content_type: content_type.to_owned() })
}

/// The target of a new file: `{tenant}/{ticket}/{file}.{extension}`.
///
/// Errors: as [`sensitivity::is_sensitive`], and a tenant or a ticket that cannot be part of a path.
pub fn target(
    tenant_id: &str,
    ticket_id: &str,
    content_type: &str,
    declared_sensitive: bool,
) -> Result<Target, Error> {
    let ticket = TicketId::new(ticket_id);
    let folder = path::segment("ticket", ticket.canonical())?;
    let tenant_id = path::segment("tenant", tenant_id)?;
    let is_sensitive = sensitivity::is_sensitive(tenant_id, ticket_id, declared_sensitive)?;
    let file_id = pg::random_uuid();
    let name = format!("{file_id}.{}", file_extension(content_type));
    Ok(Target {
        bucket: Bucket::for_media(is_sensitive),
        path: path::object_path(tenant_id, folder, &name)?,
        file_id,
        is_sensitive,
    })
}

/// The folder of a ticket's files, `{tenant}/{ticket}`; `None` where these cannot be part of a path.
pub fn folder(tenant_id: &str, ticket_id: &str) -> Option<String> {
    let ticket = TicketId::new(ticket_id);
    let tenant_id = path::segment("tenant", tenant_id).ok()?;
    let ticket_id = path::segment("ticket", ticket.canonical()).ok()?;
    Some(format!("{tenant_id}/{ticket_id}"))
}
