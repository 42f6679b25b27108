//! The model on the real executor, with kills and orderly stops in between.

use std::rc::Rc;

use rt::random::Rng;

use crate::model::{End, Model};
use crate::rig::{Rig, no_interval, quick, run};

fn random_lives(seed: u64, lives: u64, steps: u64) {
    let mut rng = Rng::from_seed(seed);
    let mut rig = Rig::with(|superblock, dir| {
        superblock.no_checksums = seed % 5 == 3;
        superblock.journal_dir = (seed % 5 == 1).then(|| dir.join("ssd"));
        superblock.block_atomic = seed % 5 != 2;
    });
    rig.options = no_interval();
    rig.options.pages_max = 16;
    // The model holds counted memory of one thread, but no executor: it lives on between the lives.
    let model = Model::new(seed);
    for life in 0..lives {
        let next = if rng.one_in(4) { End::Stopped } else { End::Killed };
        let workers = 1 + rng.below(8) as usize;
        let theirs = Rc::clone(&model);
        rig.life(async move |engine| {
            theirs.resume(&engine).await;
            if next == End::Stopped {
                theirs.work(&engine, workers, steps).await;
                engine.stop().await;
            } else {
                let mut working = std::pin::pin!(theirs.work(&engine, workers, u64::MAX / 2));
                let until = theirs.steps.get() + steps;
                // Ends in the middle of whatever is under way.
                std::future::poll_fn(|cx| {
                    let ended = working.as_mut().poll(cx).is_ready();
                    if ended || theirs.steps.get() >= until {
                        return std::task::Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            }
        });
        if let Some(violation) = model.violation() {
            panic!("seed {seed}, life {life}: {violation}");
        }
        model.ended(next);
    }
}

#[test]
fn lives_that_end_in_any_way_lose_nothing() {
    let (seeds, lives, steps) = if quick() { (2, 6, 200) } else { (10, 12, 400) };
    for seed in 0..seeds {
        random_lives(seed, lives, steps);
    }
    run(async {});
}
