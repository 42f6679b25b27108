//! The frozen structures: what is written to disk today must be what the first release wrote.
//!
//! A new sample gets its file by `VSTORAGE_BLESS=1 cargo test -p cs-engine`; a file that exists is never written again.
//! Its line in `fixtures/SHA256SUMS` is added by hand (`sha256sum v1/NAME.bin`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cs_engine::engine::recovery;
use cs_engine::format::block::BlockState;
use cs_engine::format::fuzz::{TARGETS, Target};
use cs_engine::format::journal::{GROUP_HEADER, GroupHeader, JournalHeader, RING_START};
use cs_engine::format::record::{Record, RecordKind};
use cs_engine::format::superblock::{OtherJournal, Superblock};
use cs_engine::format::table::{CRCS_PER_PAGE, ChunkHeader, CrcPage, SlotState};
use cs_engine::format::{BLOCK, crc32c};
use rt::random::Rng;

use crate::rig::{CHUNK, Client, MIB, Rig, pattern};

const STORE: [u8; 16] = *b"store of fixture";
const CHUNK_ID: u64 = 0x0123_4567_89AB_CDEF;
const LSN: u64 = 0x0005_0000_4000;

/// Panics unless bytes mean a certain value.
type Check = dyn Fn(&[u8]);

/// A structure as a value and as bytes.
struct Sample {
    name: &'static str,
    bytes: Vec<u8>,
    check: Box<Check>,
}

fn sample(name: &'static str, bytes: impl AsRef<[u8]>, check: impl Fn(&[u8]) + 'static) -> Sample {
    Sample { name, bytes: bytes.as_ref().to_vec(), check: Box::new(check) }
}

fn block(bytes: &[u8]) -> &[u8; BLOCK] {
    bytes.try_into().expect("one block")
}

fn superblocks() -> Vec<Sample> {
    let plain = Superblock {
        sequence: 0x0102_0304_0506_0708,
        cluster: *b"cluster of fixtu",
        cluster_name: "stor1".into(),
        cs_uuid: *b"cs uuid of fixtu",
        cs_id: 1025,
        store_uuid: STORE,
        journal_generation: 3,
        nonce: *b"nonce of fixture",
        nonce_offered: *b"offered nonce of",
        boot_id: *b"boot id of fixtu",
        incarnation: 42,
        tier: 1,
        no_checksums: false,
        ssd_journal: false,
        block_atomic: true,
        failed: false,
        failed_journal: false,
        journal_bytes: 256 << 20,
        journal_dir: None,
        listen: String::new(),
        other_journal: OtherJournal::None,
    };
    let external = Superblock {
        tier: 3,
        no_checksums: true,
        ssd_journal: true,
        block_atomic: false,
        failed: true,
        journal_dir: Some("/ssd/stor1/cs1".into()),
        listen: "192.0.2.7:3000".into(),
        cluster_name: "\u{fc}ber".repeat(12),
        ..plain.clone()
    };
    let of = |name, value: Superblock| {
        sample(name, value.encode(), move |bytes| {
            assert_eq!(Superblock::decode(block(bytes)), Ok(value.clone()))
        })
    };
    let moving = Superblock { other_journal: OtherJournal::At("/ssd/stor1/cs2".into()), ..external.clone() };
    let lost = Superblock { failed_journal: true, ..external.clone() };
    let destroyed = Superblock { other_journal: OtherJournal::Inside, ..external.clone() };
    vec![
        of("superblock", plain),
        of("superblock-external-journal", external),
        of("superblock-journal-moves", moving),
        of("superblock-journal-beside-left", destroyed),
        of("superblock-journal-failed", lost),
    ]
}

fn journal() -> JournalHeader {
    JournalHeader {
        sequence: 0x1112_1314,
        store_uuid: STORE,
        generation: 3,
        ring_bytes: 256 << 20,
        tail: 0x0005_0000_1000,
        tail_previous_crc: 0xCAFE_F00D,
        durable: 0x0005_0000_2000,
    }
}

