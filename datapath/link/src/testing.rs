//! For the unit tests of this crate: an executor to run on, and two ends that have shaken hands.

use std::future::Future;
use std::rc::Rc;

use rt::net::{Address, Listener};
use rt::{Executor, ExecutorOptions};
use wire::hello::Role;

use crate::authority::ClusterAuthority;
use crate::connection::Connection;
use crate::endpoint::{Endpoint, Options};
use crate::greeting::{LocalHello, PeerInfo};
use crate::identity::{ClusterId, Roles};
use crate::security::{Configs, Security};
use crate::service::Dispatch;
use crate::shared::{Greeter, Shared};
use crate::tls::handshake::{self, Secured};

/// Runs `main` on the real driver.
pub(crate) fn run<F: Future + 'static>(main: F) -> F::Output {
    Executor::start(&ExecutorOptions::default()).expect("io_uring works here").run(main)
}

/// An endpoint of a cluster of its own.
pub(crate) fn endpoint(options: Options) -> Endpoint {
    let authority = ClusterAuthority::create("test", ClusterId::random()).expect("a valid name");
    let credentials = authority.issue("node", "1", Roles::ALL).expect("valid names");
    Endpoint::new(credentials, LocalHello::new(Role::Cs, [1; 16]), options).expect("valid credentials")
}

/// The two ends of a handshake: the one that connected, and the other.
pub(crate) async fn secured() -> (Secured, Secured) {
    let authority = ClusterAuthority::create("test", ClusterId::random()).expect("a valid name");
    let credentials = authority.issue("node", "1", Roles::ALL).expect("valid names");
    let configs = Configs::new(&credentials, Security::real()).expect("valid credentials");
    let mut listener =
        Listener::bind(&Address::Tcp("127.0.0.1:0".parse().expect("an address"))).expect("a port");
    let address = listener.local_address().expect("bound");
    let server = rt::spawn(async move {
        let (mut reader, mut writer, _) = listener.accept().await.expect("a connection");
        handshake::accept(&configs.server, &mut reader, &mut writer).await.expect("shaken")
    });
    let (mut reader, mut writer) = rt::net::connect(&address).await.expect("a connection");
    let client = handshake::connect(&configs.client, &mut reader, &mut writer).await.expect("shaken");
    (client, server.await.expect("it ends"))
}

/// The state of an open connection without anything behind it.
pub(crate) fn open(options: Options, dispatch: Option<Rc<dyn Dispatch>>) -> (Rc<Shared>, Connection) {
    let local = endpoint(options).0;
    let address = Address::Tcp("127.0.0.1:1".parse().expect("an address"));
    let identity = local.credentials.identity().clone();
    let (greeted, _) = rt::sync::oneshot();
    let shared = Shared::new(address.clone(), identity.clone(), local, Greeter::Callee, dispatch, greeted);
    let connection = Connection::new(&shared);
    let peer = PeerInfo {
        address,
        identity,
        role: Role::Client,
        cs_id: 0,
        mds_id: 0,
        boot_id: [2; 16],
        nonce_generation: 0,
        session_id: 0,
        version: 1,
        features: 0,
        software: String::new(),
    };
    shared.open(peer, (0, 0));
    (shared, connection)
}
