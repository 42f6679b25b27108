//! States that must not be: [`State::self_check`] has to find what is wrong with each.

use super::*;
use crate::state::chunk::MemberState;
use crate::state::inode::File;
use crate::state::invariants::InvariantViolation as V;
use crate::state::lease::{Lease, Phase};
use crate::state::servers::Registration;

/// A state with a file being fenced, one in use, chunks being created, deleted and owed fences.
fn sound() -> (State, FileId) {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 2);
    let fencing = world.written_file(a, "/fencing", 1, 3);
    world.release(a, fencing, false);
    world.lapse(3);
    world.fencing(World::open_op(a, fencing, LeaseMode::Exclusive));
    let creating = world.file("/creating", 2, 2);
    world.open(a, creating);
    world.allocate(a, creating, &[0]);
    assert_eq!(world.state.self_check(), Ok(()));
    (world.state, FileId::from_raw(file))
}

fn file_mut(state: &mut State, id: FileId) -> &mut File {
    state.tree.file_mut(id).unwrap()
}

fn by_path(state: &State, path: &str) -> FileId {
    state.stat(path).unwrap().id
}

type Breakage = (&'static str, fn(&mut State, FileId), fn(&V) -> bool);

fn lease_breakages() -> Vec<Breakage> {
    vec![
        (
            "two writers' worth of readers",
            |state, id| {
                let readers = vec![ClientId(2049), ClientId(2049)];
                let phase = Phase::Shared { readers, unclean: false };
                file_mut(state, id).lease = Lease::restore(Epoch::new(1, 1), phase, None, vec![]);
            },
            |v| matches!(v, V::Lease { .. }),
        ),
        (
            "a lease of nobody's session",
            |state, id| {
                let phase = Phase::Exclusive { holder: ClientId(2099) };
                file_mut(state, id).lease = Lease::restore(Epoch::new(1, 1), phase, None, vec![]);
            },
            |v| matches!(v, V::Holding { .. }),
        ),
        (
            "a session that thinks it holds",
            |state, id| {
                file_mut(state, id).lease = Lease::restore(Epoch::new(1, 1), Phase::Idle, None, vec![]);
            },
            |v| matches!(v, V::Holding { .. }),
        ),
        (
            "an epoch of a later generation",
            |state, id| {
                let phase = file_mut(state, id).lease.phase().clone();
                file_mut(state, id).lease = Lease::restore(Epoch::new(2, 1), phase, None, vec![]);
            },
            |v| matches!(v, V::Lease { .. }),
        ),
        (
            "a fence that is forgotten",
            |state, _| state.fencing.clear(),
            |v| matches!(v, V::FencingList { .. }),
        ),
        (
            "a fence on a lapsed server",
            |state, _| {
                let server = state.servers.get_mut(CsId(1025)).unwrap();
                server.registration = Registration::Lapsed;
            },
            |v| matches!(v, V::FenceOnLapsed { .. }),
        ),
        (
            "a debt nobody made",
            |state, id| {
                let server = state.servers.get_mut(CsId(1027)).unwrap();
                server.debts.insert(id, Epoch::new(1, 99));
            },
            |v| matches!(v, V::WrongDebt { .. }),
        ),
        (
            "a server that serves with debts",
            |state, _| {
                let server = state.servers.get_mut(CsId(1027)).unwrap();
                server.registration = Registration::Serving;
            },
            |v| matches!(v, V::Table(_)),
        ),
    ]
}

fn chunk_breakages() -> Vec<Breakage> {
    vec![
        (
            "a chunk in two files",
            |state, id| {
                let entry = file_mut(state, id).chunks.get(0).unwrap().clone();
                let other = by_path(state, "/fencing");
                let mut parts = entry.to_parts();
                file_mut(state, other).chunks.split_off(0);
                parts.index = 0;
                file_mut(state, other).chunks.insert(chunk::ChunkEntry::from_parts(parts).unwrap());
            },
            |v| matches!(v, V::ChunkTwice { .. }),
        ),
        (
            "a chunk beyond the end",
            |state, id| file_mut(state, id).size = 1,
            |v| matches!(v, V::BeyondEnd { .. }),
        ),
        (
            "an id from nowhere",
            |state, _| state.cluster.next_chunk = 2,
            |v| matches!(v, V::IdNotMinted { .. }),
        ),
        (
            "two replicas on one host",
            |state, id| {
                let members = file_mut(state, id).chunks.get(0).unwrap().members().clone();
                for member in members.iter() {
                    state.servers.get_mut(member.cs).unwrap().host = "one".into();
                }
            },
            |v| matches!(v, V::Placement { .. }),
        ),
        (
            "a replica used and deleted",
            |state, id| {
                let entry = file_mut(state, id).chunks.get(0).unwrap().clone();
                state.deletions.add(id, &entry, 0);
            },
            |v| matches!(v, V::DeletedInUse { .. }),
        ),
        (
            "a creation that is forgotten",
            |state, _| state.creating.clear(),
            |v| matches!(v, V::CreatingList { .. }),
        ),
        (
            "a creation nobody asked for",
            |state, id| {
                file_mut(state, id).chunks.update(1, |entry| {
                    let cs = entry.members().iter().next().unwrap().cs;
                    entry.members_mut().set_state(cs, MemberState::Creating);
                });
            },
            |v| matches!(v, V::CreatingList { .. }),
        ),
        (
            "a wrong count of replicas",
            |state, _| state.servers.get_mut(CsId(1026)).unwrap().replicas += 1,
            |v| matches!(v, V::Count { .. }),
        ),
        (
            "a stale replica that is not counted",
            |state, id| {
                file_mut(state, id).chunks.update(1, |entry| {
                    let cs = entry.members().iter().next().unwrap().cs;
                    entry.members_mut().set_state(cs, MemberState::Stale);
                });
            },
            |v| matches!(v, V::Count { .. }),
        ),
        (
            "a file that hangs nowhere",
            |state, _| {
                let root = state.tree.root();
                state.tree.leave(root, b"f", 0);
            },
            |v| matches!(v, V::Tree { .. }),
        ),
        (
            "a name that leads nowhere",
            |state, _| {
                let root = state.tree.root();
                state.tree.dir_mut(root).unwrap().children.insert(b"g".as_slice().into(), FileId::new(1, 2));
            },
            |v| matches!(v, V::Count { .. }),
        ),
        (
            "a directory that lists one too few",
            |state, _| {
                let root = state.tree.root();
                state.tree.dir_mut(root).unwrap().children.remove(b"f".as_slice());
            },
            |v| matches!(v, V::Tree { .. }),
        ),
        (
            "a wrong count of directories",
            |state, _| {
                let root = state.tree.root();
                state.tree.dir_mut(root).unwrap().subdirs += 1;
            },
            |v| matches!(v, V::Count { .. }),
        ),
        (
            "directories that hang in each other",
            |state, _| {
                let (one, two) = (state.cluster.mint_file(), state.cluster.mint_file());
                let root = state.tree.root();
                let dir = || inode::Inode::new(0, 0, inode::Body::Dir(Box::default()));
                state.tree.plant(one, dir(), root, b"one", 0);
                state.tree.plant(two, dir(), one, b"two", 0);
                state.tree.leave(root, b"one", 0);
                state.tree.enter(one, two, b"one", 0);
            },
            |v| matches!(v, V::Count { .. }),
        ),
    ]
}

#[test]
fn what_is_broken_is_found() {
    for (name, break_it, found) in lease_breakages().into_iter().chain(chunk_breakages()) {
        let (mut state, id) = sound();
        break_it(&mut state, id);
        match state.self_check() {
            Err(violation) if found(&violation) => assert!(!violation.to_string().is_empty()),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn going_back_is_found() {
    let (state, id) = sound();
    let mut back = state.clone();
    let phase = file_mut(&mut back, id).lease.phase().clone();
    file_mut(&mut back, id).lease = Lease::restore(Epoch::ZERO, phase, None, vec![]);
    assert!(matches!(back.check_progress(&state), Err(V::EpochBack { .. })));
    let mut back = state.clone();
    let mut parts = file_mut(&mut back, id).chunks.split_off(0).remove(0).to_parts();
    parts.version = Version::ZERO;
    file_mut(&mut back, id).chunks.insert(chunk::ChunkEntry::from_parts(parts).unwrap());
    assert!(matches!(back.check_progress(&state), Err(V::VersionBack { .. })));
}
