//! A peer that does what it wants: stock `rustls` on a blocking socket, or no TLS at all.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use rt::net::Address;
use rustls::client::ClientConnectionData;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ServerConnectionData;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, ServerConfig, ServerConnection,
    SideData, SignatureScheme, StreamOwned,
};
use wire::hello::{Hello, Role};
use wire::{HEADER_LEN, Header, Op, Status};

use crate::link::Credentials;

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A socket without TLS.
pub(crate) fn plain(address: &Address) -> TcpStream {
    let Address::Tcp(address) = address else { panic!("tests use TCP") };
    let socket = TcpStream::connect(address).expect("the server listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    socket
}

/// Reads until the server closes; true if it did so in order or by a reset, within the socket's timeout.
pub(crate) fn is_closed(stream: &mut impl Read) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}

/// TLS with these credentials, or none, and nothing behind it; the side that connected unless it says otherwise.
pub(crate) struct Raw<
    C: DerefMut<Target = ConnectionCommon<D>> = ClientConnection,
    D: SideData = ClientConnectionData,
>(pub(crate) StreamOwned<C, TcpStream>);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn identity(credentials: &Credentials) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let pem = credentials.to_pem();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    (vec![certificate], PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key"))
}

impl Raw<ServerConnection, ServerConnectionData> {
    /// Waits for a member of our cluster and answers its greeting as a chunk server would. It never asks for a
    /// certificate, and gives `tickets` for later sessions.
    pub(crate) fn accept(listener: &TcpListener, credentials: &Credentials, tickets: usize) -> Self {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth();
        let (chain, key) = identity(credentials);
        let mut config = builder.with_single_cert(chain, key).expect("they fit");
        config.send_tls13_tickets = tickets;
        let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
        let (socket, _) = listener.accept().expect("somebody");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        Self(StreamOwned::new(connection, socket))
    }

    /// Takes the greeting.
    pub(crate) fn greet(&mut self, credentials: &Credentials) -> io::Result<()> {
        let (header, _) = self.frame()?;
        assert_eq!(header.op, Op::Hello.code());
        let hello = Hello {
            cluster_uuid: credentials.identity().cluster.0.to_vec(),
            role: Role::Cs.into(),
            boot_id: vec![3; 16],
            ..Hello::current()
        };
        self.answer(&header, &wire::encode_body(&hello).expect("short"), &[])
    }

    pub(crate) fn answer(&mut self, request: &Header, body: &[u8], payload: &[u8]) -> io::Result<()> {
        let header = Header::response(request, Status::Ok, body, payload.len()).expect("within the limits");
        self.0.write_all(&[&header.encode()[..], body, payload].concat())?;
        self.0.flush()
    }
}

impl Raw {
    pub(crate) fn connect(address: &Address, credentials: Option<&Credentials>) -> Self {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let config = match credentials {
            None => builder.with_no_client_auth(),
            Some(credentials) => {
                let (chain, key) = identity(credentials);
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        let name = ServerName::try_from("any.invalid").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        Self(StreamOwned::new(connection, plain(address)))
    }

    /// Connects and greets as a member of the cluster would.
    pub(crate) fn greeted(address: &Address, credentials: &Credentials) -> Self {
        let mut raw = Self::connect(address, Some(credentials));
        let hello = Hello {
            cluster_uuid: credentials.identity().cluster.0.to_vec(),
            role: Role::Client.into(),
            boot_id: vec![2; 16],
            ..Hello::current()
        };
        let body = wire::encode_body(&hello).expect("short");
        raw.request(Op::Hello, 1, &body, &[]).expect("sent");
        let (header, _) = raw.frame().expect("an answer");
        assert!(header.status.is_ok(), "{header:?}");
        raw
    }

    pub(crate) fn request(&mut self, op: Op, id: u64, body: &[u8], payload: &[u8]) -> io::Result<()> {
        let header = Header::request(op, id, 0, body, payload.len()).expect("within the limits");
        self.0.write_all(&[&header.encode()[..], body, payload].concat())?;
        self.0.flush()
    }
}

impl<C: DerefMut<Target = ConnectionCommon<D>>, D: SideData> Raw<C, D> {
    pub(crate) fn frame(&mut self) -> io::Result<(Header, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header)?;
        let header = Header::decode(&header).expect("a frame");
        let mut rest = vec![0; header.rest_len()];
        self.0.read_exact(&mut rest)?;
        Ok((header, rest))
    }
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    rt::blocking::run(work).await.expect("a thread")
}
