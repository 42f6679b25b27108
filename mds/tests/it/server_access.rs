//! Passwords and nodes: joining, being refused, being revoked, growing old.

use std::cell::RefCell;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use link::guest::{Channel, ChannelError, Host, VisitError, Visitor};
use link::identity::Identity;
use link::password::{Login, Password, PasswordError, Verifier};
use link::revocation::LIFETIME_H;
use link::{
    ClusterAuthority, ClusterId, ConnectError, Connection, Credentials, Endpoint, Expect, LocalHello,
    Options, Request, Response, Roles, Security, Service,
};
use mds::server::{Founding, RunningServer, ServerOptions, found, start_server};
use rt::net::{Address, Listener};
use wire::auth::{
    Enroll, KeyClaim, ListNodes, Login as LoginCall, LoginReply, NodeInfo, RenewCertificate, RevokeNode,
};
use wire::cluster::GetEvents;
use wire::hello::Role;
use wire::{Header, Op, Status};

use super::raft_ledger::directory;
use super::server_world::{on_ring, refused, soon, until};

const PASSWORD: &str = "correct horse";

fn visitor(cluster: &str, typed: &str) -> Visitor {
    let password = Password::typed(typed).unwrap();
    let patience = Duration::from_secs(10);
    Visitor { cluster: cluster.into(), password, patience, security: Security::real() }
}

/// A cluster of one metadata server, which holds the authority.
struct Cluster {
    _dir: tempfile::TempDir,
    authority: Rc<ClusterAuthority>,
    guests: Address,
    running: Option<RunningServer>,
}

impl Cluster {
    async fn start(password: Option<&str>, hour: Option<Duration>) -> Self {
        let authority = Rc::new(ClusterAuthority::create("stor1", ClusterId::random()).unwrap());
        let any = || 1 + rt::random::below(254) as u8;
        let address = SocketAddr::from((Ipv4Addr::new(127, any(), any(), any()), 2510));
        let dir = directory();
        let path = dir.path().join("mds");
        let verifier = password.map(|password| {
            let password = Password::new(password).unwrap();
            Verifier::of(&password, "stor1").unwrap().to_bytes().to_vec()
        });
        let founding = Founding { node: Some(("s1".into(), "00".into())), verifier };
        found(&path, authority.cluster().0, "stor1", address, founding).await.unwrap();
        let founder = identity(&authority, "s1", 1, 0, Roles::ALL);
        let credentials = authority.issue_as(&founder).unwrap();
        let options =
            ServerOptions { authority: Some(Rc::clone(&authority)), hour, ..ServerOptions::default() };
        let running = start_server(&path, credentials, address, options).await.unwrap();
        running.master().await;
        let guests = Address::Tcp(running.address());
        Self { _dir: dir, authority, guests, running: Some(running) }
    }

    async fn stop(mut self) {
        self.running.take().unwrap().stop().await;
    }

    async fn join(&self, typed: &str, node: &str) -> Result<Credentials, VisitError> {
        visitor("stor1", typed).enroll(&self.guests, node, "00ff").await
    }

    /// A tool on the founder's host.
    async fn tool(&self) -> Connection {
        let founder = identity(&self.authority, "s1", 1, 0, Roles::ALL);
        let credentials = self.authority.issue_as(&founder).unwrap();
        connect(credentials, Role::Tool, &self.guests).await.unwrap().1
    }

    async fn nodes(&self) -> Vec<NodeInfo> {
        self.tool().await.ask(&ListNodes::default(), soon()).await.unwrap().nodes
    }

    /// Codes and texts of the events so far.
    async fn events(&self) -> Vec<String> {
        let call = GetEvents { limit: 100, ..GetEvents::default() };
        let events = self.tool().await.ask(&call, soon()).await.unwrap().events;
        events.into_iter().map(|event| format!("{}: {}", event.code, event.message)).collect()
    }

