//! Names and attributes through the whole state, and against a slow and obvious twin.

use super::*;
use crate::state::query::StatKind;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn mkdir(path: &str) -> CommandOp {
    CommandOp::MakeDir(MakeDir { path: path.into(), ..Default::default() })
}

fn create(path: &str) -> CommandOp {
    CommandOp::CreateFile(CreateFile { path: path.into(), ..Default::default() })
}

fn remove(path: &str, recursive: bool) -> CommandOp {
    CommandOp::Remove(Remove { path: path.into(), recursive })
}

fn rename(from: &str, to: &str) -> CommandOp {
    CommandOp::Rename(Rename { from: from.into(), to: to.into(), no_replace: false })
}

fn set(path: &str, change: AttrChange, recursive: bool) -> CommandOp {
    CommandOp::SetAttr(SetAttr { path: path.into(), change: Some(change), recursive })
}

fn names(world: &World, path: &str) -> Vec<String> {
    world.state.list(path, None, 100).unwrap().entries.into_iter().map(|entry| entry.name).collect()
}

#[test]
fn parents_are_made_on_request() {
    let mut world = World::new();
    assert_eq!(world.refused(mkdir("/a/b/c")), Refusal::NotFound("/a".into()));
    let with_parents =
        |path: &str| CommandOp::MakeDir(MakeDir { path: path.into(), parents: true, mode: 0o700 });
    let first = world.ok(with_parents("/a/b/c"));
    assert_eq!(world.ok(with_parents("/a/b/c")), first, "it is there already");
    assert_eq!(world.ok(with_parents("/")), Outcome::Created(world.state.tree().root().raw()));
    world.ok(create("/a/f"));
    assert_eq!(world.refused(with_parents("/a/f")), Refusal::NotADirectory("/a/f".into()));
    assert_eq!(world.refused(with_parents("/a/f/g")), Refusal::NotADirectory("/a/f".into()));
    assert_eq!(world.refused(mkdir("/a/b")), Refusal::Exists("/a/b".into()));
    assert_eq!(world.refused(create("/a/b")), Refusal::Exists("/a/b".into()));
}

#[test]
fn bad_paths_change_nothing() {
    let mut world = World::new();
    for path in ["", "a", "/a/../b", "/a//b", "/a/", "/a\0"] {
        assert!(matches!(world.refused(mkdir(path)), Refusal::BadPath(_)), "{path:?}");
        assert!(matches!(world.refused(rename("/x", path)), Refusal::BadPath(_)), "{path:?}");
        assert!(world.state.stat(path).is_err() && world.state.list(path, None, 1).is_err());
    }
    assert_eq!(world.refused(mkdir("/")), Refusal::TopDirectory(()));
    assert_eq!(world.refused(remove("/", true)), Refusal::TopDirectory(()));
    assert_eq!(world.refused(rename("/", "/a")), Refusal::TopDirectory(()));
}

#[test]
fn rename_follows_posix() {
    let mut world = World::new();
    ["/d", "/d/sub", "/e", "/full", "/full/x"].into_iter().for_each(|path| drop(world.ok(mkdir(path))));
    ["/f", "/g"].into_iter().for_each(|path| drop(world.ok(create(path))));
    assert_eq!(world.refused(rename("/none", "/x")), Refusal::NotFound("/none".into()));
    assert_eq!(world.refused(rename("/f", "/e")), Refusal::IsADirectory("/e".into()));
    assert_eq!(world.refused(rename("/e", "/f")), Refusal::NotADirectory("/f".into()));
    assert_eq!(world.refused(rename("/d", "/full")), Refusal::NotEmpty("/full".into()));
    assert_eq!(world.refused(rename("/d", "/d/sub/deep")), Refusal::BelowItself("/d".into()));
    assert_eq!(world.refused(rename("/f", "/g/h")), Refusal::NotADirectory("/g".into()));
    let exists = CommandOp::Rename(Rename { from: "/f".into(), to: "/g".into(), no_replace: true });
    assert_eq!(world.refused(exists), Refusal::Exists("/g".into()));
    world.ok(rename("/f", "/f"));
    world.ok(rename("/f", "/g"));
    world.ok(rename("/d", "/e"));
    world.ok(rename("/g", "/e/sub/g2"));
    assert_eq!(names(&world, "/"), ["e", "full"]);
    assert_eq!(names(&world, "/e/sub"), ["g2"]);
}

