//! The check of a stopped server: silent when all is well, exact when something is damaged, and harmless.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;

use cs_engine::check::{self, Progress, Report};
use cs_engine::engine::{self, CreateOptions, EngineOptions, OpenError, Refusal};
use cs_engine::format::BLOCK;
use cs_engine::format::journal::JournalHeader;
use cs_engine::format::superblock::COPIES;
use cs_engine::format::table::{ChunkHeader, Place};
use rt::random::Rng;
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskOptions, HostOptions, SimOptions, Simulation};

use crate::install::{joiner, member};
use crate::model::{End, Model};
use crate::rig::{CHUNK, Client, MIB, Rig, new_chunk, no_interval, open, pattern, quick, run, superblock};

const BLOCK_U64: u64 = BLOCK as u64;

async fn check_in(dir: &Path) -> Result<Report, OpenError> {
    // The kernel may still work for the life before; it lets go of each file when that has ended.
    let deadline = rt::time::now() + Duration::from_secs(10);
    loop {
        match check::run(dir, &mut |_| {}).await {
            Err(OpenError::InUse(_)) if rt::time::now() < deadline => {
                rt::time::sleep(Duration::from_millis(5)).await;
            }
            checked => return checked,
        }
    }
}

pub(crate) fn checked(dir: &Path) -> Report {
    let dir = dir.to_owned();
    run(async move { check_in(&dir).await }).expect("it can be checked")
}

/// Every file below a directory.
fn bytes_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.append(&mut bytes_of(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

/// Data that went every way, in a chunk of 8 MiB: journaled and in place, overwritten, zeroed, unaligned. All of it is
/// stable but one small write in the last MiB, which tells so.
async fn write_every_way(client: &Client) {
    client.write(0, &pattern(1, 8192)).await;
    client.write(5000, &pattern(2, 10)).await;
    client.write(2 * MIB, &pattern(3, MIB as usize)).await;
    client.flush().await;
    client.write(2 * MIB + 8192, &pattern(4, 4096)).await;
    client.write(3 * MIB + 100, &pattern(5, 2 << 20)).await;
    client.zero(2 * MIB + 65536, 8192).await;
    client.flush().await;
    client.write(7 * MIB, &pattern(6, 4096)).await;
}

/// The first block of the range written in place above.
const IN_PLACE: u32 = 2 * MIB / BLOCK as u32;

/// A server that was stopped in order.
fn stopped(rig: &Rig) {
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        write_every_way(&client).await;
        engine.stop().await;
    });
}

#[test]
fn nothing_is_found_where_nothing_is_wrong_and_nothing_is_changed() {
    type Change = fn(&mut cs_engine::format::superblock::Superblock, &Path);
    let settings: [Change; 4] = [
        |_, _| {},
        |superblock, _| superblock.no_checksums = true,
        |superblock, _| superblock.block_atomic = false,
        |superblock, dir| superblock.journal_dir = Some(dir.join("ssd")),
    ];
    for (number, change) in settings.into_iter().enumerate() {
        let rig = Rig::with(change);
        let top = rig.path.parent().unwrap().to_owned();
        let empty = checked(&rig.path);
        assert!(empty.is_clean() && empty.contents_checked, "{number}: {empty}");
        // Killed: recovery would take it from the journal.
        rig.life(async |engine| {
            let client = Client::with_chunk(&engine, 1, 8 << 20).await;
            write_every_way(&client).await;
        });
        let before = bytes_of(&top);
        let killed = checked(&rig.path);
        assert!(killed.is_clean() && killed.contents_checked, "{number}: {killed}");
        assert!(killed.bytes_verified > 3 << 20 && killed.blocks_in_journal > 0, "{number}: {killed}");
        assert_eq!((killed.chunks, killed.blocks_unsettled), (1, 0));
        assert!(before == bytes_of(&top), "the check has changed something");
        rig.life(async |engine| engine.stop().await);
        let stopped = checked(&rig.path);
        assert!(stopped.is_clean() && stopped.blocks_in_journal == 0, "{number}: {stopped}");
        // Without checksums what was moved out of the journal has none.
        assert_eq!(stopped.bytes_verified > 3 << 20, number != 1, "{number}: {stopped}");
    }
}

