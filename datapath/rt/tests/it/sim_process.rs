//! Simulated hosts and processes: life and death, pauses, clocks, and runs that do not end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::sim::control::{self, Exit, PeerView};
use rt::sim::{HostOptions, SimFailure, SimOptions, Simulation, TraceLines};

use crate::sim_world::{forever, host, killed, on, world};

const SECOND: Duration = Duration::from_secs(1);

/// Counts seconds for ever.
async fn tick(count: Rc<Cell<u32>>) {
    loop {
        rt::time::sleep(SECOND).await;
        count.set(count.get() + 1);
    }
}

#[test]
fn a_process_ends_with_its_main_future_or_a_kill() {
    world(1, async {
        let host = host();
        let count = Rc::new(Cell::new(0));
        let theirs = Rc::clone(&count);
        let process = control::start_process(host, "ends", async move {
            rt::spawn(tick(theirs));
            rt::time::sleep(SECOND * 5 / 2).await;
            "done"
        });
        assert!(control::is_alive(process.id()));
        assert_eq!(control::processes(host), [process.id()]);
        let id = process.id();
        assert_eq!(process.wait().await, Exit::Returned("done"));
        control::advance(SECOND * 5).await;
        assert_eq!(count.get(), 2, "its other tasks end with it");
        assert!(!control::is_alive(id) && !control::kill(id));
        let process = forever(host, tick(Rc::clone(&count)));
        control::advance(SECOND * 3 / 2).await;
        assert!(control::kill(process.id()));
        killed(process).await;
        control::advance(SECOND * 5).await;
        assert_eq!(count.get(), 3);
        assert!(control::processes(host).is_empty());
    });
}

/// Spawns a task, and leaves a mark, when it is dropped.
struct Last(Rc<Cell<u32>>);

impl Drop for Last {
    fn drop(&mut self) {
        let mark = Rc::clone(&self.0);
        mark.set(mark.get() + 1);
        rt::spawn(async move { mark.set(100) });
    }
}

#[test]
fn what_a_dying_process_spawns_dies_with_it() {
    world(1, async {
        let mark = Rc::new(Cell::new(0));
        let theirs = Last(Rc::clone(&mark));
        let process = forever(host(), async move {
            rt::spawn(async move {
                let _held = theirs;
                std::future::pending::<()>().await;
            });
        });
        control::advance(SECOND).await;
        control::kill(process.id());
        control::advance(SECOND).await;
        assert_eq!(mark.get(), 1);
    });
}

#[test]
fn a_paused_process_does_nothing_and_then_catches_up() {
    world(1, async {
        let host = host();
        let (count, late) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(Duration::ZERO)));
        let (theirs, lateness) = (Rc::clone(&count), Rc::clone(&late));
        let process = forever(host, async move {
            rt::spawn(tick(theirs));
            let due = rt::time::now() + SECOND * 15;
            rt::time::sleep_until(due).await;
            lateness.set(rt::time::now().since(due));
        });
        control::advance(SECOND * 21 / 2).await;
        assert!(control::pause(process.id()) && !control::pause(process.id()));
        control::advance(SECOND * 100).await;
        assert_eq!((count.get(), late.get()), (10, Duration::ZERO));
        assert!(control::is_alive(process.id()));
        assert!(control::resume(process.id()) && !control::resume(process.id()));
        control::advance(SECOND / 10).await;
        assert_eq!(count.get(), 11);
        assert!(late.get() > SECOND * 90, "a timer that passed during the pause fires after it");
        control::advance(SECOND * 5).await;
        assert_eq!(count.get(), 16);
        control::pause(process.id());
        control::kill(process.id());
        killed(process).await;
    });
}

#[test]
fn a_busy_process_stops_where_it_is_paused() {
    world(1, async {
        let polls = Rc::new(Cell::new(0u64));
        let theirs = Rc::clone(&polls);
        let busy = forever(host(), async move {
            loop {
                theirs.set(theirs.get() + 1);
                rt::yield_now().await;
            }
        });
        control::advance(SECOND / 1000).await;
        control::pause(busy.id());
        let at_pause = polls.get();
        control::advance(SECOND / 1000).await;
        assert_eq!(polls.get(), at_pause);
        control::resume(busy.id());
        control::advance(SECOND / 1000).await;
        assert!(polls.get() > at_pause + 100 && at_pause > 100);
    });
}

