//! What the tests have in common: a cluster, endpoints, and a service to talk to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::link::{
    Call, ClusterAuthority, ClusterId, Connection, Credentials, Endpoint, Expect, LocalHello, Notice,
    Options, Request, Response, Roles, Service,
};
use rt::net::{Address, Listener};
use rt::time::Instant;
use rt::{Executor, ExecutorOptions};
use wire::hello::Role;
use wire::{Op, Status};

/// Runs `main` on the real driver.
pub(crate) fn run<F: Future + 'static>(main: F) -> F::Output {
    Executor::start(&ExecutorOptions::default()).expect("io_uring works here").run(main)
}

/// A deadline far enough away for anything that is meant to work.
pub(crate) fn soon() -> Instant {
    rt::time::now() + Duration::from_secs(20)
}

pub(crate) fn within(ms: u64) -> Instant {
    rt::time::now() + Duration::from_millis(ms)
}

/// Any port of the loopback.
pub(crate) fn anywhere() -> Address {
    Address::Tcp("127.0.0.1:0".parse().expect("an address"))
}

pub(crate) fn authority() -> ClusterAuthority {
    ClusterAuthority::create("test", ClusterId::random()).expect("a valid name")
}

pub(crate) fn member(authority: &ClusterAuthority, node: &str) -> Credentials {
    authority.issue(node, "0123456789abcdef", Roles::ALL).expect("valid names")
}

pub(crate) fn endpoint_with(credentials: Credentials, role: Role, options: Options) -> Endpoint {
    Endpoint::new(credentials, LocalHello::new(role, [1; 16]), options).expect("valid credentials")
}

pub(crate) fn endpoint(authority: &ClusterAuthority, role: Role) -> Endpoint {
    endpoint_with(member(authority, "node"), role, Options::default())
}

/// Answers by operation:
/// * `Write`: body and payload come back;
/// * `Read`: as many bytes as the body says, after as many milliseconds as it says;
/// * `Flush`: never answers;
/// * `Stat`: asks the caller back with `Write` and hands on what it says.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) served: Cell<u32>,
    pub(crate) finished: Cell<u32>,
    pub(crate) notices: RefCell<Vec<u16>>,
    pub(crate) held: RefCell<Vec<Connection>>,
}

pub(crate) fn read_body(len: u32, delay_ms: u32) -> Vec<u8> {
    [len.to_le_bytes(), delay_ms.to_le_bytes()].concat()
}

pub(crate) fn number(body: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(body[at * 4..at * 4 + 4].try_into().expect("four bytes"))
}

pub(crate) fn pattern(len: usize, salt: u8) -> rt::buf::View {
    let mut buf = rt::buf::Buf::new(len);
    buf.iter_mut()
        .enumerate()
        .for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ salt);
    buf.freeze()
}

impl Service for Echo {
    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        self.served.set(self.served.get() + 1);
        let response = match request.known_op() {
            Some(Op::Write) => {
                assert!(request.payload.is_empty() || request.payload.is_aligned(), "payloads come aligned");
                Response::ok(request.body).with_payload(request.payload)
            }
            Some(Op::Read) => {
                let (len, delay) = (number(&request.body, 0), number(&request.body, 1));
                if delay > 0 {
                    rt::time::sleep(Duration::from_millis(delay.into())).await;
                }
                Response::ok(request.body).with_payload(pattern(len as usize, 7))
            }
            Some(Op::Flush) => std::future::pending().await,
            Some(Op::Stat) => {
                let call = Call::new(Op::Write, request.body, soon());
                match connection.call(call).await {
                    Ok(reply) => Response {
                        status: reply.status,
                        body: reply.body.into(),
                        payload: reply.payload.into(),
                    },
                    Err(_) => Status::Internal.into(),
                }
            }
            Some(Op::GetMap) => {
                self.held.borrow_mut().push(connection);
                Response::ok(Vec::new())
            }
            _ => Status::Unsupported.into(),
        };
        self.finished.set(self.finished.get() + 1);
        response
    }

    fn reply_bytes(&self, request: &Request) -> usize {
        if request.known_op() == Some(Op::Read) { number(&request.body, 0) as usize } else { 0 }
    }

    fn notice(self: Rc<Self>, _connection: &Connection, notice: Notice) {
        self.notices.borrow_mut().push(notice.op);
    }
}

/// A server on the loopback.
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) endpoint: Endpoint,
    pub(crate) echo: Rc<Echo>,
    task: rt::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn serve(endpoint: Endpoint) -> Server {
    serve_at(endpoint, &anywhere())
}

pub(crate) fn serve_at(endpoint: Endpoint, address: &Address) -> Server {
    let listener = Listener::bind(address).expect("a free port");
    let address = listener.local_address().expect("bound");
    let echo = Rc::new(Echo::default());
    let (theirs, service) = (endpoint.clone(), Rc::clone(&echo));
    let task = rt::spawn(async move { theirs.serve(listener, service).await });
    Server { address, endpoint, echo, task }
}

/// A chunk server and a client connected to it.
pub(crate) async fn pair() -> (Server, Connection) {
    pair_with(Options::default(), Options::default()).await
}

pub(crate) async fn pair_with(server: Options, client: Options) -> (Server, Connection) {
    let authority = authority();
    let server = serve(endpoint_with(member(&authority, "server"), Role::Cs, server));
    let client = endpoint_with(member(&authority, "client"), Role::Client, client);
    let connection = client.connect(&server.address, Expect::role(Role::Cs)).await.expect("connected");
    (server, connection)
}
