//! An NBD client that can do what proper clients never would.

use rt::buf::{Buf, View};
use rt::net::{Address, Reader, Writer};
use ublk_target::nbd::wire;

/// A connection.
pub(crate) struct Raw {
    reader: Reader,
    writer: Writer,
    structured: bool,
}

/// A whole reply, all chunks together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The request's cookie.
    pub(crate) cookie: u64,
    /// Error number; 0 = success.
    pub(crate) error: u32,
    /// Text of an error.
    pub(crate) text: String,
    /// Content of a read: offset, data, and whether it came as data (or as a hole).
    pub(crate) content: Vec<(u64, Vec<u8>, bool)>,
    /// Block status: length and flags.
    pub(crate) extents: Vec<(u32, u32)>,
}

impl Answer {
    /// The data of a read in one piece, whatever it was sent as.
    pub(crate) fn data(&self) -> Vec<u8> {
        let mut parts = self.content.clone();
        parts.sort();
        parts.into_iter().flat_map(|(_, data, _)| data).collect()
    }
}

/// A request header.
pub(crate) fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut out = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

/// A write with its data.
pub(crate) fn write(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut out = request(wire::CMD_WRITE, flags, cookie, offset, data.len() as u32);
    out.extend_from_slice(data);
    out
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Raw {
    pub(crate) async fn connect(address: &Address) -> Self {
        let (reader, writer) = rt::net::connect(address).await.expect("the server listens");
        Self { reader, writer, structured: false }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the server takes it");
    }

    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.send_all(View::copy_of(bytes)).await
    }

    /// The next `len` bytes; `None` at the end of the stream.
    pub(crate) async fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        let (result, buf) = self.reader.recv_exact(Buf::new(len), 0).await;
        match result {
            Ok(()) => Some(buf.to_vec()),
            Err(error) => {
                // Shown with a test that fails.
                println!("receiving {len} bytes: {error}");
                None
            }
        }
    }

    /// Receives nothing until the next call that does.
    pub(crate) async fn pause(&mut self) {
        self.reader.pause(None).await.expect("the connection is there");
    }

    /// Whether the server has closed the connection; waits for it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.reader.recv().await, Ok(None) | Err(_))
    }

    async fn option(&mut self, option: u32, data: &[u8]) {
        let mut out = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        self.send(&out).await;
    }

    /// Replies to an option up to the last: type and data of each.
    async fn option_replies(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let header = self.bytes(wire::OPTION_REPLY_HEADER_LEN).await.expect("a reply");
            assert_eq!(number::<8>(&header, 0), wire::OPTION_REPLY_MAGIC);
            let (kind, len) = (number::<4>(&header, 12) as u32, number::<4>(&header, 16));
            let data = if len == 0 { Vec::new() } else { self.bytes(len as usize).await.expect("its data") };
            replies.push((kind, data));
            if kind == wire::REP_ACK || kind & wire::REP_ERR != 0 {
                return replies;
            }
        }
    }

    /// Reads the greeting and answers it.
    pub(crate) async fn greet(&mut self) {
        let greeting = self.bytes(wire::GREETING_LEN).await.expect("a greeting");
        assert_eq!(number::<8>(&greeting, 0), wire::INIT_MAGIC);
        let flags = wire::FLAG_C_FIXED_NEWSTYLE | wire::FLAG_C_NO_ZEROES;
        self.send(&flags.to_be_bytes()).await;
    }

    /// The whole handshake for the default export; gives its size and flags.
    pub(crate) async fn handshake(&mut self, structured: bool) -> (u64, u16) {
        self.greet().await;
        self.structured = structured;
        if structured {
            self.option(wire::OPT_STRUCTURED_REPLY, &[]).await;
            assert_eq!(self.option_replies().await, [(wire::REP_ACK, vec![])]);
            let query = b"base:allocation";
            let mut data = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, query.len() as u8].to_vec();
            data.extend_from_slice(query);
            self.option(wire::OPT_SET_META_CONTEXT, &data).await;
            assert_eq!(self.option_replies().await.len(), 2);
        }
        self.option(wire::OPT_GO, &[0; 6]).await;
        let replies = self.option_replies().await;
        assert_eq!(replies.last().map(|reply| reply.0), Some(wire::REP_ACK), "{replies:?}");
        let info = &replies[0].1;
        assert_eq!(number::<2>(info, 0) as u16, wire::INFO_EXPORT);
        (number::<8>(info, 2), number::<2>(info, 10) as u16)
    }

    /// The next reply. `read` says how many bytes a simple reply to this cookie brings if it is a success.
    pub(crate) async fn answer_of(&mut self, read: impl Fn(u64) -> usize) -> Answer {
        let mut answer = Answer::default();
        loop {
            let magic = self.bytes(4).await.expect("a reply");
            match number::<4>(&magic, 0) as u32 {
                wire::SIMPLE_REPLY_MAGIC => {
                    let rest = self.bytes(12).await.expect("a header");
                    answer.error = number::<4>(&rest, 0) as u32;
                    answer.cookie = number::<8>(&rest, 4);
                    let len = if answer.error == 0 { read(answer.cookie) } else { 0 };
                    if len > 0 && !self.structured {
                        answer.content.push((0, self.bytes(len).await.expect("the data"), true));
                    }
                    return answer;
                }
                wire::STRUCTURED_REPLY_MAGIC => {
                    assert!(self.structured, "structured replies were not agreed on");
                    if self.chunk(&mut answer).await {
                        return answer;
                    }
                }
                other => panic!("{other:#x} where a reply begins"),
            }
        }
    }

    /// Reads the rest of a chunk into `answer`; whether it was the last.
    async fn chunk(&mut self, answer: &mut Answer) -> bool {
        let rest = self.bytes(16).await.expect("a header");
        let (flags, kind) = (number::<2>(&rest, 0) as u16, number::<2>(&rest, 2) as u16);
        let (cookie, len) = (number::<8>(&rest, 4), number::<4>(&rest, 12) as usize);
        let first = answer.content.is_empty() && answer.extents.is_empty();
        assert!(first || answer.cookie == cookie, "chunks of two replies are mixed");
        answer.cookie = cookie;
        let body = if len == 0 { Vec::new() } else { self.bytes(len).await.expect("its payload") };
        match kind {
            wire::REPLY_TYPE_OFFSET_DATA => {
                answer.content.push((number::<8>(&body, 0), body[8..].to_vec(), true));
            }
            wire::REPLY_TYPE_OFFSET_HOLE => {
                answer.content.push((number::<8>(&body, 0), vec![0; number::<4>(&body, 8) as usize], false));
            }
            wire::REPLY_TYPE_BLOCK_STATUS => {
                assert_eq!(number::<4>(&body, 0), 1, "the id of base:allocation");
                let extents = body[4..].chunks(8);
                answer.extents.extend(extents.map(|e| (number::<4>(e, 0) as u32, number::<4>(e, 4) as u32)));
            }
            wire::REPLY_TYPE_ERROR | wire::REPLY_TYPE_ERROR_OFFSET => {
                answer.error = number::<4>(&body, 0) as u32;
                let len = number::<2>(&body, 4) as usize;
                answer.text = String::from_utf8(body[6..6 + len].to_vec()).expect("text");
            }
            other => assert_eq!(other, wire::REPLY_TYPE_NONE),
        }
        flags & wire::REPLY_FLAG_DONE != 0
    }

    /// The next reply.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_of(|_| 0).await
    }

    /// Sends one request and waits for its reply.
    pub(crate) async fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Answer {
        self.send(&request(command, flags, 77, offset, length)).await;
        let answer = self.answer_of(|_| if command == wire::CMD_READ { length as usize } else { 0 }).await;
        assert_eq!(answer.cookie, 77);
        answer
    }

    /// Reads a range, which must succeed.
    pub(crate) async fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let answer = self.ask(wire::CMD_READ, 0, offset, length).await;
        assert_eq!(answer.error, 0, "{}", answer.text);
        answer.data()
    }

    /// Writes a range, which must succeed.
    pub(crate) async fn write(&mut self, flags: u16, offset: u64, data: &[u8]) {
        self.send(&write(flags, 78, offset, data)).await;
        assert_eq!(self.answer().await, Answer { cookie: 78, ..Answer::default() });
    }
}
