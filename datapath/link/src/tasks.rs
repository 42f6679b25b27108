//! The three tasks of a connection: one receives, one sends, one watches the clock.

use std::rc::Rc;
use std::time::Duration;

use rt::buf::Buf;
use rt::net::{Reader, Writer};
use rt::time::Instant;
use rt::{First, first};
use wire::{Header, Kind, Op, Status};

use crate::error::{CloseReason, Violation};
use crate::frame::{Frame, FrameReader, Gate, Verdict};
use crate::greeting;
use crate::message::{Body, Payload, Reply, Request};
use crate::outgoing::Sort;
use crate::pending::Wanted;
use crate::renewal;
use crate::service::Notice;
use crate::shared::{PINGS_MAX, Phase, Shared};
use crate::tls::record::{self, ALERT, HEADER, KEY_UPDATE, Opened, Opener, RecordError, Sealer};

/// Requests whose deadlines pass within this time of each other are ended together.
const DEADLINE_STEP: Duration = Duration::from_millis(1);
/// Alert level and description of an orderly end (RFC 8446 section 6.1).
const CLOSE_NOTIFY: (u8, u8) = (1, 0);
/// Alert level of any other end (RFC 8446 section 6.2).
const FATAL: u8 = 2;
/// How long a peer is given to take the alert that it has broken TLS.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);

/// Receives until the connection ends. `surplus` is what came behind the handshake.
pub(crate) async fn receive(shared: Rc<Shared>, mut reader: Reader, opener: Opener, mut surplus: Vec<u8>) {
    let mut inlet = Inlet { opener, partial: Vec::new(), frames: FrameReader::new() };
    let mut outcome = inlet.take(&mut surplus, &shared);
    drop(surplus);
    while outcome.is_ok() {
        outcome = match reader.recv().await {
            Ok(Some(mut received)) => inlet.take(&mut received, &shared),
            Ok(None) => Err(CloseReason::Cut),
            Err(error) => Err(error.into()),
        };
    }
    if let Err(reason) = outcome {
        shared.end(reason);
    }
}

/// Turns what arrives into frames.
struct Inlet {
    opener: Opener,
    /// The beginning of a record whose end has not come.
    partial: Vec<u8>,
    frames: FrameReader,
}

impl Inlet {
    /// Takes received bytes; whole records are opened where they lie.
    fn take(&mut self, mut bytes: &mut [u8], shared: &Rc<Shared>) -> Result<(), CloseReason> {
        if bytes.is_empty() {
            return Ok(());
        }
        shared.heard.set(true);
        let mut arrivals = Arrivals { shared, now: rt::time::now() };
        while !bytes.is_empty() {
            if self.partial.is_empty()
                && let Some(len) = record::length(bytes)?
                && len <= bytes.len()
            {
                let (record, rest) = bytes.split_at_mut(len);
                open(&mut self.opener, &mut self.frames, record, &mut arrivals)?;
                bytes = rest;
                continue;
            }
            let missing = record::length(&self.partial)?.unwrap_or(HEADER) - self.partial.len();
            let (part, rest) = bytes.split_at_mut(missing.min(bytes.len()));
            self.partial.extend_from_slice(part);
            bytes = rest;
            if record::length(&self.partial)? == Some(self.partial.len()) {
                open(&mut self.opener, &mut self.frames, &mut self.partial, &mut arrivals)?;
                self.partial.clear();
            }
        }
        Ok(())
    }
}

fn open(
    opener: &mut Opener,
    frames: &mut FrameReader,
    record: &mut [u8],
    arrivals: &mut Arrivals<'_>,
) -> Result<(), CloseReason> {
    match opener.open(record)? {
        Opened::Data(bytes) => frames.feed(bytes, arrivals),
        Opened::KeyUpdate { requested } => {
            if requested {
                arrivals.shared.key_update_wanted.set(true);
                arrivals.shared.send.set();
            }
            Ok(())
        }
        Opened::Alert(0) if frames.is_between_frames() => Err(CloseReason::PeerClosed),
        Opened::Alert(0) => Err(CloseReason::Cut),
        Opened::Alert(description) => Err(CloseReason::Alert(description)),
    }
}

