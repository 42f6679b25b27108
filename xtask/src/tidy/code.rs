//! A Rust file in two forms: as written, and with comments and literals blanked, so that rules about code see only code.

use std::path::Path;

/// A Rust source file.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// Relative to the root of the repository.
    pub(super) path: &'a Path,
    /// As written.
    pub(super) text: &'a str,
    /// `text` with every byte of comments and of literals' contents turned into a space; line ends stay.
    pub(super) code: String,
}

impl<'a> Source<'a> {
    /// Reads the text once.
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, code: blank(text) }
    }

    /// Identifiers, keywords and numbers of the code, each with its byte offset.
    pub(super) fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        line_of(&self.code, offset)
    }
}

/// The line of a byte offset in a text, counted from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Runs of letters, digits and underscores, each with its byte offset.
pub(super) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(is_word)?;
        from = start + word_length(&text[start..]);
        Some((start, &text[start..from]))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_length(text: &str) -> usize {
    text.find(|c| !is_word(c)).unwrap_or(text.len())
}

/// Turns comments and the contents of literals into spaces (The Rust Reference, chapters "Comments" and "Tokens").
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kept, blanked) = token(rest, first);
        code.push_str(&rest[..kept]);
        code.extend(rest[kept..kept + blanked].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        rest = &rest[kept + blanked..];
    }
    code
}

/// How many bytes at the start of `rest` stay, and how many after them are blanked.
fn token(rest: &str, first: char) -> (usize, usize) {
    if rest.starts_with("//") {
        return (0, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (0, block_comment(rest));
    }
    match first {
        '"' => (0, quoted(rest, b'"')),
        '\'' => character(rest).map_or((1, 0), |length| (0, length)),
        _ if is_word(first) => {
            let length = word_length(rest);
            let raw =
                ["r", "br", "cr"].contains(&&rest[..length]).then(|| raw_string(&rest[length..])).flatten();
            (length, raw.unwrap_or(0))
        }
        _ => (first.len_utf8(), 0),
    }
}

/// Length of the block comment that `rest` starts with; they nest.
fn block_comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// Length of the literal that `rest` starts with, quotes included.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Length of the character literal that `rest` starts with; `None` if it is a lifetime or a label.
fn character(rest: &str) -> Option<usize> {
    let mut characters = rest[1..].chars();
    match characters.next()? {
        '\\' => Some(quoted(rest, b'\'')),
        first => (characters.next() == Some('\'')).then_some(2 + first.len_utf8()),
    }
}

/// Length of `#"…"#` with any number of `#`; `None` for what is not the rest of a raw string.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    let content = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(content.find(&end).map_or(rest.len(), |at| hashes + 1 + at + end.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("/* never\nends", "        \n    "),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            ("x = \"a\nb\";", "x =   \n  ;"),
            ("r\"\\\" y", "r    y"),
            ("br##\"a\"# b\"## c", "br            c"),
            ("r#type + r", "r#type + r"),
            ("for\"x\" in", "for    in"),
            ("'a' 'b", "    'b"),
            ("&'static str, '\\'', '{'", "&'static str,     ,    "),
            ("b'\"' + 1", "b    + 1"),
            ("'é' é \"é\" x", "     é      x"),
            ("é'x'", "é   "),
        ] {
            assert_eq!(blank(text), code, "{text}");
            assert_eq!(code.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn any_text_is_survived() {
        // Every piece against every other: nothing may panic, and lines must stay where they are.
        let pieces = ["\"", "'", "\\", "r#\"", "/*", "*/", "//", "\n", "é", "x", "#", "b'", "'\\"];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let text = [a, b, c].concat();
                    let blanked = blank(&text);
                    assert_eq!(blanked.len(), text.len(), "{text:?}");
                    assert_eq!(line_of(&blanked, blanked.len()), line_of(&text, text.len()), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn words_have_their_lines() {
        let source = Source::new(Path::new("x.rs"), "use a::b_1; // c\nlet é = \"d\";");
        let found: Vec<_> = source.words().map(|(at, word)| (source.line_of(at), word)).collect();
        assert_eq!(found, [(1, "use"), (1, "a"), (1, "b_1"), (2, "let"), (2, "é")]);
    }
}
