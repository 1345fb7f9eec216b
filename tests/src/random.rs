//! A small generator for tests' choices: the same seed, the same choices. Its seed is printed, and
//! SYNOD_TEST_SEED replays it.

/// xorshift64*: enough for choosing nodes and moments.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From SYNOD_TEST_SEED, or from the clock; says which, for replay.
    pub fn announced(test: &str) -> Random {
        let seed = match std::env::var("SYNOD_TEST_SEED") {
            Ok(given) => given.parse().expect("SYNOD_TEST_SEED is a number"),
            Err(_) => {
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .expect("the clock stands after 1970");
                u64::from(since.subsec_nanos()) << 16 | u64::from(std::process::id())
            }
        };
        eprintln!("{test}: SYNOD_TEST_SEED={seed}");
        Random::from_seed(seed)
    }

    /// From a given seed.
    pub fn from_seed(seed: u64) -> Random {
        // Zero would stay zero for ever.
        Random(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }

    /// A node of a cluster, from 1.
    pub fn node(&mut self, nodes: usize) -> usize {
        1 + usize::try_from(self.below(nodes as u64)).expect("far below the bound")
    }
}
