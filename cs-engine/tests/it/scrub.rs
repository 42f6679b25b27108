//! Bit rot: found by reads and by the verifier, never served, repaired from another member (C8).

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use cs_engine::engine::{
    DamageKind, Engine, Fault, Listed, NotRead, ReadReply, Reading, ReadingSettled, Refusal, Source,
};
use cs_engine::format::BLOCK;
use cs_engine::format::table::{CRCS_PER_PAGE, Place};
use rt::buf::View;

use crate::rig::{CHUNK, Client, FILE, Rig, crcs, new_chunk, pattern};

const FILE_OF: &str = "chunks/42/0001000000000042";
const SIZE: u64 = 4 << 20;
const B: u32 = BLOCK as u32;

/// A member that sends these bytes, whatever it is asked for.
#[derive(Debug)]
struct Sends {
    bytes: Option<Vec<u8>>,
    asked: Cell<u32>,
}

/// A member with this content, that lists writes and has damaged blocks.
#[derive(Debug)]
pub(crate) struct Holds {
    pub(crate) content: Vec<u8>,
    pub(crate) listed: Vec<Listed>,
    pub(crate) damaged: Vec<u32>,
}

impl Source for Holds {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        Box::pin(async move {
            if self.damaged.iter().any(|block| (offset / B..(offset + len) / B).contains(block)) {
                return Err(NotRead);
            }
            let bytes = &self.content[offset as usize..(offset + len) as usize];
            Ok(ReadReply { payload: Some(View::copy_of(bytes)), crcs: crcs(offset, bytes) })
        })
    }

    fn read_settled(&self, offset: u32, len: u32) -> ReadingSettled<'_> {
        Box::pin(async move { Ok((self.read(offset, len).await?, self.listed.clone())) })
    }

    fn fault(&self, _offset: u32, _len: u32) -> Fault {
        Fault::Partly
    }
}

impl Sends {
    fn new(bytes: Option<Vec<u8>>) -> Self {
        Self { bytes, asked: Cell::new(0) }
    }
}

impl Source for Sends {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        self.asked.set(self.asked.get() + 1);
        Box::pin(async move {
            let bytes = self.bytes.as_deref().ok_or(NotRead)?;
            assert_eq!(bytes.len(), len as usize);
            Ok(ReadReply { payload: Some(View::copy_of(bytes)), crcs: crcs(offset, bytes) })
        })
    }
}

/// A server whose chunk has 40 blocks of data, of which some rot while it is stopped.
fn rotten(blocks: &[u32]) -> (Rig, Vec<u8>) {
    let rig = Rig::new();
    let content = pattern(1, 40 * BLOCK);
    let bytes = content.clone();
    rig.life(async move |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(0, &bytes).await;
        client.flush().await;
        client.flush().await;
        engine.stop().await;
    });
    let file = fs::File::options().read(true).write(true).open(rig.path.join(FILE_OF)).unwrap();
    for block in blocks {
        let mut byte = [0];
        let at = u64::from(*block) * BLOCK as u64 + 1234;
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
    (rig, content)
}

async fn repair(
    engine: &Rc<Engine>,
    blocks: std::ops::Range<u32>,
    source: &dyn Source,
) -> Result<u32, Refusal> {
    engine.repair_blocks(FILE, CHUNK, 1, blocks, source).await
}

#[test]
fn c8_the_verifier_finds_what_nobody_reads() {
    let (rig, content) = rotten(&[7, 8, 30]);
    rig.life(async move |engine| {
        let verified = engine.verify_next().await.unwrap().expect("a chunk");
        assert_eq!((verified.chunk, verified.blocks, verified.damaged), (CHUNK, 40, 3));
        assert_eq!(engine.damage().blocks(CHUNK).into_keys().collect::<Vec<_>>(), [7, 8, 30]);
        assert_eq!(engine.verify_next().await.unwrap().expect("a chunk").damaged, 3);
        let counters = engine.counters();
        assert_eq!((counters.verified_chunks, counters.bad_blocks), (2, 3), "new once");
        // A replica without others fails these blocks and no others.
        let client = Client::new(&engine, 2);
        for block in 0..40 {
            let read = client.try_read(CHUNK, block * B, B).await;
            if [7, 8, 30].contains(&block) {
                assert_eq!(read, Err(Refusal::Corrupt { block }));
            } else {
                let at = block as usize * BLOCK;
                assert_eq!(read, Ok(content[at..at + BLOCK].to_vec()));
            }
        }
        // Until somebody writes or discards them whole.
        let refused = client.try_write(CHUNK, 7 * B + 10, &[1; 20]).await;
        assert_eq!(refused, Err(Refusal::Corrupt { block: 7 }), "a part of a block needs the rest of it");
        client.write(7 * B, &pattern(2, BLOCK)).await;
        client.zero(8 * B, B).await;
        let (version, left) = engine.damage_now(CHUNK).await.unwrap();
        assert_eq!((version, left.into_keys().collect::<Vec<_>>()), (1, vec![30]));
        client.write(30 * B, &pattern(3, BLOCK)).await;
        assert_eq!(engine.verify_next().await.unwrap().expect("a chunk").damaged, 0);
        assert!(engine.damage().is_empty());
    });
}

