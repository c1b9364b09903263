//! A ticket's id, and what a ticket says of itself.

/// Whether a text says "no", as a boolean of PostgreSQL or in another column's words.
pub fn is_plainly_no(text: &[u8]) -> bool {
    ["false", "f", "0", "no", "n", "off"].iter().any(|no| text.eq_ignore_ascii_case(no.as_bytes()))
}

/// A ticket's id as somebody has written it. A UUID can be written in many ways.
#[derive(Debug, PartialEq, Eq)]
pub struct TicketId {
    given: String,
    pub uuid: Option<uuid::Uuid>,
    canonical: String,
}

impl TicketId {
    pub fn new(given: &str) -> TicketId {
        // PostgreSQL takes a hyphen behind any four digits, and braces around all.
        let digits: String = given.trim().chars().filter(|c| !"-{}".contains(*c)).collect();
        let uuid = uuid::Uuid::try_parse(&digits).ok();
        let canonical = uuid.map_or_else(|| given.to_owned(), |uuid| uuid.to_string());
        TicketId { given: given.to_owned(), uuid, canonical }
    }

    /// Every text that names it in a column of text.
    pub fn spellings(&self) -> Vec<String> {
        vec![self.given.clone(), self.canonical.clone()]
    }

    /// As the server would write it.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    pub fn integer(&self) -> Option<i64> {
        self.given.trim().parse().ok()
    }
}

/// A ticket that was found.
pub struct Found {
    tenant_id: Option<String>,
    pub is_sensitive: bool,
}

impl Found {
    /// Of tenant and sensitivity. What is not plainly no is yes.
    pub fn from_row(row: Vec<Option<String>>) -> Found {
        let mut columns = row.into_iter();
        let (tenant_id, sensitive) = (columns.next().flatten(), columns.next().flatten());
        let is_sensitive = !sensitive.is_some_and(|text| is_plainly_no(text.as_bytes()));
        Found { tenant_id, is_sensitive }
    }

    pub fn is_of(&self, tenant_id: &str) -> bool {
        self.tenant_id.as_deref() == Some(tenant_id)
    }
}

/// How a ticket names a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    /// The caller has reported it.
    pub as_owner: bool,
    /// It is assigned to a user.
    pub as_assigned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "8f14e45f-ceea-467f-a83c-6d8b04dd5d30";

    #[test]
    fn a_uuid_is_the_same_however_it_is_written() {
        for spelling in [
            ID,
            "8F14E45F-CEEA-467F-A83C-6D8B04DD5D30",
            "{8f14e45f-ceea-467f-a83c-6d8b04dd5d30}",
            "8f14e45fceea467fa83c6d8b04dd5d30",
            "8f14-e45f-ceea-467f-a83c-6d8b-04dd-5d30",
            " 8f14e45f-ceea-467f-a83c-6d8b04dd5d30 ",
        ] {
            assert_eq!(TicketId::new(spelling).canonical(), ID, "{spelling}");
        }
    }

    #[test]
    fn an_id_that_is_no_uuid_stays_as_it_is() {
        for id in ["42", "T-1", "", "8f14e45f"] {
            assert_eq!(TicketId::new(id).canonical(), id);
        }
        assert_eq!(TicketId::new("42").integer(), Some(42));
        assert_eq!(TicketId::new("42x").integer(), None);
    }

    proptest! {
        #[test]
        fn every_spelling_with_hyphens_is_the_same_uuid(
            bytes in any::<[u8; 16]>(), hyphens in any::<[bool; 7]>(), upper in any::<bool>()
        ) {
            let uuid = uuid::Uuid::from_bytes(bytes);
            let digits = uuid.simple().to_string();
            let mut spelling = digits[..4].to_owned();
            for (index, hyphen) in hyphens.into_iter().enumerate() {
                spelling.push_str(if hyphen { "-" } else { "" });
                spelling.push_str(&digits[4 + index * 4..8 + index * 4]);
            }
            let spelling = if upper { spelling.to_uppercase() } else { spelling };
            prop_assert_eq!(TicketId::new(&spelling).uuid, Some(uuid));
        }
    }
}
