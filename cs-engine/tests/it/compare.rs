//! Members are compared over the simulated network (C7): what differs is found, and nothing else is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use link::{Call, Expect};
use rt::buf::View;
use rt::net::Address;
use rt::sim::HostOptions;
use rt::sim::control::{self, PeerView};
use wire::cs::{CompareChunks, CompareItem, CompareResult, VerifiedChunk};
use wire::data::{Flush, Target, Write, WriteKind};
use wire::hello::Role;
use wire::lease::CsAddress;
use wire::{Op, Status};

use crate::copier::{IDS, SECOND, SIZE, World, dir, endpoint, member, simulate, write};
use crate::rig::{CHUNK, FILE, MIB, pattern, superblock};

const B: u32 = 4096;

impl World {
    /// Two members of a chunk.
    async fn members() -> Self {
        let world = Self::start(None).await;
        world.make().await;
        world
    }

    async fn make(&self) {
        for index in 0..2 {
            assert_eq!(self.create(index, 1, false).await, Status::Ok);
        }
    }

    /// Has one server compare its replica with that of the other.
    async fn compare(&self, index: usize) -> CompareResult {
        let other = 1 - index;
        let (file_id, chunk_id, members) = (FILE, CHUNK, vec![IDS[other]]);
        let item = CompareItem { file_id, chunk_id, version: 1, members };
        let addresses = vec![self.address(other).to_string()];
        let server = CsAddress { cs_id: IDS[other], addresses, ..CsAddress::default() };
        let order = CompareChunks { items: vec![item], servers: vec![server] };
        let connection = self.mds.connections.borrow()[&IDS[index]].clone();
        let reply = connection.ask(&order, rt::time::now() + SECOND * 60).await.expect("an answer");
        reply.results.into_iter().next().expect("of the only item")
    }

    /// The blocks that one server finds different on the other one, and how many it could not compare.
    async fn differences(&self, index: usize) -> (Vec<(u32, u32)>, u32) {
        let result = self.compare(index).await;
        assert_eq!(Status::from_code(result.status as u16), Status::Ok);
        for difference in &result.differences {
            let groups: Vec<_> = difference.groups.iter().map(|group| group.cs_ids.clone()).collect();
            assert_eq!(groups, [vec![IDS[0]], vec![IDS[1]]]);
        }
        let told = result.differences.iter().map(|one| (one.range.first, one.range.count));
        let blocks: u32 = result.differences.iter().map(|one| one.range.count).sum();
        assert_eq!(blocks, result.differing_blocks);
        (told.collect(), result.left_out_blocks)
    }

    /// Flushes, and tells that all writes with lower numbers are stable.
    async fn stable(&self, indices: &[usize], upto: u64) {
        for &index in indices {
            assert_eq!(self.call(index, Op::Flush, flush(upto), None).await.0, Status::Ok);
        }
    }
}

fn flush(upto: u64) -> Vec<u8> {
    let (upto_seq, done, stable) = (upto - 1, upto, upto);
    let flush = Flush { file: FILE, epoch: 1, upto_seq, done, stable, settled_before: false };
    let mut body = Vec::new();
    flush.encode(&[], &mut body);
    body
}

