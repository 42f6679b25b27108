//! Asking the metadata servers of a cluster.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use link::discovery::{Found, Source};
use link::{
    AskError, CallError, Change, CloseReason, ConnectCause, ConnectError, Endpoint, Expect, HandshakeError,
    Keep, LocalHello, Master, OWN_IDS, Options, ServerAddress,
};
use rt::sync::Notify;
use wire::hello::Role;
use wire::{BodyError, ErrorBody, Status};

use crate::cluster::{Cluster, ClusterError};
use crate::table::printable;

/// Why the metadata servers did not do what they were asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MdsError {
    /// None can be reached.
    #[error(
        "no metadata server of cluster '{cluster}' can be reached{}{}\n\
         check that one runs on its host (vstorage -c {cluster} start-service mds), and the addresses in {by}: {}",
        if waited.is_zero() { String::new() } else { format!(" within {} s", waited.as_secs()) },
        attempts.iter().map(|attempt| format!("\n  {attempt}")).collect::<String>(),
        servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    )]
    Unreachable {
        /// The cluster.
        cluster: String,
        /// How long; zero when waiting is of no use.
        waited: Duration,
        /// The last attempt at each address.
        attempts: Vec<String>,
        /// The servers by the list.
        servers: Vec<ServerAddress>,
        /// Who names them.
        by: Source,
    },
    /// One was reached and did not answer.
    #[error(
        "the metadata server at {server} did not answer within {} s; whether the request was carried out is not known; \
         try again, with a longer --timeout if it is busy",
        waited.as_secs()
    )]
    Silent {
        /// The server.
        server: ServerAddress,
        /// How long.
        waited: Duration,
    },
    /// The request was refused.
    #[error("{}{}", refusal(subject, *status, body), advice.as_ref().map(|text| format!("; {text}")).unwrap_or_default())]
    Refused {
        /// What the request was about.
        subject: String,
        /// The status.
        status: Status,
        /// What the server says about it.
        body: ErrorBody,
        /// What to do.
        advice: Option<String>,
    },
    /// Reply or request are not what the protocol says.
    #[error(
        "the metadata server and this program do not understand each other ({0}); check that their versions go together"
    )]
    Protocol(#[from] BodyError),
    /// The request is too large.
    #[error("the request is too large: {0}")]
    TooLarge(#[source] wire::FrameError),
}

impl MdsError {
    /// Whether the same request may find an answer later. It has taken its time already, so that nobody who asks
    /// again and again keeps a processor busy.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { waited, .. } => !waited.is_zero(),
            Self::Silent { .. } => true,
            _ => false,
        }
    }
}

fn refusal(subject: &str, status: Status, body: &ErrorBody) -> String {
    if body.message.is_empty() { format!("{subject}: {status}") } else { printable(&body.message) }
}

/// What an operator can do about a status, where the server cannot know it.
fn advice(cluster: &str, status: Status, body: &ErrorBody) -> Option<String> {
    Some(match status {
        Status::LeaseHeld => {
            let host =
                if body.hint.is_empty() { String::new() } else { format!(" on {}", printable(&body.hint)) };
            format!(
                "client {}{host} has it open: stop that, or take its leases away with vstorage -c {cluster} revoke -C {}",
                body.detail, body.detail
            )
        }
        Status::NotEmpty => "add -r to remove it with all it holds".to_owned(),
        Status::NotMaster => {
            "the metadata servers have no master now: try again, then look at their logs".to_owned()
        }
        Status::Retry | Status::Timeout | Status::Stopping => "try again, with a longer --timeout".to_owned(),
        Status::Unsupported => "check that its version and that of this program go together".to_owned(),
        _ => return None,
    })
}

/// How attempts to reach the servers went.
#[derive(Default)]
struct Attempts {
    /// By address: what went wrong, and whether it will go wrong again.
    failed: RefCell<BTreeMap<String, (String, bool)>>,
    changed: Notify,
}

impl Attempts {
    fn note(&self, change: &Change) {
        match change {
            Change::Up(_) => self.failed.borrow_mut().clear(),
            Change::Down(_) => {}
            Change::Failed(error) => {
                let outcome = (error.to_string(), is_hopeless(error));
                self.failed.borrow_mut().insert(error.address.to_string(), outcome);
                self.changed.notify_all();
            }
        }
    }

    /// Waits until as many addresses as there are servers have failed for good.
    async fn all_hopeless(&self, servers: usize) {
        loop {
            let changed = self.changed.notified();
            if self.failed.borrow().values().filter(|(_, hopeless)| *hopeless).count() >= servers {
                return;
            }
            changed.await;
        }
    }
}

