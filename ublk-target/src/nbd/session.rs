//! What a finished negotiation hands to the transmission phase.

use super::export::Export;
use super::reply::ReplyForm;

/// A kind of metadata that block status reports ("Metadata querying").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaContext {
    /// `base:allocation`: which extents are holes and which read as zeroes.
    BaseAllocation,
}

impl MetaContext {
    /// Every context there is.
    pub const ALL: [Self; 1] = [Self::BaseAllocation];

    /// The number that stands for this context in block status replies.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Self::BaseAllocation => 1,
        }
    }

    /// Namespace, colon, leaf name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BaseAllocation => "base:allocation",
        }
    }

    /// Whether `query` is this context's namespace and colon, the wildcard of listing.
    pub(super) fn in_namespace(self, query: &str) -> bool {
        query.ends_with(':') && self.name().split_inclusive(':').next() == Some(query)
    }
}

/// What client and server agreed on. [`check`](Self::check) judges requests by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The chosen export, as it was when the client chose it.
    pub export: Export,
    /// Reads and block status are answered with structured replies.
    pub structured: bool,
    /// What block status reports on; empty if the client may not ask.
    pub meta_contexts: Vec<MetaContext>,
    /// The client waived the padding of `NBD_OPT_EXPORT_NAME`.
    pub no_zeroes: bool,
}

impl Session {
    /// The form that replies of this session take.
    #[must_use]
    pub fn reply_form(&self) -> ReplyForm {
        if self.structured { ReplyForm::Structured } else { ReplyForm::Simple }
    }
}
