//! Each request with its flags, and the recorded requests.

use super::*;
use crate::nbd::export::Export;
use crate::nbd::fixtures::{REQUESTS_LIBNBD, REQUESTS_NBDCOPY, REQUESTS_QEMU_IO};
use crate::nbd::fuzz;
use crate::nbd::session::MetaContext;
use crate::nbd::wire::*;

const SIZE: u64 = 64 << 20;

/// A session with everything, on a read-write export of [`SIZE`] bytes.
fn full() -> Session {
    let [export, _] = fuzz::exports();
    assert_eq!(export.size(), SIZE);
    Session { export, structured: true, meta_contexts: MetaContext::ALL.to_vec(), no_zeroes: true }
}

/// Simple replies, on an export that offers `flags`.
fn plain(flags: ExportFlags) -> Session {
    let export = Export::new("plain", "", SIZE, flags).unwrap();
    Session { export, structured: false, meta_contexts: Vec::new(), no_zeroes: false }
}

fn header(command: u16, flags: u16, offset: u64, length: u32) -> RequestHeader {
    RequestHeader { flags, command, cookie: 7, offset, length }
}

#[test]
fn a_header_is_parsed() {
    let mut bytes = [0; REQUEST_LEN];
    bytes[..4].copy_from_slice(&[0x25, 0x60, 0x95, 0x13]);
    for (at, byte) in bytes[4..].iter_mut().enumerate() {
        *byte = at as u8 + 1;
    }
    let expected = RequestHeader {
        flags: 0x0102,
        command: 0x0304,
        cookie: 0x0506_0708_090a_0b0c,
        offset: 0x0d0e_0f10_1112_1314,
        length: 0x1516_1718,
    };
    assert_eq!(RequestHeader::parse(&bytes), Ok(expected));
    bytes[3] = 0x14;
    assert_eq!(RequestHeader::parse(&bytes), Err(BadMagic(0x2560_9514)));
}

#[test]
fn each_request_is_recognised() {
    let (offset, length) = (4096, 512);
    let zeroes = |fua, no_hole, fast_zero| Request::WriteZeroes { offset, length, fua, no_hole, fast_zero };
    let rows = [
        (CMD_READ, 0, Request::Read { offset, length, df: false }),
        (CMD_READ, CMD_FLAG_DF, Request::Read { offset, length, df: true }),
        (CMD_READ, CMD_FLAG_DF | CMD_FLAG_FUA, Request::Read { offset, length, df: true }),
        (CMD_WRITE, 0, Request::Write { offset, length, fua: false }),
        (CMD_WRITE, CMD_FLAG_FUA, Request::Write { offset, length, fua: true }),
        (CMD_TRIM, 0, Request::Trim { offset, length, fua: false }),
        (CMD_TRIM, CMD_FLAG_FUA, Request::Trim { offset, length, fua: true }),
        (CMD_CACHE, 0, Request::Cache { offset, length }),
        (CMD_WRITE_ZEROES, 0, zeroes(false, false, false)),
        (CMD_WRITE_ZEROES, CMD_FLAG_FUA, zeroes(true, false, false)),
        (CMD_WRITE_ZEROES, CMD_FLAG_NO_HOLE, zeroes(false, true, false)),
        (CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO, zeroes(false, false, true)),
        (CMD_BLOCK_STATUS, 0, Request::BlockStatus { offset, length, req_one: false }),
        (CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, Request::BlockStatus { offset, length, req_one: true }),
    ];
    for (command, flags, expected) in rows {
        assert_eq!(full().check(&header(command, flags, offset, length)), Ok(expected));
    }
    assert_eq!(full().check(&header(CMD_FLUSH, 0, 0, 0)), Ok(Request::Flush));
    assert_eq!(full().check(&header(CMD_FLUSH, CMD_FLAG_FUA, 0, 0)), Ok(Request::Flush));
    for odd in [header(CMD_DISC, 0, 0, 0), header(CMD_DISC, u16::MAX, u64::MAX, u32::MAX)] {
        assert_eq!(full().check(&odd), Ok(Request::Disconnect));
        assert_eq!(plain(ExportFlags::default()).check(&odd), Ok(Request::Disconnect));
    }
}