/// A group as the journal writes it: header, records, zeroes up to a block, payloads.
fn group(header: GroupHeader, records: &[Record], payload: &[u8]) -> Vec<u8> {
    let records_len: usize = records.iter().map(Record::encoded_len).sum();
    let payload_at = (GROUP_HEADER + records_len).next_multiple_of(BLOCK);
    let mut bytes = vec![0; payload_at + payload.len()];
    let mut at = GROUP_HEADER;
    for record in records {
        let end = at + record.encoded_len();
        record.encode(header.lsn, &mut bytes[at..end]);
        at = end;
    }
    bytes[payload_at..].copy_from_slice(payload);
    let header = GroupHeader {
        records: records.len() as u32,
        records_len: records_len as u32,
        records_crc: if records.is_empty() { 0 } else { crc32c(&bytes[GROUP_HEADER..at]) },
        len: if records.is_empty() { header.len } else { bytes.len() as u32 },
        ..header
    };
    header.encode(&mut bytes);
    bytes
}

/// Header and records of a group whose bytes begin at `bytes`.
fn read_group(bytes: &[u8], journal: &JournalHeader, lsn: u64) -> (GroupHeader, Vec<Record>) {
    let header = GroupHeader::decode(bytes, journal, lsn).expect("a group");
    let mut rest = &bytes[GROUP_HEADER..GROUP_HEADER + header.records_len as usize];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (record, len) = Record::decode(rest, lsn).expect("a record");
        records.push(record);
        rest = &rest[len..];
    }
    assert_eq!(records.len(), header.records as usize);
    (header, records)
}

fn group_header() -> GroupHeader {
    GroupHeader {
        lsn: LSN,
        len: 0,
        records_len: 0,
        records: 0,
        previous_crc: 0xCAFE_F00D,
        records_crc: 0,
        incarnation: 42,
        durable: 0x0005_0000_2000,
        generation: 3,
        store_uuid: STORE,
    }
}

fn stored(plain: u32, block: u32) -> u32 {
    BlockState::of_plain(plain, CHUNK_ID, block).to_raw()
}

/// One record of each kind, as a client's writes or a checkpoint leave it.
fn record(kind: RecordKind) -> (&'static str, Record) {
    let base = Record::new(kind);
    let write = Record {
        chunk: CHUNK_ID,
        version: 7,
        file: 12,
        epoch: 0x0001_0000_0000_0005,
        seq: 1003,
        done: 1001,
        stable: 990,
        first: 16,
        ..base.clone()
    };
    let chunk_of =
        |words: &[u32]| [0x89AB_CDEF, 0x0123_4567].into_iter().chain(words.iter().copied()).collect();
    match kind {
        RecordKind::Data => {
            let words = vec![stored(crc32c(&[0xAA; BLOCK]), 16)];
            ("group-01-data", Record { count: 1, payload: 1, words, ..write })
        }
        RecordKind::InPlace => {
            let words = vec![stored(0x0BAD_CAFE, 16), stored(0x600D_F00D, 17)];
            ("group-02-in-place", Record { part: true, count: 2, words, ..write })
        }
        RecordKind::Zero => ("group-03-zero", Record { count: 512, ..write }),
        RecordKind::Mark => {
            ("group-04-mark", Record { chunk: CHUNK_ID, file: 12, words: vec![6, 1 << 31], ..base })
        }
        RecordKind::Fence => {
            ("group-05-fence", Record { words: vec![12, 0, 6, 0x0001_0000, 13, 0, 9, 0], ..base })
        }
        RecordKind::Outcomes => {
            ("group-06-outcomes", Record { file: 12, epoch: 5, done: 1001, words: vec![2, 3, 70], ..base })
        }
        RecordKind::Unstable => (
            "group-07-unstable",
            Record { file: 12, epoch: 5, seq: 990, words: chunk_of(&[13, 16, 2]), ..base },
        ),
        RecordKind::Clear => ("group-08-clear", Record { chunk: CHUNK_ID, file: 12, epoch: 5, ..base }),
        RecordKind::Delta => ("group-09-delta", base),
        RecordKind::Sessions => ("group-10-sessions", Record { words: vec![12, 0, 5, 0, 1001, 0], ..base }),
        RecordKind::Stopped => ("group-11-stopped", base),
        RecordKind::Install => {
            let (version, since, held, round) = (9, 6, 7, 1);
            let words = vec![0, 0x8000_0001, 31, 5, 32, 6, 63, 1 << 31];
            let map = Record { seq: since, done: held, stable: round, first: 1 | 2 | 4, words, ..base };
            ("group-12-install", Record { chunk: CHUNK_ID, version, file: 12, ..map })
        }
    }
}

