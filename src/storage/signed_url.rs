//! Links to files, signed here in the same way as by the Storage API.

use super::StorageError;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A link is valid for at most a week, in seconds.
pub const LONGEST: i64 = 7 * 24 * 60 * 60;

/// `{"alg":"HS256"}` in base64.
const HEADER: &str = "eyJhbGciOiJIUzI1NiJ9";

/// Checks how long a link is valid, in seconds. Errors: 22023 for less than one second or more than
/// 7 days.
pub fn expiry(seconds: i64) -> Result<u32, StorageError> {
    match u32::try_from(seconds) {
        Ok(expiry) if seconds <= LONGEST && expiry > 0 => Ok(expiry),
        _ => Err(StorageError::Expiry { seconds }),
    }
}

/// Now, in whole seconds since 1970, as in a JWT.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `{base}/object/sign/{bucket}/{path}?token={jwt}`, byte for byte the API's answer to a request at
/// the time `issued_at`: the same header, the payload's keys in the same order, the path decoded in
/// the token and encoded in the URL.
pub fn signed_url(
    base_url: &str,
    secret: &str,
    bucket: &str,
    path: &str,
    issued_at: u64,
    expiry: u32,
) -> String {
    let expires_at = issued_at + u64::from(expiry);
    let object = [bucket, "/", path].concat();
    let mut payload = Vec::with_capacity(object.len() + 96);
    payload.extend_from_slice(br#"{"url":"#);
    serde_json::to_writer(&mut payload, &object).expect("a text is JSON, and memory takes it");
    write!(payload, r#","scope":"download","iat":{issued_at},"exp":{expires_at}}}"#)
        .expect("memory takes it");

    let encoded = civic_http::encode_path(&object);
    // The payload in base64, the header, the signature, and the separators.
    let length = base_url.len() + encoded.len() + payload.len() * 4 / 3 + 96;
    let mut url = String::with_capacity(length);
    for part in [base_url, "/object/sign/", &encoded, "?token="] {
        url.push_str(part);
    }
    let token = url.len();
    url.push_str(HEADER);
    url.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(payload, &mut url);
    let signature = sign(secret, &url.as_bytes()[token..]);
    overwrite_stack();
    url.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut url);
    url
}

/// The HMAC overwrites its own state. The block that it derives from the key stays on the stack,
/// below the caller's frame; `overwrite_stack` clears it.
#[inline(never)]
fn sign(secret: &str, message: &[u8]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length is taken");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Overwrites what functions called by the caller left on the stack.
#[inline(never)]
fn overwrite_stack() {
    std::hint::black_box(&mut [0_u8; 4096]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hmac module from the same claims.
    #[test]
    fn a_link_equals_the_apis_byte_for_byte() {
        let url = signed_url(
            "https://p.supabase.co/storage/v1",
            "super-secret-jwt-token-with-at-least-32-characters-long é",
            "evidence",
            "00000000-0000-0000-0000-000000000001/8f14e45f/My photo (2) & \"co\" é#%?.jpg",
            1_770_000_000,
            3600,
        );
        assert_eq!(
            url,
            "https://p.supabase.co/storage/v1/object/sign/evidence/\
             00000000-0000-0000-0000-000000000001/8f14e45f/\
             My%20photo%20(2)%20&%20%22co%22%20%C3%A9%23%25%3F.jpg\
             ?token=eyJhbGciOiJIUzI1NiJ9.\
             eyJ1cmwiOiJldmlkZW5jZS8wMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDEvOGYxNGU0NWYv\
             TXkgcGhvdG8gKDIpICYgXCJjb1wiIMOpIyU_LmpwZyIsInNjb3BlIjoiZG93bmxvYWQiLCJpYXQiOjE3NzAw\
             MDAwMDAsImV4cCI6MTc3MDAwMzYwMH0.\
             lTEAxAzNXYV2tywlL2JSlgFB-Z9J23xNzY-eXOJIFVQ"
        );
    }

    #[test]
    fn the_header_constant_is_correct() {
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), HEADER);
    }

    #[test]
    fn a_link_is_valid_for_a_second_to_a_week() {
        assert_eq!(expiry(1), Ok(1));
        assert_eq!(expiry(604_800), Ok(604_800));
        for seconds in [0, -1, 604_801, i64::MIN, i64::MAX, 1 << 32, (1 << 32) + 1] {
            assert_eq!(expiry(seconds), Err(StorageError::Expiry { seconds }));
        }
    }
}
