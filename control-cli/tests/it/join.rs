//! Becoming a node, and changing the password, by the command line.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::process::Stdio;
use std::rc::Rc;

use link::guest::{Channel, ChannelError, Host as GuestHost, purpose};
use link::identity::Identity;
use link::password::{Password, Verifier};
use link::{ClusterAuthority, Credentials, Roles};
use wire::auth::{
    Enroll, EnrollReply, ListNodes, ListNodesReply, Login, LoginReply, NewPassword, NewPasswordReply,
    NodeInfo, RevokeNode, SetPassword,
};
use wire::hello::{Empty, Role};
use wire::{Call, Op, Status};

use crate::fake_mds::{FakeMds, authority, run};
use crate::host::{Ended, Host};

const PASSWORD: &str = "correct horse";

/// Receives guests as a metadata server does, and keeps what they have sent.
struct Reception {
    authority: ClusterAuthority,
    verifier: RefCell<Verifier>,
    heard: RefCell<Vec<u8>>,
    admitted: Cell<u64>,
}

impl Reception {
    async fn answer<C: Call>(
        channel: &mut Channel,
        answer: impl FnOnce(C) -> C::Reply,
    ) -> Result<(), ChannelError> {
        let (header, body) = channel.receive().await?;
        assert_eq!(header.known_op(), Some(C::OP));
        let reply = answer(wire::decode_body(&body).expect("well-formed"));
        channel.answer(&header, Status::Ok, &wire::encode_body(&reply).expect("it fits")).await
    }

    async fn visit(&self, channel: &mut Channel) -> Result<(), ChannelError> {
        let binding = *channel.binding();
        let mut challenge = None;
        Self::answer::<Login>(channel, |call| {
            self.heard.borrow_mut().extend_from_slice(&call.ke1);
            let (asked, ke2) =
                self.verifier.borrow().challenge(&call.ke1, "stor1", &binding).expect("well-formed");
            challenge = Some(asked);
            LoginReply { ke2 }
        })
        .await?;
        let (header, body) = channel.receive().await?;
        self.heard.borrow_mut().extend_from_slice(&body);
        let challenge = challenge.expect("just made");
        if header.known_op() == Some(Op::NewPassword) {
            let call: NewPassword = wire::decode_body(&body).expect("well-formed");
            let key = challenge.check(&call.ke3).expect("the right password");
            let verifier = Verifier::without_password();
            let response = verifier.register(&call.request).expect("well-formed");
            let reply = wire::encode_body(&NewPasswordReply { response }).expect("it fits");
            channel.answer(&header, Status::Ok, &reply).await?;
            return Self::answer::<SetPassword>(channel, |call| {
                assert!(key.is_proof(purpose::SET_PASSWORD, &[&call.record], &call.proof));
                self.verifier.replace(verifier.with_record(&call.record).expect("well-formed"));
                Empty {}
            })
            .await;
        }
        let call: Enroll = wire::decode_body(&body).expect("well-formed");
        let key = challenge.check(&call.ke3).expect("the right password");
        self.admitted.set(self.admitted.get() + 1);
        let identity = Identity {
            cluster: self.authority.cluster(),
            node: call.node,
            host_id: call.host_id,
            roles: Roles::of(&[Role::Cs, Role::Client, Role::Tool]),
            number: 6 + self.admitted.get(),
            until_h: 1000,
        };
        let certificate = self.authority.admit(&identity, &call.key.expect("a key")).expect("a good claim");
        let authority = self.authority.certificate().to_vec();
        let proof = key.prove(purpose::ENROLLED, &[&authority, &certificate]);
        let reply = wire::encode_body(&EnrollReply { authority, certificate, proof }).expect("it fits");
        channel.answer(&header, Status::Ok, &reply).await
    }
}

impl GuestHost for Reception {
    fn receive(self: Rc<Self>, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            // Whoever finds the password wrong hangs up.
            let _ended = self.visit(&mut channel).await;
        })
    }
}

fn receive(mds: &FakeMds, authority: ClusterAuthority) -> Rc<Reception> {
    let verifier = Verifier::of(&Password::new(PASSWORD).unwrap(), "stor1").unwrap();
    let reception = Rc::new(Reception {
        authority,
        verifier: RefCell::new(verifier),
        heard: RefCell::default(),
        admitted: Cell::new(0),
    });
    mds.endpoint.receive_guests(reception.clone());
    reception
}

/// Runs `vstorage` with standard input, beside the executor.
async fn typed(host: &Rc<Host>, args: &[&str], input: &str) -> Ended {
    let mut command = host.command(crate::host::VSTORAGE, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let output = rt::blocking::run(move || {
        let mut child = command.spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input.as_bytes())?;
        child.wait_with_output()
    });
    output.await.expect("a thread").expect("it runs").into()
}

