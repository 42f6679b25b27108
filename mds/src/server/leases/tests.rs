//! Tests of how leases are asked for.

use super::*;
use crate::state::Command;
use crate::state::Secret;
use crate::state::command::{
    AllocateChunks, ChunkCreated, CloseSession, CreateFile, ExpireSession, FencesRecorded, InitCluster,
    OpenSession, RegisterCs,
};

/// A cluster with one chunk server, one file of one chunk, and two clients.
struct World {
    state: State,
    number: u64,
    file: FileId,
    cs_session: u64,
    sessions: [u64; 2],
}

const ONE: usize = 0;
const TWO: usize = 1;

fn secret(n: u64) -> Secret {
    Secret { high: 1, low: n }
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { state: State::new(), number: 0, file: FileId::ZERO, cs_session: 0, sessions: [0; 2] };
        world.apply(CommandOp::InitCluster(InitCluster { uuid: vec![1; 16], name: "stor1".into() }));
        let Outcome::CsRegistered(registered) = world.apply(CommandOp::RegisterCs(RegisterCs {
            cs_uuid: vec![2; 16],
            new_nonce: secret(9),
            boot_id: vec![3; 16],
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
            ..RegisterCs::default()
        })) else {
            panic!("registered")
        };
        world.cs_session = registered.session;
        world.fences_recorded(Vec::new());
        let file = world.apply(CommandOp::CreateFile(CreateFile {
            path: "/f".into(),
            size: 1 << 20,
            attrs: None,
            mode: 0o600,
        }));
        let Outcome::Created(file) = file else { panic!("created") };
        world.file = FileId::from_raw(file);
        for client in [ONE, TWO] {
            let opened = world.apply(CommandOp::OpenSession(OpenSession {
                client_uuid: vec![10 + client as u8; 16],
                new_token: secret(client as u64),
                ..OpenSession::default()
            }));
            let Outcome::Session(opened) = opened else { panic!("opened") };
            world.sessions[client] = opened.session;
        }
        world
    }

    fn apply(&mut self, op: CommandOp) -> Outcome {
        self.number += 1;
        self.state.apply(self.number, &Command::internal(5, op)).outcome.unwrap()
    }

    fn fences_recorded(&mut self, fences: Vec<crate::state::command::FenceRecord>) {
        let session = self.cs_session;
        self.apply(CommandOp::FencesRecorded(FencesRecorded { cs: 1025, session, fences }));
    }

    fn holder(client: usize) -> Holder {
        Holder { client: 2049 + client as u32, token: secret(client as u64) }
    }

    fn wish(&self, client: usize, mode: LeaseMode, resume: u64) -> Wish {
        Wish { holder: Self::holder(client), file: self.file, mode, resume: Epoch::from_raw(resume) }
    }

    fn next(&self, client: usize, mode: LeaseMode, resume: u64) -> Result<Step, Refusal> {
        self.wish(client, mode, resume).next(&self.state)
    }

    /// Asks as long as there is something to ask; records fences where that is waited for. Gives the epoch.
    fn obtain(&mut self, client: usize, mode: LeaseMode, resume: u64) -> u64 {
        loop {
            match self.next(client, mode, resume).unwrap() {
                Step::Ask(op) => {
                    if let Outcome::Granted(granted) = self.apply(op) {
                        return granted.epoch;
                    }
                }
                Step::Wait(waiting) => {
                    assert_eq!(waiting, [CsId(1025)]);
                    self.record();
                }
                Step::Held(held) => panic!("{held:?}"),
            }
        }
    }

    /// The chunk server records the epoch that is prepared.
    fn record(&mut self) {
        let epoch = self.epoch().raw();
        let file = self.file.raw();
        self.fences_recorded(vec![crate::state::command::FenceRecord { file, epoch }]);
    }

    fn epoch(&self) -> Epoch {
        self.state.tree().file(self.file).unwrap().lease().epoch()
    }

    /// The writer allocates the chunk, and it is created.
    fn write(&mut self, client: usize) {
        let Holder { client, token } = Self::holder(client);
        let lease = Some(LeaseProof { client, token, epoch: self.epoch().raw() });
        let op = AllocateChunks { lease, file: self.file.raw(), indices: vec![0], seed: 1, grow_to: 0 };
        let Outcome::Allocated(allocated) = self.apply(CommandOp::AllocateChunks(op)) else {
            panic!("allocated")
        };
        let chunks = allocated.chunks.iter().map(|place| place.chunk).collect();
        self.apply(CommandOp::ChunkCreated(ChunkCreated { cs: 1025, session: self.cs_session, chunks }));
    }
}

use LeaseMode::{Exclusive, Shared};

