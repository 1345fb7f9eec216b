//! What waits to be sent to one peer: bounded in bytes, open only while the peer is connected.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::limits::{
    FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES, LARGE_FRAMES_QUEUE_BYTES_MAX, SMALL_FRAMES_QUEUE_BYTES_MAX,
    SMALL_FRAME_BYTES_MAX,
};
use crate::links::SendError;

/// Frames for one peer. The engine puts in, the link's task takes out, both on the same thread as a rule, so that the
/// lock is never waited for.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    frames: VecDeque<Bytes>,
    /// Cost of the small frames queued, and of those taken but not yet written.
    small_bytes: usize,
    /// The same of the others.
    large_bytes: usize,
}

impl State {
    /// The account that a frame of this length goes to, and its bound.
    fn account(&mut self, length: usize) -> (&mut usize, usize) {
        if length <= SMALL_FRAME_BYTES_MAX {
            (&mut self.small_bytes, SMALL_FRAMES_QUEUE_BYTES_MAX)
        } else {
            (&mut self.large_bytes, LARGE_FRAMES_QUEUE_BYTES_MAX)
        }
    }
}

impl SendQueue {
    pub(crate) fn push(&self, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: frame.len() });
        }
        let mut state = self.lock();
        if !state.open {
            return Err(SendError::NotConnected);
        }
        let (bytes, bytes_max) = state.account(frame.len());
        if *bytes >= bytes_max {
            return Err(SendError::Full);
        }
        *bytes += frame.len() + FRAME_OVERHEAD_BYTES;
        let was_empty = state.frames.is_empty();
        state.frames.push_back(frame);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something and moves all of it into `frames`, which must be empty. The frames still count
    /// until [`written`](Self::written).
    pub(crate) async fn take(&self, frames: &mut VecDeque<Bytes>) {
        assert!(frames.is_empty(), "frames taken before were not written");
        loop {
            {
                let mut state = self.lock();
                if !state.frames.is_empty() {
                    std::mem::swap(&mut state.frames, frames);
                    return;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Gives back the room of a frame of this length that was taken.
    pub(crate) fn written(&self, length: usize) {
        let mut state = self.lock();
        let (bytes, _) = state.account(length);
        let cost = length + FRAME_OVERHEAD_BYTES;
        assert!(*bytes >= cost, "more was written than was queued");
        *bytes -= cost;
    }

    pub(crate) fn open(&self) {
        let mut state = self.lock();
        assert!(!state.open, "a link was opened twice");
        assert_eq!(state.small_bytes + state.large_bytes, 0, "a closed queue holds nothing");
        state.open = true;
    }

    /// Refuses frames from now on and drops those queued; returns how many were.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.lock();
        let lost = state.frames.len();
        *state = State::default();
        lost
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().open
    }

    pub(crate) fn bytes(&self) -> usize {
        let state = self.lock();
        state.small_bytes + state.large_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while holding the queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_queue() -> SendQueue {
        let queue = SendQueue::default();
        queue.open();
        queue
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let queue = SendQueue::default();
        let frame = Bytes::from_static(b"x");
        assert_eq!(queue.push(frame.clone()), Err(SendError::NotConnected));
        queue.open();
        queue.push(frame.clone()).unwrap();
        assert_eq!(queue.close(), 1);
        assert_eq!(queue.bytes(), 0);
        assert_eq!(queue.push(frame), Err(SendError::NotConnected));
    }

    #[test]
    fn the_largest_frame_fits_an_empty_queue_and_one_more_byte_never() {
        let queue = open_queue();
        queue.push(Bytes::from(vec![0; FRAME_BYTES_MAX])).unwrap();
        let large = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
        let too_large = SendError::TooLarge { bytes: FRAME_BYTES_MAX + 1 };
        assert_eq!(open_queue().push(large), Err(too_large));
    }

    #[test]
    fn small_frames_have_room_when_bulk_is_refused_but_not_without_end() {
        let queue = open_queue();
        let bulk = Bytes::from(vec![0; 1 << 20]);
        while queue.push(bulk.clone()).is_ok() {}
        assert_eq!(queue.push(bulk.clone()), Err(SendError::Full));
        let bulk_max = LARGE_FRAMES_QUEUE_BYTES_MAX + bulk.len() + FRAME_OVERHEAD_BYTES;
        assert!(queue.bytes() <= bulk_max);
        let small = Bytes::from_static(b"heartbeat");
        let mut taken = 0;
        while queue.push(small.clone()).is_ok() {
            taken += 1;
        }
        assert!(taken > 1000, "{taken}");
        assert!(queue.bytes() <= bulk_max + SMALL_FRAMES_QUEUE_BYTES_MAX + 100);
    }

    #[test]
    fn written_frames_give_their_room_back() {
        let queue = open_queue();
        let lengths = [0, 1, SMALL_FRAME_BYTES_MAX, SMALL_FRAME_BYTES_MAX + 1];
        let frames = lengths.map(|length| Bytes::from(vec![0; length]));
        for frame in &frames {
            queue.push(frame.clone()).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut taken = VecDeque::new();
        runtime.block_on(queue.take(&mut taken));
        assert_eq!(taken, frames);
        assert!(queue.bytes() > 2 * SMALL_FRAME_BYTES_MAX, "frames count until they are written");
        for frame in &taken {
            queue.written(frame.len());
        }
        assert_eq!(queue.bytes(), 0);
    }
}