#[test]
fn progress_counts_up_to_all_chunks() {
    let rig = Rig::new();
    stopped(&rig);
    let path = rig.path.clone();
    let seen = run(async move {
        let mut seen = Vec::new();
        check::run(&path, &mut |progress| seen.push(progress)).await.unwrap();
        seen
    });
    assert!(seen.len() > 3 && seen.is_sorted_by_key(|progress| progress.done), "{seen:?}");
    assert_eq!(seen.last(), Some(&Progress { done: 8 << 20, total: 8 << 20 }));
}

/// A copy of a stopped server's directory, to be damaged.
struct Victim {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Victim {
    fn of(rig: &Rig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cs");
        for (from, bytes) in bytes_of(&rig.path) {
            let to = path.join(from.strip_prefix(&rig.path).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, bytes).unwrap();
        }
        Self { _dir: dir, path }
    }

    fn file(&self, name: &str) -> fs::File {
        fs::File::options().read(true).write(true).open(self.path.join(name)).unwrap()
    }

    fn flip(&self, name: &str, offset: u64) {
        let file = self.file(name);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    }

    fn block(&self, name: &str, offset: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        self.file(name).read_exact_at(&mut block, offset).unwrap();
        block
    }

    /// The header of the journal that counts, and the copy that does not.
    fn journal(&self) -> (JournalHeader, u64) {
        let [a, b] =
            [0, 1].map(|copy| JournalHeader::decode(&self.block("journal", copy * BLOCK_U64)).unwrap());
        if a.sequence > b.sequence { (a, 1) } else { (b, 0) }
    }

    /// Every finding as its kind and text, after making sure that the check has changed nothing.
    fn findings(&self) -> BTreeMap<&'static str, String> {
        let before = bytes_of(&self.path);
        let report = checked(&self.path);
        assert!(before == bytes_of(&self.path), "the check has changed something");
        report.findings.iter().map(|finding| (finding.problem.kind(), finding.to_string())).collect()
    }
}

const FILE: &str = "chunks/42/0001000000000042";
const HEX: &str = "chunk 0x0001000000000042";

fn meta(copy: u8) -> u64 {
    Place::Meta { slot: 0, copy }.offset()
}

fn page(copy: u8) -> u64 {
    Place::CrcPage { slot: 0, page: 0, copy }.offset()
}

/// What is done to a directory, and for each finding to come its kind and parts of its text.
type Damage = (fn(&Victim), &'static [(&'static str, &'static [&'static str])]);