    async fn wait_for_event(&self, code: &str) -> String {
        for _ in 0..500 {
            if let Some(event) = self.events().await.into_iter().find(|event| event.starts_with(code)) {
                return event;
            }
            rt::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no event {code}: {:?}", self.events().await);
    }
}

fn identity(authority: &ClusterAuthority, node: &str, number: u64, until_h: u64, roles: Roles) -> Identity {
    let (node, host_id) = (node.to_owned(), "00".to_owned());
    Identity { cluster: authority.cluster(), node, host_id, roles, number, until_h }
}

async fn connect(
    credentials: Credentials,
    role: Role,
    address: &Address,
) -> Result<(Endpoint, Connection), ConnectError> {
    let endpoint = Endpoint::new(credentials, LocalHello::new(role, [1; 16]), Options::default()).unwrap();
    let connection = endpoint.connect(address, Expect::default()).await?;
    Ok((endpoint, connection))
}

fn is_wrong<T: std::fmt::Debug>(outcome: Result<T, VisitError>) -> bool {
    matches!(outcome, Err(VisitError::Password(PasswordError::Wrong)))
}

#[test]
fn whoever_knows_the_password_becomes_a_node_and_nobody_else() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        let node = cluster.join(PASSWORD, "s2").await.unwrap();
        let who = node.identity();
        assert_eq!((who.node.as_str(), who.host_id.as_str(), who.number), ("s2", "00ff", 2));
        assert_eq!((who.until_h, node.cluster_name()), (LIFETIME_H, "stor1"));
        assert!(!who.roles.contains(Role::Mds) && who.roles.contains(Role::Cs));
        let path = cluster._dir.path().join("auth_digest.key");
        node.save(&path).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = Credentials::load(&path).await.unwrap();
        let (_endpoint, connection) = connect(again, Role::Tool, &cluster.guests).await.unwrap();
        let nodes = connection.ask(&ListNodes::default(), soon()).await.unwrap().nodes;
        assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["s1", "s2"]);
        assert!(nodes[1].address.starts_with("127.") && nodes[0].address.is_empty());

        assert!(is_wrong(cluster.join("wrong horse", "s3").await));
        assert!(is_wrong(cluster.join("", "s3").await));
        // The right password of another cluster is a wrong one here.
        assert!(is_wrong(visitor("stor2", PASSWORD).enroll(&cluster.guests, "s3", "00ff").await));
        let bad = cluster.join(PASSWORD, "a b").await.unwrap_err();
        assert!(bad.to_string().contains("node name \"a b\" is not valid"), "{bad}");
        assert_eq!(cluster.nodes().await.len(), 2);
        let failed = cluster.wait_for_event("mds.login_failed").await;
        assert!(failed.contains("attempts to authenticate with a wrong password, the last one from 127."));
        cluster.wait_for_event("mds.node_admitted: Node 2 (s2)").await;
        cluster.stop().await;
    });
}

#[test]
fn a_cluster_without_a_password_admits_nobody_and_does_not_say_so() {
    on_ring(async {
        let cluster = Cluster::start(None, None).await;
        assert!(is_wrong(cluster.join(PASSWORD, "s2").await));
        cluster.wait_for_event("mds.login_failed").await;
        cluster.stop().await;
    });
}

#[test]
fn the_password_is_changed_by_those_who_know_it() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        let new = Password::new("battery staple").unwrap();
        assert!(is_wrong(visitor("stor1", "wrong horse").change_password(&cluster.guests, &new).await));
        let node = cluster.join(PASSWORD, "s2").await.unwrap();
        visitor("stor1", PASSWORD).change_password(&cluster.guests, &new).await.unwrap();
        assert!(is_wrong(cluster.join(PASSWORD, "s3").await));
        cluster.join("battery staple", "s3").await.unwrap();
        connect(node, Role::Cs, &cluster.guests).await.expect("nodes stay nodes");
        cluster.wait_for_event("mds.password_changed").await;
        cluster.stop().await;
    });
}

/// Stands between a guest and a metadata server and hands on whatever both say.
struct Relay {
    to: Address,
    heard: Rc<RefCell<Vec<u16>>>,
}

impl Host for Relay {
    fn receive(self: Rc<Self>, mut victim: Channel) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let mut server = Channel::connect(&self.to, Security::real()).await.unwrap();
            while let Ok((header, body)) = victim.receive().await {
                self.heard.borrow_mut().push(header.op);
                server.send(header, &body).await.unwrap();
                let Ok((header, body)) = server.receive().await else { break };
                victim.send(header, &body).await.unwrap();
            }
        })
    }
}

struct Nothing;

impl Service for Nothing {
    async fn serve(self: Rc<Self>, _connection: Connection, _request: Request) -> Response {
        Status::Unsupported.into()
    }
}

#[test]
fn somebody_in_between_is_noticed_by_both_sides() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        // One with an authority of his own, under the cluster's name; and a node of the cluster itself.
        let other = ClusterAuthority::create("stor1", cluster.authority.cluster()).unwrap();
        let forged = other.issue_as(&identity(&other, "s1", 1, 0, Roles::ALL)).unwrap();
        let stolen = cluster.join(PASSWORD, "s2").await.unwrap();
        for credentials in [forged, stolen] {
            let hello = LocalHello::new(Role::Mds, [1; 16]);
            let endpoint = Endpoint::new(credentials, hello, Options::default()).unwrap();
            let heard = Rc::new(RefCell::new(Vec::new()));
            endpoint.receive_guests(Rc::new(Relay { to: cluster.guests.clone(), heard: Rc::clone(&heard) }));
            let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
            let address = listener.local_address().unwrap();
            let serving = rt::spawn(async move { endpoint.serve(listener, Rc::new(Nothing)).await });
            assert!(is_wrong(visitor("stor1", PASSWORD).enroll(&address, "s3", "00ff").await));
            assert_eq!(*heard.borrow(), [Op::Login.code()], "the proof is never sent");
            serving.abort();
        }
        assert_eq!(cluster.nodes().await.len(), 2);
        cluster.stop().await;
    });
}