fn groups() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |name, header: GroupHeader, records: Vec<Record>, payload: &[u8]| {
        let bytes = group(header, &records, payload);
        let check = move |bytes: &[u8]| {
            let (found, read) = read_group(bytes, &journal(), LSN);
            assert_eq!(read, records, "{name}");
            let sizes = (found.len, found.records_len, found.records, found.records_crc);
            let ours = GroupHeader {
                len: sizes.0,
                records_len: sizes.1,
                records: sizes.2,
                records_crc: sizes.3,
                ..group_header()
            };
            assert_eq!(found, ours, "{name}");
        };
        samples.push(sample(name, bytes, check));
    };
    for kind in RecordKind::ALL {
        let (name, record) = record(kind);
        let payload = if kind == RecordKind::Data { vec![0xAA; BLOCK] } else { Vec::new() };
        add(name, group_header(), vec![record], &payload);
    }
    let copied = Record {
        version: 9,
        copied: true,
        first: 16,
        count: 512,
        chunk: CHUNK_ID,
        file: 12,
        ..Record::new(RecordKind::Zero)
    };
    add("group-copied", group_header(), vec![copied], &[]);
    let several = [RecordKind::Sessions, RecordKind::Fence, RecordKind::Data].map(|kind| record(kind).1);
    add("group-several", group_header(), several.to_vec(), &[0xAA; BLOCK]);
    let rest = (journal().ring_bytes - LSN % journal().ring_bytes) as u32;
    let mut filler = group(GroupHeader { len: rest, ..group_header() }, &[], &[]);
    filler.truncate(BLOCK);
    samples.push(sample("group-filler", filler, move |bytes| {
        assert_eq!(
            read_group(bytes, &journal(), LSN),
            (GroupHeader { len: rest, ..group_header() }, Vec::new())
        );
    }));
    samples
}

fn tables() -> Vec<Sample> {
    let live = ChunkHeader {
        sequence: 9,
        state: SlotState::Live,
        chunk: CHUNK_ID,
        version: 7,
        file: 12,
        size: 64 << 20,
        layout: 0,
        piece: 2,
        block_metadata: 4,
        key_id: 0,
        stripe_version: 0x2122_2324_2526_2728,
        born: LSN,
        verified: 0,
    };
    let free = ChunkHeader { sequence: 10, state: SlotState::Free, size: 4096, ..live };
    let mut page = CrcPage { sequence: 77, ..CrcPage::holes(CHUNK_ID, LSN, 16) };
    let states = [
        BlockState::Hole,
        BlockState::Unknown,
        BlockState::Unchecked,
        BlockState::from_raw(stored(5, 16_131)),
    ];
    for (entry, state) in page.entries.iter_mut().zip(states) {
        *entry = state.to_raw();
    }
    page.entries[CRCS_PER_PAGE as usize - 1] = 0xFEED_FACE;
    let header = |name, value: ChunkHeader| {
        sample(name, value.encode(&STORE), move |bytes| {
            assert_eq!(ChunkHeader::decode(block(bytes), &STORE), Ok(value));
        })
    };
    vec![
        header("chunk-header-live", live),
        header("chunk-header-free", free),
        header("chunk-header-verified", ChunkHeader { verified: 0x3132_3334_3536_3738, ..live }),
        sample("crc-page", page.encode(&STORE), move |bytes| {
            assert_eq!(CrcPage::decode(block(bytes), &STORE), Ok(page.clone()));
            assert_eq!(BlockState::from_raw(page.entries[3]), BlockState::of_plain(5, CHUNK_ID, 16_131));
        }),
    ]
}

