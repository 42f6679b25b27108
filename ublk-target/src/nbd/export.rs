//! What a server offers: exports, their properties, and where the negotiation finds them.

use super::MAX_STRING;
use super::wire;

/// What an export can do, as announced in the transmission flags ("Transmission flags").
///
/// These are the server's wishes; [`offered`](Self::offered) drops the combinations the protocol forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportFlags {
    /// Writes, trims and write-zeroes are refused with `EPERM`.
    pub read_only: bool,
    /// Flush is understood.
    pub flush: bool,
    /// Force unit access is understood.
    pub fua: bool,
    /// Trim is understood.
    pub trim: bool,
    /// Write-zeroes is understood.
    pub write_zeroes: bool,
    /// Write-zeroes may be asked to be fast or fail with `ENOTSUP`.
    pub fast_zero: bool,
    /// A flush on one connection covers the writes acknowledged on all.
    pub multi_conn: bool,
    /// The medium rotates.
    pub rotational: bool,
    /// Cache requests are understood.
    pub cache: bool,
    /// A read may ask for one chunk. Needs structured replies.
    pub df: bool,
}

impl ExportFlags {
    /// The part of these flags that may be announced: without structured replies there is no DF, without
    /// write-zeroes no fast zero, and a read-only export announces nothing that writes.
    #[must_use]
    pub fn offered(self, structured: bool) -> Self {
        let write_zeroes = self.write_zeroes && !self.read_only;
        Self {
            trim: self.trim && !self.read_only,
            write_zeroes,
            fast_zero: self.fast_zero && write_zeroes,
            df: self.df && structured,
            ..self
        }
    }

    /// The 16 bits on the wire of [`offered`](Self::offered).
    #[must_use]
    pub fn to_wire(self, structured: bool) -> u16 {
        let offered = self.offered(structured);
        [
            (offered.read_only, wire::FLAG_READ_ONLY),
            (offered.flush, wire::FLAG_SEND_FLUSH),
            (offered.fua, wire::FLAG_SEND_FUA),
            (offered.rotational, wire::FLAG_ROTATIONAL),
            (offered.trim, wire::FLAG_SEND_TRIM),
            (offered.write_zeroes, wire::FLAG_SEND_WRITE_ZEROES),
            (offered.df, wire::FLAG_SEND_DF),
            (offered.multi_conn, wire::FLAG_CAN_MULTI_CONN),
            (offered.cache, wire::FLAG_SEND_CACHE),
            (offered.fast_zero, wire::FLAG_SEND_FAST_ZERO),
        ]
        .into_iter()
        .filter(|&(set, _)| set)
        .fold(wire::FLAG_HAS_FLAGS, |bits, (_, bit)| bits | bit)
    }
}

/// Why a name or description cannot be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Longer than [`MAX_STRING`].
    #[error("{length} bytes is too long for an NBD export's name or description (at most {MAX_STRING})")]
    TooLong {
        /// Bytes of the string.
        length: usize,
    },
    /// Contains a NUL byte, which no NBD string may.
    #[error("an NBD export's name or description must not contain a NUL byte")]
    Nul,
}

/// One volume as NBD clients see it. Its strings are known to fit the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    name: String,
    description: String,
    size: u64,
    flags: ExportFlags,
}

impl Export {
    /// An export of `size` bytes. `description` is for humans and may be empty.
    ///
    /// # Errors
    /// If a string is too long or contains NUL.
    pub fn new(
        name: impl Into<String>,
        description: impl Into<String>,
        size: u64,
        flags: ExportFlags,
    ) -> Result<Self, ExportError> {
        let (name, description) = (name.into(), description.into());
        for text in [&name, &description] {
            if text.len() > MAX_STRING {
                return Err(ExportError::TooLong { length: text.len() });
            }
            if text.contains('\0') {
                return Err(ExportError::Nul);
            }
        }
        Ok(Self { name, description, size, flags })
    }