#[rustfmt::skip]
const DAMAGES: &[Damage] = &[
    (|v| v.flip("superblock", 5000),
        &[("superblock_copy", &["/superblock, byte 4096: copy 1", "checksum", "next start"])]),
    (|v| v.flip("superblock", 9),
        &[("superblock_copy", &["byte 0: copy 0", "damaged"])]),
    (|v| (0..3).for_each(|copy| v.flip("superblock", copy * BLOCK_U64 + 100)),
        &[("superblock_unusable", &["/superblock: ", "remove this CS"])]),
    (|v| v.file("superblock").set_len(3 * BLOCK_U64).unwrap(),
        &[("superblock_unusable", &["file size"])]),
    (|v| v.flip("journal", v.journal().1 * BLOCK_U64 + 20),
        &[("journal_header_copy", &["/journal, byte ", "next checkpoint"])]),
    (|v| (0..2).for_each(|copy| v.flip("journal", copy * BLOCK_U64 + 20)),
        &[("journal", &["/journal: the journal's header is unusable", "remove this CS"])]),
    (|v| { let journal = v.journal().0; v.flip("journal", journal.offset(journal.tail) + 130) },
        &[("journal", &["/journal, byte ", "damaged at LSN", "remove this CS"])]),
    (|v| v.file("journal").set_len(5 << 20).unwrap(),
        &[("journal", &["file size"])]),
    (|v| fs::remove_file(v.path.join("journal")).unwrap(),
        &[("missing", &["/journal: the journal is missing"])]),
    (|v| v.flip("meta.table", meta(0) + 40),
        &[("header_copy", &["/meta.table, byte 0", HEX, "copy 0", "slot 0", "other copy serves"])]),
    (|v| (0..2).for_each(|copy| v.flip("meta.table", meta(copy))),
        &[("header_lost", &["/meta.table, byte 0", "slot 0", "rebuilt"]), ("stray", &[FILE, HEX])]),
    (|v| fs::remove_file(v.path.join("meta.table")).unwrap(),
        &[("missing", &["/meta.table: the table of chunk headers is missing"]), ("stray", &[FILE])]),
    (|v| v.flip("crc.table", page(1) + 77),
        &[("page_copy", &["/crc.table, byte 4096", HEX, "blocks 0 to 1007", "copy 1", "page 0"])]),
    (|v| (0..2).for_each(|copy| v.flip("crc.table", page(copy) + 9)),
        &[("page_lost", &["/crc.table, byte 0", HEX, "blocks 0 to 1007", "rebuilt"])]),
    (|v| fs::remove_file(v.path.join("crc.table")).unwrap(),
        &[("missing", &["/crc.table: the table of checksums is missing"])]),
    (|v| (5..7).for_each(|block| v.flip(FILE, u64::from(IN_PLACE + block) * BLOCK_U64)),
        &[("content", &[FILE, "byte 2117632", HEX, "blocks 517 to 518", "scrub"])]),
    (|v| v.file(FILE).set_len(u64::from(IN_PLACE + 3) * BLOCK_U64).unwrap(),
        &[("file_size", &[FILE, HEX, "2109440 bytes instead of 8388608", "blocks of data are cut off", "rebuilt"])]),
    (|v| v.file(FILE).set_len(9 << 20).unwrap(),
        &[("file_size", &["9437184 bytes instead of 8388608; 0 blocks"])]),
    (|v| {
            let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(v.file(FILE), flags, 16 << 20, 10 << 20).unwrap();
        },
        &[("file_extents", &[FILE, HEX, "more than its size"])]),
    (|v| fs::remove_file(v.path.join(FILE)).unwrap(),
        &[("file_missing", &[FILE, HEX, "rebuilt"])]),
    (|v| fs::remove_dir_all(v.path.join("chunks")).unwrap(),
        &[("missing", &["/chunks: the directory of the chunks is missing"]), ("file_missing", &[HEX])]),
    (|v| fs::write(v.path.join("chunks/42/notes.txt"), "x").unwrap(),
        &[("stray", &["chunks/42/notes.txt: ", "belongs to no chunk"])]),
    (|v| fs::write(v.path.join("chunks/43/0001000000000043"), "x").or_else(|_| {
            fs::create_dir(v.path.join("chunks/43"))?;
            fs::write(v.path.join("chunks/43/0001000000000043"), "x")
        }).unwrap(),
        &[("stray", &["chunks/43/0001000000000043, chunk 0x0001000000000043: ", "belongs to no chunk"])]),
    (|v| {
            // A journal that the superblock does not know (C10).
            for copy in 0..2 {
                let header = JournalHeader::decode(&v.block("journal", copy * BLOCK_U64)).unwrap();
                let bytes = JournalHeader { generation: 2, ..header }.encode();
                v.file("journal").write_all_at(&bytes, copy * BLOCK_U64).unwrap();
            }
        },
        &[("journal", &["generation 2, the superblock says 1", "restored or copied"])]),
    (|v| {
            // Another slot with the same chunk.
            let mut header = ChunkHeader::decode(&v.block("meta.table", meta(0)), &[3; 16]).unwrap();
            header.born = u64::MAX;
            v.file("meta.table").write_all_at(&header.encode(&[3; 16]), Place::Meta { slot: 1, copy: 0 }.offset()).unwrap();
        },
        &[("header_twice", &["/meta.table, byte 8192", HEX, "slots 0 and 1"]), ("born_later", &[HEX, "rolled back"])]),
];

