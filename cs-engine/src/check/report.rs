//! What a check has found, for people and for programs.

use std::fmt::{self, Write};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::format::{BLOCK, FormatError};
use crate::journal::scan::ScanError;

/// Findings that are kept one by one; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// One inconsistency: what is wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// One copy of the superblock is bad, others are good.
    #[error("copy {copy} of the superblock is bad: {why}; the next start of the chunk server writes it anew")]
    SuperblockCopy {
        /// 0 to 3.
        copy: usize,
        /// What is wrong.
        why: FormatError,
    },
    /// The copies are of states that no update leaves side by side.
    #[error(
        "the copies of the superblock have the sequence numbers {sequences:?}, which interrupted updates do not leave: some were restored; remove this CS and make a new one"
    )]
    SuperblockMixed {
        /// Of the good copies, in their order.
        sequences: Vec<u64>,
    },
    /// No two copies agree.
    #[error(
        "the superblock is unusable: {why}; the chunk server cannot start: remove this CS, its replicas are rebuilt from others"
    )]
    SuperblockUnusable {
        /// Of the first bad copy.
        why: FormatError,
    },
    /// The journal was written by a later life of the server.
    #[error(
        "the superblock is of start {superblock} of the chunk server, its journal of start {journal}: the superblock was rolled back; do not start it, remove this CS and make a new one"
    )]
    SuperblockRolledBack {
        /// Starts counted in the superblock.
        superblock: u64,
        /// Starts counted in the journal.
        journal: u64,
    },
    /// The server has taken itself out of service.
    #[error("a device of this chunk server failed before: replace the disk and remove the CS")]
    Failed,
    /// A file of the server is not there.
    #[error("the {0} is missing: mount its disk, or remove this CS and make a new one")]
    Missing(&'static str),
    /// One copy of the journal's header is bad, the other is good.
    #[error("copy {copy} of the journal's header is bad: {why}; the next checkpoint writes it anew")]
    JournalHeaderCopy {
        /// 0 or 1.
        copy: u8,
        /// What is wrong.
        why: FormatError,
    },
    /// The ring has another size than the superblock says.
    #[error("the journal has {found} bytes, the superblock says {expected}: one of them was restored")]
    JournalSize {
        /// In the journal's header.
        found: u64,
        /// In the superblock.
        expected: u64,
    },
    /// The journal cannot be used.
    #[error(
        "{0}; the chunk server cannot start: put its own journal back, or remove this CS so that its replicas are rebuilt from others"
    )]
    Journal(ScanError),
    /// A record does not fit its chunk.
    #[error("the record at LSN {lsn} {what}; recovery leaves it out: scrub the chunk")]
    Record {
        /// Of its group.
        lsn: u64,
        /// How it does not fit.
        what: &'static str,
    },
    /// One copy of a chunk's header is bad, the other is good or was never written.
    #[error("copy {copy} of the header in slot {slot} is bad: {why}; the other copy serves")]
    HeaderCopy {
        /// The slot.
        slot: u32,
        /// 0 or 1.
        copy: u8,
        /// What is wrong.
        why: FormatError,
    },
    /// Both copies of a chunk's header are bad.
    #[error(
        "both copies of the header in slot {slot} are bad: {why}; whatever replica was here is lost and must be rebuilt from others"
    )]
    HeaderLost {
        /// The slot.
        slot: u32,
        /// Of the first copy.
        why: FormatError,
    },
    /// Two copies of one sequence number differ.
    #[error("both copies of {0} are good and of the same age, but differ: remove this CS and make a new one")]
    CopiesDiffer(&'static str),
    /// Two slots hold the same chunk.
    #[error("slots {first} and {second} both hold the chunk; delete the replica and let it be rebuilt")]
    HeaderTwice {
        /// One slot.
        first: u32,
        /// The other.
        second: u32,
    },
    /// The replica is younger than the journal.
    #[error(
        "the replica was made at LSN {born}, but the journal ends at {end}: the journal was rolled back; remove this CS and make a new one"
    )]
    BornLater {
        /// In the chunk's header.
        born: u64,
        /// Where writing would go on.
        end: u64,
    },
    /// One copy of a page is bad, the other is good or was never written.
    #[error("copy {copy} of checksum page {page} is bad: {why}; the other copy serves")]
    PageCopy {
        /// The page.
        page: u32,
        /// 0 or 1.
        copy: u8,
        /// What is wrong.
        why: FormatError,
    },
    /// A page has no good copy.
    #[error(
        "checksum page {page} is unusable: {why}; its blocks cannot be read: delete the replica and let it be rebuilt"
    )]
    PageLost {
        /// The page.
        page: u32,
        /// What is wrong.
        why: FormatError,
    },
    /// A chunk's file is not there.
    #[error("the chunk's file is missing; delete the replica and let it be rebuilt")]
    FileMissing,
    /// A chunk's file has another size.
    #[error(
        "the chunk's file has {found} bytes instead of {size}; {lost} blocks of data are cut off: delete the replica and let it be rebuilt"
    )]
    FileSize {
        /// Bytes of the file.
        found: u64,
        /// Bytes of the chunk.
        size: u64,
        /// Blocks with data behind the end.
        lost: u64,
    },
    /// A chunk's file has extents behind its end.
    #[error(
        "the chunk's file occupies {found} bytes, more than its size of {size}: something else has written to it; delete the replica and let it be rebuilt"
    )]
    FileExtents {
        /// Bytes of the device.
        found: u64,
        /// Bytes of the chunk.
        size: u64,
    },
    /// A file among the chunks that is none of them.
    #[error("the file belongs to no chunk of this server; move it away if nothing else needs it")]
    Stray,
    /// Names among the chunks that are not even text.
    #[error("{0}; it belongs to no chunk of this server: move it away if nothing else needs it")]
    StrayName(io::Error),
    /// Stored data is damaged.
    #[error(
        "the content does not match its checksum; scrub the chunk, so that it is repaired from another replica"
    )]
    Content,
    /// No replica had it whole when this one was made.
    #[error(
        "lost: when this replica was made, all others had it damaged; restore what the volume held there from a backup"
    )]
    Lost,
    /// The device gives no data.
    #[error("cannot be read: {0}; if it happens again, replace the disk")]
    Unreadable(io::Error),
}