#[test]
fn a_host_that_knows_addresses_and_password_becomes_a_node() {
    run(async {
        let authority = authority();
        let mds = FakeMds::start_of(&authority);
        let reception = receive(&mds, authority);
        let list = std::fs::read_to_string(mds.host.cluster_file("stor1", "bs.list")).unwrap();
        let host = Rc::new(Host::new());
        let join = ["-c", "stor1", "auth-node", "-b", list.trim(), "--node", "s7"];

        let wrong = typed(&host, &join, "wrong horse\n").await;
        let text = wrong.failed(1);
        assert!(text.contains("the password is wrong, or 127.0.0.1:"), "{text}");
        let key = host.path("etc/clusters/stor1/auth_digest.key");
        assert!(!key.exists() && !host.path("etc/clusters/stor1/bs.list").exists(), "nothing was changed");
        let foreign = typed(&host, &["-c", "stor2", "auth-node", "-b", list.trim()], "correct horse\n").await;
        assert!(foreign.failed(1).contains("cluster 'stor2'"), "{foreign:?}");

        let done = typed(&host, &join, "correct horse\n").await;
        assert_eq!(done.done(), "node 7 (s7) is authenticated in cluster 'stor1'\n");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let written = std::fs::read_to_string(host.path("etc/clusters/stor1/bs.list")).unwrap();
        assert_eq!(written.trim(), list.trim());
        let credentials = Credentials::load(&key).await.unwrap();
        let id = std::fs::read_to_string(host.path("etc/host_id")).unwrap();
        assert_eq!(
            (credentials.identity().host_id.as_str(), credentials.identity().node.as_str()),
            (id.trim(), "s7")
        );
        // The key in the file is known to nobody else, and the password is nowhere.
        for place in [&reception.heard.borrow()[..], &std::fs::read(&key).unwrap(), done.stderr.as_bytes()] {
            assert!(!place.windows(7).any(|part| part == b"correct"));
        }

        let again = typed(&host, &["auth-node", "-P", "--json"], "correct horse\n").await;
        assert_eq!(again.json()["node"], 8);
        assert!(again.stderr.contains("vstorage -c stor1 revoke-node 7"), "{again:?}");
        assert!(typed(&host, &join, "").await.failed(1).contains("before a password came"));
    });
}

#[test]
fn the_password_is_changed_with_two_lines() {
    run(async {
        let authority = authority();
        let mds = FakeMds::start_of(&authority);
        let _reception = receive(&mds, authority);
        let change = ["change-password"];
        let wrong = typed(&mds.host, &change, "wrong horse\nbattery staple\n").await;
        assert!(wrong.failed(1).contains("the password is wrong"), "{wrong:?}");
        let short = typed(&mds.host, &change, "correct horse\nstaple\n").await;
        assert!(short.failed(1).contains("too short"), "{short:?}");
        let one = typed(&mds.host, &change, "correct horse\n").await;
        assert!(one.failed(1).contains("before a password came"), "{one:?}");
        let done = typed(&mds.host, &change, "correct horse\nbattery staple\n").await;
        assert_eq!(done.done(), "the password of cluster 'stor1' is changed\n");
        assert!(typed(&mds.host, &["auth-node"], "correct horse\n").await.failed(1).contains("wrong"));
        typed(&mds.host, &["auth-node"], "battery staple\n").await.done();
    });
}

#[test]
fn a_host_of_a_metadata_server_is_not_made_another_node() {
    run(async {
        let mds = FakeMds::start().await;
        std::fs::write(mds.host.cluster_file("stor1", "services.list"), "mds /vstorage/mds\n").unwrap();
        let ended = typed(&mds.host, &["auth-node"], "correct horse\n").await;
        assert!(ended.failed(2).contains("runs a metadata server"), "{ended:?}");
    });
}

#[test]
fn nodes_are_listed_and_revoked_by_number_or_name() {
    run(async {
        let mds = FakeMds::start().await;
        let node = |number, name: &str, revoked_ms| NodeInfo {
            number,
            name: name.into(),
            host_id: "00ff".into(),
            address: if number == 1 { String::new() } else { "10.0.0.7".into() },
            admitted_ms: 1_700_000_000_000,
            revoked_ms,
        };
        let nodes = vec![node(1, "s1", 0), node(2, "s2", 1_700_000_000_000), node(3, "s2", 0)];
        mds.say::<ListNodes>(&ListNodesReply { nodes, more: false });
        mds.say::<RevokeNode>(&Empty {});
        let shown = mds.vstorage(&["list-nodes"]).await;
        let lines: Vec<&str> = shown.done().lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].starts_with("NODE  NAME  STATUS") && lines[1].contains("  s1    member"),
            "{lines:?}"
        );
        let all = mds.vstorage(&["list-nodes", "-a", "--json"]).await.json();
        assert_eq!(
            (all[1]["revoked_ms"].as_u64(), all[2]["node"].as_u64()),
            (Some(1_700_000_000_000), Some(3))
        );
        assert_eq!(mds.vstorage(&["revoke-node", "s2"]).await.done(), "node 3 (s2) is revoked\n");
        mds.vstorage(&["revoke-node", "1"]).await.done();
        let unknown = mds.vstorage(&["revoke-node", "s9"]).await;
        assert!(unknown.failed(2).contains("there is no node \"s9\""), "{unknown:?}");
        assert_eq!(mds.seen::<RevokeNode>().iter().map(|call| call.number).collect::<Vec<_>>(), [3, 1]);
    });
}
