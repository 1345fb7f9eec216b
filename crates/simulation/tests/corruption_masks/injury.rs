//! What happens to the bytes of one accepted entry, in the segment where the real storage put them (`docs/on-disk-format.md`).

use consensus::Entry;
use storage::simulation::MemoryDisk;

/// How an entry is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injury {
    /// One bit of its content.
    Bit,
    /// The whole value of its record, the directory of entries too. Slot and ballot stand in the identities.
    Value,
    /// The whole record with both identities: nothing says any more that it was there, but the records behind it.
    Record,
}

/// Bytes of an identity, and of the directory of a record with one entry.
const IDENTITY: usize = 128;
const DIRECTORY: usize = 8;
/// Bytes of the header at either end of a segment.
const HEADER: usize = 4096;
/// Where in an identity the record's number in its segment stands.
const NUMBER: usize = 12;
/// Where it is said which of the two copies it is.
const COPY: usize = 5;

impl Injury {
    /// Damages the entry wherever this disk holds it; says how often that is.
    pub fn inflict(self, disk: &MemoryDisk, entry: &Entry) -> usize {
        let mut copies = 0;
        disk.each_file(|bytes| {
            let length = entry.len();
            let places: Vec<usize> = places_of(bytes, entry.bytes());
            copies += places.len();
            for at in places {
                let record = at - DIRECTORY - IDENTITY;
                assert_eq!(bytes[record + COPY], 1, "an identity stands before the directory");
                match self {
                    Injury::Bit => bytes[at + length - 1] ^= 4,
                    Injury::Value => bytes[record + IDENTITY..at + length].fill(0),
                    Injury::Record => {
                        let number = u32::from_le_bytes(bytes[record + NUMBER..][..4].try_into().expect("four bytes"));
                        let apart = bytes.len() - HEADER - IDENTITY * (number as usize + 1);
                        assert_eq!(bytes[apart + COPY], 2, "the other identity stands at the back");
                        bytes[record..at + length].fill(0);
                        bytes[apart..apart + IDENTITY].fill(0);
                    }
                }
            }
        });
        copies
    }
}

/// What else a disk can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// One of the two headers of every segment.
    OneHeader,
    /// Both headers of the segment with the entries: all that stood in it.
    Segment,
    /// The content of every configuration: who belongs to the group, and the fence.
    Configuration,
}

impl Rot {
    /// Whether the node then cannot know what it promised.
    pub fn costs_promises(self) -> bool {
        self != Rot::OneHeader
    }

    /// Damages the disk.
    pub fn inflict(self, disk: &MemoryDisk, entry: &Entry) {
        let mut hits = 0;
        disk.each_file(|bytes| {
            let spoilt: Vec<usize> = match self {
                // Not a segment, or one that was never used.
                _ if !bytes.starts_with(SEGMENT_MARK) => Vec::new(),
                Rot::OneHeader => vec![20],
                Rot::Segment if places_of(bytes, entry.bytes()).is_empty() => Vec::new(),
                Rot::Segment => vec![20, bytes.len() - HEADER + 20],
                Rot::Configuration => {
                    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(CONFIGURATION_TEXT)).collect()
                }
            };
            hits += spoilt.len();
            spoilt.into_iter().for_each(|at| bytes[at] ^= 1);
        });
        assert!(hits > 0, "{self:?} was found");
    }
}

const SEGMENT_MARK: &[u8] = b"SYNODLOG";

/// Stands in every configuration of the test: an address.
const CONFIGURATION_TEXT: &[u8] = b"host0:1";

fn places_of(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    // Records are aligned to eight bytes, and so is what stands behind an identity and a directory.
    (0..bytes.len().saturating_sub(wanted.len())).step_by(8).filter(|at| bytes[*at..].starts_with(wanted)).collect()
}
