//! Option data and option replies of the handshake ("Option types", "Option reply types").

use super::MAX_STRING;
use super::export::Export;
use super::session::MetaContext;
use super::wire::{self, Fields};
use super::{MAX_OPTION, MAX_PAYLOAD, MIN_BLOCK, PREFERRED_BLOCK};

/// Why an option is answered with an error. The text goes to the client's operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionError {
    #[error("this server does not know the option")]
    Unsupported,
    #[error("this server offers no TLS; connect without it over the Unix socket or loopback")]
    NoTls,
    #[error("the option takes no data")]
    UnexpectedData,
    #[error("the lengths inside the option do not add up")]
    Malformed,
    #[error("a string in the option is not UTF-8 or contains NUL")]
    NotText,
    #[error("a string in the option is longer than {MAX_STRING} bytes")]
    StringTooLong,
    #[error("the option's data is longer than {MAX_OPTION} bytes")]
    TooLong,
    #[error("negotiate structured replies before metadata contexts")]
    NeedsStructured,
    #[error("there is no export of that name; list the exports to see which there are")]
    UnknownExport,
    #[error("the server is stopping; connect again later")]
    ShuttingDown,
}

impl OptionError {
    /// The reply type that carries this error.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Unsupported => wire::REP_ERR_UNSUP,
            Self::NoTls => wire::REP_ERR_POLICY,
            Self::UnexpectedData | Self::Malformed | Self::NotText | Self::NeedsStructured => {
                wire::REP_ERR_INVALID
            }
            Self::StringTooLong | Self::TooLong => wire::REP_ERR_TOO_BIG,
            Self::UnknownExport => wire::REP_ERR_UNKNOWN,
            Self::ShuttingDown => wire::REP_ERR_SHUTDOWN,
        }
    }
}

/// A string that fits the protocol ("Conventions").
pub(super) fn text(bytes: &[u8]) -> Result<&str, OptionError> {
    if bytes.len() > MAX_STRING {
        return Err(OptionError::StringTooLong);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(OptionError::NotText),
    }
}

