//! Guests: those who know the password and no more. They prove it (OPAQUE, `docs/formats/security.md`), then they are made nodes,
//! or set another password.
//!
//! **Invariant:** whoever has not proved the password learns nothing: a wrong one, another cluster's, and a cluster without one are
//! answered by the same bytes in the same time, apart from what is random.

mod limiter;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use link::guest::{Channel, ChannelError, Host, purpose};
use link::identity::{Identity, Roles};
use link::password::{Challenge, SessionKey, Verifier};
use link::revocation::LIFETIME_H;
use rt::net::Address;
use rt::sync::Notify;
use wire::auth::{Enroll, EnrollReply, Login, LoginReply, NewPassword, NewPasswordReply, SetPassword};
use wire::hello::{Empty, Role};
use wire::{Call, Header, Kind, Op, Status};

use super::Server;
use super::failure::Failure;
use super::reign::{Reign, unexpected};
use crate::state::Outcome;
use crate::state::command::{self, CommandOp, LoginsFailed};
use limiter::{Limiter, Origin};

/// Between two events about failed attempts.
const REPORT_PAUSE: Duration = Duration::from_secs(5);
/// How long the log may take for a guest.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// What the programs of a node may be that has joined by password.
const ROLES: [Role; 3] = [Role::Cs, Role::Client, Role::Tool];

/// What is remembered of guests.
pub(super) struct Guests {
    limiter: RefCell<Limiter>,
    /// Stands in for the verifier of a cluster that has no password, so that it cannot be told from others.
    nobody: OnceCell<Vec<u8>>,
    failed: RefCell<LoginsFailed>,
    /// There is something to report.
    reported: Notify,
    has_failed: Cell<bool>,
}

impl Guests {
    pub(super) fn new() -> Self {
        Self {
            limiter: RefCell::new(Limiter::new(rt::time::now())),
            nobody: OnceCell::new(),
            failed: RefCell::default(),
            reported: Notify::new(),
            has_failed: Cell::new(false),
        }
    }

    fn count(&self, address: &Address, ignored: bool) {
        let mut failed = self.failed.borrow_mut();
        if ignored {
            failed.ignored += 1;
        } else {
            failed.wrong += 1;
        }
        failed.address = without_port(address);
        self.has_failed.set(true);
        self.reported.notify_all();
    }
}

fn without_port(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().to_string(),
        Address::Unix(_) => "a local socket".to_owned(),
    }
}

/// Receives guests for a server, and does not keep it alive.
pub(super) struct Reception(pub(super) Weak<Server>);

impl Host for Reception {
    fn receive(self: Rc<Self>, channel: Channel) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let Some(server) = self.0.upgrade() else { return };
            server.receive_guest(channel).await;
        })
    }
}

/// A request of a guest.
struct Asked {
    header: Header,
    body: Vec<u8>,
}

impl Asked {
    async fn next(channel: &mut Channel) -> Result<Self, ChannelError> {
        let (header, body) = channel.receive().await?;
        if header.kind == Kind::Request {
            Ok(Self { header, body })
        } else {
            Err(link::Violation::OutOfOrder { op: header.op }.into())
        }
    }

    fn read<C: Call>(&self) -> Result<C, Failure> {
        if self.header.known_op() == Some(C::OP) {
            return Ok(wire::decode_body(&self.body)?);
        }
        Err(Failure::new(Status::Unsupported, format!("{} is expected from a guest here", C::OP)))
    }

    async fn answer<C: Call>(&self, channel: &mut Channel, reply: &C::Reply) -> Result<(), Failure> {
        let body = wire::encode_body(reply)?;
        // If he has gone, there is nobody to tell.
        let _gone = channel.answer(&self.header, Status::Ok, &body).await;
        Ok(())
    }

    async fn refuse(&self, channel: &mut Channel, failure: Failure) {
        let response = link::Response::from(failure);
        let _gone = channel.answer(&self.header, response.status, &response.body).await;
    }
}