    /// The canonical name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Text for a human; may be empty.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the export can do.
    #[must_use]
    pub fn flags(&self) -> ExportFlags {
        self.flags
    }
}

/// Where the negotiation finds exports.
pub trait Exports {
    /// The export that `name` selects. The empty name asks for the default export.
    fn find_export(&self, name: &str) -> Option<Export>;

    /// All exports a client may list.
    fn exports(&self) -> Vec<Export>;
}

/// The first export is the default.
impl Exports for [Export] {
    fn find_export(&self, name: &str) -> Option<Export> {
        let named = self.iter().find(|export| export.name == name);
        let chosen = if name.is_empty() { named.or(self.first()) } else { named };
        chosen.cloned()
    }

    fn exports(&self) -> Vec<Export> {
        self.to_vec()
    }
}

impl<T: Exports + ?Sized> Exports for &T {
    fn find_export(&self, name: &str) -> Option<Export> {
        (**self).find_export(name)
    }

    fn exports(&self) -> Vec<Export> {
        (**self).exports()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Export {
        Export::new(name, "", 1, ExportFlags::default()).unwrap()
    }

    #[test]
    fn each_flag_has_its_bit() {
        let base = ExportFlags::default();
        let rows = [
            (base, 0),
            (ExportFlags { read_only: true, ..base }, 1 << 1),
            (ExportFlags { flush: true, ..base }, 1 << 2),
            (ExportFlags { fua: true, ..base }, 1 << 3),
            (ExportFlags { rotational: true, ..base }, 1 << 4),
            (ExportFlags { trim: true, ..base }, 1 << 5),
            (ExportFlags { write_zeroes: true, ..base }, 1 << 6),
            (ExportFlags { df: true, ..base }, 1 << 7),
            (ExportFlags { multi_conn: true, ..base }, 1 << 8),
            (ExportFlags { cache: true, ..base }, 1 << 10),
            (ExportFlags { write_zeroes: true, fast_zero: true, ..base }, 1 << 6 | 1 << 11),
        ];
        for (flags, bits) in rows {
            assert_eq!(flags.to_wire(true), 1 | bits, "{flags:?}");
        }
    }

    #[test]
    fn forbidden_combinations_are_not_offered() {
        let base = ExportFlags::default();
        assert_eq!(ExportFlags { df: true, ..base }.to_wire(false), 1);
        assert_eq!(ExportFlags { fast_zero: true, ..base }.to_wire(true), 1);
        let read_only =
            ExportFlags { read_only: true, trim: true, write_zeroes: true, fast_zero: true, ..base };
        assert_eq!(read_only.to_wire(true), 1 | 1 << 1);
    }

    #[test]
    fn strings_that_do_not_fit_the_protocol_are_refused() {
        let long = "x".repeat(MAX_STRING + 1);
        let flags = ExportFlags::default();
        assert_eq!(Export::new(&long[1..], &long[1..], 0, flags).map(|e| e.name.len()), Ok(MAX_STRING));
        assert_eq!(Export::new(&*long, "", 0, flags), Err(ExportError::TooLong { length: 4097 }));
        assert_eq!(Export::new("", &*long, 0, flags), Err(ExportError::TooLong { length: 4097 }));
        assert_eq!(Export::new("a\0b", "", 0, flags), Err(ExportError::Nul));
        assert_eq!(Export::new("", "\0", 0, flags), Err(ExportError::Nul));
    }

    #[test]
    fn the_empty_name_selects_the_first_export_unless_one_is_called_so() {
        let exports = [named("a"), named("b")];
        assert_eq!(exports[..].find_export(""), Some(named("a")));
        assert_eq!(exports[..].find_export("b"), Some(named("b")));
        assert_eq!(exports[..].find_export("c"), None);
        let exports = [named("a"), named("")];
        assert_eq!(exports[..].find_export(""), Some(named("")));
        assert_eq!([][..].find_export(""), None);
    }
}
