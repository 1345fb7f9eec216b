//! Which logs go to the store of cold logs, and what the log knows of that store; part of [`LogState`].

use crate::discipline::is_of_values;
use crate::log_state::{Home, Kept, LogState, SegmentSequence};
use consensus::{GroupId, LogId, Slot};
use std::collections::BTreeSet;

/// What the log knows of the store.
#[derive(Default)]
pub(crate) struct ColdState {
    /// There is a store for cold logs.
    pub present: bool,
    /// How many changes of the store the log knows of: a store that says less has lost some.
    pub moves: Option<Kept<u64>>,
    /// What the store holds of closed slots since this segment or earlier proves nothing: see `distrust_closed`.
    pub distrusted: SegmentSequence,
    /// Groups that were dropped, whose logs must leave the store before the record that says so leaves the log.
    pub forgotten: BTreeSet<GroupId>,
}

impl LogState {
    /// Whether this log's state goes to the store when its segment goes. The first logs of a group, which it always
    /// needs, stay in memory.
    pub(crate) fn goes_cold(&self, group: GroupId, log: LogId) -> bool {
        let is_data = !matches!(log, LogId::CONTROL | LogId::MAIN);
        let configuration = || self.groups.get(&group).and_then(|group| group.configuration.as_ref());
        self.cold.present && is_data && configuration().is_some_and(|(configuration, _)| is_of_values(configuration))
    }

    /// Logs that go to the store because something of them stands in this segment, in order, some of them.
    pub(crate) fn cold_in(&self, segment: SegmentSequence, count_max: usize) -> Vec<(GroupId, LogId)> {
        let Some(of_segment) = self.segments.get(&segment) else { return Vec::new() };
        let entries = of_segment.live.runs.iter().map(|run| (run.group, run.log));
        let touched: BTreeSet<(GroupId, LogId)> = of_segment.touched.iter().copied().chain(entries).collect();
        let of_store = touched.into_iter().filter(|(group, log)| {
            let state = self.groups.get(group).and_then(|group| group.logs.get(log));
            self.goes_cold(*group, *log) && state.is_some_and(|state| state.stands_in(segment))
        });
        of_store.take(count_max).collect()
    }

    /// Takes a log, which the store holds by now, out of memory.
    pub(crate) fn unload_cold(&mut self, group: GroupId, log: LogId) {
        let state = self.groups.get_mut(&group).and_then(|group| group.logs.remove(&log));
        for place in state.into_iter().flat_map(|state| state.entries.into_values()) {
            self.release(Some(place));
        }
    }

    /// Marks entries of logs that go to the store: they do not count where the log's size is bounded.
    pub(crate) fn mark_cold(&mut self) {
        let groups = self.groups.iter().flat_map(|(group, state)| state.logs.keys().map(|log| (*group, *log)));
        let cold: Vec<(GroupId, LogId)> = groups.filter(|(group, log)| self.goes_cold(*group, *log)).collect();
        for (group, log) in cold {
            let slots: Vec<Slot> = self.log(group, log).entries.keys().copied().collect();
            for slot in slots {
                let place = self.log(group, log).entries.get_mut(&slot).expect("it is there");
                let before = *place;
                place.mark_cold();
                let after = *place;
                let live = match before.home() {
                    Home::Segment(segment) => self.segments.get_mut(&segment).map(|segment| &mut segment.live),
                    Home::Laggards(number) => self.laggards.files.get_mut(&number).map(|file| &mut file.live),
                };
                if let Some(live) = live {
                    live.remove(&before);
                    live.add(group, log, slot, &after);
                }
            }
        }
    }
}
