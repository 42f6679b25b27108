//! Drives the fuzz functions with inputs grown from the recorded bytes of real clients.

use std::collections::BTreeSet;

use super::*;
use crate::nbd::fixtures::{REQUESTS_LIBNBD, REQUESTS_NBDCOPY, REQUESTS_QEMU_IO, TRANSCRIPTS};

const INPUTS: usize = 100_000;

/// Values that parsers like to get wrong.
const ODD: [u32; 10] = [0, 1, 2, 0x7f, 0xff, 0x1000, 0x1_0000, 0x1_0001, 0x0200_0001, u32::MAX];

/// Changes a copy of a seed in one to four places.
fn mutate(random: &mut XorShift, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next() as u8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 | 4 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            5 if at < bytes.len() => bytes[at] = random.next() as u8,
            6 if at + 4 <= bytes.len() => {
                bytes[at..at + 4].copy_from_slice(&ODD[random.below(ODD.len())].to_be_bytes());
            }
            _ => {
                // The tail of another seed: options in an order nobody sends.
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}

fn name(end: &NegotiationEnd) -> String {
    match end {
        NegotiationEnd::Starved => "starved".to_owned(),
        NegotiationEnd::Ready(session) => {
            format!("ready {} {}", session.structured, session.meta_contexts.len())
        }
        NegotiationEnd::Closed => "closed".to_owned(),
        // The variant without its fields.
        NegotiationEnd::Dropped(error) => {
            let debug = format!("{error:?}");
            debug.split([' ', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

#[test]
fn negotiation_survives_mutated_clients() {
    let mut random = XorShift::new(0x6e62_6431);
    let seeds: Vec<Vec<u8>> = TRANSCRIPTS.iter().map(|transcript| transcript.client.to_vec()).collect();
    let mut ends = BTreeSet::new();
    for _ in 0..INPUTS {
        let (_, end) = negotiation(&mutate(&mut random, &seeds));
        ends.insert(name(&end));
    }
    // The mutations reach every way out that does not need megabytes.
    let expected = [
        "ClientFlags",
        "ExportName",
        "NotFixedNewstyle",
        "OptionLength",
        "OptionMagic",
        "UnknownExport",
        "closed",
        "ready false 0",
        "ready true 0",
        "ready true 1",
        "starved",
    ];
    assert_eq!(ends.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn requests_survive_mutation() {
    let mut random = XorShift::new(0x6e62_6432);
    let recorded = [REQUESTS_LIBNBD, REQUESTS_QEMU_IO, REQUESTS_NBDCOPY].concat();
    let seeds: Vec<Vec<u8>> = recorded.chunks(wire::REQUEST_LEN).map(<[u8]>::to_vec).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..INPUTS {
        seen.insert(request_header(&mutate(&mut random, &seeds)));
    }
    // No request; refused by all; accepted by the writable sessions, by the structured ones, by all.
    assert_eq!(seen, BTreeSet::from([None, Some(0), Some(1), Some(2), Some(4)]));
}

#[test]
fn random_bytes_survive() {
    let mut random = XorShift::new(3);
    for _ in 0..10_000 {
        let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
        let _ = negotiation(&bytes);
        let _ = request_header(&bytes);
    }
}