impl Server {
    async fn receive_guest(&self, mut channel: Channel) {
        let address = channel.address().clone();
        let origin = Origin::of(&address);
        let asked = match Asked::next(&mut channel).await {
            Ok(asked) => asked,
            Err(error) => return tracing::debug!(%address, %error, "a guest said nothing"),
        };
        if let Err(failure) = self.reign() {
            // Whoever asks one server after the other has not guessed at anything yet.
            asked.refuse(&mut channel, failure).await;
            return channel.close().await;
        }
        if !self.guests.limiter.borrow_mut().admit(origin, rt::time::now()) {
            self.guests.count(&address, true);
            let text = "too many attempts to authenticate: try again in some minutes";
            asked.refuse(&mut channel, Failure::new(Status::Retry, text).after_ms(60_000)).await;
            return channel.close().await;
        }
        match self.log_in(&mut channel, &asked).await {
            Ok(Some((reign, wish, key))) => {
                self.guests.limiter.borrow_mut().give_back(origin);
                if let Err(failure) = reign.grant(&mut channel, &wish, &key).await {
                    wish.refuse(&mut channel, failure).await;
                }
            }
            Ok(None) => self.guests.count(&address, false),
            Err(failure) => asked.refuse(&mut channel, failure).await,
        }
        channel.close().await;
    }

    /// Finds out whether a guest knows the password. What he wants comes with the proof. `None`: he does not, or has gone without
    /// saying so, which is what programs do that have found the password wrong.
    async fn log_in(
        &self,
        channel: &mut Channel,
        asked: &Asked,
    ) -> Result<Option<(Rc<Reign>, Asked, SessionKey)>, Failure> {
        let login: Login = asked.read()?;
        let reign = self.reign()?;
        reign.confirm_for_guest().await?;
        let (challenge, ke2) = self.challenge(&reign, &login.ke1, channel)?;
        asked.answer::<Login>(channel, &LoginReply { ke2 }).await?;
        let Ok(wish) = Asked::next(channel).await else { return Ok(None) };
        let ke3 = match wish.header.known_op() {
            Some(Op::Enroll) => wish.read::<Enroll>().map(|wish| wish.ke3),
            Some(Op::NewPassword) => wish.read::<NewPassword>().map(|wish| wish.ke3),
            _ => Err(Failure::new(Status::Unsupported, "guests may ask for enroll or new_password")),
        };
        let proven = ke3.and_then(|ke3| {
            challenge.check(&ke3).map_err(|error| Failure::new(Status::Forbidden, error.to_string()))
        });
        match proven {
            Ok(key) => Ok(Some((reign, wish, key))),
            Err(failure) => {
                wish.refuse(channel, failure).await;
                Ok(None)
            }
        }
    }

    fn challenge(
        &self,
        reign: &Reign,
        ke1: &[u8],
        channel: &Channel,
    ) -> Result<(Challenge, Vec<u8>), Failure> {
        let (name, kept) = reign.read(|state| {
            let name = state.cluster().map(|cluster| cluster.name.clone()).unwrap_or_default();
            (name, state.nodes().password().verifier.clone())
        });
        // Both are read in the same way, so that they take the same time.
        let nobody = || self.guests.nobody.get_or_init(|| Verifier::without_password().to_bytes().to_vec());
        let verifier = Verifier::from_bytes(if kept.is_empty() { nobody() } else { &kept });
        let verifier = verifier.unwrap_or_else(|error| {
            tracing::error!("nobody can authenticate: {error}");
            Verifier::without_password()
        });
        let answered = verifier.challenge(ke1, &name, channel.binding());
        answered.map_err(|error| Failure::new(Status::Invalid, error.to_string()))
    }

    /// Leaves events of attempts that failed, not more often than the log bears.
    pub(super) async fn report_guests(self: Rc<Self>) {
        loop {
            let reported = self.guests.reported.notified();
            if !self.guests.has_failed.get() {
                reported.await;
            }
            let reign = self.reign.borrow().clone();
            let Some(reign) = reign else {
                // The next master begins with attempts of its own.
                self.guests.failed.take();
                self.guests.has_failed.set(false);
                continue;
            };
            self.guests.has_failed.set(false);
            let failed = self.guests.failed.take();
            if failed.wrong > 0 {
                tracing::warn!(attempts = failed.wrong, last = failed.address, "wrong passwords");
            }
            let _refused = reign.insist(CommandOp::LoginsFailed(failed)).await;
            rt::time::sleep(REPORT_PAUSE).await;
        }
    }
}

