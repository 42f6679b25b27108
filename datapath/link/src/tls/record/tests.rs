//! Records between our own ends, and between ours and stock `rustls`.

use std::io::{Read, Write};

use rt::random::Rng;
use rustls::{ConnectionCommon, SideData};

use super::*;
use crate::testing::{run, secured, stock_client, stock_server};
use crate::tls::handshake::Secured;

fn sealed(sealer: &mut Sealer, content: &[u8]) -> Vec<u8> {
    let mut record = vec![0; content.len() + OVERHEAD];
    record[HEADER..HEADER + content.len()].copy_from_slice(content);
    sealer.seal(&mut record, Content::Data);
    assert_eq!(length(&record), Ok(Some(record.len())));
    record
}

#[test]
fn what_one_side_seals_the_other_opens() {
    run(async {
        let (mut client, mut server) = secured().await;
        for len in [0, 1, 100, 4096, CONTENT_MAX] {
            let content: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
            let mut record = sealed(&mut client.sealer, &content);
            assert_eq!(server.opener.open(&mut record), Ok(Opened::Data(&content)));
            let mut record = sealed(&mut server.sealer, &content);
            assert_eq!(client.opener.open(&mut record), Ok(Opened::Data(&content)));
        }
        let mut alert = [0; ALERT];
        client.sealer.alert(&mut alert, 1, 0);
        assert_eq!(server.opener.open(&mut alert), Ok(Opened::Alert(0)));
    });
}

#[test]
fn changed_repeated_and_reordered_records_are_refused() {
    run(async {
        let (mut client, mut server) = secured().await;
        let record = sealed(&mut client.sealer, b"content");
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Not to be opened twice under one nonce in earnest; here it tells whether the tag is looked at.
            server.opener.key.sequence = 0;
            assert!(server.opener.open(&mut changed).is_err(), "bit {bit}");
        }
        server.opener.key.sequence = 0;
        assert!(server.opener.open(&mut record.clone()).is_ok());
        assert_eq!(server.opener.open(&mut record.clone()), Err(RecordError::Authentication));
        let (first, second) = (sealed(&mut client.sealer, b"1"), sealed(&mut client.sealer, b"2"));
        server.opener.key.sequence = 1;
        assert_eq!(server.opener.open(&mut second.clone()), Err(RecordError::Authentication));
        server.opener.key.sequence = 1;
        assert!(server.opener.open(&mut first.clone()).is_ok());
    });
}

#[test]
fn worn_keys_are_replaced_and_the_other_side_follows() {
    run(async {
        let (mut client, mut server) = secured().await;
        client.sealer.set_records_per_key(3);
        let mut updates = 0;
        for round in 0..20u8 {
            if client.sealer.is_worn() {
                let before = client.sealer.key.iv;
                let mut update = [0; KEY_UPDATE];
                client.sealer.update(&mut update).unwrap();
                assert_ne!(client.sealer.key.iv, before);
                assert_eq!(server.opener.open(&mut update), Ok(Opened::KeyUpdate { requested: false }));
                updates += 1;
            }
            let mut record = sealed(&mut client.sealer, &[round]);
            assert_eq!(server.opener.open(&mut record), Ok(Opened::Data(&[round])));
            // The way back has its own keys.
            let mut record = sealed(&mut server.sealer, &[round]);
            assert_eq!(client.opener.open(&mut record), Ok(Opened::Data(&[round])));
        }
        assert_eq!(updates, 6);
    });
}

/// A record whose inner plaintext, type included, is `inner`.
fn sealed_inner(sealer: &mut Sealer, inner: &[u8]) -> Vec<u8> {
    let len = ((inner.len() + TAG) as u16).to_be_bytes();
    let header = [23, 3, 3, len[0], len[1]];
    let mut text = inner.to_vec();
    let nonce = sealer.key.nonce();
    let tag = sealer.key.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut text).unwrap();
    [&header[..], &text, tag.as_ref()].concat()
}

