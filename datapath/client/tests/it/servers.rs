//! Servers that refuse, are busy, or are slow.

use rt::buf::View;
use wire::Status;

use crate::client::VolumeError;
use crate::world::{CHUNK, Turn, run};

#[test]
fn what_one_replica_will_never_give_is_read_from_another() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        for (refusing, other) in [(0, 1), (1, 0)] {
            world.cs[other].desk.script(|_, _| Turn::Usual);
            world.cs[refusing].desk.script(|_, _| Turn::refuse(Status::Unsupported));
            volume.read(0, 4096).await.expect("the other one has it");
            volume.block_status(0, 4096, 1).await.expect("the other one knows");
        }
        world.cs[0].desk.script(|_, _| Turn::refuse(Status::Unsupported));
        world.cs[1].desk.script(|_, _| Turn::refuse(Status::Unsupported));
        let read = volume.read(0, 4096).await;
        assert!(matches!(read, Err(VolumeError::Refused { .. })), "{read:?}");
        let written = volume.write(0, View::copy_of(&[1; 4096])).await;
        assert!(matches!(written, Err(VolumeError::Refused { .. })), "{written:?}");
    });
}