#[test]
fn what_was_recorded_is_of_no_use() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        let password = Password::typed(PASSWORD).unwrap();
        let mut first = Channel::connect(&cluster.guests, Security::real()).await.unwrap();
        let (login, ke1) = Login::begin(&password).unwrap();
        let reply: LoginReply = first.ask(&LoginCall { ke1: ke1.clone() }).await.unwrap();
        let (_, ke3) = login.finish(&reply.ke2, &password, "stor1", first.binding()).unwrap();
        let call = Enroll { ke3, key: None, node: "s2".into(), host_id: "00ff".into() };
        // As far as the password goes, this is right.
        let error = first.ask(&call).await.unwrap_err();
        assert!(matches!(error, ChannelError::Refused { status: Status::Invalid, .. }), "{error}");
        let mut second = Channel::connect(&cluster.guests, Security::real()).await.unwrap();
        assert_ne!(first.binding(), second.binding());
        second.ask(&LoginCall { ke1 }).await.unwrap();
        let error = second.ask(&call).await.unwrap_err();
        assert!(matches!(error, ChannelError::Refused { status: Status::Forbidden, .. }), "{error}");
        assert_eq!(error.to_string(), "the password is wrong");
        cluster.stop().await;
    });
}

#[test]
fn whoever_guesses_is_slowed_down_and_the_events_stay_few() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        let mut ignored = 0;
        for _ in 0..40 {
            let mut channel = Channel::connect(&cluster.guests, Security::real()).await.unwrap();
            let (_, ke1) = Login::begin(&Password::typed("guess").unwrap()).unwrap();
            match channel.ask(&LoginCall { ke1 }).await {
                Ok(_) => channel.close().await,
                Err(ChannelError::Refused { status: Status::Retry, error }) => {
                    assert!(error.message.contains("too many attempts"), "{error:?}");
                    ignored += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!((31..=32).contains(&ignored), "{ignored}");
        assert!(matches!(
            cluster.join(PASSWORD, "s2").await,
            Err(VisitError::Channel(ChannelError::Refused { status: Status::Retry, .. }))
        ));
        // Members are not guests.
        assert_eq!(cluster.nodes().await.len(), 1);
        cluster.wait_for_event("mds.logins_ignored").await;
        let about_logins =
            |events: Vec<String>| events.iter().filter(|event| event.contains(".login")).count();
        assert!(about_logins(cluster.events().await) <= 4);
        cluster.stop().await;
    });
}

#[test]
fn what_guests_may_not_say_is_refused_and_hurts_nobody() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        let status = async |op: Op, body: &[u8]| {
            let mut channel = Channel::connect(&cluster.guests, Security::real()).await.unwrap();
            channel.send(Header::request(op, 1, 0, body, 0).unwrap(), body).await.unwrap();
            channel.receive().await.map(|(header, _)| header.status)
        };
        assert_eq!(status(Op::Enroll, &[]).await.unwrap(), Status::Unsupported, "not before the login");
        assert_eq!(status(Op::ListNodes, &[]).await.unwrap(), Status::Unsupported);
        assert_eq!(status(Op::Login, &[]).await.unwrap(), Status::Invalid);
        assert_eq!(status(Op::Login, &[0xff; 40]).await.unwrap(), Status::Invalid);
        assert!(status(Op::Login, &[7; 20_000]).await.is_err(), "too long");
        // Members prove nothing by password.
        let tool = cluster.tool().await;
        let (status, _) = refused(tool.ask(&LoginCall::default(), soon()).await);
        assert_eq!(status, Status::Unsupported);
        cluster.join(PASSWORD, "s2").await.expect("good guests are welcome");
        cluster.stop().await;
    });
}

