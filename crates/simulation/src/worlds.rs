//! Kinds of worlds. Most seeds make a world of anything; some make one in which a certain kind of trouble is at home,
//! because what takes five unlikely things in a row is never met where each of them is rare.

use std::fmt;
use std::str::FromStr;

/// A kind of world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// Anything.
    Any,
    /// Few nodes that crash all the time, mostly right after something left them.
    Crashes,
    /// Members come and go all the time, and are lost.
    Members,
    /// The disks of a minority lose content and whole records; the epoch is renewed meanwhile.
    Damage,
    /// Disks fail: syncs, reads, space; whole disks are lost and replaced.
    Disks,
    /// One user, long silences, many losses: nobody tells anybody anything that nobody asked.
    Quiet,
    /// A node starts again from an old copy of its disk.
    Stale,
    /// As in *Damage*, without the limit that leaves a good copy: here the group may stop, and nothing else.
    NoGoodCopy,
    /// Logs of values, many more than a node may have in memory; members come and go.
    Values,
    /// The logs are the real storage's, on disks that tell what was written from what is durable.
    Files,
}

impl World {
    /// All of them.
    pub const ALL: [World; 10] = [
        World::Any,
        World::Crashes,
        World::Members,
        World::Damage,
        World::Disks,
        World::Quiet,
        World::Stale,
        World::NoGoodCopy,
        World::Values,
        World::Files,
    ];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            World::Any => "any",
            World::Crashes => "crashes",
            World::Members => "members",
            World::Damage => "damage",
            World::Disks => "disks",
            World::Quiet => "quiet",
            World::Stale => "stale",
            World::NoGoodCopy => "no-good-copy",
            World::Values => "values",
            World::Files => "files",
        }
    }

    /// The kind of world that a seed makes, if nobody says which: more than a third of them anything.
    pub fn of_seed(seed: u64) -> World {
        // From 10 to 15 anything; the multiplication spreads neighbouring seeds over the kinds.
        let number = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize;
        World::ALL.get(number).copied().unwrap_or(World::Any)
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for World {
    type Err = String;

    fn from_str(text: &str) -> Result<World, String> {
        let known = || World::ALL.map(World::name).join(", ");
        World::ALL.into_iter().find(|world| world.name() == text).ok_or_else(|| format!("one of: {}", known()))
    }
}
