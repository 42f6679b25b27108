//! Tests of gathering what belongs together.

use rt::random::Rng;

use super::*;
use crate::nbd::{Errno, MIN_HOLE};

/// The bytes of a reply made the slow way: one buffer for the whole read, each byte's hole flag looked at.
fn slowly(form: ReplyForm, reply: &Reply) -> Vec<u8> {
    let read = match reply {
        Reply::Header(header) => return header.as_bytes().to_vec(),
        Reply::Bytes(bytes) => return bytes.clone(),
        Reply::Read(read) => read,
    };
    let (mut data, mut is_hole) = (Vec::new(), Vec::new());
    for (len, part) in &read.parts {
        match part {
            Some(part) => data.extend_from_slice(part),
            None => data.resize(data.len() + *len as usize, 0),
        }
        is_hole.resize(data.len(), part.is_none());
    }
    let mut holes = Vec::new();
    let mut at = 0;
    while at < is_hole.len() {
        let end = (at..is_hole.len()).find(|&other| is_hole[other] != is_hole[at]).unwrap_or(is_hole.len());
        if is_hole[at] {
            holes.push(at as u32..end as u32);
        }
        at = end;
    }
    let &ReadData { cookie, offset, length, df, .. } = read;
    let mut out = Vec::new();
    for part in form.read(ReadReply { cookie, offset, length, df, holes: &holes }) {
        out.extend_from_slice(part.header.as_bytes());
        out.extend_from_slice(&data[part.payload]);
    }
    out
}

fn random_parts(rng: &mut Rng) -> Parts {
    let sizes = [1, 7, 512, 1000, 4096, 4097, 8192, 70_000];
    let count = 1 + rng.below(6);
    (0..count)
        .map(|_| {
            let len = sizes[rng.below(sizes.len() as u64) as usize];
            let data = (!rng.one_in(2)).then(|| {
                let mut buf = Buf::new(len);
                buf.fill_with(|| rng.below(256) as u8);
                buf.freeze()
            });
            (len as u64, data)
        })
        .collect()
}

fn random_reply(rng: &mut Rng, form: ReplyForm) -> Reply {
    match rng.below(4) {
        0 => Reply::Header(form.ok(rng.below(1 << 40))),
        1 => Reply::Bytes(form.error(rng.below(1 << 40), Errno::Io, "no")),
        _ => {
            let parts = random_parts(rng);
            let length = parts.iter().map(|(len, _)| *len as u32).sum();
            let (cookie, offset) = (rng.below(1 << 40), rng.below(1 << 40));
            Reply::Read(ReadData { cookie, offset, length, df: rng.one_in(4), parts })
        }
    }
}

fn drain(encoder: &mut Encoder, queue: &mut VecDeque<(Reply, usize)>) -> (Vec<u8>, Vec<usize>) {
    let (mut out, mut held) = (Vec::new(), Vec::new());
    while !queue.is_empty() {
        let before = held.len();
        for view in encoder.batch(queue, &mut held) {
            assert!(!view.is_empty(), "no segment of a send is empty");
            out.extend_from_slice(&view);
        }
        assert!(held.len() > before, "each batch takes one reply at least");
    }
    (out, held)
}

#[test]
fn what_is_sent_equals_what_the_slow_way_makes() {
    let mut rng = Rng::from_seed(11);
    for round in 0..400 {
        let form = if round % 2 == 0 { ReplyForm::Structured } else { ReplyForm::Simple };
        let replies: Vec<Reply> = (0..1 + rng.below(8)).map(|_| random_reply(&mut rng, form)).collect();
        let expected: Vec<u8> = replies.iter().flat_map(|reply| slowly(form, reply)).collect();
        let mut queue: VecDeque<_> = replies.into_iter().zip(0..).collect();
        let count = queue.len();
        let (sent, held) = drain(&mut Encoder::new(form), &mut queue);
        assert!(sent == expected, "round {round}: {} bytes instead of {}", sent.len(), expected.len());
        assert_eq!(held, (0..count).collect::<Vec<_>>(), "in order");
    }
}

#[test]
fn small_replies_share_one_segment() {
    let form = ReplyForm::Structured;
    let read = |cookie| {
        let parts = vec![(4096, Some(Buf::zeroed(4096).freeze()))];
        Reply::Read(ReadData { cookie, offset: 0, length: 4096, df: false, parts })
    };
    let mut queue: VecDeque<_> = (0..4).map(|n| (Reply::Header(form.ok(n)), ())).collect();
    queue.extend((4..8).map(|n| (read(n), ())));
    let views = Encoder::new(form).batch(&mut queue, &mut Vec::new());
    assert!(queue.is_empty());
    assert_eq!(views.iter().map(|view| view.len()).collect::<Vec<_>>(), [4 * 16 + 4 * (28 + 4096)]);
}

#[test]
fn large_data_is_not_copied() {
    let data = Buf::zeroed(1 << 16).freeze();
    let place = data.as_ptr();
    let parts = vec![(1 << 16, Some(data)), (u64::from(MIN_HOLE), None), (100, None)];
    let length = (1 << 16) + MIN_HOLE + 100;
    let read = Reply::Read(ReadData { cookie: 1, offset: 0, length, df: false, parts });
    let views = Encoder::new(ReplyForm::Structured).batch(&mut [(read, ())].into(), &mut Vec::new());
    assert_eq!(views.iter().map(|view| view.len()).collect::<Vec<_>>(), [28, 1 << 16, 32]);
    assert_eq!(views[1].as_ptr(), place);
}

#[test]
fn batches_are_bounded() {
    let form = ReplyForm::Simple;
    let read = |cookie| {
        let parts = vec![(700_000, None)];
        Reply::Read(ReadData { cookie, offset: 0, length: 700_000, df: false, parts })
    };
    let mut queue: VecDeque<_> = (0..3).map(|n| (read(n), ())).collect();
    let mut encoder = Encoder::new(form);
    for left in [2, 1, 0] {
        let views = encoder.batch(&mut queue, &mut Vec::new());
        assert_eq!(views.iter().map(|view| view.len()).sum::<usize>(), 16 + 700_000);
        assert_eq!(queue.len(), left);
    }
    let mut queue: VecDeque<_> = (0..10_000).map(|n| (Reply::Header(form.ok(n)), ())).collect();
    encoder.batch(&mut queue, &mut Vec::new());
    assert_eq!(queue.len(), 10_000 - INLINE_BATCH / 16);
}