#[test]
fn every_damage_is_found_and_named() {
    let rig = Rig::new();
    stopped(&rig);
    for (number, (damage, expected)) in DAMAGES.iter().enumerate() {
        let victim = Victim::of(&rig);
        assert_eq!(victim.findings(), BTreeMap::new(), "before damage {number}");
        damage(&victim);
        let found = victim.findings();
        let kinds: Vec<_> = found.keys().copied().collect();
        let mut wanted: Vec<_> = expected.iter().map(|(kind, _)| *kind).collect();
        wanted.sort_unstable();
        assert!(wanted.iter().all(|kind| kinds.contains(kind)), "damage {number}: {found:#?}");
        // A second header of a chunk takes its pages along.
        assert!(wanted == kinds || wanted.contains(&"header_twice"), "damage {number}: {found:#?}");
        for (kind, parts) in *expected {
            let text = &found[kind];
            for part in *parts {
                assert!(text.contains(part), "damage {number}: no {part:?} in {text:?}");
            }
        }
    }
}

#[test]
fn parts_of_another_server_or_another_time_are_told() {
    let rig = Rig::new();
    stopped(&rig);
    let old = Victim::of(&rig);
    rig.life(async |engine| {
        engine.create_chunk(new_chunk(CHUNK + 256, 1 << 20)).await.unwrap();
        let client = Client::new(&engine, 2);
        client.write(0, &pattern(9, 4096)).await;
        client.flush().await;
        engine.create_chunk(new_chunk(CHUNK + 512, 1 << 20)).await.unwrap();
        engine.stop().await;
    });
    let new = Victim::of(&rig);
    assert_eq!(new.findings(), BTreeMap::new());
    // The superblock of an earlier start.
    fs::copy(old.path.join("superblock"), new.path.join("superblock")).unwrap();
    let found = new.findings();
    assert!(
        found["superblock_rolled_back"].contains("/superblock: the superblock is of start 1"),
        "{found:#?}"
    );
    // Half of one.
    let new = Victim::of(&rig);
    let half = old.block("superblock", 0);
    for copy in 0..COPIES as u64 / 2 {
        new.file("superblock").write_all_at(&half, copy * BLOCK_U64).unwrap();
    }
    let found = new.findings();
    assert!(found["superblock_mixed"].contains("some were restored"), "{found:#?}");
    // The journal of an earlier time.
    let new = Victim::of(&rig);
    fs::copy(old.path.join("journal"), new.path.join("journal")).unwrap();
    let found = new.findings();
    assert!(
        found["born_later"].contains("chunk 0x0001000000000242: the replica was made at LSN"),
        "{found:#?}"
    );
    // The journal of another server.
    let other = Rig::with(|superblock, _| superblock.store_uuid = [9; 16]);
    let new = Victim::of(&rig);
    fs::copy(other.path.join("journal"), new.path.join("journal")).unwrap();
    let found = new.findings();
    assert!(found["journal"].contains("/journal: the journal belongs to another chunk server"), "{found:#?}");
    assert_eq!(found.len(), 1, "{found:#?}");
    let report = checked(&new.path);
    assert!(!report.contents_checked && report.to_string().contains("was not checked"), "{report}");
}

#[test]
fn records_that_do_not_fit_their_chunk_are_told() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        write_every_way(&client).await;
        engine.install(CHUNK, member(1, 2, true)).await.unwrap();
    });
    let victim = Victim::of(&rig);
    for copy in 0..2 {
        let header = ChunkHeader::decode(&victim.block("meta.table", meta(copy)), &[3; 16]).unwrap();
        let bytes = ChunkHeader { size: 1 << 20, file: 5, ..header }.encode(&[3; 16]);
        victim.file("meta.table").write_all_at(&bytes, meta(copy)).unwrap();
    }
    let report = checked(&victim.path);
    let text = report.to_string();
    for part in [
        "is about blocks behind the end",
        "names another file",
        "names regions behind the end",
        "instead of 1048576",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

/// A replica that returns lacks all extents that were active when it was killed: until they are copied their content says nothing.
#[test]
fn what_a_joiner_has_not_copied_yet_is_not_wrong() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        client.write(2 * MIB, &pattern(1, MIB as usize)).await;
        engine.stop().await;
    });
    rig.life(async |engine| {
        let client = Client::new(&engine, 2);
        client.write(2 * MIB, &pattern(2, 256 << 10)).await;
        client.flush().await;
    });
    // A later write in the active extent whose record was lost with the process.
    let block = IN_PLACE + 200;
    let file = fs::File::options().write(true).open(rig.path.join(FILE)).unwrap();
    file.write_all_at(&pattern(99, BLOCK), u64::from(block) * BLOCK_U64).unwrap();
    let report = checked(&rig.path);
    assert!(report.is_clean() && (report.blocks_unsettled, report.blocks_missing) == (1, 0), "{report}");
    rig.life(async |engine| {
        let version = engine.inventory(0, 1)[0].version;
        engine.install(CHUNK, joiner(version, version + 1, false)).await.expect("installed");
        engine.stop().await;
    });
    let report = checked(&rig.path);
    assert!(report.is_clean() && (report.blocks_unsettled, report.blocks_missing) == (0, 1), "{report}");
}

