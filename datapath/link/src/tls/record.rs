//! Record protection of TLS 1.3 (RFC 8446 section 5.2 and 5.3), in place.
//!
//! ```text
//! | 23 | 3 | 3 | length (2) | content … | type (1) | tag (16) |
//! |<---- additional data -->|<------- encrypted ---->|
//! ```

use std::cell::RefCell;
use std::rc::Rc;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets};

/// Bytes before the content of a record.
pub(crate) const HEADER: usize = 5;
const TAG: usize = 16;
/// Bytes a record has besides its content.
pub(crate) const OVERHEAD: usize = HEADER + 1 + TAG;
/// Longest record we send, in bytes: two of them fill a receive buffer exactly.
pub(crate) const SENT_MAX: usize = 16 << 10;
/// Most content of a record we send, in bytes.
pub(crate) const CONTENT_MAX: usize = SENT_MAX - OVERHEAD;
/// Longest record a peer may send (RFC 8446 section 5.2), in bytes.
pub(crate) const RECEIVED_MAX: usize = HEADER + (16 << 10) + 256;
/// Longest plaintext of a record, content and type and padding together (RFC 8446 section 5.4), in bytes.
const INNER_MAX: usize = (1 << 14) + 1;
/// Records after which a key is replaced. RFC 8446 section 5.5 allows 2^24.5 full ones.
const RECORDS_PER_KEY: u64 = 1 << 23;
/// Records that may never be sealed under one key, whoever forgot to replace it.
const RECORDS_PER_KEY_MAX: u64 = 1 << 24;
/// Records in a row that may bring no data (empty ones, key updates): more are work for nothing.
const IDLE_MAX: u32 = 32;

const _: () = assert!(CONTENT_MAX <= 1 << 14 && SENT_MAX <= RECEIVED_MAX && INNER_MAX + TAG <= RECEIVED_MAX);

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// Why a record is refused. All of them end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not an encrypted record: the peer speaks something else, or somebody meddled.
    #[error("not a TLS record (it begins with {found:02x?})")]
    Kind {
        /// The first bytes.
        found: [u8; 3],
    },
    /// Longer than any record may be, or too short to be one.
    #[error("TLS record of {len} bytes is outside the limits")]
    Length {
        /// Length announced, in bytes.
        len: usize,
    },
    /// Damaged, or forged.
    #[error("TLS record failed authentication: it was changed on the way")]
    Authentication,
    /// A message that may not come after the handshake.
    #[error("unexpected TLS message of type {found}")]
    Unexpected {
        /// Content or handshake type.
        found: u8,
    },
    /// Many records in a row without data.
    #[error("{IDLE_MAX} TLS records in a row brought no data")]
    Idle,
    /// The key schedule refused to go on.
    #[error("TLS keys cannot be renewed")]
    KeyUpdate,
}

impl RecordError {
    /// The alert that tells the peer (RFC 8446 section 6.2).
    pub(crate) fn alert(self) -> u8 {
        let alert = match self {
            Self::Kind { .. } | Self::Unexpected { .. } | Self::Idle => AlertDescription::UnexpectedMessage,
            Self::Length { .. } => AlertDescription::RecordOverflow,
            Self::Authentication => AlertDescription::BadRecordMac,
            Self::KeyUpdate => AlertDescription::InternalError,
        };
        alert.into()
    }
}

enum Schedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// The key schedule both directions share.
#[derive(Clone)]
struct Keys(Rc<RefCell<Schedule>>);

impl Keys {
    fn next_sealing(&self) -> Result<Key, RecordError> {
        let next = match &mut *self.0.borrow_mut() {
            Schedule::Client(schedule) => schedule.update_tx_secret(),
            Schedule::Server(schedule) => schedule.update_tx_secret(),
        };
        Key::new(next.map_err(|_| RecordError::KeyUpdate)?)
    }

    fn next_opening(&self) -> Result<Key, RecordError> {
        let next = match &mut *self.0.borrow_mut() {
            Schedule::Client(schedule) => schedule.update_rx_secret(),
            Schedule::Server(schedule) => schedule.update_rx_secret(),
        };
        Key::new(next.map_err(|_| RecordError::KeyUpdate)?)
    }
}

struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        // The only suite that is ever offered.
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            return Err(RecordError::KeyUpdate);
        };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).map_err(|_| RecordError::KeyUpdate)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::KeyUpdate)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// RFC 8446 section 5.3: no nonce is used twice because the sequence never repeats under one key.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals what we send.
pub(crate) struct Sealer {
    key: Key,
    keys: Keys,
    records_per_key: u64,
}

/// Opens what we receive.
pub(crate) struct Opener {
    key: Key,
    keys: Keys,
    /// Records since the last that brought data.
    idle: u32,
}

/// Both directions of a client's connection.
pub(crate) fn of_client(
    secrets: ExtractedSecrets,
    schedule: KernelConnection<ClientConnectionData>,
) -> Result<(Sealer, Opener), RecordError> {
    halves(secrets, Schedule::Client(schedule))
}

/// Both directions of a server's connection.
pub(crate) fn of_server(
    secrets: ExtractedSecrets,
    schedule: KernelConnection<ServerConnectionData>,
) -> Result<(Sealer, Opener), RecordError> {
    halves(secrets, Schedule::Server(schedule))
}

