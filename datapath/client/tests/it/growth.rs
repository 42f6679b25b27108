//! Writes that make a file longer, and what is left of them when they fail.

use std::time::Duration;

use rt::buf::View;
use wire::data::{Write, WriteKind};
use wire::lease::{AllocateChunks, MemberState};
use wire::{ErrorBody, Op, Status};

use crate::client::VolumeError;
use crate::world::{CHUNK, FIRST_VERSION, Turn, run, run_with, version_of};

#[test]
fn a_write_that_failed_far_out_makes_no_later_one_grow_the_file() {
    run(0, async |world| {
        let volume = world.open().await;
        volume.set_growing();
        volume.set_fails_when_full(true);
        world.mds.desk.script(|op, _| match op {
            Op::AllocateChunks => Turn::refuse(Status::NoSpace),
            _ => Turn::Usual,
        });
        let far = volume.write(1 << 40, View::copy_of(&[1; 4096])).await;
        assert_eq!(far, Err(VolumeError::NoSpace));
        world.mds.desk.script(|_, _| Turn::Usual);
        volume.write(0, View::copy_of(&[1; 100])).await.expect("there is space now");
        let last = world.mds.desk.asked::<AllocateChunks>().pop().expect("the chunk was allocated");
        assert_eq!((last.indices, last.grow_to), (vec![0], 100));
        assert_eq!((volume.size(), world.mds.size.get()), (100, 100));
        volume.write(3 * CHUNK, View::copy_of(&[1; 4096])).await.expect("written");
        let last = world.mds.desk.asked::<AllocateChunks>().pop().expect("the chunk was allocated");
        assert_eq!(last.grow_to, 3 * CHUNK + 4096);
        volume.write(CHUNK, View::copy_of(&[1; 4096])).await.expect("written");
        let last = world.mds.desk.asked::<AllocateChunks>().pop().expect("the chunk was allocated");
        assert_eq!(last.grow_to, 3 * CHUNK + 4096, "what it has is kept");
    });
}

#[test]
fn a_write_beyond_what_a_file_can_have_is_refused_and_the_next_one_is_done() {
    run(0, async |world| {
        let volume = world.open().await;
        volume.set_growing();
        let limit = CHUNK << 32;
        for offset in [limit, limit - 50, 1 << 60, u64::MAX - 10] {
            let refused = volume.write(offset, View::copy_of(&[1; 100])).await;
            assert!(matches!(refused, Err(VolumeError::Range { .. })), "{offset}: {refused:?}");
        }
        assert_eq!(world.mds.desk.count(Op::AllocateChunks), 0);
        volume.write(0, View::copy_of(&[1; 100])).await.expect("nothing is wrong with this one");
        volume.write(limit - 100, View::copy_of(&[1; 100])).await.expect("the last bytes a file can have");
        assert_eq!(volume.size(), limit);
    });
}

/// Settling makes zero what lies behind the end. The size tells of a part that is there only when the whole write is over.
#[test]
fn c3_settling_takes_nothing_from_a_write_that_grows_the_file() {
    run_with(3, CHUNK - 4096, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        volume.set_growing();
        world.mds.desk.script(|op, _| match op {
            Op::AllocateChunks => Turn::Silence,
            _ => Turn::Usual,
        });
        let writer = volume.clone();
        let writing = rt::spawn(async move { writer.write(CHUNK - 4096, View::copy_of(&[1; 8192])).await });
        rt::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(
            world.cs[0].desk.writes().len(),
            1,
            "the first part is there, the second one has no chunk"
        );
        // Somebody has rebooted and is left out: the chunk has to be settled among the others.
        world.mds.unreconciled.set(true);
        world.mds.set(3, MemberState::Absent);
        for cs in &world.cs {
            cs.desk.script(|op, body| match op {
                Op::Read if version_of(body) == FIRST_VERSION => {
                    let detail = FIRST_VERSION + 1;
                    Turn::Refuse(Status::StaleVersion, ErrorBody { detail, ..ErrorBody::default() })
                }
                _ => Turn::Usual,
            });
        }
        world.mds.desk.script(|_, _| Turn::Usual);
        volume.read(0, 4096).await.expect("settled");
        writing.await.expect("it ends").expect("written");
        assert_eq!((volume.size(), volume.epoch()), (CHUNK + 4096, 2));
        for cs in &world.cs[..2] {
            let writes = cs.desk.writes();
            let last = |kinds: &[WriteKind]| {
                let of_chunk = |write: &Write| write.target.chunk == 1000 && kinds.contains(&write.kind);
                writes.iter().rposition(of_chunk)
            };
            let zeroed = last(&[WriteKind::Zeroes, WriteKind::Discard]);
            assert!(zeroed.is_some() && last(&[WriteKind::Data]) > zeroed, "{writes:?}");
        }
    });
}
