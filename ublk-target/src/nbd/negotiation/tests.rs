//! Each option with its replies, and the recorded handshakes.

use super::*;
use crate::nbd::fixtures::{TRANSCRIPTS, Transcript};
use crate::nbd::fuzz::{self, NegotiationEnd};
use crate::nbd::wire::*;

const VOL_FLAGS: u16 = 0xd6d;
const VOL_FLAGS_DF: u16 = 0xded;
const RO_FLAGS: u16 = 0x13;

/// An option reply taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    option: u32,
    kind: u32,
    data: Vec<u8>,
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Reply {
    Reply { option, kind, data: data.to_vec() }
}

/// Takes the server's bytes after its greeting apart, as far as they are option replies. The texts of errors
/// are no part of the contract, so they are left out.
fn replies(server: &[u8]) -> Vec<Reply> {
    let mut fields = Fields(&server[GREETING_LEN..]);
    let mut replies = Vec::new();
    while let Some(OPTION_REPLY_MAGIC) = fields.u64() {
        let (option, kind) = (fields.u32().unwrap(), fields.u32().unwrap());
        let data = fields.counted().unwrap();
        let is_error = kind & REP_ERR != 0;
        assert!(!is_error || std::str::from_utf8(data).is_ok_and(|text| !text.is_empty()));
        replies.push(reply(option, kind, if is_error { &[] } else { data }));
    }
    replies
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn info(name: &str, items: &[u16]) -> Vec<u8> {
    let mut data = counted(name);
    data.extend((items.len() as u16).to_be_bytes());
    data.extend(items.iter().flat_map(|item| item.to_be_bytes()));
    data
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = counted(name);
    data.extend((queries.len() as u32).to_be_bytes());
    data.extend(queries.iter().flat_map(|query| counted(query)));
    data
}

/// Plays client flags and options, as many as the server wants to hear.
fn talk(flags: u32, options: &[Vec<u8>]) -> (Vec<u8>, NegotiationEnd) {
    fuzz::negotiation(&[&flags.to_be_bytes()[..], &options.concat()].concat())
}

/// The session that these options lead to.
fn session(options: &[Vec<u8>]) -> Session {
    match talk(3, options) {
        (_, NegotiationEnd::Ready(session)) => session,
        other => panic!("{other:?}"),
    }
}

fn infos(option: u32, size: u64, flags: u16) -> Reply {
    let data = [&[0, 0], &size.to_be_bytes()[..], &flags.to_be_bytes()].concat();
    reply(option, REP_INFO, &data)
}

#[test]
fn greeting() {
    let mut out = Vec::new();
    let server = Negotiation::new(&fuzz::exports()[..], &mut out).needed();
    assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(server, 4);
}

#[test]
fn client_flags() {
    for flags in 0..=3 {
        assert_eq!(talk(flags, &[]).1, NegotiationEnd::Starved, "{flags}");
    }
    for flags in [4, 7, 1 << 16, u32::MAX] {
        let dropped = NegotiationEnd::Dropped(NegotiationError::ClientFlags(flags));
        assert_eq!(talk(flags, &[]).1, dropped);
    }
}

#[test]
fn each_option_has_its_replies() {
    let ack = |option| reply(option, REP_ACK, &[]);
    let error = |option, kind| reply(option, kind, &[]);
    let server =
        |name: &str, text: &str| reply(OPT_LIST, REP_SERVER, &[&counted(name)[..], text.as_bytes()].concat());
    let vol = |option| infos(option, 64 << 20, VOL_FLAGS);
    let block_size = [0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0];
    let rows: Vec<(u32, Vec<u8>, Vec<Reply>)> = vec![
        (OPT_ABORT, vec![], vec![ack(OPT_ABORT)]),
        (OPT_ABORT, b"ignored".to_vec(), vec![ack(OPT_ABORT)]),
        (OPT_LIST, vec![], vec![server("vol", "a volume"), server("ro", ""), ack(OPT_LIST)]),
        (OPT_LIST, b"x".to_vec(), vec![error(OPT_LIST, REP_ERR_INVALID)]),
        (OPT_STARTTLS, vec![], vec![error(OPT_STARTTLS, REP_ERR_POLICY)]),
        (OPT_STARTTLS, b"x".to_vec(), vec![error(OPT_STARTTLS, REP_ERR_INVALID)]),
        (OPT_INFO, info("vol", &[]), vec![vol(OPT_INFO), ack(OPT_INFO)]),
        (OPT_INFO, info("", &[0, 99]), vec![vol(OPT_INFO), ack(OPT_INFO)]),
        (OPT_INFO, info("nope", &[]), vec![error(OPT_INFO, REP_ERR_UNKNOWN)]),
        (OPT_INFO, b"short".to_vec(), vec![error(OPT_INFO, REP_ERR_INVALID)]),
        (OPT_INFO, info("a\0b", &[]), vec![error(OPT_INFO, REP_ERR_INVALID)]),
        (OPT_INFO, info(&"n".repeat(4097), &[]), vec![error(OPT_INFO, REP_ERR_TOO_BIG)]),
        (OPT_INFO, info(&"n".repeat(4096), &[]), vec![error(OPT_INFO, REP_ERR_UNKNOWN)]),
        (
            OPT_GO,
            info("", &[3, 2, 1]),
            vec![
                vol(OPT_GO),
                reply(OPT_GO, REP_INFO, b"\0\x01vol"),
                reply(OPT_GO, REP_INFO, b"\0\x02a volume"),
                reply(OPT_GO, REP_INFO, &block_size),
                ack(OPT_GO),
            ],
        ),
        (
            OPT_GO,
            info("ro", &[2, 1]), // no description, so no reply about it
            vec![infos(OPT_GO, (8 << 20) + 512, RO_FLAGS), reply(OPT_GO, REP_INFO, b"\0\x01ro"), ack(OPT_GO)],
        ),
        (OPT_GO, info("nope", &[3]), vec![error(OPT_GO, REP_ERR_UNKNOWN)]),
        (OPT_STRUCTURED_REPLY, vec![], vec![ack(OPT_STRUCTURED_REPLY)]),
        (OPT_STRUCTURED_REPLY, b"x".to_vec(), vec![error(OPT_STRUCTURED_REPLY, REP_ERR_INVALID)]),
        (OPT_LIST_META_CONTEXT, meta("vol", &[]), vec![error(OPT_LIST_META_CONTEXT, REP_ERR_INVALID)]),
        (OPT_SET_META_CONTEXT, meta("vol", &[]), vec![error(OPT_SET_META_CONTEXT, REP_ERR_INVALID)]),
        (OPT_EXTENDED_HEADERS, vec![], vec![error(OPT_EXTENDED_HEADERS, REP_ERR_UNSUP)]),
        (4, b"vol".to_vec(), vec![error(4, REP_ERR_UNSUP)]),
        (0, vec![], vec![error(0, REP_ERR_UNSUP)]),
        (u32::MAX, vec![1; 100], vec![error(u32::MAX, REP_ERR_UNSUP)]),
    ];
    for (number, data, expected) in rows {
        let (server, end) = talk(3, &[option(number, &data), option(OPT_ABORT, &[])]);
        let mut replies = replies(&server);
        match number {
            OPT_ABORT => assert_eq!(end, NegotiationEnd::Closed),
            OPT_GO if replies[0].kind == REP_INFO => assert!(matches!(end, NegotiationEnd::Ready(_))),
            _ => {
                // The server is still there and understands the next option.
                assert_eq!(replies.pop(), Some(ack(OPT_ABORT)));
                assert_eq!(end, NegotiationEnd::Closed);
            }
        }
        assert_eq!(replies, expected, "option {number} {data:?}");
    }
}

#[test]
fn metadata_contexts_have_their_replies() {
    let structured = option(OPT_STRUCTURED_REPLY, &[]);
    let listed = || reply(OPT_LIST_META_CONTEXT, REP_META_CONTEXT, b"\0\0\0\0base:allocation");
    let set = || reply(OPT_SET_META_CONTEXT, REP_META_CONTEXT, b"\0\0\0\x01base:allocation");
    let end = |option, kind| reply(option, kind, &[]);
    let rows = [
        (OPT_LIST_META_CONTEXT, meta("vol", &[]), vec![listed()], REP_ACK),
        (OPT_LIST_META_CONTEXT, meta("", &["base:"]), vec![listed()], REP_ACK),
        (OPT_LIST_META_CONTEXT, meta("vol", &["base:allocation", "base:"]), vec![listed()], REP_ACK),
        (OPT_LIST_META_CONTEXT, meta("vol", &["qemu:", "base:x"]), vec![], REP_ACK),
        (OPT_LIST_META_CONTEXT, meta("nope", &[]), vec![], REP_ERR_UNKNOWN),
        (OPT_LIST_META_CONTEXT, vec![0; 7], vec![], REP_ERR_INVALID),
        (OPT_SET_META_CONTEXT, meta("vol", &["base:allocation"]), vec![set()], REP_ACK),
        (OPT_SET_META_CONTEXT, meta("vol", &["x-a:b", "base:allocation"]), vec![set()], REP_ACK),
        (OPT_SET_META_CONTEXT, meta("vol", &["base:"]), vec![], REP_ACK),
        (OPT_SET_META_CONTEXT, meta("vol", &[]), vec![], REP_ACK),
        (OPT_SET_META_CONTEXT, meta("nope", &["base:allocation"]), vec![], REP_ERR_UNKNOWN),
        (OPT_SET_META_CONTEXT, meta("vol", &[&"b".repeat(4097)]), vec![], REP_ERR_TOO_BIG),
        (OPT_SET_META_CONTEXT, meta("vol", &["a\0b"]), vec![], REP_ERR_INVALID),
    ];
    for (number, data, mut expected, last) in rows {
        expected.push(end(number, last));
        let (server, _) = talk(3, &[structured.clone(), option(number, &data)]);
        assert_eq!(replies(&server)[1..], expected, "option {number} {data:?}");
    }
}

#[test]
fn contexts_count_for_the_export_they_were_selected_on() {
    let structured = || option(OPT_STRUCTURED_REPLY, &[]);
    let set = |name, queries: &[&str]| option(OPT_SET_META_CONTEXT, &meta(name, queries));
    let go = |name| option(OPT_GO, &info(name, &[]));
    let base: &[&str] = &["base:allocation"];
    let rows = [
        (vec![structured(), set("vol", base), go("vol")], true),
        (vec![structured(), set("", base), go("vol")], true), // the same export by another name
        (vec![structured(), set("vol", base), go("ro")], false),
        (vec![structured(), go("vol")], false),
        (vec![set("vol", base), go("vol")], false),
        (vec![structured(), set("vol", base), set("vol", &[]), go("vol")], false),
        (vec![structured(), set("vol", base), set("nope", base), go("vol")], false),
        (vec![structured(), set("vol", base), set("vol", &["\0"]), go("vol")], false),
        (vec![structured(), set("vol", base), option(OPT_SET_META_CONTEXT, &[0; 70_000]), go("vol")], false),
        (vec![structured(), set("nope", base), set("vol", base), go("nope"), go("vol")], true),
        (vec![structured(), set("vol", base), option(OPT_EXPORT_NAME, b"vol")], true),
    ];
    for (at, (options, selected)) in rows.into_iter().enumerate() {
        let contexts = session(&options).meta_contexts;
        assert_eq!(contexts.contains(&MetaContext::BaseAllocation), selected, "row {at}");
    }
}

#[test]
fn df_is_offered_with_structured_replies_only() {
    let structured = || option(OPT_STRUCTURED_REPLY, &[]);
    let go = || option(OPT_GO, &info("vol", &[]));
    let (server, _) = talk(3, &[structured(), go()]);
    assert_eq!(replies(&server)[1], infos(OPT_GO, 64 << 20, VOL_FLAGS_DF));
    let (server, _) = talk(3, &[go()]);
    assert_eq!(replies(&server)[0], infos(OPT_GO, 64 << 20, VOL_FLAGS));
    assert!(session(&[structured(), structured(), go()]).structured);
    assert!(!session(&[go()]).structured);
}

#[test]
fn export_name_enters_transmission_or_drops() {
    let name = |name: &[u8]| [option(OPT_EXPORT_NAME, name)];
    let plain = [&(64u64 << 20).to_be_bytes()[..], &VOL_FLAGS.to_be_bytes()].concat();
    for (flags, padding) in [(0, 124), (1, 124), (2, 0), (3, 0)] {
        let (server, end) = talk(flags, &name(b"vol"));
        assert_eq!(server[GREETING_LEN..], [&plain[..], &vec![0; padding]].concat());
        let NegotiationEnd::Ready(session) = end else { panic!("{end:?}") };
        assert_eq!((session.export.name(), session.no_zeroes), ("vol", flags & 2 != 0));
    }
    assert_eq!(session(&name(b"")).export.name(), "vol");
    let rows = [
        (&b"nope"[..], NegotiationError::UnknownExport),
        (b"vol\0", NegotiationError::ExportName),
        (&[0xff, 0xfe], NegotiationError::ExportName),
        (&[b'n'; 4096], NegotiationError::UnknownExport),
        (&[b'n'; 4097], NegotiationError::ExportName),
        (&[b'n'; 70_000], NegotiationError::ExportName),
    ];
    for (bytes, error) in rows {
        let (server, end) = talk(3, &name(bytes));
        assert_eq!((server.len(), end), (GREETING_LEN, NegotiationEnd::Dropped(error)));
    }
    // A name that is too long is not waited for.
    let header = option(OPT_EXPORT_NAME, &[b'n'; 4097])[..OPTION_HEADER_LEN].to_vec();
    assert_eq!(talk(3, &[header]).1, NegotiationEnd::Dropped(NegotiationError::ExportName));
}

#[test]
fn without_fixed_newstyle_only_export_name_is_valid() {
    for flags in [0, 2] {
        for number in [OPT_ABORT, OPT_LIST, OPT_GO, OPT_STRUCTURED_REPLY, 99] {
            let (server, end) = talk(flags, &[option(number, &[])]);
            let error = NegotiationError::NotFixedNewstyle { option: number };
            assert_eq!((server.len(), end), (GREETING_LEN, NegotiationEnd::Dropped(error)));
        }
    }
}

#[test]
fn an_option_must_begin_with_its_magic() {
    let mut bytes = option(OPT_LIST, &[]);
    bytes[7] ^= 1;
    let error = NegotiationError::OptionMagic(OPTION_MAGIC ^ 1);
    assert_eq!(talk(3, &[bytes]).1, NegotiationEnd::Dropped(error));
}

#[test]
fn long_options_are_skipped_and_refused() {
    let rows = [
        (OPT_GO, REP_ERR_TOO_BIG),
        (OPT_INFO, REP_ERR_TOO_BIG),
        (OPT_LIST_META_CONTEXT, REP_ERR_TOO_BIG),
        (OPT_SET_META_CONTEXT, REP_ERR_TOO_BIG),
        (OPT_LIST, REP_ERR_INVALID),
        (OPT_STARTTLS, REP_ERR_INVALID),
        (OPT_STRUCTURED_REPLY, REP_ERR_INVALID),
        (99, REP_ERR_UNSUP),
    ];
    for (number, kind) in rows {
        for length in [MAX_OPTION + 1, 2 * MAX_OPTION, 3 * MAX_OPTION + 5] {
            let (server, end) = talk(3, &[option(number, &vec![7; length]), option(OPT_ABORT, &[])]);
            let expected = [reply(number, kind, &[]), reply(OPT_ABORT, REP_ACK, &[])];
            assert_eq!(replies(&server), expected, "option {number} of {length} bytes");
            assert_eq!(end, NegotiationEnd::Closed);
        }
    }
    let (server, end) = talk(3, &[option(OPT_ABORT, &vec![7; MAX_OPTION + 1])]);
    assert_eq!(replies(&server), [reply(OPT_ABORT, REP_ACK, &[])]);
    assert_eq!(end, NegotiationEnd::Closed);
    // The longest option that is looked at.
    let mut queries = vec!["x-a:b"; 7280];
    queries.push(":");
    let data = meta("vol", &queries);
    assert_eq!(data.len(), MAX_OPTION);
    let options = [option(OPT_STRUCTURED_REPLY, &[]), option(OPT_SET_META_CONTEXT, &data)];
    assert_eq!(replies(&talk(3, &options).0)[1].kind, REP_ACK);
}

#[test]
fn options_too_long_to_skip_drop_the_connection() {
    for (length, skipped) in [(MAX_SKIPPED_OPTION, true), (MAX_SKIPPED_OPTION + 1, false), (u32::MAX, false)]
    {
        let mut header = option(OPT_GO, &[]);
        header[12..].copy_from_slice(&length.to_be_bytes());
        let dropped = NegotiationEnd::Dropped(NegotiationError::OptionLength { option: OPT_GO, length });
        let expected = if skipped { NegotiationEnd::Starved } else { dropped };
        assert_eq!(talk(3, &[header]).1, expected);
    }
}

#[test]
fn misuse_is_told_and_changes_nothing() {
    let exports = fuzz::exports();
    let mut out = Vec::new();
    let mut server = Negotiation::new(&exports[..], &mut out);
    for given in [0, 3, 5] {
        let error = NegotiationError::InputLength { needed: 4, given };
        assert_eq!(server.step(&[0; 8][..given], &mut out), Err(error));
    }
    assert_eq!(server.step(&[0, 0, 0, 3], &mut out), Ok(Next::More));
    assert_eq!(server.needed(), OPTION_HEADER_LEN);
    assert_eq!(server.step(&option(OPT_ABORT, &[]), &mut out), Ok(Next::Closed));
    assert_eq!(server.needed(), 0);
    assert_eq!(server.step(&[], &mut out), Err(NegotiationError::Finished));
    assert_eq!(server.step(&option(OPT_LIST, &[]), &mut out), Err(NegotiationError::Finished));
}

#[test]
fn an_error_ends_the_negotiation() {
    let exports = fuzz::exports();
    let mut out = Vec::new();
    let mut server = Negotiation::new(&exports[..], &mut out);
    assert_eq!(server.step(&[0xff; 4], &mut out), Err(NegotiationError::ClientFlags(u32::MAX)));
    assert_eq!(server.step(&[0, 0, 0, 3], &mut out), Err(NegotiationError::Finished));
}

#[test]
fn a_stopping_server_refuses_all_but_abort() {
    let exports = fuzz::exports();
    let begin = |options: &[Vec<u8>]| {
        let mut out = Vec::new();
        let mut server = Negotiation::new(&exports[..], &mut out);
        assert_eq!(server.step(&[0, 0, 0, 3], &mut out), Ok(Next::More));
        server.shut_down();
        let bytes = options.concat();
        let mut rest = &bytes[..];
        loop {
            let (input, tail) = rest.split_at(server.needed());
            rest = tail;
            let result = server.step(input, &mut out);
            if result != Ok(Next::More) || rest.is_empty() {
                return (out, result);
            }
        }
    };
    for (number, data) in
        [(OPT_GO, info("vol", &[])), (OPT_LIST, vec![]), (99, vec![]), (98, vec![1; 70_000])]
    {
        let (out, result) = begin(&[option(number, &data)]);
        assert_eq!(replies(&out), [reply(number, REP_ERR_SHUTDOWN, &[])]);
        assert_eq!(result, Ok(Next::More));
    }
    assert_eq!(begin(&[option(OPT_ABORT, &[])]).1, Ok(Next::Closed));
    assert_eq!(begin(&[option(OPT_EXPORT_NAME, b"vol")]).1, Err(NegotiationError::ShuttingDown));
}

/// How a recorded handshake ends: export, structured, contexts selected; or without a session.
fn expected_end(name: &str) -> NegotiationEnd {
    let (export, structured, selected, no_zeroes) = match name {
        "libnbd-abort"
        | "libnbd-missing"
        | "libnbd-tls-required"
        | "nbd-client-list"
        | "nbdinfo-list"
        | "qemu-nbd-list" => return NegotiationEnd::Closed,
        "libnbd-export-name-missing" => return NegotiationEnd::Dropped(NegotiationError::UnknownExport),
        "libnbd-export-name" => ("vol", false, false, false),
        "libnbd-export-name-no-zeroes" => ("ro", false, false, true),
        "libnbd-simple" | "nbd-client" => ("vol", false, false, true),
        "fio" | "libnbd-tls-allowed" | "nbdfuse" | "nbdinfo" => ("vol", true, false, true),
        "libnbd-options" | "nbdcopy" | "nbdinfo-map" | "qemu-img-info" | "qemu-io" => {
            ("vol", true, true, true)
        }
        "qemu-io-read-only" => ("ro", true, true, true),
        other => panic!("{other} has no expected end"),
    };
    NegotiationEnd::Ready(Session {
        export: fuzz::exports().into_iter().find(|e| e.name() == export).unwrap(),
        structured,
        meta_contexts: if selected { vec![MetaContext::BaseAllocation] } else { vec![] },
        no_zeroes,
    })
}

#[test]
fn recorded_handshakes_end_as_they_did() {
    for Transcript { name, client, server } in TRANSCRIPTS {
        let (out, end) = fuzz::negotiation(client);
        assert_eq!(end, expected_end(name), "{name}");
        assert_eq!(replies(&out), replies(server), "{name}");
        if matches!(name, "libnbd-export-name" | "libnbd-export-name-no-zeroes") {
            assert_eq!(out, server, "{name}");
        }
    }
}

#[test]
fn a_cut_handshake_waits_for_more() {
    for Transcript { name, client, server } in TRANSCRIPTS {
        let whole = fuzz::negotiation(client).0;
        for cut in 0..client.len() {
            let (out, end) = fuzz::negotiation(&client[..cut]);
            assert!(whole.starts_with(&out) && server.starts_with(&out[..GREETING_LEN]), "{name}");
            assert_eq!(end, NegotiationEnd::Starved, "{name}");
        }
    }
}
