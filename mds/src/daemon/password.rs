//! The password of a cluster: what is kept of it is a verifier, from which it cannot be read.
//!
//! Nobody asks for it yet. What stands in the file is an Argon2id hash as a PHC string; the exchange that will prove the
//! password without showing it brings a form of its own.

use std::io::{self, BufRead};

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Argon2, PasswordHash, PasswordVerifier};

/// Shortest password in bytes.
const PASSWORD_MIN: usize = 8;
/// Longest password in bytes.
const PASSWORD_MAX: usize = 1024;

/// Why a password is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordError {
    /// Nothing came.
    #[error("standard input ended before a password came: give it as the first line of standard input")]
    Missing,
    /// Too short.
    #[error("the password is too short: use at least {PASSWORD_MIN} characters")]
    TooShort,
    /// Too long.
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    TooLong,
    /// Not text.
    #[error("the password is not text in UTF-8")]
    NotText,
    /// Standard input failed.
    #[error("cannot read the password: {0}")]
    Io(#[from] io::Error),
    /// It could not be hashed.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
}

/// A password. Not shown by `Debug`.
pub(super) struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// Reads the first line.
    pub(super) fn read_line(input: impl BufRead) -> Result<Self, PasswordError> {
        let mut line = Vec::new();
        // One byte more than fits tells that it is too long; two for the end of the line.
        input.take(PASSWORD_MAX as u64 + 3).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(PasswordError::Missing);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > PASSWORD_MAX {
            return Err(PasswordError::TooLong);
        }
        let text = std::str::from_utf8(line).map_err(|_| PasswordError::NotText)?;
        if text.chars().count() < PASSWORD_MIN {
            return Err(PasswordError::TooShort);
        }
        Ok(Self(text.to_owned()))
    }

    /// What is kept of it: an Argon2id hash with this salt, as a PHC string.
    pub(super) fn verifier(&self, salt: &[u8; 16]) -> Result<String, PasswordError> {
        let salt = SaltString::encode_b64(salt).map_err(PasswordError::Hash)?;
        let hash = Argon2::default().hash_password(self.0.as_bytes(), &salt).map_err(PasswordError::Hash)?;
        let text = hash.to_string();
        // What cannot be verified now never can.
        let again = PasswordHash::new(&text).map_err(PasswordError::Hash)?;
        Argon2::default().verify_password(self.0.as_bytes(), &again).map_err(PasswordError::Hash)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(input: &[u8]) -> Result<String, PasswordError> {
        Password::read_line(input).map(|password| password.0)
    }

    #[test]
    fn the_first_line_is_the_password() {
        assert_eq!(line(b"12345678\nrest").unwrap(), "12345678");
        assert_eq!(line(b"12345678").unwrap(), "12345678");
        assert_eq!(line("pass wörd\r\n".as_bytes()).unwrap(), "pass wörd");
        let longest = "x".repeat(PASSWORD_MAX);
        assert_eq!(line(format!("{longest}\r\n").as_bytes()).unwrap(), longest);
    }

    #[test]
    fn bad_passwords_are_refused() {
        assert!(matches!(line(b""), Err(PasswordError::Missing)));
        assert!(matches!(line(b"\n"), Err(PasswordError::TooShort)));
        assert!(matches!(line(b"1234567\n"), Err(PasswordError::TooShort)));
        assert!(
            matches!(line("äöüß".as_bytes()), Err(PasswordError::TooShort)),
            "four characters in eight bytes"
        );
        assert!(matches!(line(b"1234567\xff\n"), Err(PasswordError::NotText)));
        assert!(matches!(line(&[b'x'; PASSWORD_MAX + 1]), Err(PasswordError::TooLong)));
    }

    #[test]
    fn the_verifier_knows_the_password_and_does_not_show_it() {
        let password = Password("correct horse".into());
        let verifier = password.verifier(&[7; 16]).unwrap();
        assert!(verifier.starts_with("$argon2id$v=19$") && !verifier.contains("horse"), "{verifier}");
        let parsed = PasswordHash::new(&verifier).unwrap();
        assert!(Argon2::default().verify_password(b"correct horse", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"wrong horse", &parsed).is_err());
        assert_ne!(verifier, password.verifier(&[8; 16]).unwrap());
        assert_eq!(format!("{password:?}"), "Password");
    }
}
