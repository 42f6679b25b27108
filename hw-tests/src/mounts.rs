//! What is mounted where.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::tool::{MOUNT, ToolError, UMOUNT};

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
    pub(crate) source: PathBuf,
}

/// Everything mounted, in the order of mounting.
pub(crate) fn table() -> io::Result<Vec<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// One line of `/proc/self/mountinfo`, see proc(5).
fn parse(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let point = unescape(fields.get(4)?);
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
    Some(Mounted { point: point.into(), kind, source: unescape(fields.get(dash + 2)?).into() })
}

/// Undoes the table's octal escapes of blanks, tabs, line ends and backslashes.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Mounts `source` of the given kind at `point`.
pub(crate) fn mount(kind: &str, options: &str, source: &OsStr, point: &Path) -> Result<(), ToolError> {
    MOUNT
        .run(&["-t".as_ref(), kind.as_ref(), "-o".as_ref(), options.as_ref(), source, point.as_os_str()])
        .map(drop)
}

/// Unmounts `point`; while it is in use, takes it out of the tree at least, so that it ends with its last user.
pub(crate) fn unmount(point: &Path) -> Result<(), ToolError> {
    UMOUNT
        .run(&[point.as_os_str()])
        .or_else(|_| UMOUNT.run(&["--lazy".as_ref(), point.as_os_str()]))
        .map(drop)
}

/// Ends the connection of a FUSE file system: requests that wait for its server fail, as do all later ones.
///
/// By system call, since umount(8) may ask the dead server about the mount point. It stays mounted if it is in use.
pub(crate) fn abort_fuse(point: &Path) {
    // Aborting happens before the kernel looks whether it can unmount; whether it could is seen in the table.
    let _in_use = rustix::mount::unmount(point, rustix::mount::UnmountFlags::FORCE);
}

/// Whether something is mounted at `point`, a canonical path.
pub(crate) fn is_mounted(point: &Path) -> bool {
    table().is_ok_and(|table| table.iter().any(|mounted| mounted.point == point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = br"36 35 98:0 /mnt1 /mnt2\040with\134blank rw,noatime master:1 shared:2 - ext4 /dev/loop3 rw,errors=continue";
        let expected = Mounted {
            point: PathBuf::from(r"/mnt2 with\blank"),
            kind: "ext4".to_owned(),
            source: PathBuf::from("/dev/loop3"),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"36 35 98:0 /mnt1"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/nothing-here")));
    }
}