fn halves(secrets: ExtractedSecrets, schedule: Schedule) -> Result<(Sealer, Opener), RecordError> {
    let keys = Keys(Rc::new(RefCell::new(schedule)));
    let sealer = Sealer { key: Key::new(secrets.tx)?, keys: keys.clone(), records_per_key: RECORDS_PER_KEY };
    Ok((sealer, Opener { key: Key::new(secrets.rx)?, keys, idle: 0 }))
}

impl Sealer {
    /// Seals the record in `record`: its content begins at [`HEADER`] and everything else is filled in here.
    ///
    /// # Panics
    /// When the record is shorter than [`OVERHEAD`] or longer than [`SENT_MAX`], or the key should have been replaced
    /// long ago ([`Sealer::is_worn`]): bugs of the caller.
    pub(crate) fn seal(&mut self, record: &mut [u8], content: Content) {
        assert!((OVERHEAD..=SENT_MAX).contains(&record.len()), "a record of {} bytes", record.len());
        assert!(self.key.sequence < RECORDS_PER_KEY_MAX, "a key used far beyond its limit");
        let sealed = ((record.len() - HEADER) as u16).to_be_bytes();
        let header = [Content::Data as u8, 3, 3, sealed[0], sealed[1]];
        record[..HEADER].copy_from_slice(&header);
        let (text, tag) = record[HEADER..].split_last_chunk_mut::<TAG>().expect("longer than its overhead");
        *text.last_mut().expect("longer than its overhead") = content as u8;
        let nonce = self.key.nonce();
        let sum = self.key.key.seal_in_place_separate_tag(nonce, Aad::from(header), text);
        tag.copy_from_slice(sum.expect("records are far below the limit of the cipher").as_ref());
    }

    /// Whether [`Sealer::update`] is due.
    pub(crate) fn is_worn(&self) -> bool {
        self.key.sequence >= self.records_per_key
    }

    /// Seals a message that announces a new key into `record`, which must be [`KEY_UPDATE`] bytes long, and changes
    /// to that key.
    pub(crate) fn update(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        // RFC 8446 section 4.6.3: key_update(24) with one byte, update_not_requested(0).
        record[HEADER..HEADER + 5].copy_from_slice(&[24, 0, 0, 1, 0]);
        self.seal(record, Content::Handshake);
        self.key = self.keys.next_sealing()?;
        Ok(())
    }

    /// Seals an alert into `record`, which must be [`ALERT`] bytes long.
    pub(crate) fn alert(&mut self, record: &mut [u8], level: u8, description: u8) {
        record[HEADER..HEADER + 2].copy_from_slice(&[level, description]);
        self.seal(record, Content::Alert);
    }

    /// Makes the key wear out sooner.
    #[cfg(test)]
    pub(crate) fn set_records_per_key(&mut self, records: u64) {
        self.records_per_key = records;
    }
}

/// Length of a sealed key update, in bytes.
pub(crate) const KEY_UPDATE: usize = OVERHEAD + 5;
/// Length of a sealed alert, in bytes.
pub(crate) const ALERT: usize = OVERHEAD + 2;

/// What an opened record says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'a> {
    /// Bytes of the stream; may be none.
    Data(&'a [u8]),
    /// The peer has a new key; it wants one of us, too, if the flag is set.
    KeyUpdate { requested: bool },
    /// The peer ends the stream (0), or says what it does not like.
    Alert(u8),
}

/// The whole length of the record that begins with `bytes`; `None` when too few are there to tell.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let kind = &bytes[..bytes.len().min(3)];
    if !kind.iter().eq([Content::Data as u8, 3, 3][..kind.len()].iter()) {
        let mut found = [0; 3];
        found[..kind.len()].copy_from_slice(kind);
        return Err(RecordError::Kind { found });
    }
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let len = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if (OVERHEAD..=RECEIVED_MAX).contains(&len) { Ok(Some(len)) } else { Err(RecordError::Length { len }) }
}

impl Opener {
    /// Opens the record that is all of `record`, whose [`length`] has been checked. Nothing in it is looked at before
    /// its tag has been; after an error the connection must end.
    pub(crate) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, RecordError> {
        let len = record.len();
        let (header, sealed) =
            record.split_first_chunk_mut::<HEADER>().ok_or(RecordError::Length { len: 0 })?;
        let nonce = self.key.nonce();
        let opened = self.key.key.open_in_place(nonce, Aad::from(*header), sealed);
        let opened = opened.map_err(|_| RecordError::Authentication)?;
        if opened.len() > INNER_MAX {
            return Err(RecordError::Length { len });
        }
        // Zeros behind the type are padding (RFC 8446 section 5.4).
        let end = opened.iter().rposition(|&byte| byte != 0).ok_or(RecordError::Unexpected { found: 0 })?;
        let (content, kind) = (&opened[..end], opened[end]);
        if kind == Content::Alert as u8
            && let [_level, description] = content
        {
            return Ok(Opened::Alert(*description));
        }
        self.idle = if kind == Content::Data as u8 && !content.is_empty() { 0 } else { self.idle + 1 };
        if self.idle > IDLE_MAX {
            return Err(RecordError::Idle);
        }
        if kind == Content::Data as u8 {
            return Ok(Opened::Data(content));
        }
        if kind == Content::Handshake as u8
            && let [24, 0, 0, 1, requested @ (0 | 1)] = content
        {
            self.key = self.keys.next_opening()?;
            return Ok(Opened::KeyUpdate { requested: *requested == 1 });
        }
        let message = content.first().copied().unwrap_or(0);
        Err(RecordError::Unexpected { found: if kind == Content::Handshake as u8 { message } else { kind } })
    }
}

#[cfg(test)]
mod tests;
