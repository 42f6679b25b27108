//! Reading what was written, whatever way it went.

use cs_engine::engine::{Engine, Refusal, WriteKind};
use rt::buf::View;

use crate::rig::{CHUNK, Client, MIB, Rig, crcs, new_chunk, no_interval, pattern};

/// What a chunk should hold, as bytes.
struct Twin(Vec<u8>);

impl Twin {
    async fn write(&mut self, client: &Client, offset: u32, bytes: &[u8]) {
        client.write(offset, bytes).await;
        self.0[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    async fn zero(&mut self, client: &Client, offset: u32, len: u32) {
        client.zero(offset, len).await;
        self.0[offset as usize..(offset + len) as usize].fill(0);
    }

    async fn check(&self, client: &Client) {
        for offset in (0..self.0.len()).step_by(MIB as usize) {
            let len = (self.0.len() - offset).min(MIB as usize);
            let found = client.read(offset as u32, len as u32).await;
            if let Some(at) = (0..len).find(|&at| found[at] != self.0[offset + at]) {
                panic!("byte {} is {:#x} instead of {:#x}", offset + at, found[at], self.0[offset + at]);
            }
        }
    }
}

/// Every way a write can go, on a chunk of 8 MiB.
async fn write_every_way(engine: &std::rc::Rc<Engine>) -> (Client, Twin) {
    let client = Client::with_chunk(engine, 1, 8 << 20).await;
    let mut twin = Twin(vec![0; 8 << 20]);
    twin.check(&client).await;
    // Small, aligned and not, across blocks.
    twin.write(&client, 0, &pattern(1, 4096)).await;
    twin.write(&client, 5000, &pattern(2, 10)).await;
    twin.write(&client, 8190, &pattern(3, 5000)).await;
    twin.check(&client).await;
    // Large: first touch in place, then over data.
    twin.write(&client, 2 * MIB, &pattern(4, MIB as usize)).await;
    twin.write(&client, 2 * MIB, &pattern(5, 256 << 10)).await;
    client.flush().await;
    // Small in place, because the extent is active by now.
    twin.write(&client, 2 * MIB + 8192, &pattern(6, 4096)).await;
    // The longest write, aligned and not.
    twin.write(&client, 3 * MIB + 4096, &pattern(7, 4 << 20)).await;
    twin.write(&client, 3 * MIB + 100, &pattern(8, 4 << 20)).await;
    twin.check(&client).await;
    // Zeroes: whole blocks, parts of one, long and unaligned.
    twin.zero(&client, 2 * MIB, 8192).await;
    twin.zero(&client, 2 * MIB + 20_000, 50).await;
    twin.zero(&client, 4 * MIB + 100, 2 * MIB + 300).await;
    twin.write(&client, 5 * MIB, &pattern(9, 4096)).await;
    twin.check(&client).await;
    (client, twin)
}

#[test]
fn what_was_written_is_read() {
    Rig::new().life(async |engine| {
        let (client, twin) = write_every_way(&engine).await;
        let counters = engine.counters();
        assert!(counters.in_place > 3 && counters.journaled > 3, "{counters:?}");
        engine.checkpoint().await.unwrap();
        assert!(engine.journal_is_clean());
        twin.check(&client).await;
        engine.stop().await;
    });
}

#[test]
fn without_checksums_too() {
    let rig = Rig::with(|superblock, _| superblock.no_checksums = true);
    let twin = rig.life(async |engine| {
        let (client, twin) = write_every_way(&engine).await;
        assert_eq!(engine.counters().in_place, 0, "all of it goes through the journal");
        engine.checkpoint().await.unwrap();
        twin.check(&client).await;
        client.flush().await;
        twin
    });
    rig.life(async move |engine| twin.check(&Client::new(&engine, 1)).await);
}

#[test]
fn on_a_disk_that_tears_blocks_too() {
    let rig = Rig::with(|superblock, _| superblock.block_atomic = false);
    rig.life(async |engine| {
        let (client, twin) = write_every_way(&engine).await;
        assert_eq!(engine.counters().in_place, 0, "nothing is overwritten in place");
        engine.checkpoint().await.unwrap();
        twin.check(&client).await;
    });
}

#[test]
fn with_the_journal_in_another_directory_too() {
    let rig = Rig::with(|superblock, dir| superblock.journal_dir = Some(dir.join("ssd")));
    let twin = rig.life(async |engine| write_every_way(&engine).await.1);
    assert!(!rig.path.join("journal").exists() && !rig.path.join("crc.table").exists());
    rig.life(async move |engine| twin.check(&Client::new(&engine, 1)).await);
}

#[test]
fn everything_is_there_after_a_kill() {
    let rig = Rig::new();
    let twin = rig.life(async |engine| write_every_way(&engine).await.1);
    let twin = rig.life(async move |engine| {
        twin.check(&Client::new(&engine, 1)).await;
        engine.checkpoint().await.unwrap();
        twin.check(&Client::new(&engine, 1)).await;
        twin
    });
    rig.life(async move |engine| {
        assert!(engine.journal_is_clean());
        twin.check(&Client::new(&engine, 1)).await;
    });
}

#[test]
fn senseless_requests_are_refused() {
    Rig::new().life(async |engine| {
        let client = Client::with_chunk(&engine, 1, u64::from(MIB)).await;
        let invalid = |result: Result<_, Refusal>| matches!(result, Err(Refusal::Invalid(_)));
        assert!(invalid(client.try_write(CHUNK, MIB - 4096, &[1; 4097]).await.map(drop)));
        assert!(invalid(client.try_write(CHUNK, 0, &[]).await.map(drop)));
        assert!(invalid(client.try_read(CHUNK, u32::MAX, 1).await.map(drop)));
        assert!(invalid(client.try_read(CHUNK, 0, 0).await.map(drop)));
        assert!(invalid(engine.create_chunk(new_chunk(9, 0)).await));
        assert!(invalid(engine.create_chunk(new_chunk(9, 4095)).await));
        assert!(invalid(engine.create_chunk(new_chunk(9, (64 << 20) + 4096)).await));
        let bytes = pattern(1, 8192);
        let mut request = client.data(CHUNK, 0, &bytes);
        request.kind = WriteKind::Data { payload: View::copy_of(&bytes), crcs: crcs(0, &bytes[..4096]) };
        assert!(invalid(engine.write(request).await.map(drop)));
        let mut request = client.data(CHUNK, 0, &bytes);
        request.done = request.seq + 1;
        assert!(invalid(engine.write(request).await.map(drop)));
        let mut request = client.data(CHUNK, 0, &bytes);
        request.stable = request.done + 1;
        assert!(invalid(engine.write(request).await.map(drop)));
        let mut request = client.data(CHUNK, 0, &bytes);
        request.seq = request.done + cs_engine::engine::SEQ_WINDOW;
        assert_eq!(engine.write(request).await, Err(Refusal::NeedFlush));
        let mut request = client.data(CHUNK, 4096, &bytes);
        request.kind = WriteKind::Data { payload: View::copy_of(&bytes), crcs: vec![crcs(0, &bytes)[0], 5] };
        assert_eq!(engine.write(request).await, Err(Refusal::Damaged { block: 2 }));
        assert_eq!(client.try_read(5, 0, 1).await, Err(Refusal::UnknownChunk(5)));
        client.version.set(2);
        assert_eq!(client.try_read(CHUNK, 0, 1).await, Err(Refusal::StaleVersion { have: 1, wanted: 2 }));
        let mut stranger = Client::new(&engine, 1);
        stranger.file += 1;
        assert_eq!(stranger.try_read(CHUNK, 0, 1).await, Err(Refusal::ForeignChunk(CHUNK)));
        client.version.set(1);
        assert_eq!(client.read(0, MIB).await, vec![0; MIB as usize], "nothing of it was carried out");
    });
}

/// A writer that goes along a chunk needs a flush per several extents, because of the marks; one that jumps needs one
/// for each.
#[test]
fn marks_are_made_ahead_of_who_goes_along_a_chunk() {
    const EXTENTS: u32 = 24;
    for (step, flushes_max) in [(1, 5), (2, u64::from(EXTENTS))] {
        let mut rig = Rig::new();
        rig.options = no_interval();
        let (content, flushes) = rig.life(async move |engine| {
            // The last ones are never written to.
            let size = u64::from((EXTENTS * step + 4) * MIB);
            let client = Client::with_chunk(&engine, 1, size).await;
            let places = || (0..EXTENTS).map(|extent| extent * step * MIB);
            for offset in places() {
                client.write(offset, &pattern(offset.into(), MIB as usize)).await;
            }
            // Stable, and told so: the checkpoint forgets the marks.
            client.flush().await;
            client.zero(MIB - 4096, 4096).await;
            client.flush().await;
            engine.checkpoint().await.unwrap();
            client.zero(MIB - 4096, 4096).await;
            engine.checkpoint().await.unwrap();
            let before = engine.counters();
            let mut content = vec![0; size as usize];
            for offset in places() {
                let bytes = pattern(u64::from(offset) + 1, MIB as usize);
                client.write(offset, &bytes).await;
                content[offset as usize..][..MIB as usize].copy_from_slice(&bytes);
            }
            let after = engine.counters();
            assert!(after.in_place - before.in_place >= u64::from(EXTENTS) - 1, "{after:?}");
            (content, after.flushes - before.flushes)
        });
        assert!(flushes <= flushes_max, "{flushes} flushes with steps of {step}");
        assert!(step == 1 || flushes + 2 >= flushes_max, "{flushes} flushes with steps of {step}");
        // A mark where nothing was written does no harm after a kill.
        rig.life(async move |engine| {
            let client = Client::new(&engine, 1);
            for offset in (0..content.len() as u32).step_by(MIB as usize) {
                let expected = &content[offset as usize..][..MIB as usize];
                assert!(client.read(offset, MIB).await == expected, "at {offset}");
            }
        });
    }
}