fn all() -> Vec<Sample> {
    let header = sample("journal-header", journal().encode(), |bytes| {
        assert_eq!(JournalHeader::decode(block(bytes)), Ok(journal()));
    });
    superblocks().into_iter().chain([header]).chain(groups()).chain(tables()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A frozen file. When asked to, new samples get theirs first; `create_new`, so that none is ever overwritten.
fn frozen(sample: &Sample) -> Vec<u8> {
    let path = root().join("v1").join(format!("{}.bin", sample.name));
    if std::env::var_os("VSTORAGE_BLESS").is_some_and(|value| value == "1")
        && let Ok(mut file) = fs::File::create_new(&path)
    {
        std::io::Write::write_all(&mut file, &sample.bytes).expect("write a new fixture");
    }
    fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; a new sample gets its file by VSTORAGE_BLESS=1", path.display())
    })
}

#[test]
fn what_is_written_is_what_was_frozen_and_means_the_same() {
    for sample in all() {
        let frozen = frozen(&sample);
        assert!(frozen == sample.bytes, "{}: a disk of an earlier release could not be read", sample.name);
        (sample.check)(&frozen);
    }
}

#[test]
fn every_file_has_a_sample_and_a_checksum() {
    let names: BTreeSet<String> = all().iter().map(|sample| format!("v1/{}.bin", sample.name)).collect();
    assert_eq!(names.len(), all().len(), "names are unique");
    let stored = fs::read_dir(root().join("v1")).expect("the fixtures");
    let stored: BTreeSet<String> =
        stored.map(|entry| format!("v1/{}", entry.unwrap().file_name().into_string().unwrap())).collect();
    assert_eq!(stored, names);
    let sums = fs::read_to_string(root().join("SHA256SUMS")).expect("the list of checksums");
    let listed: BTreeSet<String> = sums
        .lines()
        .map(|line| line.split_once("  ").expect("checksum, two blanks, path").1.to_owned())
        .collect();
    assert_eq!(listed, names);
}

