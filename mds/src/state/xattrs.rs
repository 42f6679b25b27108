//! Extended attributes of an inode.

use super::refusal::Refusal;
use std::collections::BTreeMap;

/// The longest name in bytes, as in `limits.h` of Linux (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// The longest value in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// The most bytes of all names, with a NUL after each (`XATTR_LIST_MAX`).
pub const XATTR_NAMES_MAX: usize = 64 << 10;
/// The most bytes of all names and values of an inode.
pub const XATTRS_MAX: usize = 128 << 10;

/// The extended attributes of one inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs {
    values: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Bytes of all names and values.
    bytes: usize,
    /// Bytes of all names, with a NUL after each.
    name_bytes: usize,
}

impl Xattrs {
    /// The value of one.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.values.get(name).map(|value| &**value)
    }

    /// All, by the bytes of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.values.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether one may be set, as far as sizes go.
    ///
    /// # Errors
    /// [`Refusal::NameTooLong`], [`Refusal::BadName`], [`Refusal::ValueTooLarge`], [`Refusal::XattrsFull`].
    pub(super) fn check(&self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if name.is_empty() || name.contains(&0) {
            return Err(Refusal::BadName("it is empty, or has a NUL byte in it".into()));
        }
        if name.len() > XATTR_NAME_MAX {
            return Err(Refusal::NameTooLong(name.len() as u64));
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(Refusal::ValueTooLarge(value.len() as u64));
        }
        let old = self.get(name).map(|value| name.len() + value.len());
        let bytes = self.bytes - old.unwrap_or(0) + name.len() + value.len();
        let name_bytes = self.name_bytes + if old.is_some() { 0 } else { name.len() + 1 };
        if bytes > XATTRS_MAX || name_bytes > XATTR_NAMES_MAX {
            return Err(Refusal::XattrsFull(bytes as u64));
        }
        Ok(())
    }

    /// Sets one that was checked.
    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.bytes += name.len() + value.len();
        self.name_bytes += name.len() + 1;
        self.values.insert(name.into(), value.into());
    }

    /// Removes one; whether it was there.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        let Some(value) = self.values.remove(name) else { return false };
        self.bytes -= name.len() + value.len();
        self.name_bytes -= name.len() + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_have_limits() {
        let mut xattrs = Xattrs::default();
        let long = [b'n'; 256];
        let value = vec![7; XATTR_VALUE_MAX + 1];
        assert!(matches!(xattrs.check(b"", b""), Err(Refusal::BadName(_))));
        assert!(matches!(xattrs.check(b"a\0", b""), Err(Refusal::BadName(_))));
        assert_eq!(xattrs.check(&long, b""), Err(Refusal::NameTooLong(256)));
        assert_eq!(xattrs.check(b"a", &value), Err(Refusal::ValueTooLarge(65_537)));
        let most = &value[..XATTR_VALUE_MAX];
        xattrs.check(&long[..255], most).unwrap();
        xattrs.set(&long[..255], most);
        xattrs.check(b"b", &most[..XATTR_VALUE_MAX - 256]).unwrap();
        assert!(matches!(xattrs.check(b"b", &most[..XATTR_VALUE_MAX - 255]), Err(Refusal::XattrsFull(_))));
        xattrs.check(&long[..255], b"shorter").expect("what is replaced does not count");
    }

    #[test]
    fn the_names_have_a_limit_of_their_own() {
        let mut xattrs = Xattrs::default();
        let mut count = 0u32;
        let full = loop {
            let name = format!("{count:0>255}");
            match xattrs.check(name.as_bytes(), b"") {
                Ok(()) => xattrs.set(name.as_bytes(), b""),
                Err(refusal) => break refusal,
            }
            count += 1;
        };
        assert_eq!((count, xattrs.name_bytes), (256, XATTR_NAMES_MAX));
        assert!(matches!(full, Refusal::XattrsFull(_)));
        assert!(xattrs.remove(format!("{:0>255}", 0).as_bytes()) && !xattrs.remove(b"none"));
        assert_eq!((xattrs.iter().count(), xattrs.name_bytes), (255, XATTR_NAMES_MAX - 256));
        assert_eq!(xattrs.bytes, 255 * 255);
    }
}