/// Sorts what arrives.
struct Arrivals<'a> {
    shared: &'a Rc<Shared>,
    now: Instant,
}

impl Gate for Arrivals<'_> {
    fn admit(&mut self, header: &Header) -> Result<Verdict, CloseReason> {
        let shared = self.shared;
        match (shared.phase(), header.kind) {
            (Phase::Ended, _) => Err(shared.end_reason()),
            (Phase::Greeting, _) => greeting::admit(shared, header),
            // Its greeting was refused: nothing it says counts.
            (Phase::Draining, _) if shared.peer().is_none() => Ok(Verdict::Skip),
            (_, Kind::Request) if header.op == Op::Hello.code() => {
                Err(Violation::OutOfOrder { op: header.op }.into())
            }
            (_, Kind::Request) if header.op == Op::Ping.code() => {
                if shared.queue.borrow().control() >= PINGS_MAX {
                    return Err(Violation::Pings.into());
                }
                Ok(Verdict::Skip)
            }
            (_, Kind::Request) => {
                shared.admit(header)?;
                Ok(Verdict::Keep)
            }
            (_, Kind::Notice) => Ok(Verdict::Keep),
            (_, Kind::Response) if shared.ping.get() == Some(header.request_id) => Ok(Verdict::Skip),
            // Our requests are forgotten then.
            (Phase::Draining, Kind::Response) => Ok(Verdict::Skip),
            (Phase::Open, Kind::Response) => self.admit_answer(header),
        }
    }

    fn deliver(&mut self, frame: Frame) -> Result<(), CloseReason> {
        match (self.shared.phase(), frame.header.kind) {
            (Phase::Greeting, _) => greeting::deliver(self.shared, &frame),
            (Phase::Draining, _) if self.shared.peer().is_none() => Ok(()),
            (_, Kind::Request) => {
                self.request(frame);
                Ok(())
            }
            (_, Kind::Response) => self.response(frame),
            (_, Kind::Notice) => self.notice(frame),
        }
    }
}

impl Arrivals<'_> {
    fn admit_answer(&self, header: &Header) -> Result<Verdict, CloseReason> {
        let mut pending = self.shared.pending();
        match pending.wants(header.request_id, header.op) {
            // Before memory is spent on it.
            Wanted::Yes if !pending.allows(header.request_id, header.payload_len as usize) => {
                Err(Violation::TooMuch { id: header.request_id, bytes: header.payload_len }.into())
            }
            Wanted::Yes => Ok(Verdict::Keep),
            Wanted::NoLonger => {
                // At once: whoever repeats the request from now on needs another answer.
                pending.discard(header.request_id);
                Ok(Verdict::Skip)
            }
            Wanted::Never => Err(Violation::Unasked { id: header.request_id }.into()),
        }
    }

    fn request(&mut self, frame: Frame) {
        let header = frame.header;
        if header.op == Op::Ping.code() {
            let answer = Header::response(&header, Status::Ok, &[], 0).expect("no body and no payload fit");
            return self.shared.push(answer, Sort::Control, Body::default(), Payload::none());
        }
        if let Some(damage) = frame.damage {
            tracing::warn!(peer = %self.shared.address, op = header.op, %damage, "request refused");
            return self.shared.respond(&header, Status::ChecksumMismatch.into());
        }
        let budget = Duration::from_micros(header.timeout_us.into());
        let request = Request {
            op: header.op,
            id: header.request_id,
            flags: header.flags,
            body: frame.body,
            payload: frame.payload,
            deadline: (header.timeout_us > 0).then(|| self.now + budget),
        };
        self.shared.take(header, request, self.now);
    }

    fn response(&mut self, frame: Frame) -> Result<(), CloseReason> {
        let header = frame.header;
        if self.shared.ping.get() == Some(header.request_id) {
            self.shared.ping.set(None);
            return Ok(());
        }
        if frame.skipped {
            return Ok(());
        }
        if let Some(damage) = frame.damage {
            return Err(damage.into());
        }
        let reply = Reply { status: header.status, body: frame.body, payload: frame.payload };
        self.shared.pending().answer(header.request_id, reply);
        Ok(())
    }

    fn notice(&mut self, frame: Frame) -> Result<(), CloseReason> {
        if let Some(damage) = frame.damage {
            return Err(damage.into());
        }
        if frame.header.op == Op::Goodbye.code() {
            self.shared.peer_stops();
            return Ok(());
        }
        if frame.header.op == Op::Revocations.code() {
            renewal::hear(self.shared, &frame.body);
            return Ok(());
        }
        self.shared.take_notice(Notice { op: frame.header.op, body: frame.body, payload: frame.payload });
        Ok(())
    }
}