#[test]
fn c9_renaming_over_a_file_in_use_leaves_it_to_its_holder() {
    let (mut world, a) = World::with_servers(1);
    let old = world.written_file(a, "/old", 1, 1);
    world.file("/new", 1, 1);
    world.ok(rename("/new", "/old"));
    assert!(world.state.tree().orphans().contains(&FileId::from_raw(old)));
    world.release(a, old, true);
    assert_eq!(world.state.deletions().count(), 1);
}

#[test]
fn directories_are_removed_whole_only_on_request() {
    let (mut world, a) = World::with_servers(1);
    world.ok(CommandOp::MakeDir(MakeDir { path: "/d/e".into(), parents: true, mode: 0o700 }));
    let file = world.written_file(a, "/d/e/f", 1, 1);
    world.ok(create("/d/g"));
    assert_eq!(world.refused(remove("/d", false)), Refusal::NotEmpty("/d".into()));
    let Outcome::Removed(removed) = world.ok(remove("/d", true)) else { panic!() };
    assert_eq!((removed.entries, removed.orphans), (4, 1));
    assert!(names(&world, "/").is_empty());
    assert!(world.state.stat_id(FileId::from_raw(file)).unwrap().path.starts_with("(unlinked"));
}

#[test]
fn listings_come_in_pages() {
    let mut world = World::new();
    world.ok(mkdir("/d"));
    (0..25).for_each(|n| drop(world.ok(create(&format!("/d/f{n:02}")))));
    let mut seen = Vec::new();
    loop {
        let page = world.state.list("/d", seen.last().map(String::as_str), 10).unwrap();
        assert!(page.entries.len() <= 10);
        seen.extend(page.entries.into_iter().map(|entry| entry.name));
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|n| format!("f{n:02}")).collect::<Vec<_>>());
    assert_eq!(names(&world, "/d/f07"), ["f07"], "a file lists itself");
}

#[test]
fn attributes_are_inherited_at_creation() {
    let mut world = World::new();
    let tier = |tier| AttrChange { tier: Some(tier), ..Default::default() };
    let three =
        AttrChange { replicas: Some(ReplicaChange { normal: 3, minimum: None }), ..Default::default() };
    world.ok(mkdir("/d"));
    world.ok(create("/d/before"));
    world.ok(set("/", three, false));
    world.ok(set("/d", tier(2), false));
    world.ok(mkdir("/d/sub"));
    world.ok(create("/d/sub/after"));
    let attrs = |world: &World, path: &str| world.state.stat(path).unwrap().attrs;
    assert_eq!((attrs(&world, "/d/before").tier, attrs(&world, "/d/before").replicas.normal), (0, 1));
    let after = attrs(&world, "/d/sub/after");
    assert_eq!((after.tier, after.replicas.normal, after.replicas.minimum), (2, 3, 2));

    world.ok(set("/d/sub", tier(3), false));
    assert_eq!(world.ok(set("/d", tier(1), true)), Outcome::AttrsChanged(4));
    for path in ["/d", "/d/before", "/d/sub", "/d/sub/after"] {
        assert_eq!(attrs(&world, path).tier, 1, "{path}");
    }
    let StatKind::Dir { explicit, .. } = world.state.stat("/d/sub").unwrap().kind else { panic!() };
    assert!(explicit.is_empty(), "it follows /d again");
}

#[test]
fn the_chunk_size_of_a_file_is_fixed() {
    let mut world = World::new();
    let size = |chunk_size| AttrChange { chunk_size: Some(chunk_size), ..Default::default() };
    world.ok(mkdir("/d"));
    world.ok(create("/d/f"));
    assert_eq!(world.refused(set("/d/f", size(1 << 20), false)), Refusal::ChunkSizeFixed("/d/f".into()));
    world.ok(set("/d/f", size(64 << 20), false));
    world.ok(set("/d", size(1 << 20), true));
    world.ok(create("/d/g"));
    let chunk_size = |path: &str| world.state.stat(path).unwrap().attrs.chunk_size;
    assert_eq!((chunk_size("/d/f"), chunk_size("/d/g")), (64 << 20, 1 << 20));
    let coded = AttrChange { encoding: Some("5+2".into()), ..Default::default() };
    assert_eq!(world.refused(set("/d", coded, true)), Refusal::EncodingUnsupported("5+2".into()));
}

