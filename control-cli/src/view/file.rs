//! Files and directories.

use std::fmt;

use serde::Serialize;
use wire::namespace::{Entry, FileInfo, FileKind};

use crate::attributes::AttrsView;
use crate::table::{Column, Row, printable};
use crate::units::{ByteSize, bytes, full_time, table_time};

/// What a kind is called.
pub(crate) fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Unspecified => "unknown",
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EntryView {
    /// The name.
    pub(crate) name: String,
    /// `file` or `directory`.
    kind: &'static str,
    /// Size in bytes.
    size: u64,
    /// File id.
    file_id: u64,
    /// Last change, in milliseconds since 1970.
    modified_ms: u64,
}

impl From<&Entry> for EntryView {
    fn from(entry: &Entry) -> Self {
        Self {
            name: entry.name.clone(),
            kind: kind_name(entry.kind()),
            size: entry.size,
            file_id: entry.file_id,
            modified_ms: entry.modified_ms,
        }
    }
}

impl EntryView {
    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == kind_name(FileKind::Directory)
    }
}

impl Row for EntryView {
    const COLUMNS: &'static [Column] =
        &[Column::text("TYPE"), Column::number("SIZE"), Column::text("MODIFIED (UTC)"), Column::text("NAME")];

    fn cells(&self) -> Vec<String> {
        vec![self.kind.to_owned(), self.size.to_string(), table_time(self.modified_ms), self.name.clone()]
    }
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FileView {
    /// Its path.
    path: String,
    /// `file` or `directory`.
    kind: &'static str,
    /// File id.
    file_id: u64,
    /// Size in bytes.
    size: u64,
    /// Bytes in a chunk.
    chunk_size: u64,
    /// Chunks allocated.
    chunks: u64,
    /// Space of its chunks, replicas not counted.
    allocated_bytes: u64,
    /// Attributes in force.
    attributes: AttrsView,
    /// Permission bits.
    mode: u32,
    /// Creation, in milliseconds since 1970.
    created_ms: u64,
    /// Last change, in milliseconds since 1970.
    modified_ms: u64,
    /// Clients that read.
    readers: u32,
    /// The client that writes.
    writer: Option<WriterView>,
    /// Highest lease epoch.
    epoch: u64,
}

/// Who has a file open for writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct WriterView {
    client_id: u64,
    host: String,
}

impl From<&FileInfo> for FileView {
    fn from(info: &FileInfo) -> Self {
        let writer = info
            .writer
            .as_ref()
            .map(|one| WriterView { client_id: one.client_id, host: one.host_name.clone() });
        Self {
            path: info.path.clone(),
            kind: kind_name(info.kind()),
            file_id: info.file_id,
            size: info.size,
            chunk_size: info.chunk_size,
            chunks: info.chunks,
            allocated_bytes: info.allocated_bytes,
            attributes: (&info.attrs).into(),
            mode: info.mode,
            created_ms: info.created_ms,
            modified_ms: info.modified_ms,
            readers: info.readers,
            writer,
            epoch: info.epoch,
        }
    }
}

impl FileView {
    fn in_use(&self) -> String {
        match (&self.writer, self.readers) {
            (Some(writer), _) => {
                format!("for writing, by client {} on {}", writer.client_id, printable(&writer.host))
            }
            (None, 0) => "no".to_owned(),
            (None, 1) => "for reading, by 1 client".to_owned(),
            (None, readers) => format!("for reading, by {readers} clients"),
        }
    }
}

impl fmt::Display for FileView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "File: '{}'", printable(&self.path))?;
        writeln!(f, "Type: {}, id {}, mode {:04o}", self.kind, self.file_id, self.mode)?;
        if self.kind == kind_name(FileKind::File) {
            writeln!(f, "Size: {} bytes ({})", self.size, bytes(self.size))?;
            let (space, chunks) = (bytes(self.allocated_bytes), self.chunks);
            writeln!(f, "Allocated: {space} in {chunks} chunks of {}", ByteSize(self.chunk_size))?;
            writeln!(f, "Open: {}; lease epoch {}", self.in_use(), self.epoch)?;
        }
        writeln!(f, "Created: {}", full_time(self.created_ms))?;
        writeln!(f, "Modified: {}", full_time(self.modified_ms))?;
        write!(f, "Attributes:\n{}", self.attributes)
    }
}