#[test]
fn c1_a_file_nobody_has_is_asked_for() {
    let mut world = World::new();
    assert!(matches!(world.next(ONE, Exclusive, 0), Ok(Step::Ask(CommandOp::Open(_)))));
    let epoch = world.obtain(ONE, Exclusive, 0);
    match world.next(TWO, Exclusive, 0) {
        Ok(Step::Held(held)) => assert_eq!((held.by, held.reserved), (vec![2049], false)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(world.next(ONE, Shared, 0), Ok(Step::Held(_))), "not in another mode");
    assert_eq!(world.epoch().raw(), epoch);
}

#[test]
fn c2_a_writer_that_opens_what_it_holds_gets_a_higher_epoch_after_a_fence() {
    for resumes in [true, false] {
        let mut world = World::new();
        let first = world.obtain(ONE, Exclusive, 0);
        world.write(ONE);
        let resume = if resumes { first } else { 0 };
        let Ok(Step::Ask(op @ CommandOp::Resume(_))) = world.next(ONE, Exclusive, resume) else {
            panic!("asked back")
        };
        assert!(matches!(world.apply(op), Outcome::Fencing(_)));
        assert_eq!(world.next(ONE, Exclusive, resume), Ok(Step::Wait(vec![CsId(1025)])));
        // Nobody comes in between.
        match world.next(TWO, Exclusive, 0) {
            Ok(Step::Held(held)) => assert_eq!((held.by, held.reserved), (vec![2049], true)),
            other => panic!("{other:?}"),
        }
        let second = world.obtain(ONE, Exclusive, resume);
        assert!(second > first);
        let unreconciled = world.state.tree().file(world.file).unwrap().chunks().unreconciled();
        assert_eq!(unreconciled, 1, "its own unflushed writes are to be reconciled (C5)");
    }
}

#[test]
fn c1_an_answer_that_was_lost_is_given_again() {
    let mut world = World::new();
    let first = world.obtain(ONE, Exclusive, 0);
    let second = world.obtain(ONE, Exclusive, first);
    assert!(second > first);
    assert_eq!(world.obtain(ONE, Exclusive, first), second, "the epoch of the lost answer");
    assert!(world.obtain(ONE, Exclusive, second) > second);
}

#[test]
fn c1_an_expired_lease_comes_back_only_if_nobody_had_it_since() {
    let mut world = World::new();
    let first = world.obtain(ONE, Exclusive, 0);
    world.write(ONE);
    let session = world.sessions[ONE];
    world.apply(CommandOp::ExpireSession(ExpireSession { client: 2049, session }));
    assert_eq!(world.next(ONE, Exclusive, first), Err(Refusal::NoSession(2049)));
    // The same process again, with the token it has.
    world.apply(CommandOp::OpenSession(OpenSession {
        client_uuid: vec![10; 16],
        stored_token: secret(ONE as u64),
        new_token: secret(77),
        ..OpenSession::default()
    }));
    let holder = Holder { client: 2049, token: secret(77) };
    let wish = Wish { holder, ..world.wish(ONE, Exclusive, first) };
    assert!(matches!(wish.next(&world.state), Ok(Step::Ask(CommandOp::Resume(_)))));
    // Somebody else is quicker, and leaves again.
    let second = world.obtain(TWO, Exclusive, 0);
    assert!(second > first);
    assert!(matches!(wish.next(&world.state), Err(Refusal::ResumeLost(_))));
    world.apply(CommandOp::CloseSession(CloseSession { client: 2050, token: secret(TWO as u64) }));
    assert!(matches!(wish.next(&world.state), Err(Refusal::ResumeLost(_))));
    let fresh = Wish { resume: Epoch::ZERO, ..wish };
    assert!(matches!(fresh.next(&world.state), Ok(Step::Ask(CommandOp::Open(_)))));
}

#[test]
fn readers_share_an_epoch_and_keep_it() {
    let mut world = World::new();
    let first = world.obtain(ONE, Shared, 0);
    assert_eq!(world.obtain(TWO, Shared, 0), first);
    assert!(matches!(world.next(ONE, Shared, 0), Ok(Step::Ask(CommandOp::Open(_)))), "nothing to reconcile");
    assert_eq!(world.obtain(ONE, Shared, 0), first);
    assert_eq!(world.obtain(ONE, Shared, first), first, "the other one keeps the epoch alive");
    assert!(matches!(world.next(ONE, Exclusive, 0), Ok(Step::Held(_))));
}

#[test]
fn c5_a_reader_that_reconciles_does_not_get_its_epoch_twice() {
    let mut world = World::new();
    world.obtain(ONE, Exclusive, 0);
    world.write(ONE);
    world.apply(CommandOp::CloseSession(CloseSession { client: 2049, token: secret(ONE as u64) }));
    let first = world.obtain(TWO, Shared, 0);
    assert!(world.obtain(TWO, Shared, 0) > first);
}

#[test]
fn strangers_get_nothing() {
    let world = World::new();
    let wish = world.wish(ONE, Exclusive, 0);
    let wrong = Wish { holder: Holder { token: secret(99), ..wish.holder }, ..wish };
    assert_eq!(wrong.next(&world.state), Err(Refusal::WrongToken(2049)));
    let nobody = Wish { holder: Holder { client: 7, ..wish.holder }, ..wish };
    assert_eq!(nobody.next(&world.state), Err(Refusal::NoSession(7)));
    let nothing = Wish { file: FileId::from_raw(7), ..wish };
    assert_eq!(nothing.next(&world.state), Err(Refusal::UnknownFile(7)));
    assert!(matches!(world.next(ONE, Exclusive, 5), Err(Refusal::ResumeLost(_))), "it never had it");
}

#[test]
fn an_opened_file_is_never_read_as_shorter_than_it_is() {
    let mut world = World::new();
    let id = world.file;
    let map = |world: &World, count| first_positions(&world.state, id, count).unwrap();
    assert_eq!((map(&world, 16).chunks.len(), map(&world, 16).next_index), (0, 0), "one hole");
    let resize =
        command::Resize { target: Target::file(id.raw()), size: 200 << 26, lease: None, allow_shrink: false };
    world.apply(CommandOp::Resize(resize));
    assert_eq!(map(&world, 16).next_index, 16);
    assert_eq!(map(&world, 200).next_index, 0);
    world.obtain(ONE, Exclusive, 0);
    world.write(ONE);
    assert_eq!(map(&world, 16).chunks.len(), 1);
    let shown = shown::map(&world.state, id, 100, 50).unwrap();
    assert_eq!((shown.chunks.len(), shown.next_index), (0, 0), "all that was asked for");
    let shown = shown::map(&world.state, id, u64::MAX, 50).unwrap();
    assert_eq!((shown.chunks.len(), shown.next_index), (0, 0), "beyond every end");
}
