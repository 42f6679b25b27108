//! The superblock: who this chunk server is and where its journal lies.
//!
//! Four copies of one block; two of them must agree. An update writes the first two, flushes, then the other two, so
//! that at every moment two copies hold the old or the new state whole.

use std::path::{Path, PathBuf};

use super::{BLOCK, Decoder, Encoder, FormatError};

/// Copies of the superblock, one block each, at the start of the file `superblock`.
pub const COPIES: usize = 4;
/// Copies that must agree.
pub const QUORUM: usize = 2;
/// Longest path of an external journal, in bytes.
pub const JOURNAL_PATH_MAX: usize = 1024;

const MAGIC: [u8; 8] = *b"VSTORCS\n";
const VERSION: u16 = 1;
const CRC_AT: usize = BLOCK - 4;
const NAME: &str = "superblock";

/// Feature bits a reader must know.
const FEATURES_KNOWN: u32 = 0;

/// A directory that may hold another journal of the server than the one in use: one that is being made, or what is left of
/// the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OtherJournal {
    /// There is none.
    #[default]
    None,
    /// Beside the chunks.
    Inside,
    /// In a directory of its own.
    At(PathBuf),
}

/// A nonce of a registration (C10).
pub type Nonce = [u8; 16];

/// Identity and settings of a chunk server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Grows with every update.
    pub sequence: u64,
    /// The cluster it belongs to.
    pub cluster: [u8; 16],
    /// Name of the cluster, at most 64 bytes.
    pub cluster_name: String,
    /// This chunk server, for ever.
    pub cs_uuid: [u8; 16],
    /// Number given by the MDS; 0 until the first registration.
    pub cs_id: u64,
    /// Shared with the journal and the tables (C10).
    pub store_uuid: [u8; 16],
    /// Generation of the journal; raised when a journal is made, moved or resized.
    pub journal_generation: u64,
    /// Nonce of the last registration that is known to have succeeded; zero before the first.
    pub nonce: Nonce,
    /// Nonce offered with the last registration that was begun.
    pub nonce_offered: Nonce,
    /// Boot of the host in which the server last ran.
    pub boot_id: [u8; 16],
    /// Counts starts of the server; part of every journal group (a stale group has a lower one).
    pub incarnation: u64,
    /// Storage tier, 0 to 3.
    pub tier: u8,
    /// `-S`: the checksum tables are not kept.
    pub no_checksums: bool,
    /// `-T ssd`: the journal is tuned for SSDs.
    pub ssd_journal: bool,
    /// The disk's power-fail atomic unit is a whole block; else aligned overwrites go through the journal.
    pub block_atomic: bool,
    /// Set for good after a failed device write or flush (C4).
    pub failed: bool,
    /// It was the device of a journal of its own that failed.
    pub failed_journal: bool,
    /// Bytes of the journal's ring.
    pub journal_bytes: u64,
    /// Directory of an external journal and the tables; `None` when they lie beside the chunks.
    pub journal_dir: Option<PathBuf>,
    /// Address to listen at, as given with `-a`; empty for any free port.
    pub listen: String,
    /// Where another journal and tables may lie that count for nothing and are to be removed.
    pub other_journal: OtherJournal,
}

const FLAG_NO_CHECKSUMS: u32 = 1;
const FLAG_SSD_JOURNAL: u32 = 2;
const FLAG_BLOCK_ATOMIC: u32 = 4;
const FLAG_FAILED: u32 = 8;
const FLAG_OTHER_JOURNAL: u32 = 16;
const FLAG_FAILED_JOURNAL: u32 = 32;
const LISTEN_MAX: usize = 128;
const CLUSTER_NAME_MAX: usize = 64;

fn put_text<const N: usize>(encoder: &mut Encoder<'_>, text: &[u8]) {
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text);
    encoder.u16(text.len() as u16).put(&field);
}

fn take_text<const N: usize>(decoder: &mut Decoder<'_>, field: &'static str) -> Result<String, FormatError> {
    let len = usize::from(decoder.u16());
    let bytes = decoder.take::<N>();
    let text = bytes.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.map(str::to_owned).ok_or(FormatError::Range { structure: NAME, field })
}

