//! What members note for one that leaves, so that it gets all of it when it returns (C6).

use cs_engine::engine::Refusal;

use crate::install::member;
use crate::rig::{CHUNK, Client, FILE, Rig, pattern};

const REGION: u32 = 64 << 10;
const SIZE: u64 = 8 << 20;

#[test]
fn what_is_listed_counts_as_stable_once_the_version_without_the_one_who_left_is_here() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(3 * REGION, &pattern(1, 4096)).await;
        let stale = |wanted| Err(Refusal::StaleVersion { have: 1, wanted });
        // The one who left had the write, too, and has lost it.
        assert_eq!(engine.has_installed(FILE, [(CHUNK, 1), (CHUNK, 2)]), stale(2));
        assert_eq!(engine.has_installed(FILE, [(9, 7), (CHUNK, 3)]), stale(3), "chunk 9 is not here");
        assert_eq!(engine.has_installed(FILE + 1, [(CHUNK, 3)]), Ok(()), "that file is not here");
        assert_eq!(engine.has_installed(FILE, []), Ok(()));
        engine.install(CHUNK, member(1, 3, true)).await.unwrap();
        // Collapsed, so that it has a higher one at once.
        assert_eq!(engine.has_installed(FILE, [(CHUNK, 2), (9, 7), (CHUNK, 3)]), Ok(()));
        let done = client.done.get();
        engine.flush_file(FILE, 1, done, done, false).await.unwrap();
        let known = engine.changed_regions(FILE, CHUNK, 3, 1).unwrap();
        assert!(known.complete && known.changed.contains(3) && known.listed.is_empty(), "{known:?}");
        engine.delete_chunk(CHUNK, 3).await.unwrap();
        assert_eq!(engine.has_installed(FILE, [(CHUNK, 4)]), Ok(()), "deleted");
    });
}