/// Whether another attempt is of no use: who is there is not who we look for, or does not want us.
fn is_hopeless(error: &ConnectError) -> bool {
    match &error.cause {
        ConnectCause::Handshake(error) => {
            !matches!(error, HandshakeError::Ended | HandshakeError::Io(_) | HandshakeError::Record(_))
        }
        ConnectCause::Greeting(reason) => matches!(reason, CloseReason::Greeting(_) | CloseReason::Alert(_)),
        ConnectCause::Io(_) | ConnectCause::Timeout(_) | ConnectCause::Shed => false,
    }
}

/// The metadata servers of a cluster, of which the master is asked.
pub(crate) struct Mds {
    cluster: Cluster,
    servers: Vec<ServerAddress>,
    by: Source,
    master: Master,
    attempts: Rc<Attempts>,
    timeout: Duration,
    next_id: Cell<u64>,
}

impl Mds {
    /// Reads what this host knows of the cluster. Connects to nobody yet.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn of(cluster: &Cluster, timeout: Duration) -> Result<Self, ClusterError> {
        let Found { servers, by } = cluster.servers().await?;
        let credentials = cluster.credentials().await?;
        let boot_id = rt::node::boot_id().map_err(|error| ClusterError::Unreadable {
            path: "/proc/sys/kernel/random/boot_id".into(),
            error,
        })?;
        let hello =
            LocalHello { software: env!("CARGO_PKG_VERSION").into(), ..LocalHello::new(Role::Tool, boot_id) };
        let mut options = Options::default();
        // So that an attempt ends, and can be told of, before the time is up.
        options.connect_timeout = options.connect_timeout.min(timeout * 3 / 4);
        let endpoint = Endpoint::new(credentials, hello, options)
            .map_err(|error| ClusterError::Tls { path: cluster.dirs.credentials(&cluster.name), error })?;
        let attempts = Rc::new(Attempts::default());
        let noted = Rc::clone(&attempts);
        let keep = Keep::new(Expect::role(Role::Mds)).observed(move |change| noted.note(change));
        let master = Master::new(&endpoint, servers.clone(), keep);
        // Unique in time, so that no two changes of any tool are taken for the same one.
        let first_id = (rt::time::wall_clock_ms() << 20 | rt::random::below(1 << 20)) & (OWN_IDS - 1);
        Ok(Self {
            cluster: cluster.clone(),
            servers,
            by,
            master,
            attempts,
            timeout,
            next_id: Cell::new(first_id),
        })
    }

    /// Asks something that may be asked twice.
    ///
    /// # Errors
    /// [`MdsError`]; `subject` says there what the request was about.
    pub(crate) async fn ask<R: wire::Call>(&self, request: &R, subject: &str) -> Result<R::Reply, MdsError> {
        self.ask_within(self.timeout, request, subject).await
    }

    /// As [`Mds::ask`], with a time of its own.
    ///
    /// # Errors
    /// [`MdsError`].
    pub(crate) async fn ask_within<R: wire::Call>(
        &self,
        timeout: Duration,
        request: &R,
        subject: &str,
    ) -> Result<R::Reply, MdsError> {
        let asked = self.master.ask(request, rt::time::now() + timeout);
        self.outcome(asked, timeout, subject).await
    }

    /// Asks for a change, under an id that is the same in every attempt.
    ///
    /// # Errors
    /// [`MdsError`].
    pub(crate) async fn change<R: wire::Call>(
        &self,
        request: &R,
        subject: &str,
    ) -> Result<R::Reply, MdsError> {
        let id = self.next_id.get();
        self.next_id.set((id + 1) & (OWN_IDS - 1));
        let asked = self.master.ask_as(id, request, rt::time::now() + self.timeout);
        self.outcome(asked, self.timeout, subject).await
    }

    async fn outcome<T>(
        &self,
        asked: impl Future<Output = Result<T, AskError>>,
        waited: Duration,
        subject: &str,
    ) -> Result<T, MdsError> {
        let names = Names::look(&self.servers, waited / 2);
        let Some(outcome) = unless(asked, self.attempts.all_hopeless(self.servers.len())).await else {
            return Err(self.unreachable(Duration::ZERO, &names));
        };
        let error = match outcome {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        Err(match error {
            AskError::Status { status, error: body } => {
                let advice = advice(&self.cluster.name, status, &body);
                MdsError::Refused { subject: printable(subject), status, body, advice }
            }
            AskError::Body(error) => MdsError::Protocol(error),
            AskError::Call(CallError::TooLarge(error)) => MdsError::TooLarge(error),
            AskError::Call(_) => match self.master.server() {
                Some(server) => MdsError::Silent { server, waited },
                None => self.unreachable(waited, &names),
            },
        })
    }

    fn unreachable(&self, waited: Duration, names: &Names) -> MdsError {
        let failed = self.attempts.failed.borrow().values().map(|(text, _)| text.clone()).collect();
        let mut attempts: Vec<String> = failed;
        // The attempts are of addresses: names that have none are not among them.
        attempts.extend(names.without_address());
        MdsError::Unreachable {
            cluster: self.cluster.name.clone(),
            waited,
            attempts,
            servers: self.servers.clone(),
            by: self.by.clone(),
        }
    }

    /// Connects, and gives the id of the metadata server that is there.
    ///
    /// # Errors
    /// [`MdsError`].
    pub(crate) async fn connected(&self) -> Result<u64, MdsError> {
        let connection = self.master.connection(rt::time::now() + self.timeout);
        let asked = async { connection.await.map_err(AskError::from) };
        Ok(self.outcome(asked, self.timeout, "connection").await?.peer().mds_id)
    }
}

