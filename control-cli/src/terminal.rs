//! A terminal that a command has to itself: it shows whole screens and hands on each key. It is given back as it was.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use rt::readiness::Readable;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::view::monitor::{Key, Size};

/// Of a terminal that does not tell its size.
const USUAL: Size = Size { rows: 24, columns: 80 };
/// Another screen, without a cursor.
const BEGIN: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Back to what was there.
const END: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal.
pub(crate) struct Terminal {
    before: Termios,
    keys: Readable,
}

impl Terminal {
    /// Whether input and output are one.
    pub(crate) fn is_there() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Takes it.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(crate) fn take() -> io::Result<Self> {
        let input = io::stdin();
        let keys = Readable::new(input.as_fd().try_clone_to_owned()?)?;
        let before = termios::tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&input, OptionalActions::Flush, &raw)?;
        // From here on what is dropped is given back.
        let terminal = Self { before, keys };
        write(BEGIN)?;
        Ok(terminal)
    }

    /// Its size now.
    pub(crate) fn size(&self) -> Size {
        match termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                Size { rows: size.ws_row.into(), columns: size.ws_col.into() }
            }
            _ => USUAL,
        }
    }

    /// Shows these lines, the last one marked.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(crate) fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut screen = String::from("\x1b[H");
        let last = lines.len().saturating_sub(1);
        for (number, line) in lines.iter().enumerate() {
            let (mark, end) = if number == last { ("\x1b[7m", "\x1b[0m\x1b[K") } else { ("", "\x1b[K\r\n") };
            screen.extend([mark, line, end]);
        }
        screen.push_str("\x1b[J");
        write(screen.as_bytes())
    }

    /// The next keys; [`Key::Quit`] when there will be none any more. May be given up at any time.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(crate) async fn keys(&self) -> io::Result<Vec<Key>> {
        self.keys.ready().await?;
        let mut sent = [0; 256];
        match rustix::io::read(io::stdin(), &mut sent) {
            Ok(0) => Ok(vec![Key::Quit]),
            Ok(length) => Ok(Key::all_in(&sent[..length])),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has gone needs nothing.
        let _gone = write(END);
        let _gone = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(bytes)?;
    output.flush()
}
