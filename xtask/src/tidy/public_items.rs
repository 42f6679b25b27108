//! Every public item is documented.
//!
//! A simple scanner, for what is compiled only on another platform or with another feature too; rustc's `missing_docs`
//! is exact for the rest, fields and variants included.

use std::path::Path;

use super::Finding;
use super::code::Source;

/// What may follow `pub` and needs documentation. `use` does not: what it names has its own.
const ITEMS: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "const", "static", "type", "macro"];

/// Finds undocumented public items of a file that is not a test.
pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    if is_test(source.path) {
        return;
    }
    let mut scanner = Scanner::default();
    let mut lines = source.text.lines().zip(source.code.lines()).zip(1..).peekable();
    while let Some(((raw, code), number)) = lines.next() {
        let mut inner_docs = || lines.peek().is_some_and(|((raw, _), _)| raw.trim_start().starts_with("//!"));
        if let Some(item) = scanner.line(raw.trim(), code.trim()) {
            if item.starts_with("mod ") && inner_docs() {
                continue;
            }
            let message = format!("public `{item}` is undocumented: say units, shapes, errors and source");
            findings.push(Finding::new(source.path, number, message));
        }
    }
}

fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// What is known before a line.
#[derive(Debug, Default)]
struct Scanner {
    /// Documentation that belongs to the next item.
    documented: bool,
    /// The next macro is public.
    exported: bool,
    /// The next item is compiled for tests only.
    test_only: bool,
    /// Brackets open in an attribute of several lines.
    attribute: usize,
    /// Inside an item compiled for tests only.
    skipping: Option<Skipped>,
}

/// How far an item that is not looked at has been passed.
#[derive(Debug, Default)]
struct Skipped {
    depth: usize,
}

impl Scanner {
    /// Takes in a line; the item on it, if that is public and undocumented.
    fn line(&mut self, raw: &str, code: &str) -> Option<String> {
        if self.skipping.is_some() {
            self.skip(code);
            return None;
        }
        if code.is_empty() {
            self.documented |= (raw.starts_with("///") && !raw.starts_with("////")) || raw.starts_with("/**");
            return None;
        }
        let code = self.attributes(code);
        if code.is_empty() {
            return None;
        }
        let item = if self.exported { exported_macro(code) } else { public_item(code) };
        let found = item.filter(|_| !self.documented && !self.test_only);
        if self.test_only {
            self.skipping = Some(Skipped::default());
            self.skip(code);
        }
        (self.documented, self.exported, self.test_only) = (false, false, false);
        found
    }