/// Where data may be newer than its record, the check expects what recovery makes of it: no error, to be settled.
#[test]
fn what_a_crash_left_in_doubt_is_unsettled_and_not_wrong() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        write_every_way(&client).await;
        client.flush().await;
    });
    // Records are there, the content is of a later write; and a block nobody speaks of in an active extent.
    let path = rig.path.join(FILE);
    let file = fs::File::options().write(true).open(path).unwrap();
    for block in [IN_PLACE + 5, IN_PLACE + 6] {
        file.write_all_at(&pattern(99, BLOCK), u64::from(block) * BLOCK_U64).unwrap();
    }
    let report = checked(&rig.path);
    assert!(report.is_clean() && report.blocks_unsettled == 2, "{report}");
    assert!(report.to_string().contains("2 blocks are unsettled"), "{report}");
    rig.life(async |engine| {
        let client = Client::new(&engine, 1);
        for (block, expected) in [(5, false), (6, false), (7, true)] {
            let read = client.try_read(CHUNK, (IN_PLACE + block) * BLOCK as u32, 4096).await;
            assert_eq!(read.is_ok(), expected, "{block}: {read:?}");
            assert!(expected || read == Err(Refusal::Unsettled { block: IN_PLACE + block }));
        }
    });
}

fn command(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vstorage-csd")).arg("check").arg(dir).args(more).output().unwrap()
}

