//! Writes that make a file longer, and what is left of them when they fail.

use rt::buf::View;
use wire::lease::AllocateChunks;
use wire::{Op, Status};

use crate::client::VolumeError;
use crate::world::{CHUNK, Turn, run};

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
