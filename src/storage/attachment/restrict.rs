//! Attachments of a sensitive ticket: which files they name, and where these have gone.

use super::Attachments;
use crate::catalog::{self, Change};
use crate::error::Error;
use crate::pg::{Row, foreign};
use crate::storage::StorageError;
use crate::storage::bucket::Bucket;
use crate::tickets::ticket::TicketId;

/// Bucket, path, and path in the restricted bucket.
pub type Place<'a> = (&'a str, &'a str, &'a str);

impl Attachments {
    /// Bucket and path of the files of a ticket, those in the open first, `limit` at most: of the rows with
    /// that ticket, and of those with a path in its folder. A row that names another municipality's file
    /// does not count.
    pub fn of_ticket(
        &self,
        tenant_id: &str,
        ticket: &TicketId,
        limit: i64,
    ) -> Result<Vec<(String, String)>, Error> {
        // Compared as what it is, so that an index serves.
        let column = self.columns.iter().find(|column| column.name == "ticket_id");
        let of_ticket = match column {
            Some(column) if column.is_uuid => {
                "t.ticket_id OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.uuid[]) OR "
            }
            Some(_) => "t.ticket_id::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($2) OR ",
            None => "$2 IS NULL OR ",
        };
        let is_uuid = column.is_some_and(|column| column.is_uuid);
        let spellings = if is_uuid && ticket.uuid.is_none() { vec![] } else { ticket.spellings() };
        let spellings = if is_uuid && !spellings.is_empty() {
            vec![ticket.canonical().to_owned()]
        } else {
            spellings
        };
        let sql = format!(
            "SELECT DISTINCT t.s3_bucket::pg_catalog.text COLLATE pg_catalog.\"C\",
                    t.s3_key::pg_catalog.text COLLATE pg_catalog.\"C\"
             FROM {} t
             WHERE ({of_ticket} t.s3_key::pg_catalog.text OPERATOR(pg_catalog.^@) $3)
               AND t.s3_key::pg_catalog.text OPERATOR(pg_catalog.^@) $1
               AND t.s3_bucket::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($4)
             ORDER BY 1, 2 LIMIT $5",
            self.name
        );
        let open: Vec<_> = Bucket::OPEN.iter().map(|bucket| bucket.id().to_owned()).collect();
        let restricted = vec![Bucket::for_media(true).id().to_owned()];
        let folder = format!("{tenant_id}/{}/", ticket.canonical());
        let tenant = format!("{tenant_id}/");
        foreign::run(self.owner, &self.name, foreign::LIMIT, || {
            catalog::refuse_code_of_others(self.oid, self.owner, &self.name, Change::Any)?;
            let read = |row: &Row<'_, '_>| {
                Ok((
                    row.get::<String>(1)?.unwrap_or_default(),
                    row.get::<String>(2)?.unwrap_or_default(),
                ))
            };
            let mut files = vec![];
            for buckets in [open, restricted] {
                let arguments = [
                    tenant.clone().into(),
                    spellings.clone().into(),
                    folder.clone().into(),
                    buckets.into(),
                    limit.into(),
                ];
                files.extend(catalog::rows(&sql, &arguments, read)?);
            }
            files.truncate(limit as usize);
            Ok(files)
        })
    }

    /// Has the rows of moved files name where these are. What the owner has put on the table runs as the
    /// owner.
    ///
    /// Errors: afterwards a row still names a file's old place.
    pub fn follow(&self, moved: &[Place<'_>]) -> Result<(), Error> {
        for constraint in &self.deferrable {
            catalog::set(&format!("SET CONSTRAINTS {constraint} IMMEDIATE"))?;
        }
        let table = &self.name;
        // A purpose is a bucket's name, or the application's own word.
        let purpose = if self.columns.iter().any(|column| column.name == "purpose") {
            ", purpose = CASE WHEN t.purpose::pg_catalog.text OPERATOR(pg_catalog.=) m.bucket
                              THEN r.purpose ELSE t.purpose END"
        } else {
            ""
        };
        let update = format!(
            "UPDATE {table} AS t SET s3_bucket = r.s3_bucket, s3_key = r.s3_key{purpose}
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
                      AS m (bucket, path, target),
                  LATERAL pg_catalog.jsonb_populate_record(NULL::{table},
                      pg_catalog.jsonb_build_object(
                          's3_bucket', $4, 's3_key', m.target, 'purpose', $4)) AS r
             WHERE t.s3_bucket::pg_catalog.text OPERATOR(pg_catalog.=) m.bucket
               AND t.s3_key::pg_catalog.text OPERATOR(pg_catalog.=) m.path"
        );
        let left = format!(
            "SELECT EXISTS (
                 SELECT FROM {table} t,
                      ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS m (bucket, path)
                 WHERE t.s3_bucket::pg_catalog.text OPERATOR(pg_catalog.=) m.bucket
                   AND t.s3_key::pg_catalog.text OPERATOR(pg_catalog.=) m.path)"
        );
        let texts = |text: fn(&Place<'_>) -> String| moved.iter().map(text).collect::<Vec<_>>();
        let buckets = texts(|place| place.0.to_owned());
        let paths = texts(|place| place.1.to_owned());
        let targets = texts(|place| place.2.to_owned());
        foreign::run(self.owner, table, foreign::LIMIT, || {
            catalog::refuse_code_of_others(self.oid, self.owner, table, Change::Any)?;
            let restricted = Bucket::for_media(true).id();
            let arguments =
                [buckets.clone().into(), paths.clone().into(), targets.into(), restricted.into()];
            catalog::update(&update, &arguments)?;
            if catalog::holds(&left, &[buckets.into(), paths.into()])? {
                return Err(StorageError::AttachmentStays { table: table.clone() }.into());
            }
            Ok(())
        })
    }
}
