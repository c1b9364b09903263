//! Parses claims into an identity, without PostgreSQL.

use std::collections::HashMap;

use serde_json::value::RawValue;

/// A JSON object whose values are still text. Parsing all values would cost more and recurse, and
/// serde_json could take an object for a number: it represents arbitrary-precision numbers as
/// objects.
type Object<'a> = HashMap<String, &'a RawValue>;

/// The caller's identity. A missing or unusable part is `None`. Without a tenant, nothing is
/// allowed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `{tenant}/`, the start of every object name of the tenant. `tenant_id()` is a part of it.
    folder_start: Option<String>,
    folder_end: Option<String>,
    tenant_uuid: Option<[u8; 16]>,
    role: Option<String>,
    user_id: Option<String>,
    user_uuid: Option<[u8; 16]>,
}

impl Identity {
    /// Parses claims. Empty claims and JSON `null` give an identity without any part. Everything
    /// else that is not a JSON object gives `None`.
    ///
    /// `number_text` converts a number to the text form of jsonb's `->>`.
    pub fn parse(
        claims: &[u8],
        tenant_claim: &[String],
        role_claim: &[String],
        number_text: impl Fn(&str) -> Option<String>,
    ) -> Option<Identity> {
        if claims.is_empty() {
            return Some(Identity::default());
        }
        let Some(claims) = serde_json::from_slice::<Option<Object>>(claims).ok()? else {
            return Some(Identity::default());
        };
        let text = |path: &[String]| match find(&claims, path) {
            Some(value) => text(value.get(), &number_text),
            None => Some(None),
        };
        let tenant_id = text(tenant_claim)?.filter(|tenant_id| is_usable_tenant(tenant_id));
        let user_id = text(&["sub".to_owned()])?;
        Some(Identity {
            tenant_uuid: tenant_id.as_deref().and_then(uuid),
            user_uuid: user_id.as_deref().and_then(uuid),
            // '0' follows '/' in every encoding that a database can have.
            folder_end: tenant_id.as_ref().map(|tenant_id| format!("{tenant_id}0")),
            folder_start: tenant_id.map(|tenant_id| tenant_id + "/"),
            role: text(role_claim)?,
            user_id,
        })
    }

    /// The caller's municipality.
    pub fn tenant_id(&self) -> Option<&str> {
        self.folder_start.as_deref().and_then(|start| start.strip_suffix('/'))
    }

    /// The municipality as a UUID; `None` if its id is none.
    pub fn tenant_uuid(&self) -> Option<[u8; 16]> {
        self.tenant_uuid
    }

    /// The first name in the tenant's folder, in byte order.
    pub fn folder_start(&self) -> Option<&str> {
        self.folder_start.as_deref()
    }

    /// The first name after the tenant's folder, in byte order.
    pub fn folder_end(&self) -> Option<&str> {
        self.folder_end.as_deref()
    }

    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// The user's id as a UUID; `None` if it is none.
    pub fn user_uuid(&self) -> Option<[u8; 16]> {
        self.user_uuid
    }

    /// Whether the caller has this role. Compares without regard to ASCII case: the application's
    /// token hook emits `SAPS_LIAISON`, its code writes `saps_liaison`.
    pub fn has_role(&self, role: &str) -> bool {
        self.role.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(role))
    }

    pub fn has_any_role(&self, roles: &[String]) -> bool {
        roles.iter().any(|role| self.has_role(role))
    }
}

fn find<'a>(claims: &Object<'a>, path: &[String]) -> Option<&'a RawValue> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(*claims.get(first)?, |value, key| {
        serde_json::from_str::<Object>(value.get()).ok()?.remove(key)
    })
}

/// The text of a JSON string, or of a number in the form of jsonb; `Some(None)` for other JSON
/// values. An empty string and one with NUL, which PostgreSQL text cannot hold, count as absent.
/// `None` for a string that is not valid text, such as half a surrogate pair.
fn text(value: &str, number_text: impl Fn(&str) -> Option<String>) -> Option<Option<String>> {
    let text = match value.as_bytes() {
        [b'"', ..] => Some(serde_json::from_str::<String>(value).ok()?),
        [b'-' | b'0'..=b'9', ..] => number_text(value),
        _ => None,
    };
    Some(text.filter(|text| !text.is_empty() && !text.contains('\0')))
}

/// A UUID in the forms that PostgreSQL's type accepts: 32 hexadecimal digits, a hyphen after any group
/// of four, braces around all of it.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let text = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut bytes = [0; 16];
    let mut rest = text.as_bytes();
    for (place, byte) in bytes.iter_mut().enumerate() {
        let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
        rest = &rest[2..];
        if place % 2 == 1 && place < 15 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
    }
    rest.is_empty().then_some(bytes)
}

