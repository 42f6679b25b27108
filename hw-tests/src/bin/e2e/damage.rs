//! A block rots on a disk and nobody reads it: the verifier finds it, the metadata server has it repaired; without another copy this block
//! fails and no other (C8). A replica that differs from the other with a good checksum is told of (C7). One whose file is gone is made
//! anew (C9).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cs_engine::format::block::BlockState;
use cs_engine::format::crc32c;
use cs_engine::format::superblock::Superblock;
use cs_engine::format::table::{CRCS_PER_PAGE, ChunkHeader, CrcPage, META_SLOT, Place, SlotState};
use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::{Stopwatch, poll_until};
use hw_tests::nbd::{Client, Request};

use crate::rebuild::{CHUNK, check, chunk_files, chunks, fill, wait_healthy};
use crate::scene::{PATIENCE, Scene, Works};

/// How long finding and repairing may take; a chunk server looks at a chunk per 60 ms here.
const MENDED: Duration = Duration::from_secs(90);
/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Linux's EIO.
const EIO: u32 = 5;

/// Files of chunks below a repository.
fn files(repository: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries(&repository.join("chunks")).flat_map(|dir| entries(&dir.path())).map(|file| file.path()).collect()
}

/// The id of a chunk, as events have it.
fn id_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("{:#x}", u64::from_str_radix(&name, 16).expect("files are named by the ids of their chunks"))
}

/// Inverts a block of a file that nobody has open.
fn rot(path: &Path, block: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a chunk's file");
    let mut bytes = vec![0; BLOCK as usize];
    file.read_exact_at(&mut bytes, block * BLOCK).expect("it is as long as the chunk");
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    file.write_all_at(&bytes, block * BLOCK).expect("the disk has room");
}