#[cfg(test)]
mod tests {
    use wire::namespace::{Attrs, FailureDomain, Holder};

    use super::*;
    use crate::table::draw;

    fn sample() -> FileInfo {
        FileInfo {
            file_id: 17,
            kind: FileKind::File.into(),
            size: 2 << 30,
            chunk_size: 64 << 20,
            attrs: Attrs {
                replicas: Some(3),
                replicas_min: Some(2),
                failure_domain: Some(FailureDomain::Host.into()),
                tier: Some(0),
                encoding: Some(String::new()),
                chunk_size: Some(64 << 20),
            },
            created_ms: 1_393_001_720_000,
            modified_ms: 1_393_003_619_000,
            allocated_bytes: 128 << 20,
            writer: Some(Holder { client_id: 2053, host_name: "s4".into() }),
            epoch: 9,
            path: "/vm1".into(),
            mode: 0o600,
            chunks: 2,
            ..Default::default()
        }
    }

    #[test]
    fn a_file_is_described() {
        let text = "\
File: '/vm1'
Type: file, id 17, mode 0600
Size: 2147483648 bytes (2GB)
Allocated: 128MB in 2 chunks of 64M
Open: for writing, by client 2053 on s4; lease epoch 9
Created: 2014-02-21 16:55:20 UTC
Modified: 2014-02-21 17:26:59 UTC
Attributes:
chunk-size=64M
failure-domain=host
replicas=3:2
tier=0
";
        assert_eq!(FileView::from(&sample()).to_string(), text);
    }

    #[test]
    fn a_directory_has_no_size_and_a_file_may_be_idle_or_read() {
        let dir = FileInfo { kind: FileKind::Directory.into(), writer: None, mode: 0o755, ..sample() };
        let text = FileView::from(&dir).to_string();
        assert!(
            text.contains("Type: directory, id 17, mode 0755\nCreated") && !text.contains("Size:"),
            "{text}"
        );
        let used = |readers| FileView::from(&FileInfo { writer: None, readers, ..sample() }).in_use();
        assert_eq!((used(0), used(1)), ("no".to_owned(), "for reading, by 1 client".to_owned()));
        assert_eq!(used(2), "for reading, by 2 clients");
    }

    #[test]
    fn a_file_in_json_has_numbers_and_its_writer() {
        let json = serde_json::to_value(FileView::from(&sample())).unwrap();
        assert_eq!(json["size"], 2u64 << 30);
        assert_eq!(json["writer"]["client_id"], 2053);
        assert_eq!(json["attributes"]["replicas_min"], 2);
        let idle = FileView::from(&FileInfo { writer: None, ..sample() });
        assert!(serde_json::to_value(idle).unwrap()["writer"].is_null());
    }

    #[test]
    fn a_directory_is_listed() {
        let entry = |name: &str, kind: FileKind, size| Entry {
            name: name.into(),
            kind: kind.into(),
            size,
            file_id: 17,
            modified_ms: 1_393_001_720_000,
        };
        let rows = [entry("fast", FileKind::Directory, 0), entry("vm1", FileKind::File, 2 << 30)];
        let rows = rows.map(|entry| EntryView::from(&entry));
        let drawn = "\
TYPE             SIZE  MODIFIED (UTC)     NAME
directory           0  21-02-14 16:55:20  fast
file       2147483648  21-02-14 16:55:20  vm1
";
        assert_eq!(draw(&rows), drawn);
        assert_eq!(
            serde_json::to_string(&rows[1]).unwrap(),
            r#"{"name":"vm1","kind":"file","size":2147483648,"file_id":17,"modified_ms":1393001720000}"#
        );
    }
}
