//! Mounts that change names while the metadata server is killed and switched off: every change is carried out exactly once,
//! however often it is sent, and none that was answered is lost (C11, C12).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use link::{AskError, ClusterAuthority, ClusterId, Credentials, Expect, Keep, Master, Roles, Security};
use mds::server::{ServerOptions, create, run_server};
use rt::random::Rng;
use rt::sim::control::{self, PeerView};
use rt::sim::{HostOptions, SimOptions, Simulation};
use wire::hello::Role;
use wire::inode::{
    Link, MakeNode, ReadDir, RenameEntry, RenameMode, SetInode, SetXattr, SizeChange, Unlink, UnlinkWhat,
    XattrMode,
};
use wire::namespace::FileKind;
use wire::session::{OpenSession, SessionKey};
use wire::{Call, Status};

use super::{DIR, endpoint, nap};

const MOUNTS: usize = 2;
const CHANGES: u64 = 60;

/// What a mount knows of its directory, which nobody else changes: the inode and size of each name.
type Model = BTreeMap<Vec<u8>, (u64, u64)>;

struct Mount {
    master: Master,
    session: SessionKey,
    dir: u64,
    model: Model,
    requests: u64,
}

/// Sends a change until it is answered, under one id.
async fn insist<C: Call>(master: &Master, id: u64, call: &C) -> Result<C::Reply, Status> {
    loop {
        match master.ask_as(id, call, rt::time::now() + Duration::from_millis(800)).await {
            Ok(reply) => return Ok(reply),
            Err(AskError::Status { status, .. }) if status.errno() != 5 && status != Status::Retry => {
                return Err(status);
            }
            Err(_) => {}
        }
    }
}

impl Mount {
    async fn start(number: usize, credentials: Credentials, mds: SocketAddr) -> Self {
        let mds = link::ServerAddress { host: mds.ip().to_string(), port: mds.port() };
        let expect = Keep::new(Expect::role(Role::Mds));
        let master = Master::new(&endpoint(credentials, Role::Client), vec![mds], expect);
        let open = OpenSession { client_uuid: vec![number as u8 + 1; 16], ..OpenSession::default() };
        let id = 1 << 40 | rt::random::below(1 << 40);
        let session = insist(&master, id, &open).await.expect("a session").session;
        let call = MakeNode {
            session: session.clone(),
            name: format!("mount{number}").into(),
            kind: FileKind::Directory.into(),
            exclusive: true,
            ..MakeNode::default()
        };
        let dir = insist(&master, 1, &call).await.expect("made").inode.id;
        Self { master, session, dir, model: Model::new(), requests: 1 }
    }

    async fn change<C: Call>(&mut self, call: C) -> Result<C::Reply, Status> {
        self.requests += 1;
        insist(&self.master, self.requests, &call).await
    }

    /// One change at random, whose answer must be what the model says.
    async fn step(&mut self) {
        let name = |number: u64| vec![b'a' + number as u8];
        let (one, two) = (name(rt::random::below(4)), name(rt::random::below(4)));
        let (session, parent, now_ns) = (self.session.clone(), self.dir, 1);
        match rt::random::below(6) {
            0 | 1 => {
                let kind = FileKind::File.into();
                let call = MakeNode {
                    session,
                    parent,
                    name: one.clone(),
                    kind,
                    exclusive: true,
                    ..MakeNode::default()
                };
                match self.change(call).await {
                    Ok(made) => {
                        assert!(made.created && self.model.insert(one, (made.inode.id, 0)).is_none());
                    }
                    Err(status) => {
                        assert!(status == Status::AlreadyExists && self.model.contains_key(&one), "{status}");
                    }
                }
            }
            2 => {
                let what = UnlinkWhat::NotADirectory.into();
                let answer = self.change(Unlink { session, parent, name: one.clone(), what, now_ns }).await;
                let known = self.model.remove(&one);
                assert_eq!(answer.map(|gone| gone.id), known.map(|(id, _)| id).ok_or(Status::NotFound));
            }
            3 => {
                let (name, new_parent, mode) = (one.clone(), parent, RenameMode::Replace.into());
                let call =
                    RenameEntry { session, parent, name, new_parent, new_name: two.clone(), mode, now_ns };
                let answer = self.change(call).await;
                match self.model.get(&one).copied() {
                    None => assert_eq!(answer.map(drop), Err(Status::NotFound)),
                    Some(node) => {
                        assert_eq!(answer.map(|renamed| renamed.id), Ok(node.0));
                        // Two names of one inode: nothing is done.
                        if self.model.get(&two).is_none_or(|other| other.0 != node.0) {
                            self.model.remove(&one);
                            self.model.insert(two, node);
                        }
                    }
                }
            }
            4 => {
                let Some((id, _)) = self.model.get(&one).copied() else { return };
                let answer = self.change(Link { session, id, parent, name: two.clone(), now_ns }).await;
                let taken = self.model.contains_key(&two);
                assert_eq!(answer.map(drop), if taken { Err(Status::AlreadyExists) } else { Ok(()) });
                let node = self.model[&one];
                self.model.entry(two).or_insert(node);
            }
            _ => {
                let Some((id, size)) = self.model.get(&one).copied() else { return };
                let size = SizeChange { size: size + 1 + rt::random::below(9), epoch: 0, grow_only: false };
                let call = SetInode { session: session.clone(), id, size: Some(size), ..SetInode::default() };
                assert_eq!(self.change(call).await.expect("changed").inode.size, size.size);
                self.model.values_mut().filter(|node| node.0 == id).for_each(|node| node.1 = size.size);
                let (name, mode) = (b"user.size".to_vec(), XattrMode::Any.into());
                let value = size.size.to_le_bytes().to_vec();
                self.change(SetXattr { session, id, name, value, mode, now_ns }).await.expect("set");
            }
        }
    }