/// Inverts a block of a stopped server's chunk, and puts the checksum of that on record: what a bug would leave, or a write that
/// never reached the disk on the other member.
fn falsify(repository: &Path, file: &Path, block: u32) {
    let read = |file: &File, offset: u64| -> [u8; BLOCK as usize] {
        let mut bytes = [0; BLOCK as usize];
        file.read_exact_at(&mut bytes, offset).expect("it is as long as that");
        bytes
    };
    let open = |name: &str| {
        let path = repository.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    rot(file, block.into());
    let content = File::open(file).expect("a chunk's file");
    let plain = crc32c(&read(&content, u64::from(block) * BLOCK));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let chunk = u64::from_str_radix(&name, 16).expect("files are named by the ids of their chunks");
    let superblock = Superblock::decode(&read(&open("superblock"), 0)).expect("its first copy");
    let uuid = superblock.store_uuid;
    let (meta, table) = (open("meta.table"), open("crc.table"));
    let slots = (meta.metadata().expect("its length").len() / META_SLOT) as u32;
    let is_of_chunk = |&slot: &u32| {
        [0, 1].iter().any(|&copy| {
            let header = ChunkHeader::decode(&read(&meta, Place::Meta { slot, copy }.offset()), &uuid);
            header.is_ok_and(|header| header.chunk == chunk && header.state == SlotState::Live)
        })
    };
    let slot = (0..slots).find(is_of_chunk).expect("the chunk has a slot");
    let mut patched = 0;
    for copy in [0, 1] {
        let at = Place::CrcPage { slot, page: block / CRCS_PER_PAGE, copy }.offset();
        let Ok(mut page) = CrcPage::decode(&read(&table, at), &uuid) else { continue };
        page.entries[(block % CRCS_PER_PAGE) as usize] = BlockState::of_plain(plain, chunk, block).to_raw();
        table.write_all_at(&page.encode(&uuid), at).expect("the disk has room");
        patched += 1;
    }
    assert!(patched > 0, "its checksum is on record");
}

/// Texts of the events of a kind.
pub(crate) fn events(cluster: &Cluster, code: &str) -> Vec<String> {
    let text = cluster.vstorage(&["get-event", "-n", "1000", "--json"]).works("events");
    let all: serde_json::Value = serde_json::from_str(&text).expect("events");
    let all = all["events"].as_array().or_else(|| all.as_array()).expect("a list").clone();
    let of_kind = all.iter().filter(|event| event["code"] == code);
    of_kind.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

fn wait_for(cluster: &Cluster, code: &str, about: &str) -> String {
    let found = poll_until(MENDED, || events(cluster, code).into_iter().find(|text| text.contains(about)));
    found.unwrap_or_else(|| panic!("no event {code} about {about}: {:?}", events(cluster, code)))
}

/// Which chunk server has a file that was not there before.
fn holder(cluster: &Cluster, before: &[Vec<PathBuf>]) -> (usize, PathBuf) {
    let all = cluster.servers.iter().zip(before).enumerate();
    let mut fresh = all.flat_map(|(index, (server, before))| {
        files(server.repository())
            .into_iter()
            .filter(|file| !before.contains(file))
            .map(move |file| (index, file))
    });
    fresh.next().expect("a new chunk is somewhere")
}

fn listing(cluster: &Cluster) -> Vec<Vec<PathBuf>> {
    cluster.servers.iter().map(|server| files(server.repository())).collect()
}

pub(crate) fn damage(scene: &Scene) {
    let mut cluster = scene.cluster_of(Options::plain(&scene.dir, &scene.settings.binaries));
    cluster
        .vstorage(&["set-config", "mds.cs.term=4", "mds.wd.verify_chunks=1000", "mds.wd.quarantine_tout=1"])
        .works("set-config");
    let bytes = CHUNK.to_string();
    let before = listing(&cluster);
    cluster.vstorage(&["create", "/two", "--size", &bytes, "replicas=2"]).works("create");
    fill(&mut cluster, "/two", CHUNK);

    // On one of two members.
    let (index, file) = holder(&cluster, &before);
    cluster.servers[index].stop().works("an orderly stop moves what the journal holds");
    for block in [7, 4000, 4001] {
        rot(&file, block);
    }
    cluster.start_all().works("it starts again");
    let clock = Stopwatch::start();
    let name = id_of(&file);
    let told = wait_for(&cluster, "cs.replica_corrupt", &name);
    scene.say(format!("found after {:.1} s: {told}", clock.elapsed().as_secs_f64()));
    let told = wait_for(&cluster, "cs.blocks_repaired", &name);
    scene.say(format!("repaired after {:.1} s: {told}", clock.elapsed().as_secs_f64()));
    let log = format!("cs{}", index + 1);
    let repaired =
        |block: &u32| cluster.log(&log).contains(&format!("block {block}: repaired from another member"));
    let all = poll_until(MENDED, || [7, 4000, 4001].iter().all(repaired).then_some(()));
    assert!(all.is_some(), "not all blocks are repaired: {}", cluster.log(&log));
    cluster.servers[index].stop().works("an orderly stop");
    let clean = cluster.check(&cluster.servers[index]).works("check");
    assert!(clean.succeeded(), "{clean:?}");
    cluster.start_all().works("it starts again");
    assert_eq!(events(&cluster, "cs.replica_corrupt").len(), 1, "told once");
    check(&mut cluster, "/two", CHUNK);

    // It differs from the other one, and its checksum matches.
    assert_eq!(events(&cluster, "mds.replicas_differ").len(), 0, "none has differed so far");
    cluster.servers[index].stop().works("an orderly stop moves what the journal holds");
    falsify(cluster.servers[index].repository(), &file, 1500);
    let clean = cluster.check(&cluster.servers[index]).works("check");
    assert!(clean.succeeded(), "nothing here is wrong with it: {clean:?}");
    cluster.start_all().works("it starts again");
    let clock = Stopwatch::start();
    let told = wait_for(&cluster, "mds.replicas_differ", "'/two'");
    scene.say(format!("found after {:.1} s: {told}", clock.elapsed().as_secs_f64()));
    let place = format!("chunk {name}, 1 blocks of 4 KiB, bytes {}..{}", 1500 * BLOCK, 1501 * BLOCK);
    assert!(told.contains(&place), "{place:?} is not in {told:?}");

    // The file of a replica is gone: by fault, or because the operator takes it out to have it made anew.
    cluster.servers[index].stop().works("an orderly stop");
    std::fs::remove_file(&file).expect("it is there");
    cluster.start_all().works("it starts again");
    let told = wait_for(&cluster, "mds.replicas_missing", "/two");
    scene.say(told);
    wait_healthy(&cluster, MENDED);
    assert_eq!(events(&cluster, "mds.replicas_differ").len(), 1, "told once");
    let copies: usize = cluster.servers.iter().map(|server| chunk_files(server.repository())).sum();
    assert!(copies >= 2, "there are two again");
    check(&mut cluster, "/two", CHUNK);

    // The only copy.
    let before = listing(&cluster);
    cluster.vstorage(&["create", "/one", "--size", &bytes, "replicas=1"]).works("create");
    fill(&mut cluster, "/one", CHUNK);
    let (index, file) = holder(&cluster, &before);
    cluster.servers[index].stop().works("an orderly stop moves what the journal holds");
    rot(&file, 100);
    cluster.start_all().works("it starts again");
    let name = id_of(&file);
    wait_for(&cluster, "cs.replica_corrupt", &name);
    cluster.export("/one").works("export");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let mut read = |block: u64| {
        client.ask(Request::Read, block * BLOCK, BLOCK as u32, &[]).expect("the export answers").error
    };
    assert_eq!([99, 100, 101].map(&mut read), [0, EIO, 0], "this block and no other");
    let fresh = vec![5; BLOCK as usize];
    let written = client.ask(Request::Write, 100 * BLOCK, BLOCK as u32, &fresh).expect("the export answers");
    assert_eq!(written.error, 0, "who writes it anew mends it");
    let answer = client.ask(Request::Read, 100 * BLOCK, BLOCK as u32, &[]).expect("the export answers");
    assert!(answer.error == 0 && answer.data == fresh);
    drop(client);
    cluster.stop_export().works("the export ends in order");
    scene.say("without another copy one block failed, until it was written");
    let deleted = poll_until(MENDED, || (chunks(&cluster)["deleting"] == 0).then_some(()));
    assert!(deleted.is_some(), "what was left of the lost replica goes: {}", chunks(&cluster));
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}