/// Sends until the connection ends.
pub(crate) async fn send(shared: Rc<Shared>, mut writer: Writer, mut sealer: Sealer) {
    let mut whole = true;
    while shared.phase() != Phase::Ended {
        let batch = match next_batch(&shared, &mut sealer) {
            Ok(batch) => batch,
            Err(error) => {
                shared.end(error.into());
                break;
            }
        };
        match batch {
            Some(batch) => match first(writer.send_all(batch.freeze()), shared.abort.wait()).await {
                First::Left(Ok(())) => {}
                First::Left(Err(error)) => {
                    whole = false;
                    shared.end(error.into());
                }
                // A part of a record may have left: nothing can follow it.
                First::Right(()) => whole = false,
            },
            None if shared.is_drained() => {
                let alert = first(send_alert(&mut writer, &mut sealer, CLOSE_NOTIFY), shared.abort.wait());
                // The connection ends in either case.
                let _sent = alert.await;
                whole = false;
                shared.end(shared.drain_reason());
            }
            None => shared.send.wait().await,
        }
    }
    if let CloseReason::Record(error) = shared.end_reason()
        && whole
    {
        let alert = send_alert(&mut writer, &mut sealer, (FATAL, error.alert()));
        let _sent = rt::time::timeout(ALERT_TIMEOUT, alert).await;
    }
    writer.shutdown();
}

async fn send_alert(
    writer: &mut Writer,
    sealer: &mut Sealer,
    (level, description): (u8, u8),
) -> std::io::Result<()> {
    let mut alert = Buf::new(ALERT);
    sealer.alert(&mut alert, level, description);
    writer.send_all(alert.freeze()).await
}

fn next_batch(shared: &Rc<Shared>, sealer: &mut Sealer) -> Result<Option<Buf>, RecordError> {
    if shared.key_update_wanted.take() {
        let mut update = Buf::new(KEY_UPDATE);
        sealer.update(&mut update)?;
        return Ok(Some(update));
    }
    let now = rt::time::now();
    if shared.queue.borrow().is_empty() {
        // It may be empty because requests were taken back: whoever waits for room has it.
        shared.use_room(now);
        if shared.queue.borrow().is_empty() {
            return Ok(None);
        }
    }
    let batch = {
        let mut queue = shared.queue.borrow_mut();
        queue.seal(sealer, now, |id| shared.pending().mark_sent(id))?
    };
    if batch.is_some() {
        shared.use_room(now);
    }
    Ok(batch)
}