/// Refuses data where the option takes none.
pub(super) fn no_data(data: &[u8]) -> Result<(), OptionError> {
    if data.is_empty() { Ok(()) } else { Err(OptionError::UnexpectedData) }
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`. `NBD_INFO_EXPORT` is always answered, so not kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoQuery<'a> {
    pub(super) export: &'a str,
    pub(super) name: bool,
    pub(super) description: bool,
    pub(super) block_size: bool,
}

impl<'a> InfoQuery<'a> {
    /// Items not known here are ignored, repeated ones count once.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, OptionError> {
        let mut fields = Fields(data);
        let export = fields.counted().ok_or(OptionError::Malformed)?;
        let count = fields.u16().ok_or(OptionError::Malformed)?;
        let mut query = Self { export: text(export)?, name: false, description: false, block_size: false };
        for _ in 0..count {
            match fields.u16().ok_or(OptionError::Malformed)? {
                wire::INFO_NAME => query.name = true,
                wire::INFO_DESCRIPTION => query.description = true,
                wire::INFO_BLOCK_SIZE => query.block_size = true,
                _ => {}
            }
        }
        if fields.is_empty() { Ok(query) } else { Err(OptionError::Malformed) }
    }
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetaQuery<'a> {
    pub(super) export: &'a str,
    queries: Vec<&'a str>,
}

impl<'a> MetaQuery<'a> {
    /// Queries are only checked for being strings: unknown namespaces and leaf names select nothing.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, OptionError> {
        let mut fields = Fields(data);
        let export = fields.counted().ok_or(OptionError::Malformed)?;
        let count = fields.u32().ok_or(OptionError::Malformed)?;
        let mut queries = Vec::new(); // not sized by `count`, which the data has yet to bear out
        for _ in 0..count {
            queries.push(text(fields.counted().ok_or(OptionError::Malformed)?)?);
        }
        if !fields.is_empty() {
            return Err(OptionError::Malformed);
        }
        Ok(Self { export: text(export)?, queries })
    }

    /// Contexts to list: all without a query, else those named, with `base:` naming its whole namespace.
    pub(super) fn listed(&self) -> Vec<MetaContext> {
        let matches = |context: &MetaContext| {
            self.queries.is_empty()
                || self.queries.iter().any(|&query| query == context.name() || context.in_namespace(query))
        };
        MetaContext::ALL.into_iter().filter(matches).collect()
    }

    /// Contexts to select: those named. The wildcard selects nothing.
    pub(super) fn selected(&self) -> Vec<MetaContext> {
        let matches = |context: &MetaContext| self.queries.contains(&context.name());
        MetaContext::ALL.into_iter().filter(matches).collect()
    }
}

/// Appends one option reply whose data is `parts` in order.
fn reply(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= MAX_OPTION, "strings of a reply are bounded by MAX_STRING");
    out.extend_from_slice(&wire::OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(length as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends `NBD_REP_ACK`.
pub(super) fn ack(out: &mut Vec<u8>, option: u32) {
    reply(out, option, wire::REP_ACK, &[]);
}

/// Appends the error reply for `error`, with its text.
pub(super) fn refuse(out: &mut Vec<u8>, option: u32, error: OptionError) {
    reply(out, option, error.code(), &[error.to_string().as_bytes()]);
}

/// Appends one `NBD_REP_SERVER`.
pub(super) fn server(out: &mut Vec<u8>, option: u32, export: &Export) {
    let name = export.name().as_bytes();
    let length = (name.len() as u32).to_be_bytes();
    reply(out, option, wire::REP_SERVER, &[&length, name, export.description().as_bytes()]);
}

/// Appends one `NBD_REP_META_CONTEXT`.
pub(super) fn meta_context(out: &mut Vec<u8>, option: u32, id: u32, context: MetaContext) {
    reply(out, option, wire::REP_META_CONTEXT, &[&id.to_be_bytes(), context.name().as_bytes()]);
}

/// Appends the `NBD_REP_INFO` replies that answer `query`, `NBD_INFO_EXPORT` first.
pub(super) fn infos(
    out: &mut Vec<u8>,
    option: u32,
    query: &InfoQuery<'_>,
    export: &Export,
    structured: bool,
) {
    let mut info = |item: u16, parts: [&[u8]; 3]| {
        let [a, b, c] = parts;
        reply(out, option, wire::REP_INFO, &[&item.to_be_bytes(), a, b, c]);
    };
    let flags = export.flags().to_wire(structured);
    info(wire::INFO_EXPORT, [&export.size().to_be_bytes(), &flags.to_be_bytes(), &[]]);
    if query.name {
        info(wire::INFO_NAME, [export.name().as_bytes(), &[], &[]]);
    }
    if query.description && !export.description().is_empty() {
        info(wire::INFO_DESCRIPTION, [export.description().as_bytes(), &[], &[]]);
    }
    if query.block_size {
        let [min, preferred, max] = [MIN_BLOCK, PREFERRED_BLOCK, MAX_PAYLOAD].map(u32::to_be_bytes);
        info(wire::INFO_BLOCK_SIZE, [&min, &preferred, &max]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_query_is_parsed_strictly() {
        let query = |name, description, block_size| InfoQuery { export: "ab", name, description, block_size };
        let rows: [(&[u8], Result<InfoQuery<'_>, OptionError>); 9] = [
            (b"\0\0\0\x02ab\0\0", Ok(query(false, false, false))),
            (b"\0\0\0\x02ab\0\x03\0\x03\0\x01\0\x02", Ok(query(true, true, true))),
            (b"\0\0\0\x02ab\0\x03\0\x00\0\x63\0\x03", Ok(query(false, false, true))),
            (b"\0\0\0\x02ab\0\x02\0\x01\0\x01", Ok(query(true, false, false))),
            (b"\0\0\0\x02ab\0\x02\0\x01", Err(OptionError::Malformed)),
            (b"\0\0\0\x02ab\0\x01\0\x01\0", Err(OptionError::Malformed)),
            (b"\0\0\0\x03ab\0\0", Err(OptionError::Malformed)),
            (b"\xff\xff\xff\xffab\0\0", Err(OptionError::Malformed)),
            (b"", Err(OptionError::Malformed)),
        ];
        for (data, expected) in rows {
            assert_eq!(InfoQuery::parse(data), expected, "{data:?}");
        }
    }

    #[test]
    fn strings_are_utf8_without_nul_and_bounded() {
        assert_eq!(text("gr\u{fc}n".as_bytes()), Ok("gr\u{fc}n"));
        assert_eq!(text(&[0xff]), Err(OptionError::NotText));
        assert_eq!(text(b"a\0"), Err(OptionError::NotText));
        assert!(text(&[b'a'; MAX_STRING]).is_ok());
        assert_eq!(text(&[b'a'; MAX_STRING + 1]), Err(OptionError::StringTooLong));
    }

    /// Option data for export `e` with these queries.
    fn meta(queries: &[&str]) -> Vec<u8> {
        let mut data = b"\0\0\0\x01e".to_vec();
        data.extend((queries.len() as u32).to_be_bytes());
        for query in queries {
            data.extend((query.len() as u32).to_be_bytes());
            data.extend(query.as_bytes());
        }
        data
    }

    #[test]
    fn queries_list_and_select() {
        let rows: [(&[&str], bool, bool); 9] = [
            (&[], true, false),
            (&["base:allocation"], true, true),
            (&["base:"], true, false),
            (&["base:", "base:allocation", "base:allocation"], true, true),
            (&["qemu:dirty-bitmap:x", "base:allocation"], true, true),
            (&["qemu:"], false, false),
            (&["base"], false, false),
            (&["base:other", "", ":"], false, false),
            (&["base:allocation:"], false, false),
        ];
        for (queries, listed, selected) in rows {
            let data = meta(queries);
            let query = MetaQuery::parse(&data).unwrap();
            assert_eq!(query.export, "e");
            assert_eq!(query.listed().len(), usize::from(listed), "{queries:?}");
            assert_eq!(query.selected().len(), usize::from(selected), "{queries:?}");
        }
    }

    #[test]
    fn meta_query_is_parsed_strictly() {
        let good = meta(&["base:"]);
        for end in 0..good.len() {
            assert_eq!(MetaQuery::parse(&good[..end]), Err(OptionError::Malformed), "{end}");
        }
        assert_eq!(MetaQuery::parse(&[&good[..], &[0]].concat()), Err(OptionError::Malformed));
        let mut many = good.clone();
        many[5..9].fill(0xff);
        assert_eq!(MetaQuery::parse(&many), Err(OptionError::Malformed));
        let long = "b".repeat(MAX_STRING + 1);
        assert_eq!(MetaQuery::parse(&meta(&[&long])), Err(OptionError::StringTooLong));
        assert_eq!(MetaQuery::parse(&meta(&["a\0"])), Err(OptionError::NotText));
    }
}
