//! The password of a cluster: asked for on a terminal, else a line of standard input. It goes to the daemon through
//! a pipe, never through arguments or environment, which others can see.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use zeroize::Zeroizing;

/// Longest password in bytes; a pipe takes it without a reader.
const PASSWORD_MAX: usize = 1024;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// It is empty.
    #[error("the password is empty")]
    Empty,
    /// Both inputs differ.
    #[error("the two passwords differ; nothing was done")]
    Mismatch,
    /// It is too long.
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    TooLong,
    /// It has control characters.
    #[error("the password must not contain control characters")]
    Control,
    /// The operator gave up.
    #[error("interrupted; nothing was done")]
    Interrupted,
    /// Nothing came.
    #[error(
        "standard input ended before a password came: give it on a terminal, or as a line of standard input"
    )]
    Missing,
    /// Terminal or pipe failed.
    #[error("cannot read the password: {0}")]
    Io(#[from] io::Error),
}

/// A password. Not shown by `Debug`.
pub(crate) struct Password(Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// Asks for a new password: twice on a terminal, else one line of standard input.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub(crate) fn ask_new() -> Result<Self, PasswordError> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Self::read_line(input.lock());
        }
        let first = Self::prompt(&input, "Password for the new cluster: ")?;
        let second = Self::prompt(&input, "The same again: ")?;
        if first.0 == second.0 { Ok(first) } else { Err(PasswordError::Mismatch) }
    }

    /// Asks for a password that is set: once on a terminal, else a line of standard input.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub(crate) fn ask(question: &str, plain: bool) -> Result<Self, PasswordError> {
        let input = io::stdin();
        if plain || !input.is_terminal() {
            Self::read_line(input.lock())
        } else {
            Self::prompt(&input, question)
        }
    }

    /// Asks for the old password and a new one: on a terminal, the new one twice; else two lines of standard input.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub(crate) fn ask_change(plain: bool) -> Result<(Self, Self), PasswordError> {
        let input = io::stdin();
        if plain || !input.is_terminal() {
            let mut lines = input.lock();
            return Ok((Self::read_line(&mut lines)?, Self::read_line(&mut lines)?));
        }
        let old = Self::prompt(&input, "Present password of the cluster: ")?;
        let new = Self::prompt(&input, "New password: ")?;
        let again = Self::prompt(&input, "The same again: ")?;
        if new.0 == again.0 { Ok((old, new)) } else { Err(PasswordError::Mismatch) }
    }

    /// The password itself.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    fn read_line(input: impl BufRead) -> Result<Self, PasswordError> {
        let mut line = Vec::new();
        // One more than allowed tells a long password from one cut off.
        input.take(PASSWORD_MAX as u64 + 3).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(PasswordError::Missing);
        }
        let text = Zeroizing::new(String::from_utf8(line).map_err(|_| PasswordError::Control)?);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Self::check(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }

    fn check(text: String) -> Result<Self, PasswordError> {
        if text.is_empty() {
            return Err(PasswordError::Empty);
        }
        if text.len() > PASSWORD_MAX {
            return Err(PasswordError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PasswordError::Control);
        }
        Ok(Self(Zeroizing::new(text)))
    }

    fn prompt(terminal: &io::Stdin, question: &str) -> Result<Self, PasswordError> {
        let _quiet = Quiet::new(terminal.as_fd())?;
        let mut screen = io::stderr();
        screen.write_all(question.as_bytes())?;
        let typed = read_typed(terminal.lock());
        screen.write_all(b"\n")?;
        Self::check(typed?)
    }

    /// A pipe to read it from, as a line. Its other end is closed already.
    ///
    /// # Errors
    /// [`PasswordError::Io`].
    pub(crate) fn into_pipe(self) -> Result<io::PipeReader, PasswordError> {
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(self.0.as_bytes())?;
        writer.write_all(b"\n")?;
        Ok(reader)
    }
}

/// A terminal that does not show what is typed and hands on each key, Ctrl-C too, so that it is never left so.
struct Quiet<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = termios::tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no settings.
        let _gone = termios::tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// What is typed up to Enter, with the keys that correct it: backspace, Ctrl-U, and Ctrl-C or Ctrl-D to give up.
fn read_typed(keys: impl BufRead) -> Result<String, PasswordError> {
    let mut typed = Vec::new();
    for key in keys.bytes() {
        match key? {
            b'\r' | b'\n' => return String::from_utf8(typed).map_err(|_| PasswordError::Control),
            0x03 | 0x1c => return Err(PasswordError::Interrupted),
            0x04 if typed.is_empty() => return Err(PasswordError::Interrupted),
            0x08 | 0x7f => {
                // A character may be more than one byte.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            0x15 => typed.clear(),
            byte => typed.push(byte),
        }
        if typed.len() > PASSWORD_MAX {
            return Err(PasswordError::TooLong);
        }
    }
    Err(PasswordError::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn line(input: &[u8]) -> Result<String, PasswordError> {
        Password::read_line(input).map(|password| password.0.to_string())
    }

    #[test]
    fn a_line_of_input_is_the_password() {
        assert_eq!(line(b"secret\nrest").unwrap(), "secret");
        assert_eq!(line(b"secret").unwrap(), "secret");
        assert_eq!(line("pass wörd \r\n".as_bytes()).unwrap(), "pass wörd ");
        let longest = "x".repeat(PASSWORD_MAX);
        assert_eq!(line(format!("{longest}\r\n").as_bytes()).unwrap(), longest);
    }

    #[test]
    fn bad_passwords_are_refused() {
        assert!(matches!(line(b""), Err(PasswordError::Missing)));
        assert!(matches!(line(b"\n"), Err(PasswordError::Empty)));
        assert!(matches!(line(b"a\tb\n"), Err(PasswordError::Control)));
        assert!(matches!(line(b"\xff\n"), Err(PasswordError::Control)));
        assert!(matches!(line(&[b'x'; PASSWORD_MAX + 1]), Err(PasswordError::TooLong)));
    }

    #[test]
    fn typing_can_be_corrected() {
        let typed = |keys: &str| read_typed(keys.as_bytes());
        assert_eq!(typed("secret\r").unwrap(), "secret");
        assert_eq!(typed("wrong\x15seö\x7fcret\n").unwrap(), "secret");
        assert_eq!(typed("\x7f\x08a\n").unwrap(), "a");
        assert!(matches!(typed("sec\x03ret\n"), Err(PasswordError::Interrupted)));
        assert!(matches!(typed("\x04"), Err(PasswordError::Interrupted)));
        assert!(matches!(typed("no enter"), Err(PasswordError::Interrupted)));
    }

    #[test]
    fn a_password_reaches_the_reader_of_the_pipe_and_no_log() {
        let password = Password::check("secret".into()).unwrap();
        assert_eq!(format!("{password:?}"), "Password");
        let mut read = String::new();
        password.into_pipe().unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "secret\n");
    }
}
