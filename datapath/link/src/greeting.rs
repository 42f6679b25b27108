//! HELLO: who both sides are, and what they allow each other.

use std::rc::Rc;

use rt::net::Address;
use wire::hello::{Hello, Role};
use wire::{BodyError, ErrorBody, Header, Kind, Op, Status};

use crate::endpoint::{Expect, Local};
use crate::error::{CloseReason, GreetError, Violation};
use crate::frame::{Frame, Verdict};
use crate::identity::Identity;
use crate::message::{Body, Payload};
use crate::outgoing::Sort;
use crate::shared::{Greeter, Shared};

/// Longest greeting, in bytes.
const GREETING_MAX: u32 = 64 << 10;

/// Who this side is, besides what its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalHello {
    /// What this program is.
    pub role: Role,
    /// CS id; 0 if not a CS, or not registered yet.
    pub cs_id: u64,
    /// MDS id; 0 if not an MDS.
    pub mds_id: u64,
    /// Boot id of this host (C10).
    pub boot_id: [u8; 16],
    /// Counts the registrations of a CS (C10).
    pub nonce_generation: u64,
    /// The session the connection belongs to; 0 = none yet.
    pub session_id: u64,
    /// Features this program has.
    pub features: u64,
    /// Features a peer must have.
    pub features_required: u64,
    /// Version of this program.
    pub software: String,
}

impl LocalHello {
    /// A program of this role on this host, with nothing else to say.
    #[must_use]
    pub fn new(role: Role, boot_id: [u8; 16]) -> Self {
        Self {
            role,
            cs_id: 0,
            mds_id: 0,
            boot_id,
            nonce_generation: 0,
            session_id: 0,
            features: 0,
            features_required: 0,
            software: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Who the peer is.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Where it is. For a connection it has made this is no address to connect to.
    pub address: Address,
    /// Its node, proven by its certificate.
    pub identity: Identity,
    /// What it is; its certificate allows it.
    pub role: Role,
    /// CS id; 0 if not a CS, or not registered yet.
    pub cs_id: u64,
    /// MDS id; 0 if not an MDS.
    pub mds_id: u64,
    /// Boot id of its host (C10).
    pub boot_id: [u8; 16],
    /// Counts the registrations of a CS (C10).
    pub nonce_generation: u64,
    /// The session the connection belongs to; 0 = none yet.
    pub session_id: u64,
    /// Protocol version both speak.
    pub version: u32,
    /// Features both have.
    pub features: u64,
    /// Version of its program, for messages.
    pub software: String,
}

impl Local {
    fn greeting(&self) -> Hello {
        let hello = self.hello.borrow();
        let identity = self.credentials.identity();
        Hello {
            cluster_uuid: identity.cluster.0.to_vec(),
            role: hello.role.into(),
            node_name: identity.node.clone(),
            cs_id: hello.cs_id,
            boot_id: hello.boot_id.to_vec(),
            nonce_generation: hello.nonce_generation,
            session_id: hello.session_id,
            features: hello.features,
            features_required: hello.features_required,
            max_inflight: self.options.limits.requests,
            max_inflight_bytes: self.options.limits.bytes,
            mds_id: hello.mds_id,
            software: hello.software.clone(),
            ..Hello::current()
        }
    }
}

/// Queues our greeting, as the side that connected.
pub(crate) fn begin(shared: &Shared) {
    let body = prost::Message::encode_to_vec(&shared.local.greeting());
    let header = Header::request(Op::Hello, shared.take_id(), 0, &body, 0).expect("a greeting is short");
    shared.push(header, Sort::Control, body.into(), Payload::none());
}

/// Whether a frame may be part of the greeting.
pub(crate) fn admit(shared: &Shared, header: &Header) -> Result<Verdict, CloseReason> {
    let kind = match shared.greeter {
        Greeter::Caller(_) => Kind::Response,
        Greeter::Callee => Kind::Request,
    };
    let expected = header.kind == kind && header.op == Op::Hello.code();
    if expected && header.body_len <= GREETING_MAX && header.payload_len == 0 {
        return Ok(Verdict::Keep);
    }
    Err(Violation::OutOfOrder { op: header.op }.into())
}

/// Takes the peer's greeting, or its answer to ours.
pub(crate) fn deliver(shared: &Rc<Shared>, frame: &Frame) -> Result<(), CloseReason> {
    if let Some(damage) = frame.damage {
        return Err(damage.into());
    }
    match &shared.greeter {
        Greeter::Caller(expect) => {
            if !frame.header.status.is_ok() {
                let message = ErrorBody::lossy(&frame.body).message;
                return Err(GreetError::Refused { status: frame.header.status, message }.into());
            }
            let (peer, window) = examine(shared, &frame.body)?;
            meets(*expect, &peer)?;
            shared.open(peer, window);
            Ok(())
        }
        Greeter::Callee => {
            match examine(shared, &frame.body) {
                Ok((peer, window)) => {
                    answer(shared, &frame.header, Status::Ok, &shared.local.greeting());
                    shared.open(peer, window);
                }
                Err(error) => {
                    let body = ErrorBody { message: error.to_string(), ..Default::default() };
                    answer(shared, &frame.header, error.status(), &body);
                    shared.drain(error.into(), false);
                }
            }
            Ok(())
        }
    }
}

fn answer(shared: &Shared, request: &Header, status: Status, body: &impl prost::Message) {
    let body = Body::from(body.encode_to_vec());
    let header = Header::response(request, status, &body, 0).expect("a greeting is short");
    shared.push(header, Sort::Control, body, Payload::none());
}

/// Reads a greeting and checks it against ours and against the peer's certificate.
fn examine(shared: &Shared, body: &[u8]) -> Result<(PeerInfo, (u32, u64)), GreetError> {
    let theirs: Hello = wire::decode_body(body)?;
    let agreed = shared.local.greeting().agree(&theirs)?;
    let role = theirs.role();
    if role == Role::Unspecified {
        return Err(BodyError::Missing { field: "role" }.into());
    }
    if !shared.identity.roles.contains(role) {
        return Err(GreetError::NotAllowed(role));
    }
    let peer = PeerInfo {
        address: shared.address.clone(),
        identity: shared.identity.clone(),
        role,
        cs_id: theirs.cs_id,
        mds_id: theirs.mds_id,
        boot_id: wire::body::id16("boot_id", &theirs.boot_id)?,
        nonce_generation: theirs.nonce_generation,
        session_id: theirs.session_id,
        version: agreed.version,
        features: agreed.features,
        software: theirs.software,
    };
    Ok((peer, (theirs.max_inflight, theirs.max_inflight_bytes)))
}

/// Whether the peer is the one expected at its address.
fn meets(expect: Expect, peer: &PeerInfo) -> Result<(), GreetError> {
    if let Some(expected) = expect.role
        && expected != peer.role
    {
        return Err(GreetError::Role { expected, found: peer.role });
    }
    match expect.cs_id {
        Some(expected) if expected != peer.cs_id => {
            Err(GreetError::ChunkServer { expected, found: peer.cs_id })
        }
        _ => Ok(()),
    }
}