impl Problem {
    /// Name of the kind of problem in the report for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::SuperblockCopy { .. } => "superblock_copy",
            Self::SuperblockMixed { .. } => "superblock_mixed",
            Self::SuperblockUnusable { .. } => "superblock_unusable",
            Self::SuperblockRolledBack { .. } => "superblock_rolled_back",
            Self::Failed => "failed",
            Self::Missing(_) => "missing",
            Self::JournalHeaderCopy { .. } => "journal_header_copy",
            Self::JournalSize { .. } => "journal_size",
            Self::Journal(_) => "journal",
            Self::Record { .. } => "record",
            Self::HeaderCopy { .. } => "header_copy",
            Self::HeaderLost { .. } => "header_lost",
            Self::CopiesDiffer(_) => "copies_differ",
            Self::HeaderTwice { .. } => "header_twice",
            Self::BornLater { .. } => "born_later",
            Self::PageCopy { .. } => "page_copy",
            Self::PageLost { .. } => "page_lost",
            Self::FileMissing => "file_missing",
            Self::FileSize { .. } => "file_size",
            Self::FileExtents { .. } => "file_extents",
            Self::Stray | Self::StrayName(_) => "stray",
            Self::Content => "content",
            Self::Lost => "lost",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// A problem and where it is.
#[derive(Debug)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Byte of the file, where the problem has a place.
    pub offset: Option<u64>,
    /// The chunk, where the problem is one chunk's.
    pub chunk: Option<u64>,
    /// Blocks of the chunk, where the problem is theirs.
    pub blocks: Option<Range<u32>>,
    /// What is wrong.
    pub problem: Problem,
}