    async fn compare(&self) {
        let call = ReadDir { id: self.dir, ..ReadDir::default() };
        let page = insist(&self.master, link::OWN_IDS - 1, &call).await.expect("listed");
        let found: Model = page
            .entries
            .iter()
            .map(|entry| (entry.name.clone(), (entry.inode.id, entry.inode.size)))
            .collect();
        assert_eq!(found, self.model);
        for (id, _) in found.values() {
            let names = found.values().filter(|node| node.0 == *id).count();
            let linked =
                page.entries.iter().find(|entry| entry.inode.id == *id).map(|entry| entry.inode.nlink);
            assert_eq!(linked, Some(names as u32));
        }
    }
}

/// Gives how often the metadata server was started again.
fn run(seed: u64) -> u64 {
    let mut simulation = Simulation::new(SimOptions::new(seed));
    let outcome = simulation.run(async move {
        let mut rng = Rng::from_seed(seed);
        let authority = ClusterAuthority::create("sim", ClusterId::random()).expect("a good name");
        let credentials = || authority.issue("node", "00", Roles::ALL).expect("good names");
        let host = control::add_host(HostOptions::new("mds"));
        let address = SocketAddr::new(control::host_ip(host), 2510);
        let cluster = authority.cluster().0;
        let made = control::start_process(host, "make", async move {
            create(Path::new(DIR), cluster, "sim", address).await.expect("made");
        });
        made.wait().await.returned();
        let start = || {
            let credentials = credentials();
            let mut options = ServerOptions { security: Security::simulated(), ..ServerOptions::default() };
            // Nobody renews; and snapshots as often as may be.
            options.lease_term = Some(Duration::from_secs(3600));
            options.consensus.snapshot_entries = 25;
            control::start_process(host, "mds", async move {
                let ended = run_server(Path::new(DIR), credentials, address, options).await;
                panic!("the metadata server: {}", ended.expect_err("it never ends well"));
            })
        };
        let mut server = start();
        let mut restarts = 0;
        let done = Rc::new(Cell::new(0));
        let mut mounts = Vec::new();
        for number in 0..MOUNTS {
            let (credentials, done) = (credentials(), Rc::clone(&done));
            let client = control::add_host(HostOptions::new("client"));
            let mount = async move {
                let mut mount = Mount::start(number, credentials, address).await;
                for _ in 0..CHANGES {
                    mount.step().await;
                    nap(60).await;
                }
                mount.compare().await;
                done.set(done.get() + 1);
            };
            mounts.push(control::start_process(client, "mount", mount));
        }
        while done.get() < MOUNTS {
            nap(900).await;
            if rng.one_in(2) {
                control::kill(server.id());
            } else {
                control::power_cut(&[host], PeerView::Silence);
                nap(300).await;
                control::power_on(host);
            }
            server = start();
            restarts += 1;
        }
        restarts
    });
    outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"))
}

#[test]
fn c11_c12_names_change_exactly_once() {
    let restarts: u64 = (1..=20).map(run).sum();
    assert!(restarts > 60, "too few restarts: {restarts}");
}
