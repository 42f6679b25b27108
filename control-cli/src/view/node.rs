//! Nodes.

use serde::Serialize;
use wire::auth::NodeInfo;

use crate::table::{Column, Row};
use crate::units::table_time;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NodeView {
    /// Its number.
    node: u64,
    /// Its name.
    name: String,
    /// Id of its host.
    host_id: String,
    /// Where it was admitted from.
    address: String,
    /// When it was admitted, in milliseconds since 1970.
    admitted_ms: u64,
    /// When it was revoked, in milliseconds since 1970; absent for members.
    revoked_ms: Option<u64>,
}

impl From<&NodeInfo> for NodeView {
    fn from(info: &NodeInfo) -> Self {
        Self {
            node: info.number,
            name: info.name.clone(),
            host_id: info.host_id.clone(),
            address: info.address.clone(),
            admitted_ms: info.admitted_ms,
            revoked_ms: (info.revoked_ms > 0).then_some(info.revoked_ms),
        }
    }
}

impl Row for NodeView {
    const COLUMNS: &'static [Column] = &[
        Column::number("NODE"),
        Column::text("NAME"),
        Column::text("STATUS"),
        Column::text("ADMITTED"),
        Column::text("FROM"),
        Column::text("HOST_ID"),
    ];

    fn cells(&self) -> Vec<String> {
        let status = self.revoked_ms.map_or("member".to_owned(), |ms| format!("revoked {}", table_time(ms)));
        vec![
            self.node.to_string(),
            self.name.clone(),
            status,
            table_time(self.admitted_ms),
            if self.address.is_empty() { "-".to_owned() } else { self.address.clone() },
            self.host_id.clone(),
        ]
    }
}
