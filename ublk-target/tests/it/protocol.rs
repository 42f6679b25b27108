//! Commands and their replies.

use std::time::Duration;

use ublk_target::nbd::{ServeOptions, wire};

use crate::device::{Ask, Entry};
use crate::raw::{Answer, Raw, request, write};
use crate::server::{MIB, Server, run};

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ salt).collect()
}

#[test]
fn what_is_written_is_read_back_whole_and_in_parts() {
    run(async {
        let server = Server::start(64 * MIB, ServeOptions::default()).await;
        for structured in [true, false] {
            let mut client = Raw::connect(&server.address).await;
            let (size, flags) = client.handshake(structured).await;
            assert_eq!(size, 64 * MIB);
            assert_eq!(flags & wire::FLAG_CAN_MULTI_CONN, wire::FLAG_CAN_MULTI_CONN);
            assert_eq!(flags & wire::FLAG_SEND_DF != 0, structured);
            // Sizes on both sides of what is copied and what is received directly, aligned or not.
            let sizes =
                [1, 511, 4096, 5000, 16_383, 16_384, 16_385, 65_536, 1 << 20, (1 << 20) + 7, 32 << 20];
            for (at, len) in sizes.into_iter().enumerate() {
                let data = pattern(len, at as u8);
                let offset = at as u64 * 100_003;
                client.write(0, offset, &data).await;
                assert!(client.read(offset, len as u32).await == data, "{len} bytes");
            }
            let all = client.read(0, 32 << 20).await;
            let file = std::fs::read(server.file()).unwrap();
            assert!(all == file[..32 << 20], "the file holds what clients read");
        }
        server.stop().await;
    });
}

#[test]
fn pieces_that_arrive_in_drips_are_put_together() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        let mut client = server.client().await;
        let mut bytes = Vec::new();
        let data = [pattern(5000, 1), pattern(20_000, 2), pattern(3, 3)];
        for (cookie, data) in data.iter().enumerate() {
            bytes.extend(write(0, cookie as u64, cookie as u64 * 30_000, data));
        }
        for piece in bytes.chunks(997) {
            client.send(piece).await;
            rt::yield_now().await;
        }
        for _ in &data {
            assert_eq!(client.answer().await.error, 0);
        }
        for (at, data) in data.iter().enumerate() {
            assert!(client.read(at as u64 * 30_000, data.len() as u32).await == *data);
        }
        server.stop().await;
    });
}

#[test]
fn holes_are_sent_as_holes_and_reported() {
    run(async {
        let server = Server::start(64 * MIB, ServeOptions::default()).await;
        let mut client = server.client().await;
        client.write(0, 8 * MIB, &pattern(1 << 20, 1)).await;
        let answer = client.ask(wire::CMD_READ, 0, 7 * MIB, 3 << 20).await;
        let shape: Vec<_> =
            answer.content.iter().map(|(at, data, is_data)| (*at, data.len(), *is_data)).collect();
        assert_eq!(shape, [(7 * MIB, 1 << 20, false), (8 * MIB, 1 << 20, true), (9 * MIB, 1 << 20, false)]);
        // One chunk if the client asks for that.
        let whole = client.ask(wire::CMD_READ, wire::CMD_FLAG_DF, 7 * MIB, 3 << 20).await;
        assert_eq!(whole.content.len(), 1);
        assert!(whole.data() == answer.data());
        let status = client.ask(wire::CMD_BLOCK_STATUS, 0, 0, 64 << 20).await;
        assert_eq!(status.extents, [(8 << 20, 3), (1 << 20, 0), (55 << 20, 3)]);
        let one = client.ask(wire::CMD_BLOCK_STATUS, wire::CMD_FLAG_REQ_ONE, 0, 64 << 20).await;
        assert_eq!(one.extents, [(8 << 20, 3)]);
        server.stop().await;
    });
}

#[test]
fn zeroing_and_trimming_reach_the_device_as_asked() {
    run(async {
        // Larger than one request can say.
        let server = Server::start(10 << 30, ServeOptions::default()).await;
        let mut client = server.client().await;
        client.write(0, 0, &pattern(1 << 20, 1)).await;
        let no_hole = wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO;
        assert_eq!(client.ask(wire::CMD_WRITE_ZEROES, no_hole, 4096, 8192).await.error, 0);
        assert_eq!(client.ask(wire::CMD_WRITE_ZEROES, 0, 16_384, 4096).await.error, 0);
        assert_eq!(client.ask(wire::CMD_TRIM, 0, 0, u32::MAX).await.error, 0);
        assert_eq!(client.ask(wire::CMD_CACHE, 0, 0, u32::MAX).await.error, 0);
        let punch = client.ask(wire::CMD_WRITE_ZEROES, wire::CMD_FLAG_FUA, (10 << 30) - 4096, 4096).await;
        assert_eq!(punch.error, 0);
        let mut expected = vec![Ask::Write, Ask::Zero, Ask::Punch];
        // 4 GiB - 1 in pieces of 1 GiB.
        expected.extend([Ask::Discard; 4]);
        expected.extend([Ask::Punch, Ask::Flush]);
        assert_eq!(server.control.begun(), expected);
        let discards: Vec<_> = {
            let diary = server.control.diary.borrow();
            let begun = diary.iter().filter(|entry| entry.ask == Ask::Discard && !entry.ended);
            begun.map(|entry| (entry.offset, entry.len)).collect()
        };
        assert_eq!(discards[3], (3 << 30, (1 << 30) - 1));
        let status = client.ask(wire::CMD_BLOCK_STATUS, 0, 5 << 30, u32::MAX).await;
        assert_eq!(status.extents, [(u32::MAX, 3)]);
        server.stop().await;
    });
}

