//! The handshake: `rustls` decides, this module moves bytes.

use std::io;
use std::ops::DerefMut;
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rt::buf::View;
use rt::net::{Reader, Writer};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{AlertDescription, ClientConfig, ConnectionTrafficSecrets, Error, ServerConfig};

use super::record::{self, Opener, RecordError, Sealer};
use crate::identity::Identity;
use crate::verify::CertificateRefused;

/// Most bytes a peer may send before it is authenticated.
const INPUT_MAX: usize = 64 << 10;
/// Longest record, in bytes (RFC 8446 section 5.2).
const RECORD_MAX: usize = record::RECEIVED_MAX;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer does not speak TLS.
    #[error(
        "the peer does not speak TLS (it sent {found:02x?}); check that the address is that of a vstorage server"
    )]
    NotTls {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// The peer sent more than a handshake takes.
    #[error("the peer sent more than {INPUT_MAX} bytes without ending the handshake")]
    TooLong,
    /// The peer is not a member of our cluster.
    #[error("the peer is refused: {0}")]
    Refused(#[from] CertificateRefused),
    /// The peer showed no certificate.
    #[error("the peer is refused: it has no certificate")]
    NoCertificate,
    /// The peer does not accept us.
    #[error("the peer refuses us: {}", alert_text(*.0))]
    RefusedByPeer(u8),
    /// The handshake broke a rule of TLS.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] Error),
    /// The keys could not be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The peer closed the connection.
    #[error("the peer closed the connection during the handshake")]
    Ended,
    /// The connection broke.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
}

/// What a peer means by an alert, for an operator.
pub(crate) fn alert_text(description: u8) -> &'static str {
    match AlertDescription::from(description) {
        AlertDescription::CertificateExpired => {
            "our certificate is expired, or not valid by its clock; check the clocks, then authenticate this node again (vstorage auth-node)"
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "our certificate was not issued by its cluster's authority; authenticate this node again"
        }
        AlertDescription::CertificateUnknown => "it belongs to another cluster, or our certificate does",
        AlertDescription::CertificateRevoked => "our certificate was revoked",
        AlertDescription::CertificateRequired => "we have shown no certificate",
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "our certificate is not one of its cluster"
        }
        AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion => {
            "both sides have no cryptography in common; upgrade the older side"
        }
        _ => "it met an error in what we sent, see its log",
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(description) => Self::RefusedByPeer(description.into()),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(ref refused) => match CertificateRefused::from_rustls(refused) {
                Some(refused) => Self::Refused(refused),
                None => Self::Tls(error),
            },
            other => Self::Tls(other),
        }
    }
}

/// A connection whose ends know each other.
pub(crate) struct Secured {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    /// Who the peer is, by its certificate; `None` = a guest, who has shown none.
    pub(crate) peer: Option<Identity>,
    /// Known to both ends and the same for no other connection, whoever makes it: a hash of the server's certificate and of
    /// what the handshake has derived for both directions.
    pub(crate) binding: [u8; 32],
    /// What has arrived behind the handshake.
    pub(crate) surplus: Vec<u8>,
}

/// One end of a handshake; `rustls` has no trait for what both ends have in common.
trait End: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// Shakes hands as the side that connected.
pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<Secured, HandshakeError> {
    // Never sent and never checked: members are known by their cluster, not by an address.
    let name = ServerName::try_from("vstorage.invalid").expect("a valid name");
    let mut end = UnbufferedClientConnection::new(Arc::clone(config), name)?;
    let surplus = drive(&mut end, reader, writer).await?;
    let certificate = end.peer_certificates().and_then(<[_]>::first).ok_or(HandshakeError::NoCertificate)?;
    let (peer, certificate) = (identity(certificate)?, certificate.to_vec());
    let (secrets, schedule) = end.dangerous_into_kernel_connection()?;
    let binding = binding(&certificate, &secrets.tx.1, &secrets.rx.1)?;
    let (sealer, opener) = record::of_client(secrets, schedule)?;
    Ok(Secured { sealer, opener, peer: Some(peer), binding, surplus })
}

/// Shakes hands as the side that was connected to. `own` is the certificate it shows.
pub(crate) async fn accept(
    config: &Arc<ServerConfig>,
    own: &CertificateDer<'_>,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<Secured, HandshakeError> {
    let mut end = UnbufferedServerConnection::new(Arc::clone(config))?;
    let surplus = drive(&mut end, reader, writer).await?;
    let peer = end.peer_certificates().and_then(<[_]>::first).map(identity).transpose()?;
    let (secrets, schedule) = end.dangerous_into_kernel_connection()?;
    let binding = binding(own, &secrets.rx.1, &secrets.tx.1)?;
    let (sealer, opener) = record::of_server(secrets, schedule)?;
    Ok(Secured { sealer, opener, peer, binding, surplus })
}