#[test]
fn c7_a_block_that_only_one_member_has_got_is_found() {
    let coverage = simulate(async {
        let world = World::members().await;
        world.write(&[0, 1], 1, 1, MIB, &pattern(1, MIB as usize)).await;
        world.stable(&[0, 1], 2).await;
        assert_eq!(world.differences(0).await, (vec![], 0));
        let lost = pattern(2, 2 * B as usize);
        world.write(&[0], 1, 2, MIB + 7 * B, &lost).await;
        let begun = rt::time::now();
        assert_eq!(world.differences(0).await, (vec![], 2), "it may be on its way to the other one");
        assert_eq!(world.differences(1).await, (vec![], 2), "who knows nothing of it");
        assert!(begun.elapsed() < SECOND * 2, "nothing to be looked at again: {:?}", begun.elapsed());
        world.stable(&[0, 1], 3).await;
        for index in [0, 1, 0] {
            assert_eq!(world.differences(index).await, (vec![(256 + 7, 2)], 0));
            world.checkpoint.notify_all();
            control::advance(SECOND).await;
        }
        world.write(&[1], 1, 3, MIB + 7 * B, &lost).await;
        world.stable(&[0, 1], 4).await;
        assert_eq!(world.differences(0).await, (vec![], 0));
        // The content counts, not what it is kept in.
        world.write(&[0], 1, 4, 3 * MIB, &vec![0; MIB as usize]).await;
        world.stable(&[0, 1], 5).await;
        assert_eq!(world.differences(1).await, (vec![], 0), "a hole reads as zeroes");
        world.write(&[1], 1, 5, 0, &pattern(5, 100)).await;
        world.stable(&[0, 1], 6).await;
        assert_eq!(world.differences(1).await, (vec![(0, 1)], 0), "and as nothing else");
    });
    assert!(coverage.contains_key("cs.replicas-differ"), "{coverage:?}");
}

#[test]
fn c7_what_is_damaged_is_no_difference() {
    simulate(async {
        let world = World::members().await;
        world.write(&[0, 1], 1, 1, MIB, &pattern(1, MIB as usize)).await;
        world.write(&[1], 1, 2, MIB + 7 * B, &pattern(2, 2 * B as usize)).await;
        world.stable(&[0, 1], 3).await;
        world.checkpoint.notify_all();
        control::advance(SECOND).await;
        assert_eq!(world.differences(0).await, (vec![(256 + 7, 2)], 0));
        let file = format!("{}/chunks/{:02x}/{CHUNK:016x}", dir(1), CHUNK & 0xff);
        assert!(control::rot(world.hosts[1], &file, u64::from(MIB + 7 * B) + 99).expect("its file"));
        assert_eq!(world.differences(0).await.0, [(256 + 8, 1)], "nobody had met it before");
        assert_eq!(world.differences(0).await, (vec![(256 + 8, 1)], 1));
    });
}

