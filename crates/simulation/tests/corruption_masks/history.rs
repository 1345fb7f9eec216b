//! How four entries came to be chosen, and what three disks hold of them.

use std::time::Duration;

use consensus::{Entry, GroupMessage, LogId, Message, OperationId, Start};
use storage::simulation::MemoryDisk;

use crate::injury::{Injury, Rot};
use crate::machine::open_log;
use crate::trio::{fresh_disks, node, Fate, Trio, GROUP, NODES};

pub const ENTRIES: usize = 4;

/// Who accepted, and who learnt that it was chosen before everything stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// All three accepted; nobody heard of it: no chosen mark stands on any disk.
    NobodyKnows,
    /// All three accepted, in the ordinary course of things, and all were killed right after the last acknowledgement: the
    /// marks, which are written lazily, lag behind.
    Killed,
    /// All three accepted; the owner alone knows, and wrote it down.
    OwnerKnows,
    /// All three accepted, know, and wrote it down.
    AllKnow,
    /// Each entry was accepted by the owner and one other, in turn; nobody knows.
    QuorumNobodyKnows,
    /// The same, and the owner knows.
    QuorumOwnerKnows,
}

impl Story {
    pub const ALL: [Story; 6] = [
        Story::NobodyKnows,
        Story::Killed,
        Story::OwnerKnows,
        Story::AllKnow,
        Story::QuorumNobodyKnows,
        Story::QuorumOwnerKnows,
    ];

    pub fn is_of_a_quorum(self) -> bool {
        matches!(self, Story::QuorumNobodyKnows | Story::QuorumOwnerKnows)
    }

    fn owner_knows(self) -> bool {
        matches!(self, Story::OwnerKnows | Story::QuorumOwnerKnows)
    }

    fn fate(self) -> fn(usize, usize, &Message) -> Fate {
        match self {
            Story::Killed | Story::AllKnow => |_, _, _| Fate::Arrives,
            Story::NobodyKnows | Story::OwnerKnows => |_, _, message| held_back(message),
            Story::QuorumNobodyKnows | Story::QuorumOwnerKnows => |_, to, message| match message {
                Message::Group { body: GroupMessage::Accept { first, .. }, .. } if first.0 as usize % 2 + 1 != to => {
                    Fate::Lost
                }
                message => held_back(message),
            },
        }
    }
}

/// Acceptances do not reach the owner.
fn held_back(message: &Message) -> Fate {
    match message {
        Message::Group { body: GroupMessage::Accepted { .. }, .. } => Fate::Held,
        _ => Fate::Arrives,
    }
}

/// The disks after a story.
pub struct History {
    pub story: Story,
    disks: Vec<MemoryDisk>,
    /// What was chosen in slots 1 to 4.
    pub entries: Vec<Entry>,
    /// Which node holds which entry.
    pub held: [[bool; ENTRIES]; NODES],
    /// Up to which slot each disk says that all is chosen.
    pub closed: [usize; NODES],
}

pub fn operation(sequence: u64) -> Entry {
    let id = OperationId { node: node(0), start: Start(1), sequence };
    Entry::operation(id, format!("the {sequence}. entry of those that are damaged here").as_bytes())
}

impl History {
    pub fn of(story: Story) -> History {
        let entries: Vec<Entry> = (1..=ENTRIES as u64).map(operation).collect();
        let mut trio = Trio::start(fresh_disks(), 2);
        trio.run(Duration::from_secs(1));
        trio.fate = story.fate();
        for entry in &entries {
            trio.propose(0, entry.clone(), Duration::from_secs(5));
            trio.settle();
        }
        if story.owner_knows() {
            trio.fate = |from, _, _| if from == 0 { Fate::Lost } else { Fate::Arrives };
            trio.release();
            trio.settle();
        }
        if story == Story::AllKnow {
            trio.run(Duration::from_secs(1));
        }
        let knows = |trio: &Trio, index| trio.status(index).closed.0 == ENTRIES as u64;
        let expected: [bool; NODES] = match story {
            Story::NobodyKnows | Story::QuorumNobodyKnows => [false; NODES],
            Story::OwnerKnows | Story::QuorumOwnerKnows => [true, false, false],
            Story::Killed | Story::AllKnow => [true; NODES],
        };
        (0..NODES).for_each(|index| assert_eq!(knows(&trio, index), expected[index], "{story:?}: node {index}"));
        let disks = if story == Story::Killed { trio.crash() } else { trio.close() };
        let held = std::array::from_fn(|index| {
            std::array::from_fn(|slot| !story.is_of_a_quorum() || index == 0 || (slot + 1) % 2 + 1 == index)
        });
        let closed = std::array::from_fn(|index| closed_on(&disks[index], index));
        History { story, disks, entries, held, closed }
    }