#[test]
fn a_flush_is_answered_after_the_device_has_flushed() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        let (mut one, mut other) = (server.client().await, server.client().await);
        one.write(0, 4096, &[1; 4096]).await;
        // What another connection wrote is covered too: it is the same device.
        let control = &server.control;
        control.shut_below.set(1);
        other.send(&request(wire::CMD_FLUSH, 0, 5, 0, 0)).await;
        control.asked(2).await;
        let early = rt::time::timeout(Duration::from_millis(50), other.answer()).await;
        assert!(early.is_err(), "the device has not flushed yet: {early:?}");
        control.open();
        assert_eq!(other.answer().await.error, 0);
        assert_eq!(one.ask(wire::CMD_FLUSH, 0, 0, 0).await.error, 0);
        // A write with FUA is a write, and then a flush.
        control.diary.borrow_mut().clear();
        one.write(wire::CMD_FLAG_FUA, 0, &[2; 4096]).await;
        let entry = |ask, ended, len| Entry { ask, ended, offset: 0, len };
        let expected = [
            entry(Ask::Write, false, 4096),
            entry(Ask::Write, true, 4096),
            entry(Ask::Flush, false, 0),
            entry(Ask::Flush, true, 0),
        ];
        assert_eq!(*control.diary.borrow(), expected);
        server.stop().await;
    });
}

#[test]
fn replies_come_in_any_order_and_each_with_its_own_data() {
    run(async {
        let server = Server::start(64 * MIB, ServeOptions::default()).await;
        let mut client = server.client().await;
        let data = pattern(8 << 20, 9);
        client.write(0, 0, &data).await;
        server.control.read_delay.set(Duration::from_millis(20));
        let place = |cookie: u64| (cookie * 70_001, 1 + cookie as u32 * 1500);
        let mut batch = Vec::new();
        for cookie in 0..64 {
            let (offset, length) = place(cookie);
            batch.extend(request(wire::CMD_READ, 0, cookie, offset, length));
        }
        client.send(&batch).await;
        let mut order = Vec::new();
        for _ in 0..64 {
            let answer = client.answer().await;
            let (offset, length) = place(answer.cookie);
            assert!(answer.data() == data[offset as usize..][..length as usize], "cookie {}", answer.cookie);
            order.push(answer.cookie);
        }
        assert!(!order.is_sorted(), "64 reads of random duration ended in the order they began in");
        order.sort_unstable();
        assert_eq!(order, (0..64).collect::<Vec<_>>());
        assert_eq!(server.control.peak.get().0, 64, "all were under way at once");
        server.stop().await;
    });
}

#[test]
fn a_read_only_export_refuses_what_writes() {
    run(async {
        let options = ServeOptions { read_only: true, ..ServeOptions::default() };
        let server = Server::start(MIB, options).await;
        let mut client = server.client().await;
        client.send(&write(0, 1, 0, &[1; 100_000])).await;
        let answer = client.answer().await;
        assert_eq!((answer.cookie, answer.error), (1, 1), "EPERM");
        assert_eq!(answer.text, "the export is read-only");
        for command in [wire::CMD_TRIM, wire::CMD_WRITE_ZEROES] {
            assert_eq!(client.ask(command, 0, 0, 4096).await.error, 1);
        }
        assert_eq!(client.read(0, 4096).await, [0; 4096]);
        assert_eq!(server.control.begun(), [Ask::Read]);
        server.stop().await;
    });
}

#[test]
fn failures_of_the_device_reach_the_client_and_nobody_else() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        let mut client = server.client().await;
        server.control.failure.set(Some(std::io::ErrorKind::Other));
        assert_eq!(client.ask(wire::CMD_READ, 0, 0, 4096).await.error, 5, "EIO");
        server.control.failure.set(Some(std::io::ErrorKind::StorageFull));
        client.send(&write(0, 9, 0, &[1; 4096])).await;
        let answer = client.answer().await;
        assert_eq!((answer.cookie, answer.error), (9, 28), "ENOSPC");
        assert!(!answer.text.is_empty());
        assert_eq!(client.read(0, 4096).await, [0; 4096]);
        let mut simple = Raw::connect(&server.address).await;
        simple.handshake(false).await;
        server.control.failure.set(Some(std::io::ErrorKind::Other));
        let expected = Answer { cookie: 77, error: 5, ..Answer::default() };
        assert_eq!(simple.ask(wire::CMD_READ, 0, 0, 4096).await, expected);
        server.stop().await;
    });
}