/// A look at what is noted of a chunk that is deleted meanwhile leaves nothing behind for the next one in its place.
#[test]
fn c8_what_is_looked_at_while_it_is_deleted_says_nothing_of_the_next_chunk() {
    let (rig, _) = rotten(&[7, 8]);
    let content = pattern(3, SIZE as usize);
    let expected = content.clone();
    rig.life(async move |engine| {
        let client = Client::new(&engine, 2);
        for block in [7, 8] {
            assert!(client.try_read(CHUNK, block * B, B).await.is_err());
        }
        // The look, the deletion and the next chunk queue up behind one another.
        let (first, second) = (Rc::clone(&engine), Rc::clone(&engine));
        let looking = rt::spawn(async move { first.damage_now(CHUNK).await });
        rt::yield_now().await;
        let deleting = rt::spawn(async move { second.delete_chunk(CHUNK, 1).await });
        assert_eq!(looking.await.unwrap(), Err(Refusal::UnknownChunk(CHUNK)));
        deleting.await.unwrap().unwrap();
        engine.create_chunk(new_chunk(CHUNK + 1, SIZE)).await.unwrap();
        let write = client.data(CHUNK + 1, 0, &content);
        engine.write(write).await.unwrap();
        engine.checkpoint().await.unwrap();
    });
    rig.life(async move |engine| {
        let client = Client::new(&engine, 3);
        assert!(client.try_read(CHUNK + 1, 0, SIZE as u32).await.as_ref() == Ok(&expected));
    });
}

#[test]
fn c8_the_cycle_goes_on_after_a_restart() {
    let rig = Rig::new();
    let next = async |engine: &Rc<Engine>| engine.verify_next().await.unwrap().map(|verified| verified.chunk);
    rig.life(async move |engine| {
        assert_eq!(next(&engine).await, None);
        for chunk in [CHUNK, CHUNK + 1, CHUNK + 2] {
            engine.create_chunk(new_chunk(chunk, SIZE)).await.unwrap();
        }
        for chunk in [CHUNK, CHUNK + 1] {
            assert_eq!(next(&engine).await, Some(chunk));
        }
        // Killed.
    });
    rig.life(async move |engine| {
        engine.create_chunk(new_chunk(CHUNK - 1, SIZE)).await.unwrap();
        for chunk in [CHUNK - 1, CHUNK + 2, CHUNK, CHUNK + 1, CHUNK - 1] {
            assert_eq!(next(&engine).await, Some(chunk));
        }
        engine.delete_chunk(CHUNK + 2, 1).await.unwrap();
        assert_eq!(next(&engine).await, Some(CHUNK));
    });
}

#[test]
fn c8_a_block_is_repaired_with_what_was_lost_and_nothing_else() {
    let (rig, content) = rotten(&[7, 30]);
    let good = content[7 * BLOCK..8 * BLOCK].to_vec();
    rig.life(async move |engine| {
        let client = Client::new(&engine, 2);
        assert_eq!(client.try_read(CHUNK, 0, 10 * B).await, Err(Refusal::Corrupt { block: 7 }));
        assert_eq!(engine.damage().blocks(CHUNK).get(&7), Some(&DamageKind::Mismatch));
        assert_eq!(repair(&engine, 7..8, &Sends::new(None)).await, Ok(1), "nobody has it");
        let other = Sends::new(Some(pattern(9, BLOCK)));
        assert_eq!(repair(&engine, 7..8, &other).await, Ok(1), "something else");
        assert_eq!(client.try_read(CHUNK, 7 * B, B).await, Err(Refusal::Corrupt { block: 7 }));
        let source = Sends::new(Some(good.clone()));
        assert_eq!(repair(&engine, 0..20, &source).await, Ok(0));
        assert_eq!(client.try_read(CHUNK, 7 * B, B).await, Ok(good));
        assert_eq!(repair(&engine, 0..20, &source).await, Ok(0));
        assert_eq!(source.asked.get(), 1, "what is good is left alone");
        // A client is faster.
        client.write(30 * B, &pattern(4, BLOCK)).await;
        assert_eq!(repair(&engine, 30..31, &source).await, Ok(0));
        assert_eq!((source.asked.get(), engine.counters().repaired_blocks), (1, 1));
        assert!(repair(&engine, 1020..1025, &source).await.is_err(), "behind the end");
        assert!(engine.repair_blocks(FILE, CHUNK, 2, 0..1, &source).await.is_err(), "another version");
        // Killed: what was repaired is durable after a flush like any write.
        engine.flush().await.unwrap();
    });
    rig.life(async move |engine| {
        let client = Client::new(&engine, 3);
        let mut expected = content;
        expected[30 * BLOCK..31 * BLOCK].copy_from_slice(&pattern(4, BLOCK));
        assert_eq!(client.read(0, 40 * B).await, expected);
        assert!(
            engine.doubts(FILE, 3, CHUNK, 1).unwrap().iter().all(|doubt| doubt.first != 7),
            "nobody's write"
        );
    });
}

