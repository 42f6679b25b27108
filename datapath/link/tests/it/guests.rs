//! Guests: with clocks that are years off, and with anything but what they should say.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use rt::net::{Address, Listener};
use rt::random::Rng;
use rt::sim::control;
use rt::sim::{HostOptions, SimOptions, Simulation};
use wire::Status;
use wire::auth::{Enroll, EnrollReply, KeyClaim, Login, LoginReply};
use wire::hello::Role;

use crate::link::guest::{Channel, ChannelError, Host, Visitor, purpose};
use crate::link::identity::Identity;
use crate::link::password::{Login as Proof, Password, Registration, Verifier};
use crate::link::revocation::{LIFETIME_H, SignedList};
use crate::link::{ClusterAuthority, Expect, Options, Roles, Security};
use crate::world::{Echo, authority, endpoint_with, run};

const YEAR_MS: i64 = 31_556_952_000;

fn identity(authority: &ClusterAuthority, number: u64) -> Identity {
    let (node, host_id) = ("s1".to_owned(), "00ff".to_owned());
    let cluster = authority.cluster();
    Identity { cluster, node, host_id, roles: Roles::ALL, number, until_h: LIFETIME_H }
}

/// Admits whoever knows the password, under the number 2.
struct Reception {
    authority: ClusterAuthority,
    verifier: Verifier,
}

impl Reception {
    async fn visit(&self, channel: &mut Channel) -> Result<(), ChannelError> {
        let (header, body) = channel.receive().await?;
        let call: Login = wire::decode_body(&body)?;
        let challenged = self.verifier.challenge(&call.ke1, "test", channel.binding());
        let (challenge, ke2) = challenged.expect("well-formed");
        let reply = wire::encode_body(&LoginReply { ke2 })?;
        channel.answer(&header, Status::Ok, &reply).await?;
        let (header, body) = channel.receive().await?;
        let call: Enroll = wire::decode_body(&body)?;
        let key = challenge.check(&call.ke3).expect("the right password");
        let certificate = self.authority.admit(&identity(&self.authority, 2), &call.key.unwrap()).unwrap();
        let authority = self.authority.certificate().to_vec();
        let proof = key.prove(purpose::ENROLLED, &[&authority, &certificate]);
        let reply = wire::encode_body(&EnrollReply { authority, certificate, proof })?;
        channel.answer(&header, Status::Ok, &reply).await
    }
}

impl Host for Reception {
    fn receive(self: Rc<Self>, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { self.visit(&mut channel).await.expect("a good guest") })
    }
}

fn options() -> Options {
    Options { security: Security::simulated(), ..Options::default() }
}

/// A host joins a cluster whose server's clock is off by so many years, with one of its own that is, and they talk.
fn join_with_clocks(server_years: i64, guest_years: i64) {
    let mut simulation = Simulation::new(SimOptions::new(7));
    let outcome = simulation.run(async move {
        let hosts = ["server", "guest"].map(|name| control::add_host(HostOptions::new(name)));
        control::shift_wall_clock(hosts[0], server_years * YEAR_MS);
        control::shift_wall_clock(hosts[1], guest_years * YEAR_MS);
        let at = Address::Tcp((control::host_ip(hosts[0]), 2511).into());
        let listen = at.clone();
        let _server = control::start_process(hosts[0], "server", async move {
            let password = Password::new("correct horse").unwrap();
            let authority = authority();
            let endpoint =
                endpoint_with(authority.issue_as(&identity(&authority, 1)).unwrap(), Role::Mds, options());
            // The cluster is young, whatever the clocks say.
            endpoint.publish(SignedList::sign(&authority, 1, 1, vec![]).unwrap());
            let verifier = Verifier::of(&password, "test").unwrap();
            endpoint.receive_guests(Rc::new(Reception { authority, verifier }));
            endpoint.serve(Listener::bind(&listen).unwrap(), Rc::new(Echo::default())).await;
        });
        let guest = control::start_process(hosts[1], "guest", async move {
            rt::time::sleep(Duration::from_secs(1)).await;
            let visitor = Visitor {
                cluster: "test".into(),
                password: Password::typed("correct horse").unwrap(),
                patience: Duration::from_secs(10),
                security: Security::simulated(),
            };
            let credentials = visitor.enroll(&at, "s1", "00ff").await.expect("enrolled");
            credentials.check_validity().expect("valid here");
            let endpoint = endpoint_with(credentials, Role::Client, options());
            let connection = endpoint.connect(&at, Expect::role(Role::Mds)).await.expect("a member");
            rt::time::sleep(Duration::from_secs(20)).await;
            assert!(connection.is_open());
        });
        guest.wait().await.returned();
    });
    outcome.unwrap_or_else(|failure| panic!("{server_years} and {guest_years} years off: {failure:?}"));
}

