//! Password and nodes as records, and back.

use super::records::{AccessRecord, NodeRecord, RecordKind};
use crate::state::nodes::{Node, Nodes, Password};

/// Writes them, if there is anything: a cluster of the first version has nothing.
pub(super) fn write(nodes: &Nodes, out: &mut impl FnMut(RecordKind)) {
    if *nodes == Nodes::default() {
        return;
    }
    out(RecordKind::Access(AccessRecord {
        last: nodes.last(),
        verifier: nodes.password().verifier.clone(),
        password_version: nodes.password().version,
        hours: nodes.hours(),
        version: nodes.version(),
    }));
    for node in nodes.after(0) {
        out(RecordKind::Node(NodeRecord {
            number: node.number,
            name: node.name.clone(),
            host_id: node.host_id.clone(),
            address: node.address.clone(),
            admitted_ms: node.admitted_ms,
            revoked_ms: node.revoked_ms,
        }));
    }
}

pub(super) fn read(nodes: &mut Nodes, record: AccessRecord) {
    let password = Password { verifier: record.verifier, version: record.password_version };
    nodes.restore(record.last, password, record.hours, record.version);
}

pub(super) fn read_node(nodes: &mut Nodes, record: NodeRecord) -> Result<(), &'static str> {
    let node = Node {
        number: record.number,
        name: record.name,
        host_id: record.host_id,
        address: record.address,
        admitted_ms: record.admitted_ms,
        revoked_ms: record.revoked_ms,
    };
    if nodes.restore_node(node) {
        Ok(())
    } else {
        Err("a node that is there twice, or under a number never given")
    }
}