/// A tenant is the first segment of a path: it must be one segment, and not `.` or `..`.
fn is_usable_tenant(tenant_id: &str) -> bool {
    !tenant_id.contains('/') && !matches!(tenant_id, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(claims: &str) -> Option<Identity> {
        let path = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        Identity::parse(
            claims.as_bytes(),
            &path("app_metadata.tenant_id"),
            &path("app_metadata.role"),
            |literal| Some(literal.to_owned()),
        )
    }

    fn tenant(value: &str) -> Option<String> {
        let claims = format!(r#"{{"app_metadata": {{"tenant_id": {value}}}}}"#);
        parse(&claims).unwrap().tenant_id().map(str::to_owned)
    }

    #[test]
    fn tenant_role_and_user_come_from_the_claims() {
        let identity = parse(
            r#"{"sub": "u", "role": "authenticated",
                "app_metadata": {"tenant_id": "t", "role": "SAPS_LIAISON"},
                "user_metadata": {"tenant_id": "forged", "role": "admin"}}"#,
        )
        .unwrap();
        assert_eq!(identity.tenant_id(), Some("t"));
        assert_eq!(identity.role(), Some("SAPS_LIAISON"));
        assert_eq!(identity.user_id(), Some("u"));
        assert!(identity.has_role("saps_liaison"));
        assert!(!identity.has_role("admin"));
    }

    #[test]
    fn the_folder_of_a_tenant_is_a_range_of_bytes() {
        let identity = parse(r#"{"app_metadata": {"tenant_id": "t"}}"#).unwrap();
        assert_eq!(identity.folder_start(), Some("t/"));
        assert_eq!(identity.folder_end(), Some("t0"));
    }

    #[test]
    fn without_claims_there_is_no_caller() {
        for claims in ["", "null", "{}", r#"{"app_metadata": null}"#, r#"{"app_metadata": []}"#] {
            assert_eq!(parse(claims), Some(Identity::default()), "{claims:?}");
        }
    }

    #[test]
    fn claims_that_are_not_an_object_are_refused() {
        for claims in ["[]", "1", "\"text\"", "true", "{", "{} {}", "not json", " "] {
            assert_eq!(parse(claims), None, "{claims:?}");
        }
        assert_eq!(parse(&"[".repeat(1_000_000)), None);
        assert_eq!(parse(&"{\"a\":".repeat(1_000_000)), None);
    }

    #[test]
    fn an_unusable_tenant_counts_as_absent() {
        for value in
            ["null", r#""""#, r#""a/b""#, r#""..""#, r#"".""#, "{}", "[]", "true", r#""\u0000""#]
        {
            assert_eq!(tenant(value), None, "{value}");
        }
        assert_eq!(tenant(r#"{"$serde_json::private::Number": "42"}"#), None);
        assert_eq!(tenant("42").as_deref(), Some("42"));
    }

    #[test]
    fn ids_are_uuids_where_postgres_would_take_them_as_such() {
        let bytes = Some(*b"\x8f\x14\xe4\x5f\xce\xea\x46\x7f\xa8\x3c\x6d\x8b\x04\xdd\x5d\x30");
        for (id, expected) in [
            ("8f14e45f-ceea-467f-a83c-6d8b04dd5d30", bytes),
            ("8F14E45F-CEEA-467F-A83C-6D8B04DD5D30", bytes),
            ("{8f14e45f-ceea-467f-a83c-6d8b04dd5d30}", bytes),
            ("8f14e45fceea467fa83c6d8b04dd5d30", bytes),
            ("8f14-e45f-ceea-467f-a83c-6d8b-04dd-5d30", bytes),
            ("8f14e45f-ceea-467f-a83c-6d8b04dd5d3", None),
            ("8f14e45f-ceea-467f-a83c-6d8b04dd5d300", None),
            ("8f1-4e45f-ceea-467f-a83c-6d8b04dd5d30", None),
            ("{8f14e45f-ceea-467f-a83c-6d8b04dd5d30", None),
            ("8f14e45f-ceea-467f-a83c-6d8b04dd5d30}", None),
            (" 8f14e45f-ceea-467f-a83c-6d8b04dd5d30", None),
            ("urn:uuid:8f14e45f-ceea-467f-a83c-6d8b04dd5d30", None),
            ("8f14e45f-ceea-467f-a83c-6d8b04dd5d30-", None),
            ("+f14e45f-ceea-467f-a83c-6d8b04dd5d30", None),
            ("42", None),
        ] {
            let claims = serde_json::json!({"sub": id, "app_metadata": {"tenant_id": id}});
            let identity = parse(&claims.to_string()).unwrap();
            assert_eq!(identity.user_uuid(), expected, "{id}");
            assert_eq!(identity.tenant_uuid(), expected, "{id}");
        }
    }

    #[test]
    fn a_caller_without_a_role_has_no_role() {
        assert!(!Identity::default().has_role(""));
        assert!(!parse(r#"{"app_metadata": {"role": ""}}"#).unwrap().has_role(""));
    }

    proptest! {
        #[test]
        fn the_range_contains_exactly_the_names_that_start_with_the_folder(
            tenant_id in "[a-c/0.]{1,3}", name in "[a-c/0.]{0,6}"
        ) {
            let claims = serde_json::json!({"app_metadata": {"tenant_id": tenant_id}}).to_string();
            let identity = parse(&claims).unwrap();
            if let (Some(start), Some(end)) = (identity.folder_start(), identity.folder_end()) {
                let in_range = name.as_str() >= start && name.as_str() < end;
                prop_assert_eq!(in_range, name.starts_with(start));
            }
        }
    }
}