#[test]
fn each_flag_is_valid_on_its_command_only() {
    const FUA: u16 = CMD_FLAG_FUA;
    const ZEROES: u16 = CMD_FLAG_NO_HOLE;
    let all = full().export.flags();
    let rows = [
        // command, valid with everything offered, valid with neither FUA nor fast zero nor structured replies
        (CMD_READ, FUA | CMD_FLAG_DF, 0),
        (CMD_WRITE, FUA, 0),
        (CMD_FLUSH, FUA, 0),
        (CMD_TRIM, FUA, 0),
        (CMD_CACHE, FUA, 0),
        (CMD_WRITE_ZEROES, FUA | ZEROES | CMD_FLAG_FAST_ZERO, ZEROES),
    ];
    let poor = plain(ExportFlags { fua: false, fast_zero: false, ..all });
    for (command, with_all, with_few) in rows {
        let length = if command == CMD_FLUSH { 0 } else { 512 };
        for bit in (0..16).map(|bit| 1 << bit) {
            for (session, valid) in [(&full(), with_all), (&poor, with_few)] {
                let result = session.check(&header(command, bit, 0, length));
                if valid & bit != 0 {
                    assert!(result.is_ok(), "{command} {bit:#x}: {result:?}");
                } else {
                    let refused = result.unwrap_err();
                    assert_eq!(refused.reason, Refusal::Flags(bit));
                    assert_eq!(refused.reason.errno(), Errno::Inval);
                    let drain = Answer::AfterDrain(512);
                    assert_eq!(refused.answer, if command == CMD_WRITE { drain } else { Answer::Now });
                }
            }
        }
    }
    for bit in (0..16).map(|bit| 1 << bit) {
        let valid = (FUA | CMD_FLAG_REQ_ONE) & bit != 0;
        assert_eq!(full().check(&header(CMD_BLOCK_STATUS, bit, 0, 512)).is_ok(), valid, "{bit:#x}");
    }
}

#[test]
fn broken_rules_have_their_errors() {
    use Answer::{AfterDrain, Never, Now};
    use Errno::{Inval, NoSpc, Overflow};
    let max = MAX_PAYLOAD;
    let drained = MAX_DRAINED_PAYLOAD;
    let rows = [
        // a range of no bytes
        (CMD_READ, 0, 0, Inval, Now),
        (CMD_WRITE, 0, 0, Inval, Now),
        (CMD_TRIM, 0, 0, Inval, Now),
        (CMD_CACHE, 0, 0, Inval, Now),
        (CMD_WRITE_ZEROES, 0, 0, Inval, Now),
        (CMD_BLOCK_STATUS, 0, 0, Inval, Now),
        // beyond the end
        (CMD_READ, SIZE - 1, 2, Inval, Now),
        (CMD_WRITE, SIZE - 1, 2, NoSpc, AfterDrain(2)),
        (CMD_TRIM, SIZE - 1, 2, Inval, Now),
        (CMD_CACHE, SIZE - 1, 2, Inval, Now),
        (CMD_WRITE_ZEROES, SIZE - 1, 2, NoSpc, Now),
        (CMD_BLOCK_STATUS, SIZE - 1, 2, Inval, Now),
        (CMD_READ, SIZE, 1, Inval, Now),
        (CMD_WRITE, u64::MAX, 1, NoSpc, AfterDrain(1)),
        (CMD_WRITE, u64::MAX - 8, max, NoSpc, AfterDrain(max)),
        (CMD_WRITE_ZEROES, 1, SIZE as u32, NoSpc, Now),
        (CMD_TRIM, 0, u32::MAX, Inval, Now),
        // too long
        (CMD_READ, 0, max + 1, Overflow, Now),
        (CMD_READ, 0, u32::MAX, Overflow, Now),
        (CMD_WRITE, 0, max + 1, Inval, AfterDrain(max + 1)),
        (CMD_WRITE, 0, drained, Inval, AfterDrain(drained)),
        (CMD_WRITE, 0, drained + 1, Inval, Never),
        (CMD_WRITE, 0, u32::MAX, Inval, Never),
        // a flush with a range
        (CMD_FLUSH, 0, 1, Inval, Now),
        (CMD_FLUSH, 1, 0, Inval, Now),
        // unknown commands, whose length is never a payload
        (8, 0, 512, Inval, Now),
        (u16::MAX, 0, u32::MAX, Inval, Now),
    ];
    for (command, offset, length, errno, answer) in rows {
        let refused = full().check(&header(command, 0, offset, length)).unwrap_err();
        let got = (refused.reason.errno(), refused.answer);
        assert_eq!(got, (errno, answer), "{command} {offset} {length}: {:?}", refused.reason);
    }
}

#[test]
fn the_largest_valid_requests_are_accepted() {
    let rows = [
        (CMD_READ, SIZE - u64::from(MAX_PAYLOAD), MAX_PAYLOAD),
        (CMD_WRITE, SIZE - u64::from(MAX_PAYLOAD), MAX_PAYLOAD),
        (CMD_TRIM, 0, SIZE as u32),
        (CMD_CACHE, 0, SIZE as u32),
        (CMD_WRITE_ZEROES, 0, SIZE as u32),
        (CMD_BLOCK_STATUS, 0, SIZE as u32),
        (CMD_READ, SIZE - 1, 1),
        (CMD_WRITE, SIZE - 1, 1),
    ];
    for (command, offset, length) in rows {
        assert!(full().check(&header(command, 0, offset, length)).is_ok(), "{command} {offset} {length}");
    }
}

#[test]
fn what_was_not_offered_is_refused() {
    let bare = plain(ExportFlags::default());
    for command in [CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES] {
        let refused = bare.check(&header(command, 0, 0, 512)).unwrap_err();
        assert_eq!((refused.reason, refused.reason.errno()), (Refusal::NotOffered, Errno::Inval));
    }
    assert_eq!(bare.check(&header(CMD_FLUSH, 0, 0, 0)).unwrap_err().reason, Refusal::NotOffered);
    let status = bare.check(&header(CMD_BLOCK_STATUS, 0, 0, 512)).unwrap_err();
    assert_eq!((status.reason, status.reason.errno()), (Refusal::NoMetaContext, Errno::Inval));
    // Without DF the client does not expect EOVERFLOW.
    let long = bare.check(&header(CMD_READ, 0, 0, MAX_PAYLOAD + 1)).unwrap_err();
    assert_eq!(long.reason.errno(), Errno::Inval);
}