/// How the search for the address of a name went.
enum Look {
    Begun,
    Found,
    Failed(String),
}

/// The addresses of the servers that are given by name, looked for beside a request that may find nobody, so that there is no
/// more to wait for when its time is up. Dropping it gives the search up.
struct Names {
    looks: Rc<RefCell<BTreeMap<ServerAddress, Look>>>,
    tasks: Vec<rt::JoinHandle<()>>,
}

impl Names {
    /// Begins after some time: most requests are answered before.
    fn look(servers: &[ServerAddress], after: Duration) -> Self {
        let looks = Rc::new(RefCell::new(BTreeMap::new()));
        let named = servers.iter().filter(|server| server.host.parse::<IpAddr>().is_err()).cloned();
        let task = |server: ServerAddress| {
            let looks = Rc::clone(&looks);
            rt::spawn(async move {
                rt::time::sleep(after).await;
                looks.borrow_mut().insert(server.clone(), Look::Begun);
                let look = match server.for_clients().await {
                    Ok(_) => Look::Found,
                    Err(error) => Look::Failed(error.to_string()),
                };
                looks.borrow_mut().insert(server, look);
            })
        };
        let tasks = named.map(task).collect();
        Self { looks, tasks }
    }

    /// A line for each name that has no address, as far as is known by now.
    fn without_address(&self) -> Vec<String> {
        let looks = self.looks.borrow();
        let lines = looks.iter().filter_map(|(server, look)| {
            let why = match look {
                Look::Found => return None,
                Look::Begun => "no name server has answered in time",
                Look::Failed(why) => why,
            };
            Some(format!("{server}: cannot find the address of {}: {why}", server.host))
        });
        lines.collect()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.tasks.iter().for_each(rt::JoinHandle::abort);
    }
}

/// Runs `work`; gives it up when `stop` ends first.
async fn unless<T>(work: impl Future<Output = T>, stop: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut stop) = (pin!(work), pin!(stop));
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => stop.as_mut().poll(cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: Status, body: ErrorBody) -> String {
        let advice = advice("stor1", status, &body);
        MdsError::Refused { subject: "/a".into(), status, body, advice }.to_string()
    }

    #[test]
    fn refusals_say_what_to_do() {
        let body = |message: &str| ErrorBody { message: message.into(), ..Default::default() };
        assert_eq!(refused(Status::AlreadyExists, body("")), "/a: the name is already taken");
        assert_eq!(refused(Status::AlreadyExists, body("/a: already exists")), "/a: already exists");
        assert_eq!(
            refused(Status::NotEmpty, body("")),
            "/a: the directory is not empty; add -r to remove it with all it holds"
        );
        let held = ErrorBody { hint: "s2".into(), detail: 2053, ..Default::default() };
        assert_eq!(
            refused(Status::LeaseHeld, held),
            "/a: the file is in use by another client; client 2053 on s2 has it open: stop that, or take its leases \
             away with vstorage -c stor1 revoke -C 2053"
        );
        assert!(!refused(Status::NotFound, body("\x1b[2J")).contains('\x1b'));
    }

    #[test]
    fn only_what_will_not_change_is_hopeless() {
        let error =
            |cause| ConnectError { address: rt::net::Address::Tcp("127.0.0.1:2511".parse().unwrap()), cause };
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(!is_hopeless(&error(ConnectCause::Io(refused))));
        assert!(!is_hopeless(&error(ConnectCause::Timeout(Duration::from_secs(5)))));
        assert!(!is_hopeless(&error(ConnectCause::Handshake(HandshakeError::Ended))));
        assert!(!is_hopeless(&error(ConnectCause::Greeting(CloseReason::Cut))));
        assert!(is_hopeless(&error(ConnectCause::Handshake(HandshakeError::NoCertificate))));
        assert!(is_hopeless(&error(ConnectCause::Greeting(CloseReason::Alert(48)))));
    }
}
