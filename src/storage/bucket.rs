//! The three buckets, and the rules that choose one for a file.

use super::StorageError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Photos and videos of ordinary tickets.
    Evidence,
    /// Proof of residence and other documents of citizens.
    Documents,
    /// Evidence of gender-based violence: rule SEC-05.
    GbvEvidence,
}

/// Every bucket that pg_civic guards, in the order of its results.
pub const ALL: [Bucket; 3] = [Bucket::Evidence, Bucket::Documents, Bucket::GbvEvidence];

/// The application's purposes of files, with the bucket for each.
const PURPOSES: [(&str, Bucket); 4] = [
    ("evidence", Bucket::Evidence),
    ("documents", Bucket::Documents),
    ("gbv-evidence", Bucket::GbvEvidence),
    ("proof_of_residence", Bucket::Documents),
];

impl Bucket {
    /// Those that everybody in the municipality reads.
    pub const OPEN: [Bucket; 2] = [Bucket::Evidence, Bucket::Documents];

    pub const fn id(self) -> &'static str {
        match self {
            Bucket::Evidence => "evidence",
            Bucket::Documents => "documents",
            Bucket::GbvEvidence => "gbv-evidence",
        }
    }

    pub fn from_id(id: &[u8]) -> Option<Bucket> {
        // Not a search through ALL: the compiler turns this into word comparisons, and the firewall
        // runs it for each row.
        match id {
            b"evidence" => Some(Bucket::Evidence),
            b"documents" => Some(Bucket::Documents),
            b"gbv-evidence" => Some(Bucket::GbvEvidence),
            _ => None,
        }
    }

    /// Whether SEC-05 restricts this bucket to some roles.
    pub const fn is_sensitive(self) -> bool {
        matches!(self, Bucket::GbvEvidence)
    }

    /// The bucket for a purpose. An unknown purpose is an error, never a default bucket: a
    /// misspelled purpose must not make GBV evidence public.
    pub fn for_purpose(purpose: &str) -> Result<Bucket, StorageError> {
        PURPOSES
            .into_iter()
            .find_map(|(name, bucket)| (name == purpose).then_some(bucket))
            .ok_or_else(|| StorageError::UnknownPurpose { purpose: purpose.to_owned() })
    }

    /// The bucket for media received over WhatsApp.
    pub const fn for_media(is_sensitive: bool) -> Bucket {
        if is_sensitive { Bucket::GbvEvidence } else { Bucket::Evidence }
    }
}

pub fn purposes() -> [&'static str; 4] {
    PURPOSES.map(|(name, _)| name)
}

/// The media types that the application knows, each with its filename extension.
const EXTENSIONS: [(&str, &str); 7] = [
    ("image/jpeg", "jpg"),
    ("image/png", "png"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("application/pdf", "pdf"),
    ("video/mp4", "mp4"),
    ("video/quicktime", "mov"),
];

/// The media types that are accepted for a file from an external sender.
pub const MEDIA_TYPES: [&str; EXTENSIONS.len()] = {
    let mut types = [""; EXTENSIONS.len()];
    let mut index = 0;
    while index < types.len() {
        types[index] = EXTENSIONS[index].0;
        index += 1;
    }
    types
};

/// The filename extension that the application uses for a media type; `bin` for any other.
pub fn file_extension(content_type: &str) -> &'static str {
    EXTENSIONS
        .into_iter()
        .find_map(|(known, extension)| {
            civic_http::essence(content_type).eq_ignore_ascii_case(known).then_some(extension)
        })
        .unwrap_or("bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_its_bucket() {
        assert_eq!(Bucket::for_purpose("evidence"), Ok(Bucket::Evidence));
        assert_eq!(Bucket::for_purpose("documents"), Ok(Bucket::Documents));
        assert_eq!(Bucket::for_purpose("gbv-evidence"), Ok(Bucket::GbvEvidence));
        assert_eq!(Bucket::for_purpose("proof_of_residence"), Ok(Bucket::Documents));
    }

    #[test]
    fn an_unknown_purpose_never_gets_a_bucket() {
        for purpose in ["", "gbv", "gbv_evidence", "Evidence", "evidence "] {
            assert!(Bucket::for_purpose(purpose).is_err(), "{purpose:?}");
        }
    }

    #[test]
    fn sensitive_media_goes_behind_the_firewall() {
        assert_eq!(Bucket::for_media(true), Bucket::GbvEvidence);
        assert_eq!(Bucket::for_media(false), Bucket::Evidence);
    }

    #[test]
    fn an_extension_follows_the_media_type() {
        assert_eq!(file_extension("image/jpeg"), "jpg");
        assert_eq!(file_extension("IMAGE/JPEG; q=1"), "jpg");
        assert_eq!(file_extension("video/quicktime"), "mov");
        assert_eq!(file_extension("text/html"), "bin");
        assert_eq!(file_extension(""), "bin");
    }

    #[test]
    fn a_bucket_is_found_only_by_its_own_id() {
        for bucket in ALL {
            assert_eq!(Bucket::from_id(bucket.id().as_bytes()), Some(bucket));
        }
        assert_eq!(Bucket::from_id(b"EVIDENCE"), None);
    }
}
