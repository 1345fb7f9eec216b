//! What the writer does about damage that scrub found, so that the next recovery, or the next bad sector, meets it healed.
//!
//! Nothing is written over in place but a header, which has a page of its own. A segment with a damaged record is left:
//! whatever in it is current (promises, fences, positions, which memory holds, and entries, whose content has its own
//! checksum) is written again at the log's end, some with each batch; once that is synced, the log notes that damage in the
//! segment is accounted for. A laggards' file is left for another one. An entry whose content is lost is told to the core, which has it or fetches it, and persists it.

use crate::carrying::Forward;
use crate::disk::DiskFile;
use crate::frame::Frame;
use crate::laggards_file::LaggardsNumber;
use crate::log_state::{Hole, SegmentSequence};
use crate::segment_header::{SegmentHeader, HEADER_BLOCK_BYTES};
use crate::segmented_log::{SegmentedLog, WriteError};
use consensus::{GroupId, LogId, Slot};
use std::io::{self, IoSlice};

/// Something that scrub found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// An entry's content: for the core.
    Entry { group: GroupId, log: LogId, slot: Slot },
    /// A checkpoint: for the node.
    Checkpoint { group: GroupId, slot: Slot },
    /// A record, by its identity, its directory or its configuration.
    Segment(SegmentSequence),
    /// One of a segment's headers.
    Header(SegmentSequence),
    /// The store of cold logs.
    ColdStore,
    /// A laggards' file, but for the contents of its entries.
    Laggards(LaggardsNumber),
}

impl SegmentedLog {
    /// Begins what storage itself can do about it.
    pub(crate) fn begin_repair(&mut self, repair: Repair) -> Result<(), WriteError> {
        match repair {
            Repair::Entry { .. } | Repair::Checkpoint { .. } => Ok(()),
            Repair::Header(segment) => self.write_header_again(segment),
            Repair::ColdStore => Err(self.give_up_store("it is damaged")?),
            Repair::Laggards(number) => {
                self.leaving_for_laggards.insert(number);
                Ok(())
            }
            Repair::Segment(segment) => {
                if segment == self.current.sequence() {
                    // What is noted about a segment must not speak of records still to come. (Rolling now, for a batch of
                    // unknown size, could leave a segment behind that never gets a header.)
                    self.roll_next = true;
                }
                self.leaving.insert(segment);
                Ok(())
            }
        }
    }

    /// Whether more is to be written again.
    pub(crate) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty() || !self.leaving_for_laggards.is_empty()
    }

    fn write_header_again(&mut self, sequence: SegmentSequence) -> Result<(), WriteError> {
        let found = self.state.lock().segments.get(&sequence).map(|segment| (segment.file.clone(), segment.header));
        let Some((file, header)) = found else { return Ok(()) };
        write_header(&*file, &header)
            .and_then(|()| file.sync())
            .map_err(|source| self.failed("write a segment's header again", source))?;
        self.healed();
        tracing::info!(segment = sequence, "a damaged header of a log segment is whole again");
        Ok(())
    }

    /// The next frames to write again; empty once no file is being left.
    pub(crate) fn carry_from_damaged(&mut self) -> Result<Vec<Frame>, WriteError> {
        // What another pass of scrub told again may be gone by now.
        let there = |number: &LaggardsNumber| self.state.lock().laggards.files.contains_key(number);
        if let Some(number) = self.leaving_for_laggards.pop_first().filter(there) {
            self.rewrite_for_laggards(number)?;
            self.healed();
            tracing::info!(number, "what a damaged laggards' file held stands in another one now");
        }
        while let Some(segment) = self.leaving.first().copied() {
            let is_there = self.state.lock().segments.contains_key(&segment);
            let frames = if is_there { self.carry_from(segment, Forward::All)? } else { Vec::new() };
            if !frames.is_empty() {
                return Ok(frames);
            }
            self.leaving.pop_first();
            if is_there {
                // Alone, after the sync of what it vouches for.
                let all = Hole { segment, first: 0, end: u64::MAX };
                self.append_frames(&[Frame::damage_noted(self.position, &all)])?;
            }
            self.healed();
            tracing::info!(segment, "what a damaged log segment held stands elsewhere now");
        }
        Ok(Vec::new())
    }

    fn healed(&self) {
        self.state.lock().damage_healed += 1;
    }
}

/// Both headers.
pub(crate) fn write_header(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<()> {
    let encoded = header.encode();
    file.write_at(0, &[IoSlice::new(&encoded)])?;
    file.write_at(header.bytes - HEADER_BLOCK_BYTES, &[IoSlice::new(&encoded)])
}