/// What a client does for a while: writes that reach one member earlier than the other, in any order, and flushes.
async fn load(world: &World, writes: u64, done: Rc<Cell<bool>>) -> control::Process<()> {
    let host = control::add_host(HostOptions::new("writer"));
    let credentials = member(&world.authority);
    let addresses = [0, 1].map(|index| Address::Tcp(world.address(index)));
    control::start_process(host, "writer", async move {
        let endpoint = endpoint(credentials, Role::Client, [7; 16]);
        let mut connections = Vec::new();
        for address in &addresses {
            connections.push(endpoint.connect(address, Expect::role(Role::Cs)).await.expect("it listens"));
        }
        let mut stable = 1;
        for seq in 1..=writes {
            // Half of them meet in a few blocks.
            let blocks = if rt::random::below(2) == 0 { 4 } else { u64::from(SIZE / B) - 8 };
            let offset = rt::random::below(blocks) as u32 * B + rt::random::below(2) as u32 * 512;
            let len = 512 * (1 + rt::random::below(24) as usize);
            let is_discard = rt::random::below(8) == 0;
            let bytes = pattern(seq, len);
            let tasks: Vec<_> = connections
                .iter()
                .map(|connection| {
                    let deadline = rt::time::now() + SECOND * 60;
                    let call = if is_discard {
                        let target = Target { file: FILE, epoch: 1, chunk: CHUNK, version: 1 };
                        let (len, kind) = (len as u32, WriteKind::Discard);
                        let (done, fua, stripe_version) = (seq, false, 0);
                        let discard =
                            Write { target, seq, done, stable, offset, len, kind, fua, stripe_version };
                        let mut body = Vec::new();
                        discard.encode(&[], &mut body);
                        Call::new(Op::Write, body, deadline)
                    } else {
                        let body = write(1, seq, stable, offset, &bytes);
                        Call::new(Op::Write, body, deadline).with_payload(View::copy_of(&bytes))
                    };
                    let late = Duration::from_micros(rt::random::below(60_000));
                    let connection = connection.clone();
                    rt::spawn(async move {
                        rt::time::sleep(late).await;
                        assert_eq!(connection.call(call).await.expect("an answer").status, Status::Ok);
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("it ends");
            }
            if rt::random::below(3) == 0 {
                stable = seq + 1;
                for connection in &connections {
                    let call = Call::new(Op::Flush, flush(stable), rt::time::now() + SECOND * 60);
                    assert_eq!(connection.call(call).await.expect("an answer").status, Status::Ok);
                }
            }
        }
        done.set(true);
    })
}

#[test]
fn c7_members_that_are_written_to_are_equal_all_the_time() {
    let coverage = simulate(async {
        let world = World::members().await;
        let done = Rc::new(Cell::new(false));
        let writer = load(&world, 1500, Rc::clone(&done)).await;
        let (mut rounds, mut left_out) = (0, 0);
        while !done.get() {
            control::advance(Duration::from_micros(rt::random::below(300_000))).await;
            if rt::random::below(4) == 0 {
                world.checkpoint.notify_all();
            }
            let (differences, some) = world.differences(rounds % 2).await;
            assert_eq!(differences, [], "round {rounds}");
            (rounds, left_out) = (rounds + 1, left_out + some);
        }
        writer.wait().await.returned();
        assert!(rounds > 30 && left_out > 100, "{rounds} {left_out}");
        world.stable(&[0, 1], 1501).await;
        assert_eq!(world.differences(0).await, (vec![], 0));
        // The same once more, with a difference beside.
        world.write(&[1], 1, 1501, SIZE - B, &pattern(9, B as usize)).await;
        world.stable(&[0, 1], 1502).await;
        assert_eq!(world.differences(0).await, (vec![(SIZE / B - 1, 1)], 0));
    });
    assert!(coverage.contains_key("cs.replicas-compared"), "{coverage:?}");
}

#[test]
fn c7_who_keeps_no_checksums_is_not_compared() {
    simulate(async {
        let mut bare = superblock();
        bare.no_checksums = true;
        let world = World::start_with(None, [superblock(), bare]).await;
        world.make().await;
        world.write(&[0], 1, 1, 0, &pattern(1, MIB as usize)).await;
        world.stable(&[0, 1], 2).await;
        for index in [0, 1] {
            let result = world.compare(index).await;
            assert_eq!((result.status, result.differing_blocks), (0, 0));
        }
    });
}

#[test]
fn c7_who_goes_while_it_is_compared_ends_that() {
    simulate(async {
        let world = Rc::new(World::members().await);
        world.write(&[0], 1, 1, 0, &pattern(1, MIB as usize)).await;
        world.stable(&[0, 1], 2).await;
        let comparing = Rc::clone(&world);
        let comparing = rt::spawn(async move { comparing.compare(0).await });
        control::advance(SECOND * 3).await;
        control::power_cut(&world.hosts[1..], PeerView::Reset);
        let result = comparing.await.expect("it ends");
        assert!(result.differences.is_empty(), "nobody has seen it twice");
        assert_eq!(Status::from_code(result.status as u16), Status::Timeout);
        control::power_on(world.hosts[1]);
        world.run(1, None).await;
        let installed = world.install(0, 2, wire::cs::Role::Member, false).await;
        assert_eq!(installed, Status::Ok);
        assert_eq!(Status::from_code(world.compare(1).await.status as u16), Status::StaleVersion);
    });
}

#[test]
fn the_metadata_server_hears_of_what_was_verified() {
    simulate(async {
        let world = World::members().await;
        world.write(&[0, 1], 1, 1, 0, &pattern(1, MIB as usize)).await;
        let begun = rt::time::now();
        while world.mds.verified.borrow().len() < 4 {
            assert!(begun.elapsed() < SECOND * 200, "{:?}", world.mds.verified.borrow());
            control::advance(SECOND).await;
        }
        let verified = world.mds.verified.borrow();
        let told = VerifiedChunk { chunk_id: CHUNK, file_id: FILE };
        assert!(verified.iter().all(|(_, chunk)| *chunk == told));
        assert!(IDS[..2].iter().all(|id| verified.iter().any(|(cs, _)| cs == id)));
    });
}