#[test]
fn padding_is_taken_off_and_foreign_messages_are_refused() {
    run(async {
        let (mut client, mut server) = secured().await;
        let mut open = |inner: &[u8]| {
            let mut record = sealed_inner(&mut client.sealer, inner);
            server.opener.open(&mut record).map(|opened| match opened {
                Opened::Data(content) => content.to_vec(),
                other => format!("{other:?}").into_bytes(),
            })
        };
        assert_eq!(open(b"abc\x17\0\0\0"), Ok(b"abc".to_vec()));
        assert_eq!(open(&[23, 0, 0]), Ok(vec![]));
        let table: [(&[u8], u8); 6] = [
            (&[0, 0, 0], 0),
            (&[4, 0, 0, 0, 22], 4),
            (&[24, 0, 0, 1, 2, 22], 24),
            (&[22], 0),
            (&[1, 20], 20),
            (&[2, 40, 9, 21], 21),
        ];
        for (inner, found) in table {
            assert_eq!(open(inner), Err(RecordError::Unexpected { found }), "{inner:?}");
        }
        let update = b"KeyUpdate { requested: true }";
        assert_eq!(open(&[24, 0, 0, 1, 1, 22]), Ok(update.to_vec()));
    });
}

#[test]
fn what_is_no_record_is_known_by_its_first_bytes() {
    assert_eq!(length(&[]), Ok(None));
    assert_eq!(length(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(length(&[23, 3, 3, 1, 0]), Ok(Some(261)));
    assert_eq!(length(b"GET"), Err(RecordError::Kind { found: *b"GET" }));
    assert_eq!(length(&[20]), Err(RecordError::Kind { found: [20, 0, 0] }));
    assert_eq!(length(&[23, 3, 3, 0, 16]), Err(RecordError::Length { len: 21 }));
    assert_eq!(length(&[23, 3, 3, 0xff, 0xff]), Err(RecordError::Length { len: 65_540 }));
}

/// What stock `rustls` makes of `content`: whole records.
fn stock_seals<D: SideData>(stock: &mut ConnectionCommon<D>, content: &[u8]) -> Vec<Vec<u8>> {
    stock.writer().write_all(content).unwrap();
    stock_flushes(stock)
}

fn stock_flushes<D: SideData>(stock: &mut ConnectionCommon<D>) -> Vec<Vec<u8>> {
    let (mut bytes, mut records) = (Vec::new(), Vec::new());
    while stock.wants_write() {
        stock.write_tls(&mut bytes).unwrap();
    }
    while !bytes.is_empty() {
        let rest = bytes.split_off(length(&bytes).unwrap().expect("a whole record"));
        records.push(std::mem::replace(&mut bytes, rest));
    }
    records
}

/// What stock `rustls` reads out of a record of ours.
fn stock_opens<D: SideData>(
    stock: &mut ConnectionCommon<D>,
    mut record: &[u8],
) -> Result<Vec<u8>, rustls::Error> {
    while !record.is_empty() {
        stock.read_tls(&mut record).unwrap();
        stock.process_new_packets()?;
    }
    let mut content = Vec::new();
    // Nothing is no end of the stream.
    let _would_block = stock.reader().read_to_end(&mut content);
    Ok(content)
}

/// Opens what stock `rustls` has sealed; answers its wishes for keys as the sending task does.
fn take<D: SideData>(stock: &mut ConnectionCommon<D>, ours: &mut Secured, records: Vec<Vec<u8>>) -> Vec<u8> {
    let mut content = Vec::new();
    for mut record in records {
        match ours.opener.open(&mut record).unwrap() {
            Opened::Data(part) => content.extend_from_slice(part),
            Opened::KeyUpdate { requested: true } => {
                let mut update = [0; KEY_UPDATE];
                ours.sealer.update(&mut update).unwrap();
                assert_eq!(stock_opens(stock, &update), Ok(vec![]));
            }
            other => panic!("{other:?}"),
        }
    }
    content
}

/// Content of every size class both ways, with new keys from either side in between.
fn converse<D: SideData>(stock: &mut ConnectionCommon<D>, mut ours: Secured) {
    assert!(ours.surplus.is_empty());
    ours.sealer.set_records_per_key(7);
    stock.set_buffer_limit(None);
    let mut rng = Rng::from_seed(23);
    let edges = [1, 2, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, CONTENT_MAX - 1, CONTENT_MAX];
    let (mut our_keys, mut their_keys) = (0, 0);
    for round in 0..200 {
        let len = *edges.get(round).unwrap_or(&(1 + rng.below(CONTENT_MAX as u64) as usize));
        let mut content = vec![0; len];
        rng.fill(&mut content);
        if ours.sealer.is_worn() {
            let mut update = [0; KEY_UPDATE];
            ours.sealer.update(&mut update).unwrap();
            assert_eq!(stock_opens(stock, &update), Ok(vec![]));
            our_keys += 1;
        }
        let record = sealed(&mut ours.sealer, &content);
        assert!(stock_opens(stock, &record).unwrap() == content, "{len} bytes of ours");
        if rng.one_in(5) {
            // It asks for a new key of ours, too.
            stock.refresh_traffic_keys().unwrap();
            their_keys += 1;
        }
        // Up to three records, among them the longest of all: 16 384 bytes of content.
        let mut content = vec![0; len * 3];
        rng.fill(&mut content);
        let records = stock_seals(stock, &content);
        assert!(take(stock, &mut ours, records) == content, "{} bytes of theirs", len * 3);
    }
    assert!(our_keys > 10 && their_keys > 20, "{our_keys} new keys of ours, {their_keys} of theirs");
    // An empty record is nothing, and each end understands how the other one ends.
    assert_eq!(stock_opens(stock, &sealed(&mut ours.sealer, &[])), Ok(vec![]));
    stock.send_close_notify();
    let mut alert = stock_flushes(stock).pop().unwrap();
    assert_eq!(ours.opener.open(&mut alert), Ok(Opened::Alert(0)));
    let mut alert = [0; ALERT];
    ours.sealer.alert(&mut alert, 1, 0);
    stock.read_tls(&mut &alert[..]).unwrap();
    assert!(stock.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn stock_ends_and_ours_understand_each_other() {
    run(async {
        let (mut stock, ours) = stock_client().await;
        converse(&mut stock, ours);
        let (mut stock, ours) = stock_server().await;
        converse(&mut stock, ours);
    });
}

#[test]
fn a_stock_end_refuses_what_was_done_to_our_records() {
    run(async {
        type Meddle = fn(&mut Vec<u8>, &[u8]);
        let ways: [(&str, Meddle); 4] = [
            ("a bit of the content", |record, _| record[HEADER] ^= 1),
            ("a bit of the tag", |record, _| *record.last_mut().unwrap() ^= 0x80),
            ("the record before it", |record, before| *record = before.to_vec()),
            ("a byte less", |record, _| {
                record.pop();
                record[4] -= 1;
            }),
        ];
        for (what, meddle) in ways {
            let (mut stock, mut ours) = stock_client().await;
            let before = sealed(&mut ours.sealer, b"before");
            assert_eq!(stock_opens(&mut stock, &before), Ok(b"before".to_vec()));
            let mut record = sealed(&mut ours.sealer, b"content");
            meddle(&mut record, &before);
            assert!(stock_opens(&mut stock, &record).is_err(), "{what}");
        }
    });
}

#[test]
fn what_was_done_to_a_stock_ends_records_is_refused() {
    run(async {
        let (mut stock, mut ours) = stock_client().await;
        let content = vec![7; 300];
        let mut seal = || stock_seals(&mut stock, &content).pop().unwrap();
        let (first, second) = (seal(), seal());
        let refused = |ours: &mut Secured, mut record: Vec<u8>| {
            // As if nothing had been tried before; in earnest the connection is over.
            ours.opener.key.sequence = 0;
            ours.opener.open(&mut record).map(|opened| format!("{opened:?}")).unwrap_err()
        };
        for at in (0..HEADER).chain(HEADER + 290..first.len()) {
            for bit in 0..8 {
                let mut record = first.clone();
                record[at] ^= 1 << bit;
                assert_eq!(refused(&mut ours, record), RecordError::Authentication, "bit {bit} of {at}");
            }
        }
        for shorter in 1..=first.len() - OVERHEAD {
            let mut record = first[..first.len() - shorter].to_vec();
            let len = ((record.len() - HEADER) as u16).to_be_bytes();
            assert_eq!(refused(&mut ours, record.clone()), RecordError::Authentication);
            record[3..HEADER].copy_from_slice(&len);
            assert_eq!(refused(&mut ours, record), RecordError::Authentication);
        }
        assert_eq!(refused(&mut ours, second.clone()), RecordError::Authentication, "one is missing");
        // What we have sealed ourselves comes back: the directions have different keys.
        let reflected = sealed(&mut ours.sealer, &content);
        assert_eq!(refused(&mut ours, reflected), RecordError::Authentication);
        ours.opener.key.sequence = 0;
        assert_eq!(ours.opener.open(&mut first.clone()), Ok(Opened::Data(&content)));
        assert_eq!(ours.opener.open(&mut first.clone()), Err(RecordError::Authentication), "a second time");
        ours.opener.key.sequence = 1;
        assert_eq!(ours.opener.open(&mut second.clone()), Ok(Opened::Data(&content)));
        // A record under the key before the last one.
        stock.refresh_traffic_keys().unwrap();
        let [mut update, mut fresh] = <[_; 2]>::try_from(stock_seals(&mut stock, &content)).unwrap();
        assert_eq!(ours.opener.open(&mut update), Ok(Opened::KeyUpdate { requested: true }));
        assert_eq!(ours.opener.key.sequence, 0);
        assert_eq!(refused(&mut ours, first), RecordError::Authentication);
        ours.opener.key.sequence = 0;
        assert_eq!(ours.opener.open(&mut fresh), Ok(Opened::Data(&content)));
    });
}

#[test]
fn a_plaintext_beyond_the_limit_of_rfc_8446_is_refused() {
    run(async {
        let (mut client, mut server) = secured().await;
        let mut open = |content: usize, padding: usize| {
            let inner = [vec![1; content], vec![23], vec![0; padding]].concat();
            let mut record = sealed_inner(&mut client.sealer, &inner);
            assert_eq!(length(&record), Ok(Some(record.len())), "the record itself may be so long");
            server.opener.open(&mut record).map(|opened| match opened {
                Opened::Data(content) => content.len(),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(open(1 << 14, 0), Ok(1 << 14));
        assert_eq!(open(100, (1 << 14) - 100), Ok(100));
        let len = OVERHEAD + (1 << 14) + 1;
        assert_eq!(open((1 << 14) + 1, 0), Err(RecordError::Length { len }));
        assert_eq!(open(100, (1 << 14) - 99), Err(RecordError::Length { len }));
    });
}

#[test]
fn records_without_data_are_not_taken_for_ever() {
    run(async {
        for update in [false, true] {
            let (mut client, mut server) = secured().await;
            let mut idle = || {
                if !update {
                    return server.opener.open(&mut sealed(&mut client.sealer, &[])).map(drop);
                }
                let mut record = [0; KEY_UPDATE];
                client.sealer.update(&mut record).unwrap();
                server.opener.open(&mut record).map(drop)
            };
            for _ in 0..IDLE_MAX {
                assert_eq!(idle(), Ok(()));
            }
            assert_eq!(idle(), Err(RecordError::Idle));
        }
        // Any byte of data begins the count anew.
        let (mut client, mut server) = secured().await;
        for round in 0..10 * IDLE_MAX {
            let content: &[u8] = if round % IDLE_MAX == 0 { b"data" } else { b"" };
            let mut record = sealed(&mut client.sealer, content);
            assert_eq!(server.opener.open(&mut record), Ok(Opened::Data(content)));
        }
    });
}

#[test]
#[should_panic(expected = "a key used far beyond its limit")]
fn a_key_is_never_used_without_end() {
    run(async {
        let (mut client, _server) = secured().await;
        client.sealer.key.sequence = RECORDS_PER_KEY_MAX - 1;
        assert!(client.sealer.is_worn());
        sealed(&mut client.sealer, b"the last");
        sealed(&mut client.sealer, b"one more");
    });
}
