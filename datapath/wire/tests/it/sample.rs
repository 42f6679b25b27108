//! A frame with a known meaning: what the fixtures freeze and the fuzz tests grow from.

use std::fmt::Debug;

use wire::{Call, ErrorBody, HEADER_LEN, Header, Op, Status, decode_body, encode_body};

/// Panics unless header and body mean what they should.
type Check = Box<dyn Fn(&Header, &[u8])>;

/// One frame.
pub(crate) struct Sample {
    /// File name without the extension.
    pub(crate) name: String,
    /// Header, body and payload.
    pub(crate) frame: Vec<u8>,
    /// Panics unless the body means what it should.
    pub(crate) check: Check,
}

impl Sample {
    /// A frame of `header`, `body` and `payload`, whose body `check` understands.
    pub(crate) fn new(
        name: impl Into<String>,
        header: Header,
        body: &[u8],
        payload: &[u8],
        check: impl Fn(&Header, &[u8]) + 'static,
    ) -> Self {
        assert_eq!(header.rest_len(), body.len() + payload.len());
        let frame = [header.encode().as_slice(), body, payload].concat();
        Self { name: name.into(), frame, check: Box::new(check) }
    }

    /// A request for `op` with id 77 and a budget of five seconds.
    pub(crate) fn request(
        name: impl Into<String>,
        op: Op,
        body: Vec<u8>,
        payload: &[u8],
        check: impl Fn(&Header, &[u8]) + 'static,
    ) -> Self {
        let header = Header::request(op, 77, 5_000_000, &body, payload.len()).expect("within limits");
        Self::new(name, header, &body, payload, move |found, body| {
            assert_eq!(found, &header);
            check(found, body);
        })
    }

    /// The response to such a request.
    pub(crate) fn response(
        name: impl Into<String>,
        op: Op,
        status: Status,
        body: Vec<u8>,
        payload: &[u8],
        check: impl Fn(&Header, &[u8]) + 'static,
    ) -> Self {
        let request = Header::request(op, 77, 0, &[], 0).expect("within limits");
        let header = Header::response(&request, status, &body, payload.len()).expect("within limits");
        Self::new(name, header, &body, payload, move |found, body| {
            assert_eq!(found, &header);
            check(found, body);
        })
    }

    /// Header and body of the frame.
    pub(crate) fn parts(&self) -> (Header, &[u8]) {
        parts(&self.frame)
    }
}

/// Header and body of a frame that is known to be good.
pub(crate) fn parts(frame: &[u8]) -> (Header, &[u8]) {
    let (header, rest) = frame.split_first_chunk::<HEADER_LEN>().expect("a whole header");
    let header = Header::decode(header).expect("a good header");
    assert_eq!(rest.len(), header.rest_len());
    (header, &rest[..header.body_len as usize])
}

/// Request and reply of a control operation.
pub(crate) fn call<C>(request: C, reply: C::Reply) -> [Sample; 2]
where
    C: Call + PartialEq + Debug + 'static,
    C::Reply: PartialEq + Debug + 'static,
{
    let name = C::OP.name();
    let bodies = (encode_body(&request).expect("within limits"), encode_body(&reply).expect("within limits"));
    [
        Sample::request(format!("{name}.request"), C::OP, bodies.0, &[], move |_, body| {
            assert_eq!(decode_body::<C>(body).as_ref(), Ok(&request));
        }),
        Sample::response(format!("{name}.response"), C::OP, Status::Ok, bodies.1, &[], move |_, body| {
            assert_eq!(decode_body::<C::Reply>(body).as_ref(), Ok(&reply));
        }),
    ]
}

/// A response that failed.
pub(crate) fn failure(name: &str, op: Op, status: Status, error: ErrorBody) -> Sample {
    let body = encode_body(&error).expect("within limits");
    Sample::response(name, op, status, body, &[], move |_, body| assert_eq!(ErrorBody::lossy(body), error))
}

/// All samples.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = crate::data_samples::all();
    samples.extend(crate::control_samples::all());
    samples.extend(crate::auth_samples::all());
    samples
}
