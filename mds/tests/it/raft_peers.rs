//! Three members: what one answered, the others have.
//!
//! The messages go through the real encoding; what carries them is a table of the members and a delay.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use mds::raft::{Consensus, Options, Peer, PeerAnswer, PeerError, PeerTransport, ProposeError, RpcError};
use rt::random::Rng;
use rt::sim::control::{self, PeerView, Process};
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};

use crate::raft_ledger::{Group, Ledger, small};

/// The members that run, by id.
#[derive(Default)]
struct Table(RefCell<BTreeMap<u64, Group>>);

/// Carries messages from one member.
struct Carrier(Rc<Table>);

#[derive(Clone, Copy)]
enum Call {
    Append,
    Vote,
    Snapshot,
}

impl Carrier {
    fn carry<'a>(&'a self, call: Call, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a> {
        let table = Rc::clone(&self.0);
        let unreachable = || PeerError::Unreachable { node: peer.node, address: peer.address.clone() };
        Box::pin(async move {
            let work = async {
                rt::time::sleep(Duration::from_micros(100 + rt::random::below(900))).await;
                let target = table.0.borrow().get(&peer.node).cloned().ok_or_else(unreachable)?;
                let answer = match call {
                    Call::Append => target.append_entries(&body).await,
                    Call::Vote => target.vote(&body).await,
                    Call::Snapshot => target.install_snapshot(&body).await,
                };
                drop(target);
                answer.map_err(|error: RpcError| PeerError::Refused {
                    node: peer.node,
                    reason: error.to_string(),
                })
            };
            let late = PeerError::TimedOut { node: peer.node, after: within };
            rt::time::timeout(within, work).await.unwrap_or(Err(late))
        })
    }
}

impl PeerTransport for Carrier {
    fn append_entries<'a>(&'a self, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a> {
        self.carry(Call::Append, peer, body, within)
    }

    fn vote<'a>(&'a self, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a> {
        self.carry(Call::Vote, peer, body, within)
    }

    fn install_snapshot<'a>(&'a self, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a> {
        self.carry(Call::Snapshot, peer, body, within)
    }
}

fn options() -> Options {
    Options { snapshot_entries: 50, ..small() }
}

fn dir() -> PathBuf {
    PathBuf::from("/mds")
}

async fn member(node: u64, table: Rc<Table>) {
    let carrier = Rc::new(Carrier(Rc::clone(&table)));
    let group = Consensus::open(&dir(), Ledger::default(), options(), carrier).await.expect("opened");
    table.0.borrow_mut().insert(node, group);
    std::future::pending::<()>().await;
}

struct Cluster {
    hosts: BTreeMap<u64, HostId>,
    table: Rc<Table>,
    processes: BTreeMap<u64, Process<()>>,
}

impl Cluster {
    async fn start(&mut self, node: u64) {
        let table = Rc::clone(&self.table);
        self.processes.insert(node, control::start_process(self.hosts[&node], "mds", member(node, table)));
        while !self.table.0.borrow().contains_key(&node) {
            control::advance(Duration::from_millis(10)).await;
        }
    }

    fn power_off(&mut self, node: u64) {
        // The handle in the table belongs to the process.
        let gone = self.table.0.borrow_mut().remove(&node);
        drop(gone);
        control::power_cut(&[self.hosts[&node]], PeerView::Silence);
        self.processes.remove(&node);
    }

    fn group(&self, node: u64) -> Group {
        self.table.0.borrow()[&node].clone()
    }

    async fn leader(&self) -> u64 {
        loop {
            let leader = self
                .table
                .0
                .borrow()
                .iter()
                .find(|(_, group)| group.role().is_leader())
                .map(|(node, _)| *node);
            match leader {
                Some(node) => return node,
                None => control::advance(Duration::from_millis(50)).await,
            }
        }
    }

