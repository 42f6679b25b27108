//! The newest reign, noted outside of the directory: so one that was put back from a copy is told from the newest.
//!
//! `docs/formats/mds-files.md` describes the file (`mds.reign`).

use std::path::Path;

use super::ServerError;
use crate::raft::Reign;

/// The version this program writes and reads.
const FORMAT: &str = "1";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) reign: Reign,
    /// The highest generation that the cluster has had (C12); 0 in files of before it was noted.
    pub(super) generation: u16,
}

/// The text of the file.
fn to_text(mark: Mark) -> String {
    let directory = u128::from_be_bytes(mark.reign.directory);
    let generation = match mark.generation {
        0 => String::new(),
        known => format!("generation {known}\n"),
    };
    format!(
        "# The newest reign of a metadata server on this host; see docs/formats/mds-files.md.\n\
         format {FORMAT}\ndirectory {directory:032x}\nterm {}\n{generation}",
        mark.reign.term
    )
}

/// Reads the text; `None` if it is none that this version can use.
fn parse(text: &str) -> Option<Mark> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(' '));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim())
    };
    if value("format")? != FORMAT {
        return None;
    }
    let hex = |digits: &&str| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let directory = value("directory").filter(hex)?;
    let directory = u128::from_str_radix(directory, 16).ok()?.to_be_bytes();
    let reign = Reign { directory, term: value("term")?.parse().ok()? };
    let generation = value("generation").map_or(Some(0), |known| known.parse().ok())?;
    Some(Mark { reign, generation })
}

/// What was noted, if anything was.
pub(super) async fn load(path: &Path) -> Result<Option<Mark>, ServerError> {
    let unusable = || ServerError::Mark(path.to_owned());
    match rt::fs::read(path).await {
        Ok(bytes) => {
            let mark = std::str::from_utf8(&bytes).ok().and_then(parse);
            mark.map(Some).ok_or_else(unusable)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServerError::ReadMark { path: path.to_owned(), error }),
    }
}

/// Notes it, durably. If that cannot be done there is a warning: only this protection is missing then.
pub(super) async fn save(path: &Path, mark: Mark) {
    if let Err(error) = rt::fs::write_atomic(path, to_text(mark).as_bytes()).await {
        tracing::warn!(
            "cannot write {}: {error}; if the directory of the metadata server is put back from an old copy, nobody \
             will notice",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_is_read_and_written_as_it_was() {
        let frozen = include_str!("../../fixtures/v1/mds.reign");
        let reign = Reign { directory: *b"\x00\x01456789abcdefgh", term: 7 };
        let mark = Mark { reign, generation: 0 };
        assert_eq!(parse(frozen), Some(mark));
        assert_eq!(to_text(mark), frozen);
    }

    #[test]
    fn a_reign_survives_its_file_and_nothing_else_is_taken_for_one() {
        let reign = Reign { directory: *b"\x00\x01456789abcdefgh", term: 7 };
        let mark = Mark { reign, generation: 3 };
        let text = to_text(mark);
        assert_eq!(parse(&text), Some(mark));
        for bad in [
            String::new(),
            text.replace("format 1", "format 2"),
            text.replace("term 7", "term x"),
            text.replace("term 7", ""),
            text.replace("generation 3", "generation 70000"),
            text.replace("directory 0", "directory "),
            text.replace("directory 0", "directory +"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
