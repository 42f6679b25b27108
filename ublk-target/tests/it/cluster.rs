//! A metadata server that grants leases on volumes without a single chunk, and the directories of a host beside it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use link::{
    ClusterAuthority, ClusterId, Connection, Endpoint, LocalHello, Options, Request, Response, Roles, Service,
};
use rt::net::{Address, Listener};
use tempfile::TempDir;
use wire::hello::{Empty, Role};
use wire::lease::{MapReply, Open, OpenMode, OpenReply, Release};
use wire::namespace::FileRef;
use wire::session::{
    CloseSession, OpenSession, OpenSessionReply, RenewSession, RenewSessionReply, SessionKey,
};
use wire::{ErrorBody, Op, Status};

/// The name of the cluster.
pub(crate) const CLUSTER: &str = "stor1";
/// Size of every volume, in bytes.
pub(crate) const SIZE: u64 = 256 << 20;

/// What clients did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// Opened a session; whether as the client of an earlier one.
    Session {
        /// The id given.
        client: u64,
        /// It knew the key of the earlier one.
        resumed: bool,
    },
    /// Opened a volume at an epoch.
    Open {
        /// Its path.
        path: String,
        /// For writing.
        write: bool,
        /// The epoch.
        epoch: u64,
    },
    /// Gave a lease back.
    Release {
        /// Everything was flushed.
        clean: bool,
    },
    /// Ended its session.
    Close,
}

/// The metadata server.
#[derive(Default)]
pub(crate) struct Mds {
    /// What happened.
    pub(crate) did: RefCell<Vec<Did>>,
    /// Term of leases in milliseconds.
    pub(crate) term_ms: Cell<u32>,
    /// The next renewal finds its session expired.
    pub(crate) expire: Cell<bool>,
    /// Sessions by the client's UUID.
    sessions: RefCell<BTreeMap<Vec<u8>, SessionKey>>,
    epoch: Cell<u64>,
    keys: Cell<u64>,
}

fn reply(message: &impl prost::Message) -> Response {
    Response::ok(message.encode_to_vec())
}

fn refusal(status: Status, body: &ErrorBody) -> Response {
    Response { status, ..reply(body) }
}

fn decode<T: prost::Message + Default>(request: &Request) -> T {
    wire::decode_body(&request.body).expect("a well-formed request")
}

impl Mds {
    /// The key of the one session there is.
    pub(crate) fn key(&self) -> SessionKey {
        let sessions = self.sessions.borrow();
        assert_eq!(sessions.len(), 1);
        sessions.values().next().expect("one").clone()
    }

    fn session(&self, request: OpenSession) -> Response {
        let mut sessions = self.sessions.borrow_mut();
        let known = sessions.get(&request.client_uuid).cloned();
        let resumed = known.is_some() && known == request.resume;
        if known.is_some() && !resumed {
            return refusal(Status::Retry, &ErrorBody { retry_after_ms: 20, ..ErrorBody::default() });
        }
        self.keys.set(self.keys.get() + 1);
        let client = known.map_or(2048 + self.keys.get(), |key| key.client_id);
        let key = SessionKey { client_id: client, token: vec![self.keys.get() as u8; 16] };
        sessions.insert(request.client_uuid, key.clone());
        self.did.borrow_mut().push(Did::Session { client, resumed });
        reply(&OpenSessionReply { session: key, term_ms: self.term_ms.get() })
    }

    fn open(&self, request: Open) -> Response {
        let Some(FileRef::Path(path)) = request.file else { return Status::StaleEpoch.into() };
        match path.as_str() {
            "/dir" => return Status::IsADirectory.into(),
            "/held" => {
                let held = ErrorBody { detail: 2077, hint: "s2.test".into(), ..ErrorBody::default() };
                return refusal(Status::LeaseHeld, &held);
            }
            "/vm1" | "/vm2" => {}
            _ => return Status::NotFound.into(),
        }
        let write = request.mode == i32::from(OpenMode::Write);
        let epoch = self.epoch.get() + 1;
        self.epoch.set(epoch);
        self.did.borrow_mut().push(Did::Open { path, write, epoch });
        reply(&OpenReply {
            file_id: 7,
            epoch,
            size: SIZE,
            chunk_size: 64 << 20,
            attrs: wire::namespace::Attrs::default(),
            needs_reconcile: false,
            map: MapReply::default(),
        })
    }

    fn renew(&self, request: &RenewSession) -> Response {
        if self.expire.take() || !self.sessions.borrow().values().any(|key| *key == request.session) {
            return Status::SessionExpired.into();
        }
        reply(&RenewSessionReply { term_ms: self.term_ms.get(), revoked: Vec::new() })
    }

    fn close(&self, request: &CloseSession) -> Response {
        self.sessions.borrow_mut().retain(|_, key| *key != request.session);
        self.did.borrow_mut().push(Did::Close);
        reply(&Empty {})
    }
}

impl Service for Mds {
    async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
        match request.known_op() {
            Some(Op::OpenSession) => self.session(decode(&request)),
            Some(Op::RenewSession) => self.renew(&decode(&request)),
            Some(Op::CloseSession) => self.close(&decode(&request)),
            Some(Op::Open) => self.open(decode(&request)),
            Some(Op::GetMap) => reply(&MapReply::default()),
            Some(Op::Release) => {
                let release: Release = decode(&request);
                self.did.borrow_mut().push(Did::Release { clean: release.clean });
                reply(&Empty {})
            }
            _ => Status::Unsupported.into(),
        }
    }
}

/// A host that knows the cluster.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    authority: ClusterAuthority,
}

impl Host {
    /// With credentials, and without metadata servers.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = ClusterAuthority::create(CLUSTER, ClusterId::random()).expect("a valid name");
        let host = Self { dir, authority };
        std::fs::create_dir_all(host.cluster_dir()).expect("a writable directory");
        let node = host.authority.issue("s1", "00ff", Roles::ALL).expect("valid names");
        node.save(&host.cluster_dir().join("auth_digest.key")).await.expect("a writable directory");
        host
    }

    /// What `VSTORAGE_ETC` names.
    pub(crate) fn etc(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    /// What `VSTORAGE_RUN` names.
    pub(crate) fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Where the cluster's files are.
    pub(crate) fn cluster_dir(&self) -> PathBuf {
        self.etc().join("clusters").join(CLUSTER)
    }

    /// A file of the test's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `bs.list`.
    pub(crate) fn list(&self, text: &str) {
        std::fs::write(self.cluster_dir().join("bs.list"), text).expect("a writable directory");
    }

    /// Starts a metadata server and lists it.
    pub(crate) fn start_mds(&self) -> Rc<Mds> {
        let node = self.authority.issue("mds1", "00fe", Roles::ALL).expect("valid names");
        let hello = LocalHello { mds_id: 1, ..LocalHello::new(Role::Mds, [1; 16]) };
        let endpoint = Endpoint::new(node, hello, Options::default()).expect("valid credentials");
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let listener = Listener::bind(&any).expect("a free port");
        let Ok(Address::Tcp(bound)) = listener.local_address() else {
            panic!("a TCP socket has a TCP address")
        };
        // Clients dial the port after the one listed.
        self.list(&format!("127.0.0.1:{}\n", bound.port() - 1));
        let mds = Rc::new(Mds::default());
        mds.term_ms.set(60_000);
        let service = Rc::clone(&mds);
        rt::spawn(async move { endpoint.serve(listener, service).await });
        mds
    }
}
