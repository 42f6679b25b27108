//! A client that follows the rules of clients: it trusts its lease for five sixths of the term.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use link::{AskError, Credentials, Expect, Keep, Master, ServerAddress};
use rt::time::Instant;
use wire::Status;
use wire::hello::Role;
use wire::lease::{AllocateChunks, Open, OpenMode, OpenReply, Release};
use wire::namespace::FileRef;
use wire::session::{IoStats, OpenSession, RenewSession, SessionKey};

use super::truth::{Belief, Truth};
use super::{FILES, LEASE, endpoint, nap, path};

/// A client's session while it runs.
struct Session {
    key: SessionKey,
    until: Cell<Instant>,
    over: Cell<bool>,
}

async fn open_session(truth: &Truth, client: usize, master: &Master) -> Option<Rc<Session>> {
    let resume = truth.keys[client].borrow().clone();
    // Taken over: what the last one held is over.
    let sent = rt::time::now();
    let request = OpenSession {
        client_uuid: vec![client as u8 + 1; 16],
        host_name: format!("client{client}"),
        resume,
        ..OpenSession::default()
    };
    // The same in every attempt, so that an answer that was lost is given again.
    let id = 1 << 40 | rt::random::below(1 << 40);
    let reply = master.ask_as(id, &request, sent + Duration::from_secs(10)).await.ok()?;
    truth.forget(client, None);
    *truth.keys[client].borrow_mut() = Some(reply.session.clone());
    let term = Duration::from_millis(reply.term_ms.into());
    let until = Cell::new(sent + term * 5 / 6);
    Some(Rc::new(Session { key: reply.session, until, over: Cell::new(false) }))
}

async fn renew(truth: Rc<Truth>, client: usize, master: Master, session: Rc<Session>) {
    while !session.over.get() {
        rt::time::sleep(LEASE / 4).await;
        let sent = rt::time::now();
        let request =
            RenewSession { session: session.key.clone(), io: IoStats::default(), answered_below: 0 };
        match master.ask(&request, sent + LEASE / 2).await {
            Ok(reply) if !session.over.get() => {
                let term = Duration::from_millis(reply.term_ms.into());
                session.until.set(sent + term * 5 / 6);
                truth.renewed(client, session.until.get());
                for lost in reply.revoked {
                    truth.forget(client, Some(lost.file_id));
                }
            }
            Err(AskError::Status { status: Status::SessionExpired, .. }) => {
                session.over.set(true);
                truth.forget(client, None);
            }
            _ => {}
        }
    }
}

/// A client: opens files, holds them for a while, gives them back in one way or another.
pub(super) async fn run_client(
    truth: Rc<Truth>,
    client: usize,
    credentials: Credentials,
    mds: ServerAddress,
) {
    let endpoint = endpoint(credentials, Role::Client);
    let master = Master::new(&endpoint, vec![mds], Keep::new(Expect::role(Role::Mds)));
    loop {
        let Some(session) = open_session(&truth, client, &master).await else { continue };
        let renewing = rt::spawn(renew(Rc::clone(&truth), client, master.clone(), Rc::clone(&session)));
        while !session.over.get() {
            let file = rt::random::below(FILES);
            let Some(open) = open(&truth, client, &master, &session, file).await else { continue };
            allocate(&truth, &master, &session, &open).await;
            nap(400).await;
            give_back(&truth, client, &master, &session, &open).await;
        }
        renewing.abort();
    }
}

async fn open(
    truth: &Truth,
    client: usize,
    master: &Master,
    session: &Session,
    file: u64,
) -> Option<OpenReply> {
    let mut resume_epoch = 0;
    loop {
        let request = Open {
            file: Some(FileRef::Path(path(file))),
            session: session.key.clone(),
            mode: OpenMode::Write.into(),
            map_count: 4,
            resume_epoch,
        };
        match master.ask(&request, rt::time::now() + Duration::from_secs(4)).await {
            Ok(reply) if !session.over.get() => {
                let belief = Belief { client, epoch: reply.epoch, until: session.until.get() };
                truth.grant(reply.file_id, belief);
                truth.tell(&reply.map);
                truth.check_map(&reply.map);
                if rt::random::below(4) > 0 {
                    return Some(reply);
                }
                // As after the reboot of a chunk server: nothing more is done at this epoch.
                truth.forget(client, Some(reply.file_id));
                resume_epoch = reply.epoch;
            }
            Ok(_) => return None,
            Err(AskError::Status { status: Status::SessionExpired, .. }) => {
                session.over.set(true);
                truth.forget(client, None);
                return None;
            }
            Err(AskError::Status { status: Status::LeaseHeld | Status::StaleEpoch, .. }) => {
                nap(300).await;
                return None;
            }
            Err(_) => {}
        }
        if session.over.get() {
            return None;
        }
    }
}

async fn allocate(truth: &Truth, master: &Master, session: &Session, open: &OpenReply) {
    let request = AllocateChunks {
        session: session.key.clone(),
        file_id: open.file_id,
        epoch: open.epoch,
        indices: vec![rt::random::below(8)],
        grow_to: 0,
    };
    let answer = master.ask(&request, rt::time::now() + Duration::from_secs(2)).await;
    let Ok(map) = answer else { return };
    truth.allocated.set(truth.allocated.get() + 1);
    truth.tell(&map);
    truth.check_map(&map);
}

async fn give_back(truth: &Truth, client: usize, master: &Master, session: &Session, open: &OpenReply) {
    let trusts = rt::time::now() < session.until.get() && !session.over.get();
    // Some just drop what they have, and open it again some day.
    if rt::random::below(5) == 0 {
        return truth.forget(client, Some(open.file_id));
    }
    let clean = trusts && rt::random::below(2) == 0;
    truth.forget(client, Some(open.file_id));
    if clean {
        truth.clean.borrow_mut().insert(open.file_id);
    }
    let request = Release { session: session.key.clone(), file_id: open.file_id, epoch: open.epoch, clean };
    let released = master.ask(&request, rt::time::now() + Duration::from_secs(4)).await;
    if released.is_ok() {
        truth.rounds[client].set(truth.rounds[client].get() + 1);
    }
}
