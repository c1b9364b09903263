//! Text validation: UTF-8 without NUL, as in a PostgreSQL database with encoding UTF8.
//!
//! The server checks what a client sends, but not settings in the startup packet, and any role can
//! copy those into texts, names and JSON. So bytes from the server become a `str` only after
//! validation.

use std::fmt;

/// A byte sequence that is not a valid character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidText {
    sequence: Vec<u8>,
}

impl std::error::Error for InvalidText {}

impl fmt::Display for InvalidText {
    /// The server's own wording. It shows the bytes of this one sequence only.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("invalid byte sequence for encoding \"UTF8\":")?;
        self.sequence.iter().try_for_each(|byte| write!(formatter, " 0x{byte:02x}"))
    }
}

/// The bytes as text, if they are valid.
pub fn text(bytes: &[u8]) -> Result<&str, InvalidText> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&0) => Ok(text),
        _ => Err(first_invalid(bytes)),
    }
}

#[cold]
fn first_invalid(bytes: &[u8]) -> InvalidText {
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let start = bytes[..valid].iter().position(|byte| *byte == 0).unwrap_or(valid);
    // As many bytes as the first byte announces.
    let announced = match bytes.get(start) {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        _ => 1,
    };
    InvalidText { sequence: bytes[start..].iter().copied().take(announced).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(bytes: &[u8]) -> String {
        text(bytes).unwrap_err().to_string().split_off("invalid byte sequence for ".len())
    }

    /// The wording of PostgreSQL 18.
    #[test]
    fn an_invalid_sequence_is_shown_as_the_server_shows_it() {
        for (bytes, named) in [
            (b"photo\xe2".as_slice(), "0xe2"),
            (b"a\xe2\x82", "0xe2 0x82"),
            (b"\xff", "0xff"),
            (b"a\xc0\xafb", "0xc0 0xaf"),
            (b"\xed\xa0\x80b", "0xed 0xa0 0x80"),
            (b"\xf5\x80\x80\x80", "0xf5 0x80 0x80 0x80"),
            (b"\xf0abcdef", "0xf0 0x61 0x62 0x63"),
            (b"a\0b", "0x00"),
            (b"a\0\xff", "0x00"),
            (b"\xff\0", "0xff"),
        ] {
            assert_eq!(message(bytes), format!("encoding \"UTF8\": {named}"), "{bytes:?}");
        }
    }

    #[test]
    fn valid_text_is_accepted() {
        for valid in ["", "a", "é", "€uro", "\u{10ffff}", "\u{1}"] {
            assert_eq!(text(valid.as_bytes()), Ok(valid));
        }
    }

    proptest! {
        #[test]
        fn text_is_utf_8_without_nul(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let expected = std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains('\0'));
            prop_assert_eq!(text(&bytes).is_ok(), expected);
        }
    }
}
