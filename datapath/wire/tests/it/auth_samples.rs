//! Samples of what guests say, and of what is said of nodes. Each field has a value of its own.

use wire::auth::*;
use wire::hello::Empty;
use wire::{Header, Op, decode_body, encode_body};

use crate::sample::{Sample, call};

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add(at as u8)).collect()
}

fn claim(seed: u8) -> Option<KeyClaim> {
    Some(KeyClaim { public_key: bytes(seed, 32), signature: bytes(seed ^ 0xff, 64) })
}

fn revocations() -> Sample {
    let list =
        RevocationList { cluster: bytes(1, 16), version: 1 << 48 | 7, hours: 8760, revoked: vec![3, 70_000] };
    let list = encode_body(&list).expect("within limits");
    let notice = Revocations { list, signature: bytes(9, 64) };
    let body = encode_body(&notice).expect("within limits");
    let header = Header::notice(Op::Revocations, &body, 0).expect("within limits");
    Sample::new("revocations.notice", header, &body, &[], move |found, body| {
        assert_eq!(found, &header);
        assert_eq!(decode_body::<Revocations>(body).as_ref(), Ok(&notice));
    })
}

/// All of them.
pub(crate) fn all() -> Vec<Sample> {
    let enroll = Enroll {
        ke3: bytes(3, 64),
        key: claim(4),
        node: "node-a".into(),
        host_id: "0123456789abcdef".into(),
    };
    let enrolled = EnrollReply { authority: bytes(5, 300), certificate: bytes(6, 400), proof: bytes(7, 64) };
    let node = NodeInfo {
        number: 7,
        name: "node-a".into(),
        host_id: "0123456789abcdef".into(),
        address: "10.0.0.7".into(),
        admitted_ms: 1_700_000_000_123,
        revoked_ms: 1_800_000_000_456,
    };
    let mut samples = vec![revocations()];
    samples.extend(call(Login { ke1: bytes(1, 96) }, LoginReply { ke2: bytes(2, 320) }));
    samples.extend(call(enroll, enrolled));
    samples.extend(call(
        NewPassword { ke3: bytes(8, 64), request: bytes(9, 32) },
        NewPasswordReply { response: bytes(10, 64) },
    ));
    samples.extend(call(SetPassword { record: bytes(11, 192), proof: bytes(12, 64) }, Empty {}));
    samples.extend(call(ListNodes { after: 6 }, ListNodesReply { nodes: vec![node], more: true }));
    samples.extend(call(RevokeNode { number: 7 }, Empty {}));
    samples.extend(call(
        RenewCertificate { key: claim(13) },
        RenewCertificateReply { certificate: bytes(14, 400) },
    ));
    samples
}
