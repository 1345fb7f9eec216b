//! Keeps a peer that tries again every second from filling the log with the same line.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use crate::limits::{REFUSAL_LOG_ENTRIES_MAX, REFUSAL_LOG_INTERVAL};

/// Complaints made lately, by whom they were about.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog(Mutex<BTreeMap<String, (String, Instant)>>);

impl RefusalLog {
    /// Whether `complaint` about `whom` is news: another one than the last, or long ago.
    pub(crate) fn is_news(&self, whom: &str, complaint: &str) -> bool {
        let mut entries = self.0.lock().expect("no panic while holding the refusal log");
        let now = Instant::now();
        if let Some((last, when)) = entries.get(whom) {
            if last == complaint && now.duration_since(*when) < REFUSAL_LOG_INTERVAL {
                return false;
            }
        } else if entries.len() >= REFUSAL_LOG_ENTRIES_MAX {
            let oldest = entries.iter().min_by_key(|(_, (_, when))| *when).map(|(whom, _)| whom.clone());
            entries.remove(&oldest.expect("the log is full"));
        }
        entries.insert(whom.to_owned(), (complaint.to_owned(), now));
        true
    }

    /// What is said about `whom` next is news again.
    pub(crate) fn forget(&self, whom: &str) {
        self.0.lock().expect("no panic while holding the refusal log").remove(whom);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_complaints_are_made_once() {
        let log = RefusalLog::default();
        assert!(log.is_news("a", "wrong key"));
        assert!(!log.is_news("a", "wrong key"));
        assert!(log.is_news("a", "not there"));
        assert!(log.is_news("b", "not there"));
        log.forget("a");
        assert!(log.is_news("a", "not there"));
    }

    #[test]
    fn strangers_do_not_grow_it() {
        let log = RefusalLog::default();
        for stranger in 0..2 * REFUSAL_LOG_ENTRIES_MAX {
            assert!(log.is_news(&stranger.to_string(), "wrong key"));
        }
        assert_eq!(log.0.lock().unwrap().len(), REFUSAL_LOG_ENTRIES_MAX);
    }
}
