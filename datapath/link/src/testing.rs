//! For the unit tests of this crate: an executor to run on, and two ends that have shaken hands.

use std::future::Future;
use std::ops::DerefMut;
use std::rc::Rc;

use rt::buf::View;
use rt::net::{Address, Listener, Reader, Writer};
use rt::{Executor, ExecutorOptions};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData};
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

fn configs() -> (Configs, CertificateDer<'static>) {
    let authority = ClusterAuthority::create("test", ClusterId::random()).expect("a valid name");
    let credentials = authority.issue("node", "1", Roles::ALL).expect("valid names");
    let configs = Configs::new(&credentials, Security::real()).expect("valid credentials");
    (configs, credentials.certificate().clone())
}

fn listener() -> (Listener, Address) {
    let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().expect("an address"))).expect("a port");
    let address = listener.local_address().expect("bound");
    (listener, address)
}

/// The two ends of a handshake: the one that connected, and the other.
pub(crate) async fn secured() -> (Secured, Secured) {
    let (configs, own) = configs();
    let (mut listener, address) = listener();
    let server = rt::spawn(async move {
        let (mut reader, mut writer, _) = listener.accept().await.expect("a connection");
        handshake::accept(&configs.server, &own, &mut reader, &mut writer).await.expect("shaken")
    });
    let (mut reader, mut writer) = rt::net::connect(&address).await.expect("a connection");
    let client = handshake::connect(&configs.client, &mut reader, &mut writer).await.expect("shaken");
    (client, server.await.expect("it ends"))
}

/// Shakes hands as a stock end of TLS.
async fn complete<D: SideData, S: DerefMut<Target = ConnectionCommon<D>>>(
    mut stock: S,
    (mut reader, mut writer): (Reader, Writer),
) -> S {
    while stock.is_handshaking() || stock.wants_write() {
        let mut bytes = Vec::new();
        while stock.wants_write() {
            stock.write_tls(&mut bytes).expect("written to memory");
        }
        writer.send_all(View::copy_of(&bytes)).await.expect("sent");
        if stock.is_handshaking() {
            let received = reader.recv().await.expect("received").expect("more to come");
            let mut rest = &received[..];
            while !rest.is_empty() {
                stock.read_tls(&mut rest).expect("read from memory");
                stock.process_new_packets().expect("understood");
            }
        }
    }
    stock
}

/// Stock `rustls` that has connected to our end.
pub(crate) async fn stock_client() -> (ClientConnection, Secured) {
    let (configs, own) = configs();
    let (mut listener, address) = listener();
    let name = "any.invalid".try_into().expect("a name");
    let stock = ClientConnection::new(configs.client, name).expect("a client");
    let stock = rt::spawn(async move {
        let halves = rt::net::connect(&address).await.expect("a connection");
        complete(stock, halves).await
    });
    let (mut reader, mut writer, _) = listener.accept().await.expect("a connection");
    let ours = handshake::accept(&configs.server, &own, &mut reader, &mut writer).await.expect("shaken");
    (stock.await.expect("it ends"), ours)
}

/// Stock `rustls` that our end has connected to.
pub(crate) async fn stock_server() -> (ServerConnection, Secured) {
    let (configs, _) = configs();
    let (mut listener, address) = listener();
    let stock = ServerConnection::new(configs.server).expect("a server");
    let stock = rt::spawn(async move {
        let (reader, writer, _) = listener.accept().await.expect("a connection");
        complete(stock, (reader, writer)).await
    });
    let (mut reader, mut writer) = rt::net::connect(&address).await.expect("a connection");
    let ours = handshake::connect(&configs.client, &mut reader, &mut writer).await.expect("shaken");
    (stock.await.expect("it ends"), ours)
}

/// The state of a connection whose peer, who made it, has not greeted yet.
pub(crate) fn greeting(dispatch: Option<Rc<dyn Dispatch>>) -> (Rc<Shared>, Connection) {
    unopened(Options::default(), dispatch)
}

fn unopened(options: Options, dispatch: Option<Rc<dyn Dispatch>>) -> (Rc<Shared>, Connection) {
    let local = endpoint(options).0;
    let address = Address::Tcp("127.0.0.1:1".parse().expect("an address"));
    let identity = local.credentials.identity().clone();
    let (greeted, _) = rt::sync::oneshot();
    let shared = Shared::new(address, identity, local, Greeter::Callee, dispatch, greeted);
    let connection = Connection::new(&shared);
    (shared, connection)
}

/// The state of an open connection without anything behind it.
pub(crate) fn open(options: Options, dispatch: Option<Rc<dyn Dispatch>>) -> (Rc<Shared>, Connection) {
    let (shared, connection) = unopened(options, dispatch);
    let peer = PeerInfo {
        address: shared.address.clone(),
        identity: shared.identity.clone(),
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
