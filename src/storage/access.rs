//! Access rules for objects.

use std::rc::Rc;

use super::bucket::{ALL, Bucket};
use super::path;
use crate::claims::Identity;
use crate::pg::encoding;
use crate::settings::Access;

/// The buckets in which the caller may read their own tenant's folder. None without a tenant.
pub fn readable_buckets(identity: &Identity, access: &Access) -> impl Iterator<Item = Bucket> {
    ALL.into_iter().filter(|bucket| can_read_in(identity, access, *bucket))
}

/// Whether the caller may read their own tenant's folder in this bucket.
pub fn can_read_in(identity: &Identity, access: &Access, bucket: Bucket) -> bool {
    identity.tenant_id().is_some()
        && (!bucket.is_sensitive() || identity.has_any_role(&access.sensitive_readers))
}

/// Whether a name is in the caller's folder. `None` without a tenant.
pub fn is_in_folder(identity: &Identity, name: &[u8]) -> Option<bool> {
    identity.folder_start().map(|start| name.starts_with(start.as_bytes()))
}

/// The read rule of one caller, prepared for many rows.
pub struct Reader {
    /// Which buckets the caller may read, by their position in [`ALL`].
    reads: [bool; ALL.len()],
    identity: Rc<Identity>,
}

impl Reader {
    pub fn new(identity: Rc<Identity>, access: &Access) -> Reader {
        Reader { reads: ALL.map(|bucket| can_read_in(&identity, access, bucket)), identity }
    }

    /// Whether the firewall lets an object pass: always in other buckets, in ours by the read rule.
    /// It compares bytes: a row of another user may hold invalid UTF-8.
    pub fn passes(&self, bucket_id: &[u8], name: &[u8]) -> bool {
        Bucket::from_id(bucket_id).is_none_or(|bucket| {
            self.reads[bucket as usize] && is_in_folder(&self.identity, name) == Some(true)
        })
    }
}

/// Whether the firewall lets an object be added: always in other buckets, in ours by the upload
/// rule. A name that is not UTF-8 is never valid in ours.
pub fn passes_upload(identity: &Identity, access: &Access, bucket_id: &[u8], name: &[u8]) -> bool {
    Bucket::from_id(bucket_id).is_none() || can_upload(identity, access, bucket_id, name)
}

/// Whether the caller may add an object of this name to this bucket.
pub fn can_upload(identity: &Identity, access: &Access, bucket_id: &[u8], name: &[u8]) -> bool {
    let bucket = Bucket::from_id(bucket_id);
    let (Some(bucket), Some(tenant_id)) = (bucket, identity.tenant_id()) else { return false };
    (!bucket.is_sensitive() || identity.has_any_role(&access.sensitive_uploaders))
        && encoding::text(name).is_ok_and(|name| path::is_upload_of(tenant_id, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let list = |items: &[&str]| items.iter().map(|item| item.to_string()).collect();
        Access {
            tenant_claim: list(&["tenant"]),
            role_claim: list(&["role"]),
            sensitive_uploaders: list(&["manager", "saps_liaison", "admin"]),
            sensitive_readers: list(&["saps_liaison", "admin"]),
            ..Access::default()
        }
    }

    fn caller(tenant_id: &str, role: &str) -> Identity {
        let claims = format!(r#"{{"tenant": "{tenant_id}", "role": "{role}"}}"#);
        let access = access();
        Identity::parse(claims.as_bytes(), &access.tenant_claim, &access.role_claim, |_| None)
            .unwrap()
    }

    #[test]
    fn only_liaisons_and_admins_read_gbv_evidence() {
        for (role, reads) in [
            ("citizen", false),
            ("manager", false),
            ("saps_liaison", true),
            ("SAPS_LIAISON", true),
            ("admin", true),
            ("administrator", false),
            ("", false),
        ] {
            let buckets: Vec<_> = readable_buckets(&caller("t", role), &access()).collect();
            assert_eq!(buckets.contains(&Bucket::GbvEvidence), reads, "{role:?}");
            assert!(buckets.contains(&Bucket::Evidence), "{role:?}");
            assert!(buckets.contains(&Bucket::Documents), "{role:?}");
        }
    }

    #[test]
    fn without_a_tenant_no_bucket_is_open() {
        assert!(readable_buckets(&caller("", "admin"), &access()).next().is_none());
        assert!(!can_upload(&caller("", "admin"), &access(), b"evidence", b"/id/a"));
    }

    #[test]
    fn a_manager_uploads_gbv_evidence_and_a_citizen_does_not() {
        assert!(can_upload(&caller("t", "manager"), &access(), b"gbv-evidence", b"t/id/a"));
        assert!(!can_upload(&caller("t", "citizen"), &access(), b"gbv-evidence", b"t/id/a"));
    }

    #[test]
    fn no_one_uploads_into_another_tenants_folder_or_an_unguarded_bucket() {
        assert!(can_upload(&caller("t", "admin"), &access(), b"evidence", b"t/id/a"));
        assert!(!can_upload(&caller("t", "admin"), &access(), b"evidence", b"u/id/a"));
        assert!(!can_upload(&caller("t", "admin"), &access(), b"avatars", b"t/id/a"));
    }

    #[test]
    fn an_empty_list_of_roles_closes_the_bucket() {
        let shut = Access { sensitive_readers: vec![], ..access() };
        let buckets: Vec<_> = readable_buckets(&caller("t", "admin"), &shut).collect();
        assert_eq!(buckets, [Bucket::Evidence, Bucket::Documents]);
    }

    #[test]
    fn the_firewall_shows_only_the_callers_folder_of_a_guarded_bucket() {
        let reader = Reader::new(Rc::new(caller("t", "manager")), &access());
        assert!(reader.passes(b"evidence", b"t/id/a"));
        assert!(!reader.passes(b"evidence", b"t2/id/a"));
        assert!(!reader.passes(b"gbv-evidence", b"t/id/a"));
        assert!(reader.passes(b"avatars", b"anybody/a"));
        let without_tenant = Reader::new(Rc::default(), &access());
        assert!(!without_tenant.passes(b"documents", b"/a"));
        assert!(without_tenant.passes(b"avatars", b"anybody/a"));
    }

    #[test]
    fn the_firewall_accepts_only_the_callers_uploads_into_a_guarded_bucket() {
        let passes = |bucket: &[u8], name: &[u8]| {
            passes_upload(&caller("t", "citizen"), &access(), bucket, name)
        };
        assert!(passes(b"evidence", b"t/id/a"));
        assert!(!passes(b"evidence", b"u/id/a"));
        assert!(!passes(b"gbv-evidence", b"t/id/a"));
        assert!(passes(b"avatars", b"anything"));
    }

    #[test]
    fn invalid_text_is_allowed_in_other_buckets_and_refused_in_ours() {
        let reader = Reader::new(Rc::new(caller("t", "admin")), &access());
        assert!(reader.passes(b"avatars\xe2", b"\xe2"));
        assert!(!reader.passes(b"evidence", b"\xe2"));
        assert!(passes_upload(&caller("t", "admin"), &access(), b"avatars", b"\xe2"));
        assert!(!passes_upload(&caller("t", "admin"), &access(), b"evidence", b"t/id/\xe2"));
    }
}