/// Both copies of the page with the first 1008 checksums rot.
fn rot_page(rig: &Rig) {
    let table = fs::File::options().read(true).write(true).open(rig.path.join("crc.table")).unwrap();
    for copy in [0, 1] {
        let at = Place::CrcPage { slot: 0, page: 0, copy }.offset();
        table.write_all_at(&[0x5a; 64], at + 2048).unwrap();
    }
}

#[test]
fn c8_a_lost_page_of_checksums_is_made_anew_block_by_block() {
    let (rig, data) = rotten(&[]);
    let mut content = vec![0; SIZE as usize];
    content[..data.len()].copy_from_slice(&data);
    rig.life(async |engine| {
        // All members are the same: nothing is in doubt.
        engine.clear_doubts(FILE, 2, CHUNK, 1).await.expect("settled");
        // In the second page as well.
        Client::new(&engine, 2).write(1010 * B, &pattern(2, BLOCK)).await;
        engine.stop().await;
    });
    content[1010 * BLOCK..1011 * BLOCK].copy_from_slice(&pattern(2, BLOCK));
    rot_page(&rig);
    let expected = content.clone();
    rig.life(async move |engine| {
        let client = Client::new(&engine, 3);
        let verified = engine.verify_next().await.unwrap().expect("a chunk");
        assert_eq!(verified.damaged, CRCS_PER_PAGE);
        assert_eq!(client.try_read(CHUNK, 5 * B, B).await, Err(Refusal::Corrupt { block: 5 }));
        // What is written from now on is kept, though nothing else of its page is known.
        client.write(3 * B, &pattern(3, BLOCK)).await;
        client.flush().await;
        engine.checkpoint().await.expect("a checkpoint");
        assert_eq!(client.read(3 * B, B).await, pattern(3, BLOCK));
        let listed = Listed { epoch: 9, seq: 4, first: 8, count: 2 };
        let mut source = Holds { content: content.clone(), listed: vec![listed], damaged: vec![20, 21] };
        // Of those that the other one lists or has not got, nobody here can say what they are.
        assert_eq!(repair(&engine, 0..CRCS_PER_PAGE, &source).await, Ok(4));
        for block in [8, 9, 20, 21] {
            assert_eq!(client.try_read(CHUNK, block * B, B).await, Err(Refusal::Corrupt { block }));
        }
        assert_eq!(client.read(3 * B, B).await, pattern(3, BLOCK), "what is newer stays");
        (source.listed, source.damaged) = (vec![], vec![]);
        let other = Sends::new(Some(content[8 * BLOCK..10 * BLOCK].to_vec()));
        assert_eq!(
            repair(&engine, 8..10, &other).await,
            Ok(2),
            "who cannot say what it lists is not believed"
        );
        assert_eq!(repair(&engine, 0..CRCS_PER_PAGE, &source).await, Ok(0));
        assert_eq!(engine.verify_next().await.unwrap().expect("a chunk").damaged, 0);
        assert!(engine.damage().is_empty());
        engine.flush().await.unwrap();
        // Killed.
    });
    let mut after = expected;
    after[3 * BLOCK..4 * BLOCK].copy_from_slice(&pattern(3, BLOCK));
    rig.life(async move |engine| {
        let client = Client::new(&engine, 4);
        assert!(client.read(0, SIZE as u32).await == after);
        engine.stop().await;
    });
    let report = crate::check::checked(&rig.path);
    assert!(report.is_clean(), "{report}");
}

/// A write that is listed here is in doubt as long as it is: nothing replaces what may be the only copy of it.
#[test]
fn c5_what_is_listed_here_is_not_replaced_without_a_checksum() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(0, &pattern(1, 2 * BLOCK)).await;
        client.flush().await;
        engine.clear_doubts(FILE, 2, CHUNK, 1).await.expect("settled");
        // Acknowledged, not stable; a checkpoint moves it out of the journal.
        let client = Client::new(&engine, 2);
        client.write(B, &pattern(2, BLOCK)).await;
        engine.checkpoint().await.expect("a checkpoint");
        engine.checkpoint().await.expect("a checkpoint");
    });
    rot_page(&rig);
    rig.life(async |engine| {
        let source = Holds { content: vec![7; SIZE as usize], listed: vec![], damaged: vec![] };
        let client = Client::new(&engine, 2);
        assert_eq!(repair(&engine, 0..3, &source).await, Ok(1), "the block in doubt stays");
        assert_eq!(client.try_read(CHUNK, B, B).await, Err(Refusal::Corrupt { block: 1 }));
        assert_eq!(client.try_read(CHUNK, 0, B).await, Ok(vec![7; BLOCK]));
    });
}
