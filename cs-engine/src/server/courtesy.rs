//! Who comes first: clients, then the replicas that chunks lack, then what only lies better elsewhere, and verifying.
//!
//! While clients have requests here, or had until a moment ago, copying takes turns: one small piece at a time, and a rest after it
//! that is some times as long as the piece took here. So copying never takes more than its share of the disk and of this thread,
//! whatever they are worth, and it never stops. When no client is there it has everything.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::sync::{Permit, Semaphore};
use rt::time::Instant;

/// How long after its last request a client counts as being there.
const LULL: Duration = Duration::from_millis(500);
/// A rest is so many times as long as what was done before.
const REST: u32 = 4;
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(100);

/// What clients are doing here, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Courtesy {
    /// Requests of clients under way.
    under_way: Cell<usize>,
    /// When the last one ended.
    last: Cell<Option<Instant>>,
    filling: Turns,
    giving: Turns,
}

/// Which side of a copy takes a turn. Each has turns of its own: whoever fills keeps its turn while another chunk server reads for
/// it, and two that fill from each other must not wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A joiner here is filled.
    Filling,
    /// A joiner elsewhere is given what is here.
    Giving,
}

/// The turns of one side.
#[derive(Debug)]
struct Turns {
    one: Semaphore,
    /// Until when nobody takes a turn.
    rest: Cell<Instant>,
}

impl Turns {
    fn new() -> Self {
        Self { one: Semaphore::new(1), rest: Cell::new(rt::time::now()) }
    }
}

/// A client's request under way.
#[derive(Debug)]
pub(crate) struct ClientRequest<'a>(&'a Courtesy);

impl Drop for ClientRequest<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.last.set(Some(rt::time::now()));
    }
}

/// A turn: what is copied under it is under way.
#[derive(Debug)]
pub(crate) struct Turn {
    courtesy: Rc<Courtesy>,
    side: Side,
    begun: Instant,
    /// How much of it others worked.
    elsewhere: Duration,
    permit: Option<Permit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.permit.is_some() {
            let now = rt::time::now();
            let here = now.since(self.begun).saturating_sub(self.elsewhere);
            let rest = (here * REST).min(REST_MAX);
            self.courtesy.turns_of(self.side).rest.set(now + rest);
        }
    }
}

impl Turn {
    /// So much of the time since the turn began nothing was done here: another chunk server was waited for, which takes its own rests.
    pub(crate) fn waited(&mut self, elsewhere: Duration) {
        self.elsewhere += elsewhere;
    }
}

impl Courtesy {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            under_way: Cell::new(0),
            last: Cell::new(None),
            filling: Turns::new(),
            giving: Turns::new(),
        })
    }

    /// A client's request begins.
    pub(crate) fn client(&self) -> ClientRequest<'_> {
        self.under_way.set(self.under_way.get() + 1);
        ClientRequest(self)
    }

    /// Whether clients are there.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.get() > 0 || self.last.get().is_some_and(|last| last.elapsed() < LULL)
    }

    fn turns_of(&self, side: Side) -> &Turns {
        match side {
            Side::Filling => &self.filling,
            Side::Giving => &self.giving,
        }
    }

    /// Waits for a turn; without clients it comes at once, beside all others.
    pub(crate) async fn turn(self: &Rc<Self>, side: Side) -> Turn {
        let turns = self.turns_of(side);
        let mut permit = None;
        if self.is_busy() {
            permit = Some(turns.one.acquire(1).await);
            // Whoever had the turn before sets the rest while it gives the permit back.
            if self.is_busy() {
                rt::time::sleep_until(turns.rest.get()).await;
            } else {
                permit = None;
            }
        }
        Turn { courtesy: Rc::clone(self), side, begun: rt::time::now(), elsewhere: Duration::ZERO, permit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rt::sim::{SimOptions, Simulation};

    const PIECE: Duration = Duration::from_millis(10);

    /// How long four pieces take that are copied by two at the same time.
    async fn four_pieces(courtesy: &Rc<Courtesy>) -> Duration {
        let begun = rt::time::now();
        let two = [(); 2].map(|()| {
            let courtesy = Rc::clone(courtesy);
            rt::spawn(async move {
                for _ in 0..2 {
                    let turn = courtesy.turn(Side::Filling).await;
                    rt::time::sleep(PIECE).await;
                    drop(turn);
                }
            })
        });
        for one in two {
            one.await.expect("it ends");
        }
        begun.elapsed()
    }

    #[test]
    fn copying_has_everything_without_clients_and_takes_turns_beside_them() {
        let took = Simulation::new(SimOptions::new(1)).run(async {
            let courtesy = Courtesy::new();
            let alone = four_pieces(&courtesy).await;
            let request = courtesy.client();
            let beside = four_pieces(&courtesy).await;
            drop(request);
            assert!(courtesy.is_busy(), "a moment ago");
            rt::time::sleep(LULL).await;
            (alone, beside, four_pieces(&courtesy).await)
        });
        let (alone, beside, after) = took.unwrap_or_else(|failure| panic!("{failure}"));
        // The simulated machine takes some microseconds, too.
        let millis = [alone, after, beside].map(|took| took.as_millis());
        let rests = PIECE * 4 + PIECE * REST * 3;
        assert_eq!(millis, [20, 20, rests.as_millis()], "two at a time; one after the other, with rests");
    }

    #[test]
    fn who_fills_keeps_nobody_from_giving() {
        let took = Simulation::new(SimOptions::new(1)).run(async {
            let courtesy = Courtesy::new();
            let _request = courtesy.client();
            let begun = rt::time::now();
            let _filling = courtesy.turn(Side::Filling).await;
            let _giving = courtesy.turn(Side::Giving).await;
            begun.elapsed()
        });
        let took = took.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(took < PIECE, "it waited for {took:?}");
    }

    #[test]
    fn who_waits_for_another_chunk_server_needs_no_rest() {
        let took = Simulation::new(SimOptions::new(1)).run(async {
            let courtesy = Courtesy::new();
            let _request = courtesy.client();
            let mut turn = courtesy.turn(Side::Filling).await;
            rt::time::sleep(PIECE * 2).await;
            turn.waited(PIECE);
            drop(turn);
            let begun = rt::time::now();
            let _next = courtesy.turn(Side::Filling).await;
            begun.elapsed()
        });
        let took = took.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(took.as_millis(), (PIECE * REST).as_millis());
    }
}
