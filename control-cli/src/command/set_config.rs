//! `vstorage set-config`: changes the cluster's parameters.

use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use wire::cluster::SetConfig as SetConfigRequest;

use crate::cli::Context;
use crate::error::Error;
use crate::mds::MdsError;
use crate::table::printable;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 set-config mds.wd.verify_chunks=3
  vstorage -c stor1 set-config mds.alloc.fill_margin=2 mds.alloc.strict_tier=1
  vstorage -c stor1 set-config --default mds.alloc.fill_margin

Several are changed one after the other, up to the first that is refused.";

/// Change the cluster's parameters
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetConfig {
    /// New values
    #[arg(value_name = "KEY=VALUE", required_unless_present = "default")]
    settings: Vec<Assignment>,
    /// Back to the default
    #[arg(long, value_name = "KEY")]
    default: Vec<String>,
}

/// A parameter and its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Assignment {
    key: String,
    value: String,
}

/// The text is no assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write KEY=VALUE, such as mds.wd.verify_chunks=3")]
struct NotAnAssignment;

impl FromStr for Assignment {
    type Err = NotAnAssignment;

    fn from_str(text: &str) -> Result<Self, NotAnAssignment> {
        let (key, value) = text.split_once('=').ok_or(NotAnAssignment)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() {
            return Err(NotAnAssignment);
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// What was changed; without a value it has its default again.
#[derive(Debug, Serialize)]
struct Changed {
    key: String,
    value: Option<String>,
}

impl SetConfig {
    /// Changes them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let given = self.settings.into_iter().map(|one| Changed { key: one.key, value: Some(one.value) });
        let back = self.default.into_iter().map(|key| Changed { key, value: None });
        let mds = context.mds().await?;
        let mut changed: Vec<Changed> = Vec::new();
        let mut refused: Result<(), MdsError> = Ok(());
        for change in given.chain(back) {
            let request = SetConfigRequest { key: change.key.clone(), value: change.value.clone() };
            refused = mds.change(&request, &change.key).await.map(drop);
            if refused.is_err() {
                break;
            }
            changed.push(change);
        }
        // What was done is said even if not all could be.
        context.output.value(&changed, || {
            let value = |one: &Changed| one.value.as_deref().map_or("(default)".to_owned(), printable);
            changed.iter().map(|one| format!("{}={}\n", printable(&one.key), value(one))).collect()
        })?;
        Ok(refused?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_have_a_key_and_a_value() {
        let assignment = |key: &str, value: &str| Ok(Assignment { key: key.into(), value: value.into() });
        assert_eq!("a.b=1".parse(), assignment("a.b", "1"));
        assert_eq!(" a.b = x=y ".parse(), assignment("a.b", "x=y"));
        for text in ["a.b", "=1", "a.b=", "", "="] {
            assert_eq!(text.parse::<Assignment>(), Err(NotAnAssignment), "{text:?}");
        }
    }
}
