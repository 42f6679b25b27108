//! A metadata server that says what it is told to say, and remembers what it was asked.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use link::{
    ClusterAuthority, ClusterId, Connection, Endpoint, LocalHello, Options, Request, Response, Roles, Service,
};
use rt::net::{Address, Listener};
use wire::hello::Role;
use wire::{ErrorBody, Op, Status};

use crate::host::{Ended, Host};

/// Its id.
pub(crate) const MDS_ID: u64 = 7;

/// Runs a test on an executor.
pub(crate) fn run<F: Future + 'static>(main: F) -> F::Output {
    rt::Executor::start(&rt::ExecutorOptions::default()).expect("io_uring works here").run(main)
}

#[derive(Clone)]
enum Answer {
    Say(Response),
    Hold,
}

/// What it was asked.
struct Seen {
    op: u16,
    id: u64,
    body: Vec<u8>,
}

#[derive(Default)]
struct Script {
    answers: RefCell<BTreeMap<Op, VecDeque<Answer>>>,
    seen: RefCell<Vec<Seen>>,
}

impl Script {
    /// The next answer; the last one is given again and again.
    fn answer(&self, op: Op) -> Answer {
        let mut answers = self.answers.borrow_mut();
        let Some(queue) = answers.get_mut(&op) else { return Answer::Say(Status::Unsupported.into()) };
        if queue.len() > 1 { queue.pop_front().expect("not empty") } else { queue[0].clone() }
    }
}

impl Service for Script {
    async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
        self.seen.borrow_mut().push(Seen { op: request.op, id: request.id, body: request.body.to_vec() });
        match request.known_op().map(|op| self.answer(op)) {
            Some(Answer::Say(response)) => response,
            Some(Answer::Hold) => std::future::pending().await,
            None => Status::Unsupported.into(),
        }
    }
}

/// A metadata server of cluster `stor1`, and a host that knows it.
pub(crate) struct FakeMds {
    script: Rc<Script>,
    pub(crate) host: Rc<Host>,
    pub(crate) endpoint: Endpoint,
    task: rt::JoinHandle<()>,
}

impl Drop for FakeMds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A new authority of cluster `stor1`.
pub(crate) fn authority() -> ClusterAuthority {
    ClusterAuthority::create("stor1", ClusterId::random()).expect("a valid name")
}

impl FakeMds {
    /// Starts it on the loopback, and makes the host a member.
    pub(crate) async fn start() -> Self {
        let authority = authority();
        let mds = Self::start_of(&authority);
        let credentials = authority.issue("s1", "00112233", Roles::ALL).expect("valid names");
        credentials.save(&mds.host.cluster_file("stor1", "auth_digest.key")).await.expect("saved");
        mds
    }

    /// Starts it on the loopback; the host knows where, and has no credentials.
    pub(crate) fn start_of(authority: &ClusterAuthority) -> Self {
        let credentials = authority.issue("mds", "00112233", Roles::ALL).expect("valid names");
        let hello = LocalHello { mds_id: MDS_ID, ..LocalHello::new(Role::Mds, [1; 16]) };
        let endpoint = Endpoint::new(credentials, hello, Options::default()).expect("valid credentials");
        let listener =
            Listener::bind(&Address::Tcp("127.0.0.1:0".parse().expect("an address"))).expect("a free port");
        let Ok(Address::Tcp(address)) = listener.local_address() else { panic!("bound to TCP") };
        let host = Rc::new(Host::new());
        // Clients dial the port above the one in the list.
        host.write_list("stor1", &format!("127.0.0.1:{}\n", address.port() - 1));
        let script = Rc::new(Script::default());
        let service = Rc::clone(&script);
        let serving = endpoint.clone();
        let task = rt::spawn(async move { serving.serve(listener, service).await });
        Self { script, host, endpoint, task }
    }

    fn push(&self, op: Op, answer: Answer) {
        self.script.answers.borrow_mut().entry(op).or_default().push_back(answer);
    }

    /// Answers the next request of this kind so; the last such answer is given to all that follow.
    pub(crate) fn say<R: wire::Call>(&self, reply: &R::Reply) {
        self.push(R::OP, Answer::Say(Response::ok(wire::encode_body(reply).expect("it fits"))));
    }

    /// Refuses the next request of this kind.
    pub(crate) fn refuse<R: wire::Call>(&self, status: Status, error: &ErrorBody) {
        self.push(R::OP, Answer::Say(Response::failure(status, error)));
    }

    /// Leaves the next request of this kind without an answer.
    pub(crate) fn hold<R: wire::Call>(&self) {
        self.push(R::OP, Answer::Hold);
    }

    /// The requests of this kind so far.
    pub(crate) fn seen<R: wire::Call>(&self) -> Vec<R> {
        let seen = self.script.seen.borrow();
        let of_kind = seen.iter().filter(|one| one.op == R::OP.code());
        of_kind.map(|one| wire::decode_body(&one.body).expect("well-formed")).collect()
    }

    /// The ids of the requests of this kind so far.
    pub(crate) fn ids<R: wire::Call>(&self) -> Vec<u64> {
        let seen = self.script.seen.borrow();
        seen.iter().filter(|one| one.op == R::OP.code()).map(|one| one.id).collect()
    }

    /// Runs `vstorage -c stor1` on the host.
    pub(crate) async fn vstorage(&self, args: &[&str]) -> Ended {
        let args: Vec<&str> = ["-c", "stor1"].into_iter().chain(args.iter().copied()).collect();
        ended(self.host.command(crate::host::VSTORAGE, &args)).await
    }
}

/// Runs a command beside the executor.
pub(crate) async fn ended(mut command: std::process::Command) -> Ended {
    rt::blocking::run(move || command.output()).await.expect("a thread").expect("it runs").into()
}