impl Superblock {
    fn other_journal_dir(&self) -> Option<&Path> {
        match &self.other_journal {
            OtherJournal::At(dir) => Some(dir),
            OtherJournal::None | OtherJournal::Inside => None,
        }
    }

    /// Why the settings cannot be stored, if so.
    ///
    /// # Errors
    /// The name of the field that is too long.
    pub fn validate(&self) -> Result<(), &'static str> {
        for dir in [self.journal_dir.as_deref(), self.other_journal_dir()].into_iter().flatten() {
            if dir.as_os_str().len() > JOURNAL_PATH_MAX || dir.to_str().is_none() {
                return Err("journal directory");
            }
        }
        if self.listen.len() > LISTEN_MAX {
            return Err("listen address");
        }
        if self.cluster_name.len() > CLUSTER_NAME_MAX {
            return Err("cluster name");
        }
        Ok(())
    }

    /// One copy.
    ///
    /// # Panics
    /// When [`Superblock::validate`] would fail.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut encoder = Encoder::new(&mut block);
        let flags = (u32::from(self.no_checksums) * FLAG_NO_CHECKSUMS)
            | (u32::from(self.ssd_journal) * FLAG_SSD_JOURNAL)
            | (u32::from(self.block_atomic) * FLAG_BLOCK_ATOMIC)
            | (u32::from(self.failed) * FLAG_FAILED)
            | (u32::from(self.failed_journal) * FLAG_FAILED_JOURNAL)
            | (u32::from(self.other_journal != OtherJournal::None) * FLAG_OTHER_JOURNAL);
        encoder.put(&MAGIC).u16(VERSION).u16(0).u32(0);
        encoder.u64(self.sequence).put(&self.cluster).put(&self.cs_uuid).u64(self.cs_id);
        encoder.put(&self.store_uuid).u64(self.journal_generation).put(&self.nonce).put(&self.nonce_offered);
        encoder.put(&self.boot_id).u64(self.incarnation).u32(flags).u8(self.tier).u8(0).u16(0);
        encoder.u64(self.journal_bytes);
        let dir = self.journal_dir.as_deref().and_then(Path::to_str).unwrap_or("");
        put_text::<JOURNAL_PATH_MAX>(&mut encoder, dir.as_bytes());
        put_text::<LISTEN_MAX>(&mut encoder, self.listen.as_bytes());
        put_text::<CLUSTER_NAME_MAX>(&mut encoder, self.cluster_name.as_bytes());
        let other = self.other_journal_dir().and_then(Path::to_str).unwrap_or("");
        put_text::<JOURNAL_PATH_MAX>(&mut encoder, other.as_bytes());
        encoder.seal(CRC_AT);
        block
    }

    /// Checks and reads one copy.
    ///
    /// # Errors
    /// [`FormatError`], most basic first: magic, checksum, version, features, ranges.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::new(block);
        if decoder.take() != MAGIC {
            return Err(FormatError::Magic { structure: NAME });
        }
        // Before the version: a flipped bit must not pass for a later release.
        if !decoder.sealed(CRC_AT) {
            return Err(FormatError::Checksum { structure: NAME });
        }
        let found = decoder.u16();
        if found != VERSION {
            return Err(FormatError::Version { structure: NAME, found, known: VERSION });
        }
        decoder.u16();
        let features = decoder.u32() & !FEATURES_KNOWN;
        if features != 0 {
            return Err(FormatError::Features { structure: NAME, features });
        }
        let sequence = decoder.u64();
        let (cluster, cs_uuid, cs_id) = (decoder.take(), decoder.take(), decoder.u64());
        let (store_uuid, journal_generation) = (decoder.take(), decoder.u64());
        let (nonce, nonce_offered, boot_id) = (decoder.take(), decoder.take(), decoder.take());
        let (incarnation, flags, tier) = (decoder.u64(), decoder.u32(), decoder.u8());
        decoder.u8();
        decoder.u16();
        let journal_bytes = decoder.u64();
        let dir = take_text::<JOURNAL_PATH_MAX>(&mut decoder, "journal directory")?;
        let listen = take_text::<LISTEN_MAX>(&mut decoder, "listen address")?;
        let cluster_name = take_text::<CLUSTER_NAME_MAX>(&mut decoder, "cluster name")?;
        let other = take_text::<JOURNAL_PATH_MAX>(&mut decoder, "directory of another journal")?;
        let other_journal = match (flags & FLAG_OTHER_JOURNAL != 0, other.is_empty()) {
            (false, _) => OtherJournal::None,
            (true, true) => OtherJournal::Inside,
            (true, false) => OtherJournal::At(PathBuf::from(other)),
        };
        Ok(Self {
            sequence,
            cluster,
            cluster_name,
            cs_uuid,
            cs_id,
            store_uuid,
            journal_generation,
            nonce,
            nonce_offered,
            boot_id,
            incarnation,
            tier,
            no_checksums: flags & FLAG_NO_CHECKSUMS != 0,
            ssd_journal: flags & FLAG_SSD_JOURNAL != 0,
            block_atomic: flags & FLAG_BLOCK_ATOMIC != 0,
            failed: flags & FLAG_FAILED != 0,
            failed_journal: flags & FLAG_FAILED_JOURNAL != 0,
            journal_bytes,
            journal_dir: (!dir.is_empty()).then(|| PathBuf::from(dir)),
            listen,
            other_journal,
        })
    }

    /// Picks the newest state that a quorum of copies holds.
    ///
    /// # Errors
    /// The first copy's error when no two copies agree.
    pub fn choose(copies: &[[u8; BLOCK]; COPIES]) -> Result<Self, FormatError> {
        let decoded: Vec<Self> = copies.iter().filter_map(|copy| Self::decode(copy).ok()).collect();
        let agreed =
            decoded.iter().filter(|one| decoded.iter().filter(|other| other == one).count() >= QUORUM);
        match agreed.max_by_key(|one| one.sequence) {
            Some(newest) => Ok(newest.clone()),
            None => Err(copies
                .iter()
                .find_map(|copy| Self::decode(copy).err())
                .unwrap_or(FormatError::Checksum { structure: NAME })),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Superblock {
        Superblock {
            sequence: 5,
            cluster: [1; 16],
            cluster_name: "stor1".into(),
            cs_uuid: [2; 16],
            cs_id: 1025,
            store_uuid: [3; 16],
            journal_generation: 1,
            nonce: [4; 16],
            nonce_offered: [5; 16],
            boot_id: [6; 16],
            incarnation: 9,
            tier: 2,
            no_checksums: false,
            ssd_journal: true,
            block_atomic: true,
            failed: false,
            failed_journal: false,
            journal_bytes: 256 << 20,
            journal_dir: Some(PathBuf::from("/ssd/stor1/cs1")),
            listen: "127.0.0.1:3000".into(),
            other_journal: OtherJournal::None,
        }
    }

    #[test]
    fn survives_a_round_trip() {
        for other_journal in
            [OtherJournal::None, OtherJournal::Inside, OtherJournal::At("/ssd/stor1/cs2".into())]
        {
            let superblock = Superblock { other_journal, ..sample() };
            assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample().encode();
        for at in (0..BLOCK).step_by(7) {
            let mut bad = good;
            bad[at] ^= 1 << (at % 8);
            assert!(Superblock::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_newest_agreed_state_wins() {
        let old = sample();
        let new = Superblock { sequence: 6, cs_id: 1026, ..sample() };
        let garbage = [0xEE; BLOCK];
        let (o, n) = (old.encode(), new.encode());
        for (copies, expected) in [
            ([o, o, o, o], Some(&old)),
            ([n, o, o, o], Some(&old)),
            ([garbage, o, o, o], Some(&old)),
            ([n, garbage, o, o], Some(&old)),
            ([n, n, o, o], Some(&new)),
            ([n, n, garbage, o], Some(&new)),
            ([n, n, n, n], Some(&new)),
            ([garbage, garbage, n, n], Some(&new)),
            ([n, o, garbage, garbage], None),
            ([garbage; 4], None),
        ] {
            assert_eq!(Superblock::choose(&copies).ok().as_ref(), expected);
        }
    }
}
