//! `vstorage revoke-node`: a node is a member of the cluster no longer.

use clap::Args;
use serde::Serialize;
use wire::auth::{NodeInfo, RevokeNode as RevokeNodeRequest};

use super::list_nodes;
use crate::cli::Context;
use crate::error::{Error, Misuse};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 revoke-node 7
  vstorage -c stor1 revoke-node s3.stor.test

Its connections are cut and its certificate is refused from now on. Whoever knows the password
can authenticate that host again, as another node.";

/// Take a node's membership away
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RevokeNode {
    /// The node's number, or its name if no other node has it (see list-nodes)
    #[arg(value_name = "NODE")]
    node: String,
}

/// What has come of it.
#[derive(Debug, Serialize)]
struct Revoked {
    node: u64,
    name: String,
}

impl RevokeNode {
    /// Revokes it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let nodes = list_nodes::all(&mds).await?;
        let node = chosen(&nodes, &self.node)?;
        let subject = format!("node {}", node.number);
        mds.change(&RevokeNodeRequest { number: node.number }, &subject).await?;
        let done = Revoked { node: node.number, name: node.name.clone() };
        let text = format!("node {} ({}) is revoked\n", done.node, done.name);
        context.output.value(&done, || text)
    }
}

/// The node that is meant.
fn chosen<'a>(nodes: &'a [NodeInfo], wanted: &str) -> Result<&'a NodeInfo, Misuse> {
    if let Some(node) = nodes.iter().find(|node| wanted.parse() == Ok(node.number)) {
        return Ok(node);
    }
    let named: Vec<&NodeInfo> =
        nodes.iter().filter(|node| node.revoked_ms == 0 && node.name == wanted).collect();
    match named[..] {
        [node] => Ok(node),
        [] => Err(Misuse::NoNode(wanted.to_owned())),
        _ => Err(Misuse::ManyNodes {
            name: wanted.to_owned(),
            numbers: named.iter().map(|node| node.number).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_unambiguous_names_are_understood() {
        let node = |number, name: &str, revoked_ms| NodeInfo {
            number,
            name: name.into(),
            revoked_ms,
            ..NodeInfo::default()
        };
        let nodes =
            [node(1, "s1", 0), node(2, "s2", 9), node(3, "s2", 0), node(4, "s4", 0), node(5, "s4", 0)];
        let number = |wanted| chosen(&nodes, wanted).map(|node| node.number);
        assert_eq!((number("1").unwrap(), number("s1").unwrap()), (1, 1));
        assert_eq!(number("2").unwrap(), 2, "again, by its number");
        assert_eq!(number("s2").unwrap(), 3, "the other one is revoked");
        assert!(matches!(number("s3"), Err(Misuse::NoNode(_))));
        let text = number("s4").unwrap_err().to_string();
        assert!(text.contains("4, 5"), "{text}");
    }
}