/// Watches deadlines and the peer's life until the connection ends.
pub(crate) async fn watch(shared: Rc<Shared>) {
    // One silent period makes a ping, another one is the least it has for an answer.
    let every = shared.options().keepalive;
    let limit = shared.options().silence_max.max(every * 2);
    let mut tick = rt::time::now() + every;
    let mut silent = Duration::ZERO;
    let mut swept = rt::time::now();
    loop {
        if shared.phase() == Phase::Draining && shared.drain_until.get().is_none() {
            shared.drain_until.set(Some(rt::time::now() + shared.options().close_timeout));
        }
        let deadline = shared.earliest.get().map(|earliest| earliest.max(swept + DEADLINE_STEP));
        let until = [deadline, shared.drain_until.get()].into_iter().flatten().fold(tick, Instant::min);
        shared.watch_until.set(until);
        if let First::Right(()) = first(rt::time::sleep_until(until), shared.watch.wait()).await {
            if shared.phase() == Phase::Ended {
                return;
            }
            continue;
        }
        let now = rt::time::now();
        if shared.drain_until.get().is_some_and(|until| until <= now) {
            return shared.end(shared.drain_reason());
        }
        if shared.earliest.get().is_some_and(|earliest| earliest <= now) {
            shared.expire(now);
            swept = now;
        }
        if tick <= now {
            tick = now + every;
            // Another endpoint of this process may have heard of it.
            shared.end_if_revoked();
            silent = if shared.heard.take() { Duration::ZERO } else { silent + every };
            if silent >= limit {
                return shared.end(CloseReason::Silent(silent));
            }
            if !silent.is_zero() {
                ping(&shared);
            }
        }
    }
}

fn ping(shared: &Shared) {
    if shared.phase() != Phase::Open || shared.ping.get().is_some() {
        return;
    }
    let id = shared.take_id();
    shared.ping.set(Some(id));
    let header = Header::request(Op::Ping, id, 0, &[], 0).expect("no body and no payload fit");
    shared.push(header, Sort::Control, Body::default(), Payload::none());
}

#[cfg(test)]
mod tests {
    use rt::buf::View;

    use super::*;
    use crate::endpoint::Options;
    use crate::message::Call;
    use crate::testing::{greeting, open, run};

    #[test]
    fn a_request_repeated_while_its_unwanted_answer_arrives_gets_an_answer_of_its_own() {
        run(async {
            let (shared, connection) = open(Options::default(), None);
            let call = || {
                let deadline = rt::time::now() + Duration::from_secs(10);
                connection.call(Call::new(Op::Write, vec![], deadline).with_id(5))
            };
            let leave = || shared.pending().mark_sent(5);
            let mut arrivals = Arrivals { shared: &shared, now: rt::time::now() };
            let request = Header::request(Op::Write, 5, 0, &[], 0).unwrap();
            let answer = Header::response(&request, Status::Ok, &[1; 10], 0).unwrap();
            {
                let mut first = std::pin::pin!(call());
                assert!(rt::time::timeout(Duration::from_millis(1), first.as_mut()).await.is_err());
                leave();
            }
            // The header of the first answer comes when nobody waits, its end when somebody waits again.
            assert_eq!(arrivals.admit(&answer).unwrap(), Verdict::Skip);
            let mut second = std::pin::pin!(call());
            assert!(rt::time::timeout(Duration::from_millis(1), second.as_mut()).await.is_err());
            leave();
            let empty = View::empty();
            let frame = |body: View, skipped| Frame {
                header: answer,
                body,
                payload: empty.clone(),
                skipped,
                damage: None,
            };
            arrivals.deliver(frame(empty.clone(), true)).unwrap();
            assert_eq!(arrivals.admit(&answer).unwrap(), Verdict::Keep);
            arrivals.deliver(frame(View::copy_of(&[1; 10]), false)).unwrap();
            assert_eq!(second.await.unwrap().body.len(), 10);
            assert!(matches!(
                arrivals.admit(&answer),
                Err(CloseReason::Violation(Violation::Unasked { id: 5 }))
            ));
        });
    }

    /// Counts what reaches it.
    #[derive(Default)]
    struct Counter(std::cell::Cell<u32>);

    impl crate::service::Service for Counter {
        async fn serve(
            self: Rc<Self>,
            _connection: crate::connection::Connection,
            _request: Request,
        ) -> crate::message::Response {
            self.0.set(self.0.get() + 1);
            Status::Ok.into()
        }