#[test]
fn clocks_ten_years_off_keep_nobody_out() {
    for (server, guest) in [(0, 10), (0, -10), (10, 0), (-10, 0), (10, -10)] {
        join_with_clocks(server, guest);
    }
}

/// Changes bytes in one of several ways.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.below(bytes.len().max(1) as u64) as usize;
    match rng.below(6) {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_within(at..),
        2 => rng.fill(&mut bytes[at..]),
        3 => bytes[at..].fill(0),
        4 => bytes[at..].fill(0xff),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
    }
}

#[test]
fn a_hundred_thousand_strange_messages_of_guests_prove_nothing_and_never_panic() {
    run(async {
        let authority = authority();
        let password = Password::new("correct horse").unwrap();
        let verifier = Verifier::of(&password, "test").unwrap();
        let kept = verifier.to_bytes();
        let (login, ke1) = Proof::begin(&password).unwrap();
        let (_, ke2) = verifier.challenge(&ke1, "test", b"c").unwrap();
        let (_, ke3) = login.finish(&ke2, &password, "test", b"c").unwrap();
        let (registration, request) = Registration::begin(&password).unwrap();
        let response = verifier.register(&request).unwrap();
        let record = registration.finish(&response, &password, "test").unwrap();
        let body = wire::encode_body(&Enroll {
            ke3: ke3.clone(),
            key: Some(KeyClaim { public_key: vec![3; 32], signature: vec![4; 64] }),
            node: "s1".into(),
            host_id: "00ff".into(),
        });
        let seeds = [ke1.clone(), ke3, request, record, kept.to_vec(), body.unwrap()];
        let mut rng = Rng::from_seed(11);
        let (mut taken, mut refused) = ([0; 6], [0; 6]);
        for n in 0..100_000 {
            let kind = n % seeds.len();
            let mut bytes = seeds[kind].clone();
            for _ in 0..=rng.below(2) {
                mutate(&mut rng, &mut bytes);
            }
            let good = match kind {
                0 => verifier.challenge(&bytes, "test", b"c").is_ok(),
                1 if n % 20 == 1 => {
                    // Each proof needs a challenge of its own, and none of these is one.
                    let (challenge, _) = verifier.challenge(&ke1, "test", b"c").unwrap();
                    assert!(challenge.check(&bytes).is_err());
                    false
                }
                1 => false,
                2 => verifier.register(&bytes).is_ok(),
                3 => Verifier::without_password().with_record(&bytes).is_ok(),
                4 => Verifier::from_bytes(&bytes).is_ok(),
                _ => wire::decode_body::<Enroll>(&bytes).is_ok_and(|call| {
                    let claim = call.key.unwrap_or_default();
                    assert!(
                        authority.admit(&identity(&authority, 3), &claim).is_err(),
                        "nobody has this key"
                    );
                    true
                }),
            };
            if good { taken[kind] += 1 } else { refused[kind] += 1 }
        }
        println!("taken {taken:?}, refused {refused:?}");
        assert!([0, 2, 3, 4, 5].iter().all(|&kind| taken[kind] > 100 && refused[kind] > 1000));
    });
}
