//! The channel between a guest and his host: frames over TLS, one at a time.

use std::io;

use rt::buf::Buf;
use rt::net::{Address, Reader, Writer};
use wire::auth::GUEST_BODY_MAX;
use wire::{BodyError, ErrorBody, FrameError, HEADER_LEN, Header, Kind, Status};

use super::visit::VisitError;
use crate::error::{ConnectCause, Violation};
use crate::security::{self, Security};
use crate::tls::handshake::{self, Secured, alert_text};
use crate::tls::record::{
    self, ALERT, CONTENT_MAX, Content, HEADER, OVERHEAD, Opened, Opener, RecordError, Sealer,
};

/// Why a channel is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer has gone.
    #[error("the peer closed the connection")]
    Ended,
    /// The peer ended it with an alert.
    #[error("the peer refuses us: {}", alert_text(*.0))]
    Alert(u8),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came was not TLS, or not from the peer.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What came was not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame longer than guests need.
    #[error("a frame of {0} bytes, more than guests may send")]
    TooLong(usize),
    /// The peer broke a rule.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// What came is not what the protocol says.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The peer refuses the request.
    #[error("{}", if .error.message.is_empty() { .status.text() } else { &.error.message })]
    Refused {
        /// The status.
        status: Status,
        /// What the peer says about it.
        error: ErrorBody,
    },
}

/// One end of a channel.
pub struct Channel {
    address: Address,
    reader: Reader,
    writer: Writer,
    sealer: Sealer,
    opener: Opener,
    binding: [u8; 32],
    /// What has arrived and is not opened.
    sealed: Vec<u8>,
    /// What is opened and not taken.
    opened: Vec<u8>,
    next_id: u64,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Channel {
    /// Connects as a guest. Whoever answers is not known yet.
    ///
    /// # Errors
    /// [`VisitError`].
    ///
    /// # Panics
    /// When called outside an executor.
    pub async fn connect(address: &Address, security: Security) -> Result<Self, VisitError> {
        let config = security::of_guest(security)?;
        let (mut reader, mut writer) = rt::net::connect(address).await.map_err(ConnectCause::Io)?;
        let secured = handshake::connect(&config, &mut reader, &mut writer).await;
        let secured = secured.map_err(ConnectCause::Handshake)?;
        Ok(Self::new(address.clone(), reader, writer, secured))
    }

    pub(crate) fn new(address: Address, reader: Reader, writer: Writer, secured: Secured) -> Self {
        let Secured { sealer, opener, binding, surplus, .. } = secured;
        let opened = Vec::new();
        Self { address, reader, writer, sealer, opener, binding, sealed: surplus, opened, next_id: 1 }
    }

    /// Where the peer is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Known to both ends, and the same for no other connection.
    #[must_use]
    pub fn binding(&self) -> &[u8; 32] {
        &self.binding
    }

    /// The next frame: its header and body.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is of no use then.
    pub async fn receive(&mut self) -> Result<(Header, Vec<u8>), ChannelError> {
        self.fill(HEADER_LEN).await?;
        let bytes = self.opened.first_chunk::<HEADER_LEN>().expect("as much has come");
        let header = Header::decode(bytes)?;
        if header.rest_len() > GUEST_BODY_MAX as usize || header.payload_len > 0 {
            return Err(ChannelError::TooLong(header.rest_len()));
        }
        let whole = HEADER_LEN + header.rest_len();
        self.fill(whole).await?;
        let body = self.opened[HEADER_LEN..whole].to_vec();
        self.opened.drain(..whole);
        header.check_body(&body)?;
        Ok((header, body))
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn answer(
        &mut self,
        request: &Header,
        status: Status,
        body: &[u8],
    ) -> Result<(), ChannelError> {
        self.send(Header::response(request, status, body, 0)?, body).await
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn ask<C: wire::Call>(&mut self, call: &C) -> Result<C::Reply, ChannelError> {
        let body = wire::encode_body(call)?;
        let id = self.next_id;
        self.next_id += 1;
        self.send(Header::request(C::OP, id, 0, &body, 0)?, &body).await?;
        let (header, body) = self.receive().await?;
        if header.kind != Kind::Response || header.op != C::OP.code() || header.request_id != id {
            return Err(Violation::OutOfOrder { op: header.op }.into());
        }
        if !header.status.is_ok() {
            return Err(ChannelError::Refused { status: header.status, error: ErrorBody::lossy(&body) });
        }
        Ok(wire::decode_body(&body)?)
    }

    /// Says good-bye.
    pub async fn close(mut self) {
        let mut alert = Buf::new(ALERT);
        // close_notify of RFC 8446 section 6.1. The peer may have gone before us.
        self.sealer.alert(&mut alert, 1, 0);
        let _gone = self.writer.send_all(alert.freeze()).await;
        self.writer.shutdown();
    }

    /// Sends a frame. Those who speak the protocol use [`Channel::ask`] and [`Channel::answer`].
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn send(&mut self, header: Header, body: &[u8]) -> Result<(), ChannelError> {
        let frame = [&header.encode()[..], body].concat();
        for part in frame.chunks(CONTENT_MAX) {
            let mut record = Buf::new(part.len() + OVERHEAD);
            record[HEADER..HEADER + part.len()].copy_from_slice(part);
            self.sealer.seal(&mut record, Content::Data);
            self.writer.send_all(record.freeze()).await?;
        }
        Ok(())
    }

    /// Waits until this many bytes are opened.
    async fn fill(&mut self, bytes: usize) -> Result<(), ChannelError> {
        while self.opened.len() < bytes {
            match record::length(&self.sealed)? {
                Some(length) if length <= self.sealed.len() => {
                    match self.opener.open(&mut self.sealed[..length])? {
                        Opened::Data(data) => self.opened.extend_from_slice(data),
                        // So little is said here that our own key stays.
                        Opened::KeyUpdate { .. } => {}
                        Opened::Alert(0) => return Err(ChannelError::Ended),
                        Opened::Alert(alert) => return Err(ChannelError::Alert(alert)),
                    }
                    self.sealed.drain(..length);
                }
                _ => {
                    let received = self.reader.recv().await?.ok_or(ChannelError::Ended)?;
                    self.sealed.extend_from_slice(&received);
                }
            }
        }
        Ok(())
    }
}