/// The samples have the shape of what the journal really writes: every group of a journal is put together again from
/// its parts as the samples are, and must come out byte for byte.
#[test]
fn the_journal_writes_groups_like_the_frozen_ones() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        client.write(100, &pattern(1, 9000)).await;
        client.write(MIB, &pattern(2, MIB as usize)).await;
        engine.fence(9, 4).await.unwrap();
        client.flush().await;
        client.write(MIB, &pattern(3, 4096)).await;
        client.zero(0, 8192).await;
        client.write(0, &pattern(4, 4 << 20)).await;
        engine.checkpoint().await.unwrap();
        client.write(2 * MIB, &pattern(5, 200_000)).await;
    });
    let bytes = fs::read(rig.path.join("journal")).unwrap();
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let headers = [&blocks[0], &blocks[1]].map(|block| JournalHeader::decode(block).unwrap());
    let journal = if headers[0].sequence > headers[1].sequence { headers[0] } else { headers[1] };
    assert!(blocks.iter().take(2).zip(headers).all(|(block, header)| *block == header.encode()));
    let (mut lsn, mut kinds, mut groups) = (0, BTreeSet::new(), 0);
    while lsn < journal.ring_bytes {
        let at = &bytes[(RING_START + lsn) as usize..];
        if GroupHeader::decode(at, &journal, lsn).is_err() {
            break;
        }
        let (header, records) = read_group(at, &journal, lsn);
        let payload_at = (GROUP_HEADER + header.records_len as usize).next_multiple_of(BLOCK);
        let again = group(header, &records, &at[payload_at..header.len as usize]);
        assert!(again == at[..header.len as usize], "the group at LSN {lsn}");
        kinds.extend(records.iter().map(|record| record.kind));
        (lsn, groups) = (lsn + u64::from(header.len), groups + 1);
    }
    use RecordKind::{Data, Fence, InPlace, Mark, Outcomes, Sessions, Zero};
    assert!(
        [Data, InPlace, Zero, Mark, Fence, Outcomes, Sessions].iter().all(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
    assert!(groups > 8 && CHUNK > 0, "{groups} groups");
}

/// Inputs per fuzz function.
const INPUTS: usize = 100_000;
/// An input is grown from a fixture by this many rounds of mutation before the next one starts afresh.
const GENERATIONS: usize = 4;
/// Numbers at which parsers go wrong.
const EDGES: [u32; 8] = [0, 1, 0x80, 0xffff, 0x4000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// Changes `input` in one place; `other` lends bytes.
fn mutate(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let place = |rng: &mut Rng, len: usize| rng.below(len as u64) as usize;
    if input.is_empty() {
        input.extend_from_slice(other);
    }
    let at = place(rng, input.len());
    match rng.below(7) {
        0 | 1 => input[at] ^= 1 << rng.below(8),
        2 => input[at] = rng.next_u64() as u8,
        3 => {
            let edge = EDGES[place(rng, EDGES.len())].to_le_bytes();
            let at = at / 4 * 4;
            let end = input.len().min(at + 4);
            input[at..end].copy_from_slice(&edge[..end - at]);
        }
        4 => input.truncate(at),
        5 => input.insert(at, rng.next_u64() as u8),
        _ => {
            let from = place(rng, other.len());
            let end = other.len().min(from + 1 + place(rng, 32));
            let upto = input.len().min(at + (end - from));
            input.splice(at..upto, other[from..end].iter().copied());
        }
    }
    input.truncate(BLOCK);
}

/// Runs one function; how many inputs it accepted.
fn drive(target: &Target, inputs: usize) -> usize {
    let samples = all();
    let seeds: Vec<Vec<u8>> =
        samples.iter().flat_map(|sample| (target.seeds)(sample.name, &frozen(sample))).collect();
    assert!(
        !seeds.is_empty() && seeds.iter().all(|seed| (target.run)(seed)),
        "{} refuses a fixture",
        target.name
    );
    let mut rng = Rng::from_seed(target.name.len() as u64);
    let (mut input, mut accepted) = (Vec::new(), 0);
    for round in 0..inputs {
        if round % GENERATIONS == 0 {
            input.clone_from(&seeds[rng.below(seeds.len() as u64) as usize]);
        }
        let other = &seeds[rng.below(seeds.len() as u64) as usize];
        mutate(&mut rng, &mut input, other);
        accepted += usize::from((target.run)(&input));
    }
    accepted
}

#[test]
fn parsers_survive_mutated_fixtures() {
    for target in TARGETS {
        let accepted = drive(target, INPUTS);
        println!("{}: {accepted} of {INPUTS} accepted", target.name);
        // Were nearly all inputs refused or nearly all accepted, the run would prove little.
        assert!(accepted > INPUTS / 100, "{}: only {accepted} accepted", target.name);
        assert!(accepted < INPUTS - INPUTS / 100, "{}: only {} refused", target.name, INPUTS - accepted);
    }
}

#[test]
fn each_function_has_a_target_in_the_fuzz_project() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let files = fs::read_dir(fuzz.join("fuzz_targets")).expect("the fuzz targets");
    let files: BTreeSet<String> = files
        .filter_map(|entry| {
            entry.unwrap().path().file_stem()?.to_str()?.strip_prefix("cs_").map(str::to_owned)
        })
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(files, names);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("its manifest");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/cs_{name}.rs\"")), "{name}");
    }
}

/// The written description names each kind of record and each row of the recovery table as the code has it.
#[test]
fn kinds_and_rows_are_described() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats/chunk-server.md");
    let text = fs::read_to_string(path).expect("the description");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(|cell| cell.trim_matches([' ', '`'])).collect())
        .collect();
    for kind in RecordKind::ALL {
        let (number, name) = ((kind as u8).to_string(), format!("{kind:?}"));
        let found = rows.iter().filter(|row| row[0] == number && row[1] == name).count();
        assert_eq!(found, 1, "{number} {name}");
    }
    for row in recovery::Row::ALL {
        assert_eq!(rows.iter().filter(|found| found[0] == format!("{row:?}")).count(), 1, "{row:?}");
    }
}
