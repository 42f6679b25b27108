//! The password of a cluster, as it comes over standard input. What is kept of it is a verifier in the replicated state, from
//! which it cannot be read (`docs/formats/security.md`).

use std::io::{self, BufRead};

use link::password::PASSWORD_MAX;
pub(super) use link::password::Password;

/// Where the version before this one kept a hash that nobody asked for.
pub(super) const OLD_FILE: &str = "password.phc";

/// Why a password is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordError {
    /// Nothing came.
    #[error("standard input ended before a password came: give it as the first line of standard input")]
    Missing,
    /// Not text.
    #[error("the password is not text in UTF-8")]
    NotText,
    /// Too short or too long.
    #[error(transparent)]
    Refused(#[from] link::password::PasswordError),
    /// Standard input failed.
    #[error("cannot read the password: {0}")]
    Io(#[from] io::Error),
}

/// Reads the first line.
pub(super) fn read_line(input: impl BufRead) -> Result<Password, PasswordError> {
    let mut line = Vec::new();
    // One byte more than fits tells that it is too long; two for the end of the line.
    input.take(PASSWORD_MAX as u64 + 3).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(PasswordError::Missing);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| PasswordError::NotText)?;
    Ok(Password::new(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        for good in [&b"12345678\nrest"[..], b"12345678", "pass wörd\r\n".as_bytes()] {
            read_line(good).unwrap();
        }
        let longest = "x".repeat(PASSWORD_MAX);
        read_line(format!("{longest}\r\n").as_bytes()).unwrap();
    }

    #[test]
    fn bad_passwords_are_refused() {
        use link::password::PasswordError::{TooLong, TooShort};
        let refused = |input: &[u8]| read_line(input).unwrap_err();
        assert!(matches!(refused(b""), PasswordError::Missing));
        assert!(matches!(refused(b"\n"), PasswordError::Refused(TooShort)));
        assert!(matches!(refused(b"1234567\n"), PasswordError::Refused(TooShort)));
        assert!(matches!(refused(b"1234567\xff\n"), PasswordError::NotText));
        assert!(matches!(refused(&[b'x'; PASSWORD_MAX + 1]), PasswordError::Refused(TooLong)));
    }
}
