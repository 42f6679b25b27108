//! The server side of the fixed newstyle handshake as a machine over bytes
//! ("Newstyle negotiation", "Fixed newstyle negotiation").
//!
//! ```text
//! new ──▶ ClientFlags ──▶ OptionHeader ◀──────────────┐
//!                            │  │ data                │ answered
//!                            │  ├──────▶ OptionData ──┤
//!                            │  └ too long ─▶ Skip ───┘
//!                            ▼
//!        Finished: EXPORT_NAME or GO accepted, ABORT, or an error that no reply can carry
//! ```

use super::export::{Export, Exports};
use super::options::{self, InfoQuery, MetaQuery, OptionError};
use super::session::{MetaContext, Session};
use super::wire::{self, Fields};
use super::{MAX_OPTION, MAX_SKIPPED_OPTION, MAX_STRING};

/// What the socket does after a [`Negotiation::step`], once it has sent the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read [`Negotiation::needed`] bytes and step again.
    More,
    /// The transmission phase begins: the next bytes are a request header.
    Ready(Session),
    /// The client ended the session: close the connection.
    Closed,
}

/// Why the connection must be dropped. Output written before the error is still worth sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The client set flags that were not offered.
    #[error("the client answered the greeting with unknown flags {0:#x}; is it an NBD client?")]
    ClientFlags(u32),
    /// An option did not begin with its magic: what follows cannot be told apart.
    #[error("the client sent {0:#x} where an option begins; is it an NBD client?")]
    OptionMagic(u64),
    /// A client that does not speak fixed newstyle sent an option other than `NBD_OPT_EXPORT_NAME`.
    #[error("the client sent option {option} without speaking fixed newstyle; use a newer client")]
    NotFixedNewstyle {
        /// The option's number.
        option: u32,
    },
    /// Option data too long even to be skipped.
    #[error("the client announced {length} bytes of data for option {option}; is it an NBD client?")]
    OptionLength {
        /// The option's number.
        option: u32,
        /// Bytes announced.
        length: u32,
    },
    /// `NBD_OPT_EXPORT_NAME`, which knows no error reply, with a name that no export can have.
    #[error("the client asked for an export by a name that is too long, not UTF-8 or contains NUL")]
    ExportName,
    /// `NBD_OPT_EXPORT_NAME`, which knows no error reply, with a name that no export has.
    #[error("the client asked for an export that does not exist; list the exports to see which there are")]
    UnknownExport,
    /// `NBD_OPT_EXPORT_NAME`, which knows no error reply, after [`Negotiation::shut_down`].
    #[error("the client asked for an export while the server was stopping")]
    ShuttingDown,
    /// Misuse by the caller: not the number of bytes that were needed. The machine is unchanged.
    #[error("step was given {given} bytes instead of the {needed} needed")]
    InputLength {
        /// What [`Negotiation::needed`] said.
        needed: usize,
        /// What was passed.
        given: usize,
    },
    /// Misuse by the caller: the negotiation has already ended.
    #[error("the negotiation has already ended")]
    Finished,
}

/// An option by its number ("Option types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OptionKind {
    ExportName,
    Abort,
    List,
    StartTls,
    Info,
    Go,
    StructuredReply,
    ListMetaContext,
    SetMetaContext,
    Unknown,
}

impl OptionKind {
    fn of(option: u32) -> Self {
        match option {
            wire::OPT_EXPORT_NAME => Self::ExportName,
            wire::OPT_ABORT => Self::Abort,
            wire::OPT_LIST => Self::List,
            wire::OPT_STARTTLS => Self::StartTls,
            wire::OPT_INFO => Self::Info,
            wire::OPT_GO => Self::Go,
            wire::OPT_STRUCTURED_REPLY => Self::StructuredReply,
            wire::OPT_LIST_META_CONTEXT => Self::ListMetaContext,
            wire::OPT_SET_META_CONTEXT => Self::SetMetaContext,
            // NBD_OPT_EXTENDED_HEADERS among them: its absence is what clients fall back from.
            _ => Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    OptionData { option: u32, length: usize },
    Skip { option: u32, left: usize },
    Finished,
}

/// Metadata contexts of the last `NBD_OPT_SET_META_CONTEXT`, which count for that export alone.
#[derive(Debug)]
struct Selection {
    export: String,
    contexts: Vec<MetaContext>,
}

/// The handshake of one connection. `E` says which exports there are.
#[derive(Debug)]
pub struct Negotiation<E> {
    exports: E,
    state: State,
    fixed_newstyle: bool,
    no_zeroes: bool,
    structured: bool,
    selection: Option<Selection>,
    shutting_down: bool,
}

impl<E: Exports> Negotiation<E> {
    /// Begins a handshake by appending the greeting to `out`.
    pub fn new(exports: E, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&wire::INIT_MAGIC.to_be_bytes());
        out.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes());
        Self {
            exports,
            state: State::ClientFlags,
            fixed_newstyle: false,
            no_zeroes: false,
            structured: false,
            selection: None,
            shutting_down: false,
        }
    }

