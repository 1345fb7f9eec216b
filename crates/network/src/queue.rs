//! What waits to be sent to one peer: bounded in bytes, open only while the peer is connected.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::limits::{
    FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES, SEND_QUEUE_BYTES_MAX, SMALL_FRAME_BYTES_MAX,
    SMALL_FRAME_RESERVE_BYTES,
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
    /// Cost of `frames` and of the frames taken but not yet written.
    bytes: usize,
}

/// What a frame counts for in the bound.
pub(crate) fn cost(frame: &Bytes) -> usize {
    frame.len() + FRAME_OVERHEAD_BYTES
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
        let reserve = if frame.len() <= SMALL_FRAME_BYTES_MAX {
            SMALL_FRAME_RESERVE_BYTES
        } else {
            0
        };
        if state.bytes >= SEND_QUEUE_BYTES_MAX + reserve {
            return Err(SendError::Full);
        }
        state.bytes += cost(&frame);
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

    /// Gives back the room of a frame that was taken.
    pub(crate) fn written(&self, bytes: usize) {
        let mut state = self.lock();
        assert!(state.bytes >= bytes, "more was written than was queued");
        state.bytes -= bytes;
    }

    pub(crate) fn open(&self) {
        let mut state = self.lock();
        assert!(!state.open, "a link was opened twice");
        assert_eq!(state.bytes, 0, "a closed queue holds nothing");
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
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
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
        assert_eq!(
            queue.push(Bytes::from_static(b"x")),
            Err(SendError::NotConnected)
        );
        queue.open();
        queue.push(Bytes::from_static(b"x")).unwrap();
        assert_eq!(queue.close(), 1);
        assert_eq!(queue.bytes(), 0);
        assert_eq!(
            queue.push(Bytes::from_static(b"x")),
            Err(SendError::NotConnected)
        );
    }

    #[test]
    fn the_largest_frame_fits_an_empty_queue_and_one_more_byte_never() {
        let queue = open_queue();
        queue.push(Bytes::from(vec![0; FRAME_BYTES_MAX])).unwrap();
        let large = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
        assert_eq!(
            open_queue().push(large),
            Err(SendError::TooLarge {
                bytes: FRAME_BYTES_MAX + 1
            })
        );
    }

    #[test]
    fn small_frames_have_room_when_bulk_is_refused_but_not_without_end() {
        let queue = open_queue();
        let bulk = Bytes::from(vec![0; 1 << 20]);
        while queue.push(bulk.clone()).is_ok() {}
        assert_eq!(queue.push(bulk.clone()), Err(SendError::Full));
        assert!(queue.bytes() < SEND_QUEUE_BYTES_MAX + (1 << 20) + FRAME_OVERHEAD_BYTES);
        let small = Bytes::from_static(b"heartbeat");
        let mut taken = 0;
        while queue.push(small.clone()).is_ok() {
            taken += 1;
        }
        assert!(taken > 1000, "{taken}");
        assert!(queue.bytes() <= SEND_QUEUE_BYTES_MAX + SMALL_FRAME_RESERVE_BYTES + cost(&small));
    }
}