    /// Takes attributes off the start of a line; what is left of it.
    fn attributes<'c>(&mut self, mut code: &'c str) -> &'c str {
        loop {
            if self.attribute == 0 {
                // `$(#[$attribute])*` in a macro brings the caller's documentation.
                let in_macro = code.starts_with("$(#[");
                if !in_macro && !code.starts_with("#[") && !code.starts_with("#![") {
                    return code;
                }
                self.documented |= in_macro || code.starts_with("#[doc");
                self.exported |= code.starts_with("#[macro_export");
                self.test_only |= code.starts_with("#[cfg(test)") || code.starts_with("#[cfg(all(test");
                self.test_only |= code.starts_with("#[test]");
            }
            let Some(end) = self.attribute_end(code) else { return "" };
            code = code[end..].trim_start_matches([')', '*', '?', '+']).trim_start();
        }
    }

    /// Where the attribute ends that `code` starts or goes on with; `None` if on a later line.
    fn attribute_end(&mut self, code: &str) -> Option<usize> {
        for (at, byte) in code.bytes().enumerate() {
            match byte {
                b'[' => self.attribute += 1,
                b']' => {
                    self.attribute -= 1;
                    if self.attribute == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Passes over a line of an item that is not looked at.
    fn skip(&mut self, code: &str) {
        let Some(skipped) = &mut self.skipping else { return };
        for byte in code.bytes() {
            let ends = match byte {
                b'{' | b'(' | b'[' => {
                    skipped.depth += 1;
                    false
                }
                b'}' | b')' | b']' => {
                    skipped.depth = skipped.depth.saturating_sub(1);
                    skipped.depth == 0 && byte == b'}'
                }
                b';' => skipped.depth == 0,
                _ => false,
            };
            if ends {
                self.skipping = None;
                return;
            }
        }
    }
}

/// `kind name` of a line that starts a public item.
fn public_item(code: &str) -> Option<String> {
    let mut words = code.strip_prefix("pub ")?.split_whitespace().peekable();
    loop {
        let word = words.next()?;
        let before_fn = words.peek().is_some_and(|next| ["fn", "async", "unsafe", "extern"].contains(next));
        match word {
            "async" | "unsafe" | "extern" | "auto" | "safe" => continue,
            "const" if before_fn => continue,
            // The documentation of a module in its own file is that file's first line, another rule.
            "mod" if code.ends_with(';') => return None,
            "mod" => return Some(format!("mod {}", name(words.next()?))),
            kind if ITEMS.contains(&kind) => return Some(format!("{kind} {}", name(words.next()?))),
            _ => return None,
        }
    }
}

fn exported_macro(code: &str) -> Option<String> {
    Some(format!("macro {}", name(code.strip_prefix("macro_rules! ")?)))
}

fn name(word: &str) -> &str {
    word.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_in(path: &str, text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(&Source::new(Path::new(path), text), &mut findings);
        findings.into_iter().map(|finding| finding.line).collect()
    }

    fn lines(text: &str) -> Vec<usize> {
        lines_in("mds/src/lib.rs", text)
    }

    #[test]
    fn every_kind_of_item_is_found() {
        for item in [
            "pub fn f() {}",
            "pub const fn f() {}",
            "pub async fn f() {}",
            "pub const unsafe fn f() {}",
            "pub unsafe extern \"C\" fn f() {}",
            "pub struct S<T>(T);",
            "pub enum E { A }",
            "pub union U { a: u8 }",
            "pub trait T: Send {",
            "pub unsafe trait T {}",
            "pub const A: u8 = 1;",
            "pub static A: u8 = 1;",
            "pub type A = u8;",
            "pub mod a {",
            "    pub fn method(&self) {",
            "#[inline] pub fn f() {}",
            "#[macro_export]\nmacro_rules! m {",
        ] {
            let last = item.lines().count() + 1;
            assert_eq!(lines(&format!("//! A.\n{item}\n")), [last], "{item}");
            assert_eq!(lines(&format!("//! A.\n/// Documented.\n{item}\n")), [0; 0], "{item}");
        }
    }

    #[test]
    fn what_is_not_public_or_not_an_item_is_fine() {
        for item in [
            "pub(crate) fn f() {}",
            "pub(in crate::a) struct S;",
            "fn f() {}",
            "pub use a::b;",
            "pub mod a;",
            "pub mod a {\n    //! Documented inside.\n}",
            "    pub field: u8,",
            "// pub fn f() {}",
            "const A: &str = \"\npub fn f() {}\n\";",
            "macro_rules! m {",
        ] {
            assert_eq!(lines(&format!("//! A.\n{item}\n")), [0; 0], "{item}");
        }
    }

    #[test]
    fn attributes_and_comments_may_stand_between() {
        let text = "/// A.\n#[derive(\n    Clone,\n)]\n// Why.\n\n#[repr(C)] #[must_use]\npub struct S;\npub struct T;\n";
        assert_eq!(lines(text), [9]);
        assert_eq!(lines("#[doc = \"A.\"]\npub fn f() {}\n"), [0; 0]);
        assert_eq!(lines("/** A.\n B. */\npub fn f() {}\n"), [0; 0]);
        assert_eq!(lines("$(#[$attribute])*\npub fn f() {}\n"), [0; 0]);
        assert_eq!(lines("//// no\npub fn f() {}\n"), [2]);
    }

    #[test]
    fn documentation_is_used_up_by_the_next_item() {
        assert_eq!(lines("/// A.\nfn private() {}\npub fn f() {}\n"), [3]);
    }

    #[test]
    fn tests_are_passed_over_to_their_end() {
        let text = "#[cfg(test)]\nmod tests {\n    pub fn f() { g(\"}\"); }\n}\npub fn f() {}\n";
        assert_eq!(lines(text), [5]);
        assert_eq!(lines("#[cfg(test)]\nmod tests;\npub fn f() {}\n"), [3]);
        assert_eq!(lines("#[cfg(all(test, unix))]\npub fn a([u8; 3]) {}\npub fn f() {}\n"), [3]);
        assert_eq!(lines("#[cfg(test)]\npub fn a(\n    b: u8,\n) {\n}\npub fn f() {}\n"), [6]);
        for path in ["mds/src/tests.rs", "mds/tests/it/main.rs", "mds/src/log/tests/a.rs"] {
            assert_eq!(lines_in(path, "pub fn f() {}\n"), [0; 0], "{path}");
        }
    }
}