    /// How many bytes the next [`step`](Self::step) takes: 1 to [`MAX_OPTION`], or 0 once it has ended.
    #[must_use]
    pub fn needed(&self) -> usize {
        match self.state {
            State::ClientFlags => wire::CLIENT_FLAGS_LEN,
            State::OptionHeader => wire::OPTION_HEADER_LEN,
            State::OptionData { length, .. } => length,
            State::Skip { left, .. } => left.min(MAX_OPTION),
            State::Finished => 0,
        }
    }

    /// From now on every option but `NBD_OPT_ABORT` is refused, because the server is stopping.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// Takes exactly [`needed`](Self::needed) bytes and appends the replies to `out`.
    ///
    /// # Errors
    /// If the connection must be dropped; the negotiation has then ended. `InputLength` and `Finished` are
    /// misuse and change nothing.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Next, NegotiationError> {
        let needed = self.needed();
        if needed == 0 {
            return Err(NegotiationError::Finished);
        }
        if input.len() != needed {
            return Err(NegotiationError::InputLength { needed, given: input.len() });
        }
        let result = self.advance(input, out);
        if !matches!(result, Ok(Next::More)) {
            self.state = State::Finished;
        }
        result
    }

    fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Next, NegotiationError> {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::OptionHeader => self.option_header(input, out),
            State::OptionData { option, .. } => {
                self.state = State::OptionHeader;
                self.option(option, input, out)
            }
            State::Skip { option, left } if left > input.len() => {
                self.state = State::Skip { option, left: left - input.len() };
                Ok(Next::More)
            }
            State::Skip { option, .. } => {
                self.state = State::OptionHeader;
                self.skipped(option, out)
            }
            State::Finished => Err(NegotiationError::Finished),
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> Result<Next, NegotiationError> {
        // `step` has checked the length; a short read here could only mean no flags at all.
        let flags = Fields(input).u32().unwrap_or(0);
        if flags & !(wire::FLAG_C_FIXED_NEWSTYLE | wire::FLAG_C_NO_ZEROES) != 0 {
            return Err(NegotiationError::ClientFlags(flags));
        }
        self.fixed_newstyle = flags & wire::FLAG_C_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & wire::FLAG_C_NO_ZEROES != 0;
        self.state = State::OptionHeader;
        Ok(Next::More)
    }

    fn option_header(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Next, NegotiationError> {
        let mut fields = Fields(input);
        let magic = fields.u64().unwrap_or(0);
        let (option, length) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
        if magic != wire::OPTION_MAGIC {
            return Err(NegotiationError::OptionMagic(magic));
        }
        let kind = OptionKind::of(option);
        if !self.fixed_newstyle && kind != OptionKind::ExportName {
            return Err(NegotiationError::NotFixedNewstyle { option });
        }
        if length > MAX_SKIPPED_OPTION {
            return Err(NegotiationError::OptionLength { option, length });
        }
        let length = length as usize;
        if kind == OptionKind::ExportName && length > MAX_STRING {
            return Err(NegotiationError::ExportName);
        }
        match length {
            0 => return self.option(option, &[], out),
            1..=MAX_OPTION => self.state = State::OptionData { option, length },
            _ => self.state = State::Skip { option, left: length },
        }
        Ok(Next::More)
    }

    /// Answers an option whose data is complete.
    fn option(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Next, NegotiationError> {
        let answer = match OptionKind::of(option) {
            OptionKind::Abort => {
                options::ack(out, option);
                return Ok(Next::Closed);
            }
            OptionKind::ExportName => return self.export_name(data, out),
            _ if self.shutting_down => Err(OptionError::ShuttingDown),
            OptionKind::List => self.list(option, data, out),
            OptionKind::StartTls => options::no_data(data).and(Err(OptionError::NoTls)),
            OptionKind::Info => self.info(option, data, out).map(|_| Next::More),
            OptionKind::Go => self.info(option, data, out).map(|export| Next::Ready(self.session(export))),
            OptionKind::StructuredReply => options::no_data(data).map(|()| {
                self.structured = true;
                Next::More
            }),
            OptionKind::ListMetaContext => self.list_meta_context(option, data, out),
            OptionKind::SetMetaContext => self.set_meta_context(option, data, out),
            OptionKind::Unknown => Err(OptionError::Unsupported),
        };
        match answer {
            Ok(next) => {
                options::ack(out, option);
                Ok(next)
            }
            Err(error) => {
                options::refuse(out, option, error);
                Ok(Next::More)
            }
        }
    }

    /// Answers an option whose data was too long to be looked at.
    fn skipped(&mut self, option: u32, out: &mut Vec<u8>) -> Result<Next, NegotiationError> {
        let error = match OptionKind::of(option) {
            OptionKind::Abort => {
                options::ack(out, option);
                return Ok(Next::Closed);
            }
            _ if self.shutting_down => OptionError::ShuttingDown,
            OptionKind::List | OptionKind::StartTls | OptionKind::StructuredReply => {
                OptionError::UnexpectedData
            }
            OptionKind::SetMetaContext => {
                self.selection = None; // a failed selection replaces the one before it all the same
                OptionError::TooLong
            }
            OptionKind::Unknown => OptionError::Unsupported,
            OptionKind::ExportName | OptionKind::Info | OptionKind::Go | OptionKind::ListMetaContext => {
                OptionError::TooLong
            }
        };
        options::refuse(out, option, error);
        Ok(Next::More)
    }

    fn find(&self, name: &str) -> Result<Export, OptionError> {
        self.exports.find_export(name).ok_or(OptionError::UnknownExport)
    }

    fn export_name(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<Next, NegotiationError> {
        if self.shutting_down {
            return Err(NegotiationError::ShuttingDown);
        }
        let name = options::text(data).map_err(|_| NegotiationError::ExportName)?;
        let export = self.find(name).map_err(|_| NegotiationError::UnknownExport)?;
        out.extend_from_slice(&export.size().to_be_bytes());
        out.extend_from_slice(&export.flags().to_wire(self.structured).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; wire::EXPORT_NAME_PADDING]);
        }
        Ok(Next::Ready(self.session(export)))
    }

    fn list(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Next, OptionError> {
        options::no_data(data)?;
        for export in self.exports.exports() {
            options::server(out, option, &export);
        }
        Ok(Next::More)
    }

    fn info(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Export, OptionError> {
        let query = InfoQuery::parse(data)?;
        let export = self.find(query.export)?;
        options::infos(out, option, &query, &export, self.structured);
        Ok(export)
    }

    fn list_meta_context(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Next, OptionError> {
        let query = self.meta_query(data)?;
        self.find(query.export)?;
        for context in query.listed() {
            options::meta_context(out, option, 0, context);
        }
        Ok(Next::More)
    }

    fn set_meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Next, OptionError> {
        self.selection = None; // a failed selection replaces the one before it all the same
        let query = self.meta_query(data)?;
        let export = self.find(query.export)?;
        let contexts = query.selected();
        for &context in &contexts {
            options::meta_context(out, option, context.id(), context);
        }
        self.selection = Some(Selection { export: export.name().to_owned(), contexts });
        Ok(Next::More)
    }

    fn meta_query<'a>(&self, data: &'a [u8]) -> Result<MetaQuery<'a>, OptionError> {
        if !self.structured {
            return Err(OptionError::NeedsStructured);
        }
        MetaQuery::parse(data)
    }

    fn session(&mut self, export: Export) -> Session {
        let selection = self.selection.take().filter(|selection| selection.export == export.name());
        Session {
            export,
            structured: self.structured,
            meta_contexts: selection.map(|selection| selection.contexts).unwrap_or_default(),
            no_zeroes: self.no_zeroes,
        }
    }
}

#[cfg(test)]
mod tests;
