//! Inodes and their names against a slow and obvious twin, and what a file of millions may cost.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"\xff"];

/// The twin knows entries only: (directory, name) leads to an inode. It has no counts, no places and no orphans.
#[derive(Clone, Debug, Default)]
struct Twin {
    entries: BTreeMap<(u64, Vec<u8>), u64>,
    dirs: BTreeSet<u64>,
}

/// Where something is: a directory as a pick among those that are there or were, and a name.
type At = (u8, u8);

#[derive(Clone, Debug)]
enum NodeStep {
    Make(At, bool),
    Link(u8, At),
    Unlink(At, UnlinkWhat),
    Rename(At, At, RenameMode),
}

impl Twin {
    fn new(root: u64) -> Self {
        Self { entries: BTreeMap::new(), dirs: BTreeSet::from([root]) }
    }

    fn names_of(&self, id: u64) -> usize {
        self.entries.values().filter(|other| **other == id).count()
    }

    fn is_empty(&self, dir: u64) -> bool {
        self.entries.keys().all(|(parent, _)| *parent != dir)
    }

    /// Whether `id` is `dir` or lies below it, from the top down.
    fn is_within(&self, id: u64, dir: u64) -> bool {
        id == dir
            || self.dirs.contains(&dir)
                && self
                    .entries
                    .iter()
                    .any(|((parent, _), child)| *parent == dir && self.is_within(id, *child))
    }

    fn make(&mut self, at: (u64, Vec<u8>), is_dir: bool, id: u64) -> bool {
        let ok = self.dirs.contains(&at.0) && !self.entries.contains_key(&at);
        if ok {
            self.entries.insert(at, id);
            if is_dir {
                self.dirs.insert(id);
            }
        }
        ok
    }

    fn link(&mut self, id: u64, at: (u64, Vec<u8>)) -> bool {
        let ok = self.names_of(id) > 0
            && !self.dirs.contains(&id)
            && self.dirs.contains(&at.0)
            && !self.entries.contains_key(&at);
        if ok {
            self.entries.insert(at, id);
        }
        ok
    }

    fn unlink(&mut self, at: &(u64, Vec<u8>), what: UnlinkWhat) -> bool {
        let Some(id) = self.entries.get(at).copied() else { return false };
        let is_dir = self.dirs.contains(&id);
        let wanted = match what {
            UnlinkWhat::Any => true,
            UnlinkWhat::Directory => is_dir,
            UnlinkWhat::NotADirectory => !is_dir,
        };
        let ok = wanted && self.is_empty(id);
        if ok {
            self.entries.remove(at);
            self.dirs.remove(&id);
        }
        ok
    }

    fn rename(&mut self, from: &(u64, Vec<u8>), to: (u64, Vec<u8>), mode: RenameMode) -> bool {
        let Some(id) = self.entries.get(from).copied() else { return false };
        let target = self.entries.get(&to).copied();
        if !self.dirs.contains(&to.0) || target.is_some() && mode == RenameMode::NoReplace {
            return false;
        }
        if target == Some(id) {
            return true;
        }
        if self.is_within(to.0, id) {
            return false;
        }
        match (target, mode) {
            (None, RenameMode::Exchange) => return false,
            (Some(target), RenameMode::Exchange) => {
                if self.is_within(from.0, target) {
                    return false;
                }
                self.entries.insert(from.clone(), target);
                self.entries.insert(to, id);
                return true;
            }
            (Some(target), _) => {
                let alike = self.dirs.contains(&target) == self.dirs.contains(&id);
                if !alike || !self.is_empty(target) {
                    return false;
                }
                self.dirs.remove(&target);
            }
            (None, _) => {}
        }
        self.entries.remove(from);
        self.entries.insert(to, id);
        true
    }
}

fn any_at() -> impl Strategy<Value = At> {
    (any::<u8>(), 0..NAMES.len() as u8)
}

fn any_step() -> impl Strategy<Value = NodeStep> {
    use NodeStep::*;
    let what =
        prop_oneof![Just(UnlinkWhat::Any), Just(UnlinkWhat::Directory), Just(UnlinkWhat::NotADirectory)];
    let mode = prop_oneof![
        2 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange)
    ];
    prop_oneof![
        5 => (any_at(), any::<bool>()).prop_map(|(at, is_dir)| Make(at, is_dir)),
        3 => (any::<u8>(), any_at()).prop_map(|(id, at)| Link(id, at)),
        3 => (any_at(), what).prop_map(|(at, what)| Unlink(at, what)),
        5 => (any_at(), any_at(), mode).prop_map(|(from, to, mode)| Rename(from, to, mode)),
    ]
}

/// All ids that were ever given out.
struct Ids(Vec<u64>);