impl Finding {
    /// A problem of a whole file.
    pub(super) fn of_file(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), offset: None, chunk: None, blocks: None, problem }
    }

    /// A problem at a byte of a file.
    pub(super) fn at(path: &Path, offset: u64, problem: Problem) -> Self {
        Self { offset: Some(offset), ..Self::of_file(path, problem) }
    }

    /// A problem of blocks of a chunk's file.
    pub(super) fn of_blocks(path: &Path, chunk: u64, blocks: Range<u32>, problem: Problem) -> Self {
        let offset = u64::from(blocks.start) * BLOCK as u64;
        Self { chunk: Some(chunk), blocks: Some(blocks), ..Self::at(path, offset, problem) }
    }

    /// The same, of a chunk.
    pub(super) fn chunk(self, chunk: u64) -> Self {
        Self { chunk: Some(chunk), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        if let Some(chunk) = self.chunk {
            write!(f, ", chunk {chunk:#018x}")?;
        }
        match &self.blocks {
            Some(blocks) if blocks.len() == 1 => write!(f, ", block {}", blocks.start)?,
            Some(blocks) => write!(f, ", blocks {} to {}", blocks.start, blocks.end - 1)?,
            None => {}
        }
        write!(f, ": {}", self.problem)
    }
}

/// The outcome of a check.
#[derive(Debug, Default)]
pub struct Report {
    /// The chunk server's directory.
    pub dir: PathBuf,
    /// Its number; 0 before its first registration or when the superblock is unusable.
    pub cs_id: u64,
    /// Its cluster.
    pub cluster: String,
    /// Replicas in the tables.
    pub chunks: u64,
    /// Bytes of data that match their checksums.
    pub bytes_verified: u64,
    /// Blocks whose newest content waits in the journal to be moved; verified too.
    pub blocks_in_journal: u64,
    /// Blocks that a crash has left in doubt inside active extents. No error: the members settle them (C5).
    pub blocks_unsettled: u64,
    /// Blocks of a replica that joins its chunk which do not match, and are yet to be copied from the members. No error.
    pub blocks_missing: u64,
    /// Second copies that a crash has cut off on a disk that tears blocks. No error: the first copies are whole.
    pub copies_cut_off: u64,
    /// The chunks' content was compared with its checksums. Not when the journal is unusable: what the files must hold
    /// cannot be told without it.
    pub contents_checked: bool,
    /// What is wrong, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    /// As one line of JSON. Chunk ids are strings of hexadecimal digits.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::from("{\"directory\":");
        text(&mut json, &self.dir.display().to_string());
        json.push_str(",\"cluster\":");
        text(&mut json, &self.cluster);
        for (name, number) in [
            ("cs_id", self.cs_id),
            ("chunks", self.chunks),
            ("bytes_verified", self.bytes_verified),
            ("blocks_in_journal", self.blocks_in_journal),
            ("blocks_unsettled", self.blocks_unsettled),
            ("blocks_missing", self.blocks_missing),
            ("copies_cut_off", self.copies_cut_off),
            ("findings_left_out", self.findings_left_out),
        ] {
            put(&mut json, format_args!(",\"{name}\":{number}"));
        }
        put(&mut json, format_args!(",\"contents_checked\":{}", self.contents_checked));
        put(&mut json, format_args!(",\"clean\":{},\"findings\":[", self.is_clean()));
        for (index, finding) in self.findings.iter().enumerate() {
            json.push_str(if index == 0 { "" } else { "," });
            finding.write_json(&mut json);
        }
        json.push_str("]}");
        json
    }
}