/// The twin: a flat map from path to what is there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Twin(BTreeMap<String, bool>);

impl Twin {
    fn is_dir(&self, path: &str) -> bool {
        path == "/" || self.0.get(path) == Some(&true)
    }

    fn below(path: &str) -> String {
        if path == "/" { path.to_owned() } else { format!("{path}/") }
    }

    fn has_children(&self, path: &str) -> bool {
        self.0.keys().any(|other| other.starts_with(&Self::below(path)))
    }

    fn parent_is_dir(&self, path: &str) -> bool {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.is_dir(if parent.is_empty() { "/" } else { parent })
    }

    fn add(&mut self, path: &str, is_dir: bool) -> bool {
        let ok = path != "/" && self.parent_is_dir(path) && !self.0.contains_key(path);
        if ok {
            self.0.insert(path.to_owned(), is_dir);
        }
        ok
    }

    fn remove(&mut self, path: &str, recursive: bool) -> bool {
        let ok = self.0.contains_key(path) && (recursive || !self.has_children(path));
        if ok {
            self.0.retain(|other, _| other != path && !other.starts_with(&Self::below(path)));
        }
        ok
    }

    fn rename(&mut self, from: &str, to: &str) -> bool {
        if from == "/" || to == "/" || !self.0.contains_key(from) || !self.parent_is_dir(to) {
            return false;
        }
        if from == to {
            return true;
        }
        let replaceable = match self.0.get(to) {
            None => true,
            Some(is_dir) => *is_dir == self.is_dir(from) && !self.has_children(to),
        };
        if to.starts_with(&Self::below(from)) || !replaceable {
            return false;
        }
        let moved: Vec<_> = self
            .0
            .iter()
            .filter(|(path, _)| *path == from || path.starts_with(&Self::below(from)))
            .map(|(path, is_dir)| (path.clone(), *is_dir))
            .collect();
        self.0.retain(|path, _| path != from && !path.starts_with(&Self::below(from)));
        self.0.extend(moved.into_iter().map(|(path, is_dir)| (to.to_owned() + &path[from.len()..], is_dir)));
        true
    }
}

/// The tree of the state in the twin's form.
fn flat(world: &World) -> Twin {
    let tree = world.state.tree();
    let entry = |(id, inode): (FileId, &inode::Inode)| {
        inode.place.as_ref().map(|_| (tree.path_of(id), tree.dir(id).is_some()))
    };
    Twin(tree.iter().filter_map(entry).collect())
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["a", "b", "c"], 0..4).prop_map(|names| format!("/{}", names.join("/")))
}

#[derive(Clone, Debug)]
enum NameStep {
    MakeDir(String),
    Create(String),
    Remove(String, bool),
    Rename(String, String),
}

fn any_step() -> impl Strategy<Value = NameStep> {
    prop_oneof![
        3 => any_path().prop_map(NameStep::MakeDir),
        3 => any_path().prop_map(NameStep::Create),
        1 => (any_path(), any::<bool>()).prop_map(|(path, recursive)| NameStep::Remove(path, recursive)),
        4 => (any_path(), any_path()).prop_map(|(from, to)| NameStep::Rename(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_tree_behaves_like_a_flat_list_of_paths(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::new();
        let mut twin = Twin::default();
        for step in steps {
            let (op, wanted) = match &step {
                NameStep::MakeDir(path) => (mkdir(path), twin.add(path, true)),
                NameStep::Create(path) => (create(path), twin.add(path, false)),
                NameStep::Remove(path, recursive) => (remove(path, *recursive), twin.remove(path, *recursive)),
                NameStep::Rename(from, to) => (rename(from, to), twin.rename(from, to)),
            };
            let outcome = world.run(op).outcome;
            prop_assert_eq!(outcome.is_ok(), wanted, "{:?}: {:?}", step, outcome);
            prop_assert_eq!(flat(&world), twin.clone(), "after {:?}", step);
        }
    }
}