#[test]
fn a_read_only_export_refuses_writes_whatever_else_they_say() {
    let read_only = plain(ExportFlags { read_only: true, ..full().export.flags() });
    for (command, answer) in
        [(CMD_WRITE, Answer::AfterDrain(512)), (CMD_TRIM, Answer::Now), (CMD_WRITE_ZEROES, Answer::Now)]
    {
        for (flags, offset) in [(0, 0), (u16::MAX, 0), (0, SIZE)] {
            let refused = read_only.check(&header(command, flags, offset, 512)).unwrap_err();
            assert_eq!(refused, Refused { reason: Refusal::ReadOnly, answer });
            assert_eq!(refused.reason.errno(), Errno::Perm);
        }
    }
    assert!(read_only.check(&header(CMD_READ, 0, 0, 512)).is_ok());
    assert!(read_only.check(&header(CMD_FLUSH, 0, 0, 0)).is_ok());
}

#[test]
fn a_stopping_server_still_drains() {
    let refused = header(CMD_WRITE, 0, 0, 512).refuse(Refusal::ShuttingDown);
    assert_eq!(refused.reason.errno(), Errno::Shutdown);
    assert_eq!(refused.answer, Answer::AfterDrain(512));
    assert_eq!(header(CMD_FLUSH, 0, 0, 0).refuse(Refusal::ShuttingDown).answer, Answer::Now);
}

#[test]
fn errors_have_the_protocols_numbers() {
    use Errno::{Inval, Io, NoMem, NoSpc, NotSup, Overflow, Perm, Shutdown};
    let numbers = [Perm, Io, NoMem, Inval, NoSpc, Overflow, NotSup, Shutdown].map(|errno| errno as u32);
    assert_eq!(numbers, [1, 5, 12, 22, 28, 75, 95, 108]);
}

/// What the full session says of each recorded request.
fn judged(requests: &[u8]) -> Vec<Result<Request, Errno>> {
    let (headers, rest) = requests.as_chunks::<REQUEST_LEN>();
    assert!(rest.is_empty());
    let judge = |bytes| {
        let header = RequestHeader::parse(bytes).expect("a recorded request");
        full().check(&header).map_err(|refused| refused.reason.errno())
    };
    headers.iter().map(judge).collect()
}

#[test]
fn recorded_requests_of_libnbd() {
    use Errno::{Inval, NoSpc, Overflow};
    let whole = SIZE as u32;
    let zeroes = |length, flags: bool| {
        Ok(Request::WriteZeroes { offset: 0, length, fua: flags, no_hole: flags, fast_zero: flags })
    };
    let expected = [
        Ok(Request::Write { offset: 8192, length: 4096, fua: false }),
        Ok(Request::Write { offset: 1, length: 512, fua: true }),
        Ok(Request::Read { offset: 3, length: 512, df: false }),
        Ok(Request::Read { offset: 513, length: 32768, df: true }),
        zeroes(4096, false),
        zeroes(4096, true),
        Ok(Request::Trim { offset: 0, length: 4096, fua: false }),
        Ok(Request::Trim { offset: 0, length: 4096, fua: true }),
        Ok(Request::Flush),
        Ok(Request::Flush), // with FUA
        Ok(Request::Cache { offset: 0, length: 4096 }),
        Ok(Request::BlockStatus { offset: 0, length: 32768, req_one: false }),
        Ok(Request::BlockStatus { offset: 4096, length: 4096, req_one: true }),
        zeroes(whole, false),
        Err(Inval), // read of 0
        Err(Inval), // write of 0
        Err(Inval), // beyond the end: read, write, write-zeroes, trim, cache, status
        Err(NoSpc),
        Err(NoSpc),
        Err(Inval),
        Err(Inval),
        Err(Inval),
        Err(Inval), // read with an unknown flag, and with NO_HOLE
        Err(Inval),
        Err(Inval),    // write with NO_HOLE
        Err(Inval),    // trim with FAST_ZERO
        Err(Overflow), // read of 33 MiB
        Err(Inval),    // write of 33 MiB
        Ok(Request::Disconnect),
    ];
    assert_eq!(judged(REQUESTS_LIBNBD), expected);
}

#[test]
fn recorded_requests_of_qemu_and_nbdcopy_are_all_valid() {
    for (requests, count) in [(REQUESTS_QEMU_IO, 25), (REQUESTS_NBDCOPY, 2)] {
        let judged = judged(requests);
        assert_eq!(judged.len(), count);
        assert!(judged.iter().all(Result::is_ok), "{judged:?}");
        assert_eq!(judged.last(), Some(&Ok(Request::Disconnect)));
    }
}