impl Reign {
    async fn confirm_for_guest(&self) -> Result<(), Failure> {
        match rt::time::timeout(CHANGE_MAX, self.consensus.read_barrier()).await {
            Ok(confirmed) => Ok(confirmed?),
            Err(_) => Err(Failure::busy("the metadata servers do not agree in time on who is the master")),
        }
    }

    async fn change_for_guest(&self, op: CommandOp) -> Result<Outcome, Failure> {
        match rt::time::timeout(CHANGE_MAX, self.propose(None, op)).await {
            Ok(answer) => Ok(answer??),
            Err(_) => Err(Failure::timeout()),
        }
    }

    /// Does what a guest wants who has proved the password.
    async fn grant(&self, channel: &mut Channel, wish: &Asked, key: &SessionKey) -> Result<(), Failure> {
        if wish.header.known_op() == Some(Op::Enroll) {
            let reply = self.enroll(wish.read()?, channel.address(), key).await?;
            wish.answer::<Enroll>(channel, &reply).await
        } else {
            self.new_password(channel, wish, key).await
        }
    }

    async fn enroll(
        &self,
        call: Enroll,
        address: &Address,
        key: &SessionKey,
    ) -> Result<EnrollReply, Failure> {
        let authority = self.authority()?;
        let claim = call.key.ok_or(wire::BodyError::Missing { field: "key" })?;
        let admit = |number| Identity {
            cluster: authority.cluster(),
            node: call.node.clone(),
            host_id: call.host_id.clone(),
            roles: Roles::of(&ROLES),
            number,
            until_h: self.read(|state| state.nodes().hours()) + LIFETIME_H,
        };
        let invalid = |error: link::AuthorityError| Failure::new(Status::Invalid, error.to_string());
        // Whatever is wrong with the request shows before the log is asked.
        authority.admit(&admit(u64::MAX), &claim).map_err(invalid)?;
        let op = command::AdmitNode {
            name: call.node.clone(),
            host_id: call.host_id.clone(),
            address: without_port(address),
        };
        let number = match self.change_for_guest(CommandOp::AdmitNode(op)).await? {
            Outcome::Created(number) => number,
            other => return Err(unexpected(&other)),
        };
        let certificate = authority.admit(&admit(number), &claim).map_err(invalid)?;
        let authority = authority.certificate().to_vec();
        let proof = key.prove(purpose::ENROLLED, &[&authority, &certificate]);
        Ok(EnrollReply { authority, certificate, proof })
    }

    async fn new_password(
        &self,
        channel: &mut Channel,
        wish: &Asked,
        key: &SessionKey,
    ) -> Result<(), Failure> {
        let call: NewPassword = wish.read()?;
        let replaces = self.read(|state| state.nodes().password().version);
        let verifier = Verifier::without_password();
        let malformed =
            |error: link::password::PasswordError| Failure::new(Status::Invalid, error.to_string());
        let response = verifier.register(&call.request).map_err(malformed)?;
        wish.answer::<NewPassword>(channel, &NewPasswordReply { response }).await?;
        let Ok(last) = Asked::next(channel).await else { return Ok(()) };
        match self.set_password(verifier, replaces, channel, &last, key).await {
            Ok(()) => last.answer::<SetPassword>(channel, &Empty {}).await,
            Err(failure) => {
                last.refuse(channel, failure).await;
                Ok(())
            }
        }
    }

    async fn set_password(
        &self,
        verifier: Verifier,
        replaces: u64,
        channel: &Channel,
        last: &Asked,
        key: &SessionKey,
    ) -> Result<(), Failure> {
        let call: SetPassword = last.read()?;
        if !key.is_proof(purpose::SET_PASSWORD, &[&call.record], &call.proof) {
            return Err(Failure::new(
                Status::Forbidden,
                "the new password is not proven to come from the same guest",
            ));
        }
        let verifier = verifier.with_record(&call.record);
        let verifier = verifier.map_err(|error| Failure::new(Status::Invalid, error.to_string()))?;
        let op = command::SetPassword {
            verifier: verifier.to_bytes().to_vec(),
            replaces,
            origin: without_port(channel.address()),
        };
        self.change_for_guest(CommandOp::SetPassword(op)).await?;
        Ok(())
    }
}