#[test]
fn a_power_cut_ends_everything_on_its_hosts_and_begins_a_new_boot() {
    world(1, async {
        let (a, b, c) = (host(), host(), host());
        let boot = || async { rt::node::boot_id().unwrap() };
        let before = on(a, boot()).await;
        assert_eq!(on(a, boot()).await, before);
        assert_ne!(on(b, boot()).await, before);
        let doomed = [forever(a, async {}), forever(a, async {}), forever(b, async {})];
        let other = forever(c, async {});
        control::power_cut(&[a, b], PeerView::Silence);
        control::power_cut(&[a], PeerView::Silence);
        for process in doomed {
            killed(process).await;
        }
        assert!(control::is_alive(other.id()));
        assert!(!control::is_powered(a) && !control::is_powered(b) && control::is_powered(c));
        control::power_on(a);
        assert_ne!(on(a, boot()).await, before);
    });
}

#[test]
fn hosts_have_names_addresses_and_wall_clocks_of_their_own() {
    world(1, async {
        let (a, b) =
            (control::add_host(HostOptions::new("first")), control::add_host(HostOptions::new("second")));
        assert_eq!(control::host_ip(b).to_string(), "10.0.0.2");
        assert_eq!(on(a, async { rt::node::host_name() }).await, "first");
        let clocks = || async { (rt::time::wall_clock_ms(), rt::time::now()) };
        control::shift_wall_clock(a, -3_600_000);
        let ((wall_a, now_a), (wall_b, now_b)) = (on(a, clocks()).await, on(b, clocks()).await);
        assert!((3_599_000..3_601_000).contains(&(wall_b - wall_a)));
        assert!(now_b >= now_a && now_b.since(now_a) < SECOND, "the boot-time clock does not jump");
        control::shift_wall_clock(a, 3_600_000);
        assert!(on(a, clocks()).await.0 >= wall_b);
    });
}

#[test]
fn a_run_in_which_nothing_can_happen_is_a_deadlock() {
    let mut simulation = Simulation::new(SimOptions::new(3));
    let failure = simulation.run(async {
        let process = forever(host(), async {});
        control::advance(SECOND).await;
        process.wait().await
    });
    let Err(SimFailure::Deadlock { seed: 3, now, tasks: 2 }) = failure else { panic!("{failure:?}") };
    assert!(now >= SECOND && now < 2 * SECOND);
    assert!(failure.unwrap_err().to_string().starts_with("seed 3, 1."));
}

#[test]
fn runs_have_limits() {
    let slow = SimOptions { time_max: SECOND * 10, ..SimOptions::new(1) };
    let failure = Simulation::new(slow).run(tick(Rc::default()));
    assert!(matches!(failure, Err(SimFailure::TimeLimit { .. })), "{failure:?}");
    let busy = SimOptions { steps_max: 1000, poll_cost: Duration::ZERO, ..SimOptions::new(1) };
    let failure = Simulation::new(busy).run(async {
        loop {
            rt::yield_now().await;
        }
    });
    assert!(
        matches!(failure, Err(SimFailure::StepLimit { now: Duration::ZERO, steps: 1001, .. })),
        "{failure:?}"
    );
}

struct Angry;

impl Drop for Angry {
    fn drop(&mut self) {
        panic!("a destructor among ruins");
    }
}

#[test]
fn a_panic_of_any_task_ends_the_run_and_every_task_is_dropped() {
    let dropped = Rc::new(Cell::new(0));
    let (theirs, also) = (Last(Rc::clone(&dropped)), Last(Rc::clone(&dropped)));
    let run = std::panic::AssertUnwindSafe(move || {
        Simulation::new(SimOptions::new(1)).run(async move {
            let _other = forever(host(), async move {
                let _held = theirs;
                std::future::pending::<()>().await;
            });
            // Its destructor finds the world in disorder; that ends neither the program nor the clearing away.
            let _angry = forever(host(), async move {
                let _held = (Angry, also);
                std::future::pending::<()>().await;
            });
            let _process = forever(host(), async {
                rt::time::sleep(SECOND).await;
                panic!("found it");
            });
            control::advance(SECOND * 5).await;
        })
    });
    let panic = std::panic::catch_unwind(run).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"found it"));
    assert_eq!(dropped.get(), 2);
    // The thread can run the next seed.
    world(2, async { control::advance(SECOND).await });
}

