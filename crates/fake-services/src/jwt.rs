//! JSON Web Tokens with HS256, like those of the Storage API.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

fn signature(secret: &str, signed: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key will do");
    mac.update(signed.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The token over a payload, whose bytes are not changed.
pub fn sign(secret: &str, payload: &str) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(payload.as_bytes()));
    let signature = encode(&signature(secret, &signed));
    format!("{signed}.{signature}")
}

/// Whether a text has a token's three parts.
pub fn has_form(token: &str) -> bool {
    let parts: Vec<_> = token.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| BASE64_URL_SAFE_NO_PAD.decode(part).is_ok())
}

/// The payload of a token, `None` if its signature is not valid.
pub fn verify(secret: &str, token: &str) -> Option<String> {
    let (signed, given) = token.rsplit_once('.')?;
    let given = BASE64_URL_SAFE_NO_PAD.decode(given).ok()?;
    if given != signature(secret, signed) {
        return None;
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
    String::from_utf8(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_follows_rfc_7515() {
        // Made with openssl: the two base64url parts through `openssl dgst -sha256 -hmac secret`.
        let token = sign("secret", r#"{"url":"evidence/t/f/a.jpg"}"#);
        assert!(token.starts_with("eyJhbGciOiJIUzI1NiJ9.eyJ1cmwiOiJldmlkZW5jZS90L2YvYS5qcGcifQ."));
        assert_eq!(token.rsplit('.').next(), Some("H4RHd4HoJf8RkYiOyv0lW9IuerHpJiWT0w2f6rEV4QY"));
    }

    #[test]
    fn only_the_secret_verifies() {
        let token = sign("secret", "{}");
        assert_eq!(verify("secret", &token).as_deref(), Some("{}"));
        assert_eq!(verify("other", &token), None);
        assert_eq!(verify("secret", &token.replace('.', "..")), None);
    }
}