impl Finding {
    fn write_json(&self, json: &mut String) {
        put(json, format_args!("{{\"kind\":\"{}\",\"path\":", self.problem.kind()));
        text(json, &self.path.display().to_string());
        if let Some(offset) = self.offset {
            put(json, format_args!(",\"offset\":{offset}"));
        }
        if let Some(chunk) = self.chunk {
            put(json, format_args!(",\"chunk\":\"{chunk:#018x}\""));
        }
        if let Some(blocks) = &self.blocks {
            put(json, format_args!(",\"block\":{},\"blocks\":{}", blocks.start, blocks.len()));
        }
        json.push_str(",\"text\":");
        text(json, &self.problem.to_string());
        json.push('}');
    }
}

fn put(json: &mut String, part: fmt::Arguments<'_>) {
    json.write_fmt(part).expect("a string takes everything");
}

/// A string of JSON (RFC 8259, section 7).
fn text(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c < ' ' => put(json, format_args!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: CS#{} of cluster {:?}: ", self.dir.display(), self.cs_id, self.cluster)?;
        writeln!(f, "{} chunks, {} bytes of data verified", self.chunks, self.bytes_verified)?;
        if self.blocks_in_journal > 0 {
            writeln!(f, "{} blocks wait in the journal to be moved to their chunks", self.blocks_in_journal)?;
        }
        if self.blocks_unsettled > 0 {
            let blocks = self.blocks_unsettled;
            writeln!(
                f,
                "{blocks} blocks are unsettled after a crash; the members settle them at the next open"
            )?;
        }
        if self.blocks_missing > 0 {
            let blocks = self.blocks_missing;
            writeln!(f, "{blocks} blocks that do not match are yet to be copied from other members")?;
        }
        if self.copies_cut_off > 0 {
            writeln!(
                f,
                "{} second copies were cut off by a crash; the first copies are whole",
                self.copies_cut_off
            )?;
        }
        if !self.contents_checked {
            writeln!(
                f,
                "The content of the chunks was not checked: without the journal nothing can be said of it."
            )?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        match (self.findings.len(), self.findings_left_out) {
            (0, _) => writeln!(f, "No finding."),
            (1, _) => writeln!(f, "1 finding."),
            (count, 0) => writeln!(f, "{count} findings."),
            (count, more) => writeln!(f, "{count} findings shown, {more} more."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { dir: "/a\"b".into(), cs_id: 7, cluster: "c\n".into(), ..Report::default() };
        let path = Path::new("/a/chunks/42/0000000000000042");
        report.add(Finding::of_blocks(path, 0x42, 2..4, Problem::Content));
        report.add(Finding::of_file(Path::new("/x"), Problem::Stray));
        report
    }

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        assert_eq!(
            report().findings[0].to_string(),
            "/a/chunks/42/0000000000000042, byte 8192, chunk 0x0000000000000042, blocks 2 to 3: the content does not \
             match its checksum; scrub the chunk, so that it is repaired from another replica"
        );
    }

    #[test]
    fn json_is_escaped() {
        let json = report().to_json();
        assert!(json.starts_with(r#"{"directory":"/a\"b","cluster":"c\u000a","cs_id":7,"#), "{json}");
        let finding = r#"{"kind":"content","path":"/a/chunks/42/0000000000000042","offset":8192,"chunk":"0x0000000000000042","block":2,"blocks":2,"text":"#;
        assert!(json.contains(finding), "{json}");
        assert!(json.contains(r#""clean":false,"findings":[{"#) && json.ends_with("\"}]}"), "{json}");
    }

    #[test]
    fn findings_are_bounded() {
        let mut report = Report::default();
        for _ in 0..FINDINGS_MAX + 5 {
            report.add(Finding::of_file(Path::new("/x"), Problem::Stray));
        }
        assert_eq!((report.findings.len(), report.findings_left_out), (FINDINGS_MAX, 5));
        assert!(report.to_string().ends_with("1000 findings shown, 5 more.\n"));
    }
}