#[test]
#[should_panic(expected = "only the controller may shape the world")]
fn processes_cannot_reach_for_the_controls() {
    world(1, async {
        let host = host();
        on(host, async move { control::power_cut(&[host], PeerView::Silence) }).await;
    });
}

#[test]
fn lines_hits_and_planted_bugs_are_seen() {
    let options =
        SimOptions { trace: TraceLines::Keep, planted: vec!["flush-skipped".into()], ..SimOptions::new(1) };
    let mut simulation = Simulation::new(options);
    let found = simulation.run(async {
        let main = async {
            rt::time::sleep(SECOND).await;
            rt::sim::trace(|| "hello".to_owned());
            rt::sim::hit("row-7");
            rt::sim::hit("row-7");
            (rt::sim::planted("flush-skipped"), rt::sim::planted("flush"))
        };
        control::start_process(control::add_host(HostOptions::new("a")), "cs", main).wait().await.returned()
    });
    assert_eq!(found, Ok((true, false)));
    assert_eq!(simulation.coverage()["row-7"], 2);
    let lines = simulation.trace_lines();
    assert!(lines.iter().any(|line| line.starts_with("1.0") && line.ends_with(" a cs hello")), "{lines:?}");
    assert!(simulation.elapsed() >= SECOND && simulation.steps() > 3);
}

#[test]
fn what_may_only_grow_is_told_when_it_becomes_less() {
    let fallen = world(1, async {
        let (a, b) = (host(), host());
        for (host, key, value) in [(a, 1, 7), (a, 1, 7), (a, 2, 3), (b, 1, 5), (a, 1, 8)] {
            on(host, async move { rt::sim::rises("version", key, value) }).await;
        }
        assert_eq!(control::fallen(), Vec::<String>::new());
        on(a, async { rt::sim::rises("version", 1, 6) }).await;
        control::fallen()
    });
    assert!(fallen.len() == 1 && fallen[0].ends_with("was 0x8 and is 0x6"), "{fallen:?}");
}

#[test]
fn a_fast_clock_reaches_its_timers_early_and_a_slow_one_late() {
    world(1, async {
        for fast_ppm in [-20_000_i32, 0, 20_000] {
            let host = control::add_host(HostOptions::new("a").with_clock(fast_ppm));
            let began = control::now();
            let counted = on(host, async {
                let began = rt::time::now();
                rt::time::sleep(100 * SECOND).await;
                began.elapsed()
            })
            .await;
            let took = (control::now() - began).as_secs_f64() * (1.0 + f64::from(fast_ppm) / 1e6);
            assert!(counted >= 100 * SECOND && counted < 101 * SECOND, "{fast_ppm}: {counted:?}");
            assert!((99.9..100.1).contains(&took), "{fast_ppm}: {took} s by its own clock");
        }
    });
}

#[test]
fn outside_a_simulation_nothing_is_counted_or_planted() {
    rt::sim::hit("row-7");
    rt::sim::trace(|| panic!("no line is made"));
    assert!(!rt::sim::planted("flush-skipped"));
}

#[test]
fn randomness_follows_from_the_seed() {
    let draw = |seed| {
        world(seed, async {
            on(host(), async {
                let mut secret = [0; 16];
                rt::random::fill_secret(&mut secret);
                (rt::random::u64(), secret)
            })
            .await
        })
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn every_order_of_ready_tasks_comes() {
    let mut orders: Vec<Vec<u32>> = (0..100)
        .map(|seed| {
            world(seed, async {
                on(host(), async {
                    let order = Rc::new(RefCell::new(Vec::new()));
                    let spawn = |number: u32| {
                        let order = Rc::clone(&order);
                        rt::spawn(async move { order.borrow_mut().push(number) })
                    };
                    for task in [0, 1, 2].map(spawn) {
                        task.await.unwrap();
                    }
                    order.take()
                })
                .await
            })
        })
        .collect();
    orders.sort();
    orders.dedup();
    assert_eq!(orders.len(), 6);
}
