//! The control log: one configuration per slot, one slot in flight (rule 6).

use crate::context::Context;
use crate::group::Group;
use crate::ids::{Epoch, NodeId};
use crate::message::GroupMessage;
use crate::recovered::RecoveredLog;

#[derive(Debug, Default)]
pub(crate) struct Control {}

impl Control {
    pub(crate) fn new(_epoch: Epoch, _recovered: Option<&RecoveredLog>) -> Control {
        Control {}
    }

    pub(crate) fn epoch_changed(&mut self, _epoch: Epoch) {}
}

impl Group {
    pub(crate) fn receive_control(&mut self, _context: &mut Context, _from: NodeId, _body: GroupMessage) {}
}