#[test]
fn a_revoked_node_is_cut_off_everywhere() {
    on_ring(async {
        let cluster = Cluster::start(Some(PASSWORD), None).await;
        let (bad, good) =
            (cluster.join(PASSWORD, "bad").await.unwrap(), cluster.join(PASSWORD, "good").await.unwrap());
        // The good node serves, is connected to the metadata server, and the bad one to both.
        let (endpoint, to_mds) = connect(good, Role::Cs, &cluster.guests).await.unwrap();
        let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let serves = listener.local_address().unwrap();
        let serving = rt::spawn({
            let endpoint = endpoint.clone();
            async move { endpoint.serve(listener, Rc::new(Nothing)).await }
        });
        let (_bad, to_good) = connect(bad.clone(), Role::Client, &serves).await.unwrap();
        let (_bad, bad_to_mds) = connect(bad.clone(), Role::Client, &cluster.guests).await.unwrap();

        let tool = cluster.tool().await;
        let (status, error) = refused(tool.ask(&RevokeNode { number: 99 }, soon()).await);
        assert_eq!((status, error.message.contains("there is no node 99")), (Status::NotFound, true));
        let (status, _) = refused(tool.ask(&RevokeNode { number: 1 }, soon()).await);
        assert_eq!(status, Status::Forbidden, "the founder runs the metadata server");
        let (status, _) = refused(bad_to_mds.ask(&RevokeNode { number: 3 }, soon()).await);
        assert_eq!(status, Status::Forbidden, "a matter of tools");
        tool.ask(&RevokeNode { number: 2 }, soon()).await.unwrap();

        to_good.closed().await;
        bad_to_mds.closed().await;
        for address in [&serves, &cluster.guests] {
            let refused = connect(bad.clone(), Role::Client, address).await;
            // In TLS 1.3 the refusal of a client's certificate may come after the handshake.
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("our certificate was revoked"), "{said}");
        }
        assert!(to_mds.is_open());
        // It learns by connecting, too: no list was sent after that.
        let (late, _connection) =
            connect(cluster.join(PASSWORD, "late").await.unwrap(), Role::Cs, &cluster.guests).await.unwrap();
        let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_address().unwrap();
        let late = rt::spawn(async move { late.serve(listener, Rc::new(Nothing)).await });
        let deadline = soon();
        while connect(bad.clone(), Role::Client, &address).await.is_ok() {
            assert!(rt::time::now() < deadline, "it never learned");
            rt::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.wait_for_event("mds.node_revoked: Node 2 (bad)").await;
        serving.abort();
        late.abort();
        cluster.stop().await;
    });
}

#[test]
fn nodes_renew_themselves_and_those_who_slept_too_long_do_not() {
    on_ring(async {
        // Hours go by in no time.
        let cluster = Cluster::start(Some(PASSWORD), Some(Duration::from_millis(10))).await;
        let node = cluster.join(PASSWORD, "s2").await.unwrap();
        let path = cluster._dir.path().join("auth_digest.key");
        // The same node, near its end; and one that is beyond it.
        let old = identity(&cluster.authority, "s2", node.identity().number, 100_000 / 8, Roles::ALL);
        cluster.authority.issue_as(&old).unwrap().save(&path).await.unwrap();
        let loaded = Credentials::load(&path).await.unwrap();
        let (_endpoint, connection) = connect(loaded, Role::Cs, &cluster.guests).await.unwrap();
        let renewed = || {
            let text = std::fs::read(&path).unwrap();
            Credentials::from_pem(&text).unwrap().identity().until_h
        };
        until("a new certificate", || renewed() >= LIFETIME_H).await;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        connect(Credentials::load(&path).await.unwrap(), Role::Cs, &cluster.guests).await.unwrap();
        assert!(connection.is_open());

        let old = identity(&cluster.authority, "s2", node.identity().number, 1, Roles::ALL);
        let slept = cluster.authority.issue_as(&old).unwrap();
        let deadline = soon();
        let said = loop {
            // Cut, when the hour strikes between the handshake and the greeting.
            let said = match connect(slept.clone(), Role::Cs, &cluster.guests).await {
                Ok(_) => "accepted".to_owned(),
                Err(error) => error.to_string(),
            };
            if said.contains("expired") {
                break said;
            }
            assert!(rt::time::now() < deadline, "hours go by: {said}");
        };
        assert!(said.contains("auth-node"), "{said}");
        // Only nodes in the list are given new ones, and only for keys that prove themselves.
        let stranger = identity(&cluster.authority, "s9", 0, 0, Roles::ALL);
        let stranger = cluster.authority.issue_as(&stranger).unwrap();
        let (_endpoint, stranger) = connect(stranger, Role::Cs, &cluster.guests).await.unwrap();
        let key = Some(KeyClaim { public_key: vec![1; 32], signature: vec![1; 64] });
        let (status, _) = refused(stranger.ask(&RenewCertificate { key: key.clone() }, soon()).await);
        assert_eq!(status, Status::Forbidden);
        let (status, _) = refused(connection.ask(&RenewCertificate { key }, soon()).await);
        assert_eq!(status, Status::Invalid);
        cluster.stop().await;
    });
}