/// What tells this connection from every other one. `rustls` has no exporter (RFC 8446 section 7.5) for connections of this kind;
/// the keys and initialisation vectors come from the same schedule, over the same transcript.
fn binding(
    certificate: &[u8],
    from_client: &ConnectionTrafficSecrets,
    from_server: &ConnectionTrafficSecrets,
) -> Result<[u8; 32], HandshakeError> {
    let mut hash = Context::new(&SHA256);
    hash.update(b"vstorage channel 1\0");
    hash.update(&(certificate.len() as u64).to_be_bytes());
    hash.update(certificate);
    for secrets in [from_client, from_server] {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            return Err(RecordError::KeyUpdate.into());
        };
        hash.update(key.as_ref());
        hash.update(iv.as_ref());
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(hash.finish().as_ref());
    Ok(sum)
}

/// The identity in a certificate that the verifier has accepted.
fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, HandshakeError> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| CertificateRefused::Foreign)?;
    Ok(Identity::from_uris(parsed.valid_uri_names()).ok_or(CertificateRefused::Foreign)?)
}

/// What [`drive`] has to do next.
enum Step {
    Again,
    Send,
    Receive,
    Done,
    Fail(Error),
}

/// Runs the handshake to its end and gives what has arrived behind it.
///
/// `rustls` is shown one whole record more at a time, so that it never meets one that is not its business.
async fn drive<E: End>(
    end: &mut E,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<Vec<u8>, HandshakeError> {
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let (mut shown, mut total) = (0, 0);
    loop {
        let (discard, step) = step(end, &mut input[..shown], &mut output);
        input.drain(..discard);
        shown -= discard;
        match step {
            Step::Again => {}
            Step::Send => {
                writer.send_all(View::copy_of(&output)).await?;
                output.clear();
            }
            Step::Receive => {
                while record_length(&input[shown..])?.is_none_or(|len| input.len() - shown < len) {
                    let received = reader.recv().await?.ok_or(HandshakeError::Ended)?;
                    total += received.len();
                    if total > INPUT_MAX {
                        return Err(HandshakeError::TooLong);
                    }
                    input.extend_from_slice(&received);
                }
                shown += record_length(&input[shown..])?.unwrap_or(0);
            }
            Step::Done if end.is_handshaking() => return Err(Error::HandshakeNotComplete.into()),
            Step::Done => return Ok(input.split_off(shown)),
            Step::Fail(error) => {
                send_alert(end, &mut input[..shown], writer).await;
                return Err(error.into());
            }
        }
    }
}

fn step<E: End>(end: &mut E, input: &mut [u8], output: &mut Vec<u8>) -> (usize, Step) {
    let UnbufferedStatus { discard, state } = end.process(input);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => match encode(&mut data, output) {
            Ok(()) => Step::Again,
            Err(_) => Step::Fail(Error::EncryptError),
        },
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::Send
        }
        Ok(ConnectionState::BlockedHandshake) => Step::Receive,
        Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
        Ok(_) => Step::Fail(Error::HandshakeNotComplete),
        Err(error) => Step::Fail(error),
    };
    (discard, step)
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { return Ok(()) };
    let start = output.len();
    output.resize(start + needed.required_size, 0);
    data.encode(&mut output[start..]).map(drop)
}

/// Tells the peer why we give up, as far as it still listens. `rustls` wants to see the input it has not finished with.
async fn send_alert<E: End>(end: &mut E, mut input: &mut [u8], writer: &mut Writer) {
    let mut output = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = end.process(input);
        let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { break };
        if encode(&mut data, &mut output).is_err() {
            break;
        }
        input = &mut input[discard..];
    }
    if !output.is_empty() {
        // The connection is given up either way.
        let _gone = writer.send_all(View::copy_of(&output)).await;
    }
}

/// The whole length of the record that begins with `bytes`, if enough are there to tell.
fn record_length(bytes: &[u8]) -> Result<Option<usize>, HandshakeError> {
    let not_tls = || HandshakeError::NotTls { found: bytes[..bytes.len().min(8)].to_vec() };
    // Content types 20 to 23 (RFC 8446 section 5.1); every version of TLS has the major number 3.
    if bytes.first().is_some_and(|kind| !(20..=23).contains(kind))
        || bytes.get(1).is_some_and(|&major| major != 3)
    {
        return Err(not_tls());
    }
    let Some(header) = bytes.first_chunk::<5>() else { return Ok(None) };
    let len = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if len > RECORD_MAX { Err(not_tls()) } else { Ok(Some(len)) }
}