#[test]
fn the_command_says_what_it_found_in_text_json_and_exit_code() {
    let rig = Rig::new();
    stopped(&rig);
    let clean = command(&rig.path, &[]);
    let text = String::from_utf8(clean.stdout).unwrap();
    assert_eq!(clean.status.code(), Some(0), "{text}");
    assert!(text.contains("1 chunks") && text.ends_with("No finding.\n"), "{text}");
    let victim = Victim::of(&rig);
    victim.flip(FILE, u64::from(IN_PLACE) * BLOCK_U64);
    let damaged = command(&victim.path, &["--json"]);
    let text = String::from_utf8(damaged.stdout).unwrap();
    assert_eq!(damaged.status.code(), Some(1), "{text}");
    assert!(text.contains(r#""clean":false,"findings":[{"kind":"content""#), "{text}");
    assert!(text.contains(r#""chunk":"0x0001000000000042","block":512,"blocks":1"#), "{text}");
    let nothing = command(&rig.path.join("chunks"), &[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("holds no chunk server"));
    // A daemon holds the directory.
    let path = rig.path.clone();
    let refused = rig.life(async move |_engine| command(&path, &[]));
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("in use by another vstorage-csd; stop that one first"), "{text}");
}

/// Whatever the random client did and however the server was killed, there is nothing to find.
#[test]
fn nothing_is_found_after_random_lives() {
    let (seeds, lives, steps) = if quick() { (2, 4, 200) } else { (6, 8, 300) };
    for seed in 100..100 + seeds {
        let mut rng = Rng::from_seed(seed);
        let mut rig = Rig::with(|superblock, dir| {
            superblock.no_checksums = seed % 5 == 3;
            superblock.journal_dir = (seed % 5 == 1).then(|| dir.join("ssd"));
            superblock.block_atomic = seed % 5 != 2;
        });
        rig.options = EngineOptions { pages_max: 16, ..no_interval() };
        let model = Model::new(seed);
        for life in 0..lives {
            let stops = rng.one_in(4);
            let theirs = Rc::clone(&model);
            rig.life(async move |engine| {
                theirs.resume(&engine).await;
                theirs.work(&engine, 4, steps).await;
                if stops {
                    engine.stop().await;
                }
            });
            assert_eq!(model.violation(), None);
            let report = checked(&rig.path);
            assert!(report.is_clean(), "seed {seed}, life {life}: {report}");
            model.ended(if stops { End::Stopped } else { End::Killed });
        }
    }
}

const DIR: &str = "/cs";

/// What the checks of a seed, or of all, have seen.
#[derive(Debug, Default)]
struct Seen {
    findings: Vec<String>,
    verified: u64,
    in_journal: u64,
    unsettled: u64,
    cut_off: u64,
}

impl Seen {
    fn add(&mut self, report: &Report) {
        if !report.is_clean() {
            self.findings.push(report.to_string());
        }
        self.verified += report.bytes_verified;
        self.in_journal += report.blocks_in_journal;
        self.unsettled += report.blocks_unsettled;
        self.cut_off += report.copies_cut_off;
    }
}

impl Seen {
    /// Whether there was something of every kind.
    fn has_all(&self) -> bool {
        [self.verified >> 20, self.in_journal, self.unsettled, self.cut_off].iter().all(|&count| count > 0)
    }
}

/// One seed: lives that end by power cuts, and after each what the check has seen.
async fn cut_and_check(seed: u64, model: Rc<Model>, seen: Rc<RefCell<Seen>>) {
    let block_atomic = !seed.is_multiple_of(3);
    let disk = DiskOptions {
        atomic_unit: if block_atomic { 4096 } else { 512 },
        capacity: 32 << 20,
        ..DiskOptions::default()
    };
    let host = control::add_host(HostOptions::new("cs").with_disk(disk));
    let mut settings = superblock();
    settings.block_atomic = block_atomic;
    let create = CreateOptions { dir: DIR.into(), superblock: settings };
    let made = control::start_process(host, "make-cs", async move { engine::create(&create).await.is_ok() });
    assert!(made.wait().await.returned(), "a new chunk server");
    let mut rng = Rng::from_seed(seed);
    for _life in 0..4 {
        let theirs = Rc::clone(&model);
        let server = control::start_process(host, "csd", async move {
            let Ok(engine) = open(Path::new(DIR), no_interval()).await else {
                return theirs.fail("the server does not start".into());
            };
            theirs.resume(&engine).await;
            theirs.work(&engine, 4, u64::MAX / 2).await;
        });
        control::advance(Duration::from_micros(rng.below(60_000))).await;
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
        let _cut = server.wait().await;
        model.ended(End::PowerCut);
        let check = control::start_process(host, "check", async { check_in(Path::new(DIR)).await });
        match check.wait().await {
            control::Exit::Returned(Ok(report)) => seen.borrow_mut().add(&report),
            control::Exit::Returned(Err(error)) => seen.borrow_mut().findings.push(error.to_string()),
            control::Exit::Killed => seen.borrow_mut().findings.push("the check was killed".into()),
        }
        if model.violation().is_some() {
            return;
        }
    }
}

/// `VSTORAGE_SEEDS` asks for another number of seeds.
#[test]
fn nothing_is_found_after_power_cuts() {
    let asked = std::env::var("VSTORAGE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds = asked.unwrap_or(if quick() { 20 } else { 60 });
    let seen = Rc::new(RefCell::new(Seen::default()));
    // Were there nothing to decide, the silence would prove nothing: some more seeds then.
    let seeds_max = if asked.is_some() || quick() { seeds } else { 6 * seeds };
    for seed in 0..seeds_max {
        if seed >= seeds && seen.borrow().has_all() {
            break;
        }
        let mut options = SimOptions::new(seed);
        options.time_max = Duration::from_secs(600);
        options.steps_max = 20_000_000;
        let model = Model::new(seed ^ 0xC4EC);
        let mut simulation = Simulation::new(options);
        let ended = simulation.run(cut_and_check(seed, Rc::clone(&model), Rc::clone(&seen)));
        assert!(ended.is_ok(), "seed {seed}: {ended:?}");
        assert_eq!(seen.borrow().findings, Vec::<String>::new(), "seed {seed}");
        assert_eq!(model.violation(), None, "seed {seed}");
    }
    let seen = seen.borrow();
    println!("{seen:?}");
    assert!(seeds < 60 || seen.has_all(), "{seen:?}");
}