    /// The same after a restart in which nothing happened. A record of the last batch that is lost with both identities cannot
    /// be told from one that was never finished; here every batch has another behind it.
    pub fn settled(mut self) -> History {
        for (index, disk) in self.disks.iter().enumerate() {
            open_log(disk, node(index), 3).0.close();
        }
        self.disks = self.disks.iter().map(MemoryDisk::copy).collect();
        self
    }

    /// Copies of the disks with these wounds, and which entries are still whole on which node.
    pub fn damaged(&self, wounds: &Wounds) -> (Vec<MemoryDisk>, [[bool; ENTRIES]; NODES]) {
        let disks: Vec<MemoryDisk> = self.disks.iter().map(MemoryDisk::copy).collect();
        let mut intact = self.held;
        for index in 0..NODES {
            for slot in 0..ENTRIES {
                let Some(injury) = wounds[index][slot] else { continue };
                let copies = injury.inflict(&disks[index], &self.entries[slot]);
                assert_eq!(copies > 0, self.held[index][slot], "the disks hold what the story says");
                intact[index][slot] = false;
            }
        }
        (disks, intact)
    }

    /// Copies of the disks, those of these nodes rotten.
    pub fn rotten(&self, rot: Rot, nodes: &[usize]) -> Vec<MemoryDisk> {
        let disks: Vec<MemoryDisk> = self.disks.iter().map(MemoryDisk::copy).collect();
        nodes.iter().for_each(|index| rot.inflict(&disks[*index], &self.entries[0]));
        disks
    }

    /// Masks that differ in what is there; bit 4 × node + entry.
    pub fn masks(&self) -> impl Iterator<Item = u32> + '_ {
        (0..1 << (NODES * ENTRIES)).filter(|mask| self.fits(&wounds_of(*mask, Injury::Bit)))
    }

    /// Every way to leave each copy whole, damage its content, or lose its record, the last on one node at most.
    pub fn mixtures(&self) -> impl Iterator<Item = Wounds> + '_ {
        let kinds = [None, Some(Injury::Bit), Some(Injury::Record)];
        let place = |index: usize, slot: usize| u32::try_from(index * ENTRIES + slot).expect("twelve at most");
        (0..3usize.pow(12))
            .map(move |number| {
                std::array::from_fn(|index| {
                    std::array::from_fn(|slot| kinds[number / 3usize.pow(place(index, slot)) % 3])
                })
            })
            .filter(|wounds: &Wounds| wounds.iter().filter(|node| node.contains(&Some(Injury::Record))).count() <= 1)
            .filter(|wounds| self.fits(wounds))
    }

    fn fits(&self, wounds: &Wounds) -> bool {
        let mut places = (0..NODES).flat_map(|index| (0..ENTRIES).map(move |slot| (index, slot)));
        places.all(|(index, slot)| wounds[index][slot].is_none() || self.held[index][slot])
    }
}

fn closed_on(disk: &MemoryDisk, index: usize) -> usize {
    let (log, mut recovered, _) = open_log(&disk.copy(), node(index), 3);
    log.close();
    let group = recovered.groups.get_mut(&GROUP).expect("every disk knows the group");
    usize::try_from(group.log(LogId::MAIN).closed.0).expect("four at most")
}

/// What happened to each entry on each node.
pub type Wounds = [[Option<Injury>; ENTRIES]; NODES];

/// The same injury to every copy in the mask.
pub fn wounds_of(mask: u32, injury: Injury) -> Wounds {
    std::array::from_fn(|index| {
        std::array::from_fn(|slot| (mask & 1 << (index * ENTRIES + slot) != 0).then_some(injury))
    })
}
