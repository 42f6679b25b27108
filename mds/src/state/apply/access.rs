//! Passwords, nodes, and the cluster's own time.

use super::{Answer, Step, check_text};
use crate::state::State;
use crate::state::command::{AdmitNode, LoginsFailed, NoteHour, RevokeNode, SetPassword};
use crate::state::event::EventCode;
use crate::state::ids::Epoch;
use crate::state::nodes::NODES_MAX;
use crate::state::outcome::Outcome;
use crate::state::refusal::{Refusal, TooMany};

/// Longest verifier of a password, in bytes.
const VERIFIER_MAX: usize = 4096;
/// Longest name of a node, and id of a host, in bytes.
const NAME_MAX: usize = 64;
/// Numbers of nodes skipped by a restore: more than a backup can have missed.
const NUMBERS_SKIPPED: u64 = 1 << 20;

impl State {
    pub(super) fn set_password(&mut self, step: &mut Step, op: &SetPassword) -> Answer {
        check_text("the origin of a request", &op.origin)?;
        if op.verifier.is_empty() || op.verifier.len() > VERIFIER_MAX {
            return Err(Refusal::malformed("the verifier of a password has 1 to 4096 bytes"));
        }
        if op.replaces != self.nodes.password().version {
            return Err(Refusal::PasswordChanged(()));
        }
        self.nodes.set_password(op.verifier.clone());
        let origin = if op.origin.is_empty() { String::new() } else { format!(" from {}", op.origin) };
        let code = if op.replaces == 0 { EventCode::PasswordSet } else { EventCode::PasswordChanged };
        step.event(code, &[&origin]);
        Ok(Outcome::Done(()))
    }

    pub(super) fn admit_node(&mut self, step: &mut Step, op: &AdmitNode) -> Answer {
        check_text("an address", &op.address)?;
        let named = |text: &str| (1..=NAME_MAX).contains(&text.len());
        if !named(&op.name) || !named(&op.host_id) {
            return Err(Refusal::malformed("the name of a node and the id of a host have 1 to 64 bytes"));
        }
        if self.nodes.len() >= NODES_MAX {
            let given = self.nodes.len() as u64 + 1;
            return Err(Refusal::TooMany(TooMany { given, limit: NODES_MAX as u64 }));
        }
        let number = self.nodes.admit(&op.name, &op.host_id, &op.address, step.now_ms);
        step.event(EventCode::NodeAdmitted, &[&number, &op.name, &op.address]);
        Ok(Outcome::Created(number))
    }

    pub(super) fn revoke_node(&mut self, step: &mut Step, op: &RevokeNode) -> Answer {
        check_text("the origin of a request", &op.origin)?;
        let version = self.list_version(step);
        if self.nodes.get(op.number).is_none() {
            return Err(Refusal::UnknownNode(op.number));
        }
        if let Some(node) = self.nodes.revoke(op.number, step.now_ms, version) {
            let origin = if op.origin.is_empty() { String::new() } else { format!(" by {}", op.origin) };
            step.event(EventCode::NodeRevoked, &[&op.number, &node.name, &origin]);
        }
        Ok(Outcome::Done(()))
    }

    pub(super) fn logins_failed(&mut self, step: &mut Step, op: &LoginsFailed) -> Answer {
        check_text("an address", &op.address)?;
        if op.wrong > 0 {
            step.event(EventCode::LoginFailed, &[&op.wrong, &op.address]);
        }
        if op.ignored > 0 {
            step.event(EventCode::LoginsIgnored, &[&op.ignored, &op.address]);
        }
        Ok(Outcome::Done(()))
    }

    pub(super) fn note_hour(&mut self, step: &Step, op: NoteHour) -> Answer {
        if self.nodes.hours().checked_add(1) == Some(op.hours) {
            let version = self.list_version(step);
            self.nodes.set_hours(op.hours, version);
        }
        Ok(Outcome::Done(()))
    }

    /// What a restore from a backup means for nodes (C12): those that were admitted or revoked since the backup are not known
    /// to be.
    pub(super) fn restore_nodes(&mut self, step: &Step) {
        // A cluster of the first version has none.
        if self.nodes != Default::default() {
            let version = self.list_version(step);
            self.nodes.skip_numbers(NUMBERS_SKIPPED, version);
        }
    }

    /// The version of a list made by this command: higher than all before, also across a restore (C12).
    fn list_version(&self, step: &Step) -> u64 {
        Epoch::new(self.cluster.generation, step.index).raw()
    }
}