    /// Proposes at whoever leads until it is answered.
    async fn propose(&self, text: String) -> u64 {
        loop {
            let node = self.leader().await;
            let group = self.group(node);
            match group.propose(text.clone().into_bytes()).await {
                Ok(number) => return number,
                Err(ProposeError::NotLeader { .. }) => control::advance(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn equal(&self, count: usize) {
        for _ in 0..400 {
            let lens: Vec<usize> =
                self.table.0.borrow().values().map(|group| group.with(|ledger| ledger.lines.len())).collect();
            if lens.iter().all(|len| *len == count) {
                break;
            }
            control::advance(Duration::from_millis(50)).await;
        }
        let first = self.group(1).with(|ledger| ledger.lines.clone());
        assert_eq!(first.len(), count);
        for group in self.table.0.borrow().values() {
            group.with(|ledger| assert_eq!(ledger.lines, first));
        }
    }
}

/// A group of one with a log that does not reach back to the beginning any more, and members that wait to be added.
async fn founded(members: u64) -> (Cluster, u64) {
    let hosts = (1..=members).map(|node| (node, control::add_host(HostOptions::new(&format!("mds{node}")))));
    let mut cluster = Cluster { hosts: hosts.collect(), table: Rc::default(), processes: BTreeMap::new() };
    for (node, host) in cluster.hosts.clone() {
        let made = control::start_process(host, "make-mds", async move {
            match node {
                1 => Group::create(&dir(), 1, "mds1:2510", options().log).await,
                _ => Group::join(&dir(), node, options().log).await,
            }
        });
        made.wait().await.returned().expect("created");
        cluster.start(node).await;
    }
    let mut count = 0;
    while count < 180 {
        count += 1;
        assert_eq!(cluster.propose(format!("alone {count}")).await, count);
    }
    (cluster, count)
}

async fn three_members() {
    let (mut cluster, mut count) = founded(3).await;
    for node in [2, 3] {
        cluster.group(1).add_member(node, &format!("mds{node}:2510")).await.expect("added");
    }
    assert!(cluster.group(2).metrics().snapshot.is_some(), "it came by a snapshot");
    for _ in 0..50 {
        count += 1;
        assert_eq!(cluster.propose(format!("three {count}")).await, count);
    }
    cluster.equal(count as usize).await;
    cluster.group(1).read_barrier().await.expect("a majority agrees");
    let refused = cluster.group(2).propose(b"here".to_vec()).await.unwrap_err();
    assert!(
        matches!(&refused, ProposeError::NotLeader { leader: Some(leader) } if leader.node == 1),
        "{refused}"
    );

    // The leader loses power: another one takes over, with a higher term, and has everything.
    cluster.power_off(1);
    for _ in 0..200 {
        count += 1;
        assert_eq!(cluster.propose(format!("two {count}")).await, count);
    }
    assert_ne!(cluster.leader().await, 1);
    control::power_on(cluster.hosts[&1]);
    cluster.start(1).await;
    cluster.equal(count as usize).await;

    // Without a majority nothing is answered; with it, everything goes on.
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    others.iter().for_each(|node| cluster.power_off(*node));
    let group = cluster.group(leader);
    let pending = rt::spawn(async move { group.propose(b"waiting".to_vec()).await });
    control::advance(Duration::from_secs(5)).await;
    assert!(!pending.is_finished(), "one of three answers nothing");
    assert!(cluster.group(leader).read_barrier().await.is_err());
    for node in others {
        control::power_on(cluster.hosts[&node]);
        cluster.start(node).await;
    }
    let _answered_or_not = pending.await;
    let number = cluster.propose("after".to_owned()).await;
    assert!(number > count, "{number} after {count}");
    cluster.equal(number as usize).await;
}

#[test]
fn a_group_of_three_goes_on_without_one() {
    for seed in 0..10 {
        Simulation::new(SimOptions::new(seed)).run(three_members()).unwrap();
    }
}

/// A newcomer loses power while it takes over a snapshot, again and again.
async fn troubled_newcomer(seed: u64) {
    let mut rng = Rng::from_seed(seed);
    let (mut cluster, count) = founded(2).await;
    let master = cluster.group(1);
    let adding = rt::spawn(async move { master.add_member(2, "mds2:2510").await });
    for _ in 0..5 {
        control::advance(Duration::from_micros(rng.below(12_000))).await;
        cluster.power_off(2);
        control::power_on(cluster.hosts[&2]);
        cluster.start(2).await;
    }
    adding.await.expect("not aborted").expect("added");
    cluster.equal(count as usize).await;
}

#[test]
fn a_snapshot_that_was_not_stored_replaces_nothing() {
    for seed in 0..60 {
        Simulation::new(SimOptions::new(seed)).run(troubled_newcomer(seed)).unwrap();
    }
}