        fn notice(self: Rc<Self>, connection: &crate::connection::Connection, _notice: Notice) {
            // A peer that is heard has a name.
            let _peer = connection.peer();
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn who_is_refused_is_not_heard() {
        run(async {
            let counter = Rc::new(Counter::default());
            let (shared, _connection) = greeting(Some(counter.clone()));
            let mut arrivals = Arrivals { shared: &shared, now: rt::time::now() };
            let empty = View::empty();
            let mut arrive = |header: Header, body: &[u8]| {
                let verdict = arrivals.admit(&header)?;
                let (body, skipped) = (View::copy_of(body), verdict == Verdict::Skip);
                arrivals.deliver(Frame { header, body, payload: empty.clone(), skipped, damage: None })
            };
            let hello = wire::encode_body(&wire::hello::Hello::current()).unwrap();
            arrive(Header::request(Op::Hello, 1, 0, &hello, 0).unwrap(), &hello).unwrap();
            assert_eq!((shared.phase(), shared.peer().is_none()), (Phase::Draining, true));
            let answers = shared.queue.borrow().bytes();
            arrive(Header::notice(Op::Ping, &[], 0).unwrap(), &[]).unwrap();
            arrive(Header::request(Op::Write, 2, 0, &[], 0).unwrap(), &[]).unwrap();
            arrive(Header::request(Op::Ping, 3, 0, &[], 0).unwrap(), &[]).unwrap();
            arrive(Header::request(Op::Hello, 4, 0, &hello, 0).unwrap(), &hello).unwrap();
            rt::yield_now().await;
            assert_eq!((counter.0.get(), shared.queue.borrow().bytes()), (0, answers));
        });
    }

    #[test]
    fn room_made_by_requests_taken_back_is_used() {
        run(async {
            let counter = Rc::new(Counter::default());
            let options = Options { queue_bytes: 4096, ..Options::default() };
            let (shared, connection) = open(options, Some(counter.clone()));
            let (mut client, _server) = crate::testing::secured().await;
            {
                // A request of ours fills the queue; one of the peer, and a notice, have to wait for room.
                let deadline = rt::time::now() + Duration::from_secs(10);
                let call = Call::new(Op::Write, vec![0; 5000], deadline);
                let mut call = std::pin::pin!(connection.call(call));
                assert!(rt::time::timeout(Duration::from_millis(1), call.as_mut()).await.is_err());
                let header = Header::request(Op::Write, 7, 0, &[], 0).unwrap();
                shared.admit(&header).unwrap();
                let empty = View::empty();
                let request = Request {
                    op: header.op,
                    id: 7,
                    flags: 0,
                    body: empty.clone(),
                    payload: empty,
                    deadline: None,
                };
                shared.take(header, request, rt::time::now());
            }
            let theirs = connection.clone();
            let notice = rt::spawn(async move { theirs.notify(&wire::hello::Goodbye::default()).await });
            rt::yield_now().await;
            // The caller has gone and taken his request along: what the sending task does when it looks for work.
            shared.send.wait().await;
            let _batch = next_batch(&shared, &mut client.sealer).unwrap();
            rt::time::timeout(Duration::from_secs(5), notice).await.expect("let in").unwrap().unwrap();
            assert_eq!(counter.0.get(), 1);
        });
    }

    #[test]
    fn a_caller_who_leaves_takes_his_request_along_unless_it_has_left() {
        run(async {
            let (shared, connection) = open(Options::default(), None);
            let payload = View::copy_of(&[0; 4096]);
            for _ in 0..2000 {
                let deadline = rt::time::now() + Duration::from_secs(10);
                let call = Call::new(Op::Write, vec![], deadline)
                    .with_payload(payload.clone())
                    .expecting(payload.len());
                let mut call = std::pin::pin!(connection.call(call));
                std::future::poll_fn(|cx| {
                    assert!(call.as_mut().poll(cx).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
                assert!(shared.queue.borrow().bytes() > 4096);
            }
            assert_eq!(shared.queue.borrow().bytes(), 0);
        });
    }
}
