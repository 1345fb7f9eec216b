//! What was done to a world: faults by kind, so that nobody takes a kind world for proof.

use std::fmt;

macro_rules! faults {
    ($($name:ident: $text:literal,)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Fault {
            $(#[doc = $text] $name,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$name),+];

            /// What a table calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$name => $text,)+
                }
            }
        }
    };
}

faults! {
    Crash: "crash of a node",
    CrashOfAll: "crash of every node at once",
    CrashBeforeEffect: "crash between two effects",
    CrashAfterSend: "crash right after a message left",
    Pause: "pause of a process",
    ClockJump: "jump of a clock",
    Split: "partition into two sides",
    Isolated: "partition of one node alone",
    OneWay: "partition in one direction",
    Holes: "partition of single directions",
    Star: "partition of all but one node from each other",
    Bridge: "partition into two sides with one bridge between",
    Flapping: "partition that comes and goes",
    Lost: "message lost",
    Doubled: "message doubled",
    Late: "message late by seconds",
    Overtaken: "message overtaken by a later one",
    SlowSync: "sync that takes seconds",
    TornBatch: "batch cut in the middle by a crash",
    CrashInWrite: "crash in the middle of a write to real files",
    PowerLoss: "power lost, and any of the unsynced sectors",
    TornEntry: "entry torn, its slot and ballot still known",
    CrashInStart: "crash while a log is opened",
    UnsyncedLost: "crash that lost unsynced records",
    ContentRot: "bit rot in an entry",
    RecordRot: "bit rot that cost a whole record",
    LostSegments: "loss of the latest segments, but for their end",
    Misdirected: "write to a wrong place",
    ReadError: "read error",
    SyncError: "sync error",
    DiskFull: "disk full",
    StaleDisk: "restart with a stale disk",
    LostDisk: "disk lost for good",
}

/// How often each kind happened.
#[derive(Clone, Copy, Debug)]
pub struct Tally([u64; Fault::ALL.len()]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([0; Fault::ALL.len()])
    }
}

impl Tally {
    /// One more of this kind.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How many of this kind.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Takes in another world's.
    pub fn add(&mut self, other: &Tally) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, number)| *sum += number);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in Fault::ALL {
            writeln!(f, "  {:<52}{:>14}", fault.name(), self.of(*fault))?;
        }
        Ok(())
    }
}
