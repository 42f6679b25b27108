//! Names of directory entries: any bytes that POSIX allows, and how they are shown to people.
//!
//! Paths in commands and on terminals are UTF-8. A name that is not is shown with U+FFFD and two hexadecimal digits
//! for each byte that is in the way ([`shown`]), and found again by that text ([`from_shown`]).

use super::path::NAME_MAX;
use super::refusal::Refusal;
use std::borrow::Cow;
use std::rc::Rc;

/// A name. The directory that lists it and the inode that has it share one copy.
pub type Name = Rc<[u8]>;

/// Stands before the two digits of a byte that is no text.
const MARK: char = '\u{fffd}';

/// Checks a name that came with a command.
///
/// # Errors
/// [`Refusal::NameTooLong`] or [`Refusal::BadName`].
pub fn check(name: &[u8]) -> Result<(), Refusal> {
    match name {
        [] => Err(Refusal::BadName("it is empty".into())),
        b"." | b".." => Err(Refusal::BadName("it is . or ..".into())),
        _ if name.len() > NAME_MAX => Err(Refusal::NameTooLong(name.len() as u64)),
        _ if name.contains(&0) => Err(Refusal::BadName("it has a NUL byte in it".into())),
        _ if name.contains(&b'/') => Err(Refusal::BadName("it has a slash in it".into())),
        _ => Ok(()),
    }
}

/// The name as text.
pub fn shown(name: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(name) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for part in name.utf8_chunks() {
        text.push_str(part.valid());
        for byte in part.invalid() {
            text.push(MARK);
            text.push_str(&format!("{byte:02x}"));
        }
    }
    Cow::Owned(text)
}

/// The name that [`shown`] makes this text of; `None` for texts that stand for themselves.
pub fn from_shown(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split(MARK);
    let mut name = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        name.push(u8::from_str_radix(digits, 16).ok()?);
        name.extend_from_slice(&part.as_bytes()[2..]);
    }
    (shown(&name) == text && std::str::from_utf8(&name).is_err()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_bytes_but_those_of_paths() {
        let long = [b'x'; 256];
        for good in [&b"a"[..], b"...", b"\xff\xfe", b"a b\n", &long[..255]] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(matches!(check(bad), Err(Refusal::BadName(_))), "{bad:?}");
        }
        assert_eq!(check(&long), Err(Refusal::NameTooLong(256)));
    }

    #[test]
    fn what_is_shown_is_found_again() {
        for (name, text) in [
            (&b"caf\xe9"[..], "caf\u{fffd}e9"),
            (b"\xff\xfe1", "\u{fffd}ff\u{fffd}fe1"),
            ("\u{fffd}".as_bytes(), "\u{fffd}"),
            ("né".as_bytes(), "né"),
        ] {
            assert_eq!(shown(name), text);
            let back = from_shown(text);
            assert_eq!(back.as_deref().unwrap_or(text.as_bytes()), name, "{text}");
        }
        for plain in ["", "a", "\u{fffd}", "\u{fffd}zz", "\u{fffd}e", "\u{fffd}41", "\u{fffd}e\u{e9}"] {
            assert_eq!(from_shown(plain), None, "{plain}");
        }
    }
}
