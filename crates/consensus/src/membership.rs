//! Changes of a group's members (rule 6).

use crate::context::Context;
use crate::effect::{Effect, Refusal};
use crate::group::Group;
use crate::ids::{Epoch, LogId, NodeId, Slot, Token};
use crate::input::Change;
use crate::recovered::RecoveredGroup;
use crate::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Changes {}

impl Group {
    pub(crate) fn change(&mut self, context: &mut Context, token: Token, _change: Change, _deadline: Time) {
        context.effect(Effect::Changed { token, result: Err(Refusal::Unfit("changes come with the control log")) });
    }
    pub(crate) fn on_fenced(&mut self, _context: &mut Context, _from: NodeId, _epoch: Epoch) {}
    pub(crate) fn on_sync_ask(&mut self, _context: &mut Context, _from: NodeId) {}
    pub(crate) fn on_sync_answer(&mut self, _context: &mut Context, _from: NodeId, _logs: Vec<(LogId, Slot, Slot)>, _votes: bool) {}
    pub(crate) fn changes_epoch_changed(&mut self, _context: &mut Context) {}
    pub(crate) fn change_deadline(&self) -> Time {
        Time::NEVER
    }
    pub(crate) fn go_on(&mut self, _context: &mut Context) {}
    pub(crate) fn bar_if_needed(&mut self, _context: &mut Context, _recovered: &RecoveredGroup) {}
}
