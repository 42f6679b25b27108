//! Mailboxes between two executors on real threads.

use datapath_rt as rt;
use rt::{Executor, ExecutorOptions};

fn run<F: Future + 'static>(main: F) -> F::Output {
    Executor::start(&ExecutorOptions::default()).expect("io_uring works here").run(main)
}

#[test]
fn the_end_of_the_last_sender_is_always_noticed() {
    let (to_other, mut from_us) = rt::mailbox::channel::<rt::mailbox::Receiver<u64>>(1);
    let other = std::thread::Builder::new().spawn(move || {
        run(async move {
            let mut ended = 0;
            while let Some(mut receiver) = from_us.recv().await {
                while receiver.recv().await.is_some() {}
                ended += 1;
            }
            ended
        })
    });
    run(async move {
        for _ in 0..20_000 {
            let (sender, receiver) = rt::mailbox::channel(1);
            to_other.send(receiver).await.unwrap();
            sender.send(1).await.unwrap();
            // Races with the receiver's going to sleep.
            drop(sender);
        }
    });
    assert_eq!(other.unwrap().join().unwrap(), 20_000);
}