impl Ids {
    fn pick(&self, pick: u8) -> u64 {
        self.0[usize::from(pick) % self.0.len()]
    }

    fn at(&self, (dir, name): At) -> (u64, Vec<u8>) {
        (self.pick(dir), NAMES[usize::from(name)].to_vec())
    }
}

fn compare(world: &World, twin: &Twin) -> Result<(), TestCaseError> {
    let tree = world.state.tree();
    prop_assert_eq!(tree.len(), 1 + twin.entries.values().collect::<BTreeSet<_>>().len(), "nothing lives on");
    let mut listed = BTreeMap::new();
    for dir in &twin.dirs {
        let page = world.state.read_dir(*dir, b"", usize::MAX).expect("a directory");
        listed.extend(page.entries.iter().map(|(name, node)| ((*dir, name.to_vec()), node.id.raw())));
        let subdirs = twin.entries.iter().filter(|((above, _), id)| above == dir && twin.dirs.contains(id));
        let nlink = world.state.inode_view(*dir).expect("there").nlink;
        prop_assert_eq!(nlink as usize, 2 + subdirs.count());
    }
    prop_assert_eq!(&listed, &twin.entries);
    for ((dir, name), id) in &twin.entries {
        let node = world.state.lookup_inode(*dir, name).expect("a directory").expect("there");
        prop_assert_eq!(node.id.raw(), *id);
        if !twin.dirs.contains(id) {
            prop_assert_eq!(node.nlink as usize, twin.names_of(*id));
        }
        let path = tree.path_of(node.id);
        prop_assert_eq!(world.state.stat(&path).map(|stat| stat.id), Ok(node.id), "{}", path);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn names_behave_like_a_flat_list_of_entries(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut world = World::new();
        let root = world.state.tree().root().raw();
        let mut twin = Twin::new(root);
        let mut ids = Ids(vec![root]);
        for (number, step) in steps.into_iter().enumerate() {
            let now_ns = number as i64;
            let (outcome, wanted) = match &step {
                NodeStep::Make(at, is_dir) => {
                    let (parent, name) = ids.at(*at);
                    let kind = if *is_dir { NodeKind::Directory } else { NodeKind::File }.into();
                    let op = MakeNode { parent, name: name.clone(), kind, exclusive: true, now_ns, ..MakeNode::default() };
                    let outcome = world.run(CommandOp::MakeNode(op)).outcome;
                    let id = match &outcome {
                        Ok(Outcome::Made(made)) => made.id,
                        _ => 1,
                    };
                    ids.0.extend(outcome.is_ok().then_some(id));
                    (outcome, twin.make((parent, name), *is_dir, id))
                }
                NodeStep::Link(id, at) => {
                    let (id, (parent, name)) = (ids.pick(*id), ids.at(*at));
                    let op = LinkNode { id, parent, name: name.clone(), now_ns };
                    (world.run(CommandOp::LinkNode(op)).outcome, twin.link(id, (parent, name)))
                }
                NodeStep::Unlink(at, what) => {
                    let at = ids.at(*at);
                    let op = UnlinkNode { parent: at.0, name: at.1.clone(), what: (*what).into(), now_ns };
                    (world.run(CommandOp::UnlinkNode(op)).outcome, twin.unlink(&at, *what))
                }
                NodeStep::Rename(from, to, mode) => {
                    let (from, to) = (ids.at(*from), ids.at(*to));
                    let op = RenameNode {
                        parent: from.0,
                        name: from.1.clone(),
                        new_parent: to.0,
                        new_name: to.1.clone(),
                        mode: (*mode).into(),
                        now_ns,
                    };
                    (world.run(CommandOp::RenameNode(op)).outcome, twin.rename(&from, to, *mode))
                }
            };
            prop_assert_eq!(outcome.is_ok(), wanted, "{:?}: {:?}", step, outcome);
            compare(&world, &twin)?;
        }
        let bytes = world.state.encode_snapshot();
        prop_assert!(State::decode_snapshot(&bytes) == Ok(world.state));
    }
}

#[test]
fn a_file_has_so_many_names_and_no_more() {
    let mut world = World::new();
    let op = MakeNode { name: b"f".to_vec(), kind: NodeKind::File.into(), ..MakeNode::default() };
    let Outcome::Made(made) = world.ok(CommandOp::MakeNode(op)) else { panic!() };
    let link = |number: u32| {
        CommandOp::LinkNode(LinkNode { id: made.id, name: format!("{number}").into(), ..LinkNode::default() })
    };
    // Straight into the state: the helper checks everything after each step.
    let mut index = world.state.applied();
    let mut run = |op| {
        index += 1;
        world.state.apply(index, &Command::internal(1, op)).outcome
    };
    for number in 1..65_000 {
        run(link(number)).expect("linked");
    }
    assert!(matches!(run(link(65_000)), Err(Refusal::TooManyLinks(_))));
    let unlink = |name: &[u8]| {
        CommandOp::UnlinkNode(UnlinkNode { name: name.to_vec(), what: 1, ..UnlinkNode::default() })
    };
    let Ok(Outcome::Unlinked(left)) = run(unlink(b"f")) else { panic!() };
    assert_eq!((left.nlink, left.gone), (64_999, false));
    run(link(65_000)).expect("there is room again");
    assert_eq!(world.state.self_check(), Ok(()));
    assert!(State::decode_snapshot(&world.state.encode_snapshot()) == Ok(world.state));
}

#[test]
fn what_was_made_by_path_has_the_times_of_the_log() {
    let mut world = World::new();
    world.apply(Command::internal(
        5,
        CommandOp::MakeDir(MakeDir { path: "/d".into(), parents: false, mode: 0o700 }),
    ));
    let file = CommandOp::CreateFile(CreateFile { path: "/d/f".into(), ..CreateFile::default() });
    world.apply(Command::internal(7, file)).outcome.unwrap();
    let dir = world.state.lookup_inode(0, b"d").unwrap().unwrap();
    let inode::Times { access, data, inode, birth } = dir.times;
    assert_eq!([access, data, inode, birth], [5_000_000, 7_000_000, 7_000_000, 5_000_000]);
    assert_eq!((dir.uid, dir.gid, dir.mode, dir.nlink), (0, 0, 0o700, 2));
}

#[test]
fn commands_by_path_meet_what_mounts_made() {
    let (mut world, a) = World::with_servers(1);
    let make = |world: &mut World, parent: u64, name: &[u8], kind: NodeKind| {
        let op = MakeNode {
            parent,
            name: name.to_vec(),
            kind: kind.into(),
            target: b"to".to_vec(),
            opener: Some(SessionProof { client: a.client, token: a.token }),
            ..MakeNode::default()
        };
        let Outcome::Made(made) = world.ok(CommandOp::MakeNode(op)) else { panic!() };
        made
    };
    let dir = make(&mut world, 0, b"d", NodeKind::Directory).id;
    let file = make(&mut world, dir, b"f\xff", NodeKind::File);
    assert_eq!(file.granted.map(|granted| (granted.file, granted.needs_reconcile)), Some((file.id, false)));
    assert!(matches!(world.phase(file.id), lease::Phase::Exclusive { .. }));
    make(&mut world, dir, b"p", NodeKind::Fifo);
    make(&mut world, dir, b"l", NodeKind::Symlink);
    for (parent, name) in [(dir, b"in"), (0, b"up")] {
        world.ok(CommandOp::LinkNode(LinkNode { id: file.id, parent, name: name.to_vec(), now_ns: 1 }));
    }

    // A file counts once, however many names it has; what has no chunks does not count.
    let tier = AttrChange { tier: Some(1), ..AttrChange::default() };
    let set = |path: &str| {
        CommandOp::SetAttr(SetAttr { path: path.into(), change: Some(tier.clone()), recursive: true })
    };
    assert_eq!(world.ok(set("/d")), Outcome::AttrsChanged(2));
    assert_eq!(world.refused(set("/d/p")), Refusal::NotAFile("/d/p".into()));
    let open = Open { client: a.client, token: a.token, target: Target::path("/d/l"), mode: 1 };
    assert_eq!(world.refused(CommandOp::Open(open)), Refusal::NotAFile("/d/l".into()));
    assert_eq!(world.state.stat("/d/f\u{fffd}ff").unwrap().id.raw(), file.id);
    let rename = Rename { from: "/d/f\u{fffd}ff".into(), to: "/d/in".into(), no_replace: false };
    assert_eq!(
        world.ok(CommandOp::Rename(rename)),
        Outcome::Done(()),
        "two names of one file: nothing is done"
    );

    // All names below go; the file stays with the one elsewhere, and lives on without any.
    let remove = |path: &str| CommandOp::Remove(Remove { path: path.into(), recursive: true });
    let Outcome::Removed(removed) = world.ok(remove("/d")) else { panic!() };
    assert_eq!((removed.entries, removed.orphans), (5, 0));
    assert_eq!((world.state.tree().len(), world.state.inode_view(file.id).unwrap().nlink), (2, 1));
    let Outcome::Removed(removed) = world.ok(remove("/up")) else { panic!() };
    assert_eq!((removed.entries, removed.orphans), (1, 1));
    world.release(a, file.id, true);
    assert_eq!(world.state.tree().len(), 1);
}
