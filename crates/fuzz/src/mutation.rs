//! Changes bytes the way bytes go wrong: bits flip, lengths lie, pieces are lost, doubled, or come from another file.

/// Numbers that lie at the edges of what a field may hold.
const EDGES: [u64; 10] = [0, 1, 127, 128, 255, 1 << 16, u32::MAX as u64, 1 << 62, (1 << 62) + 1, u64::MAX];

/// A source of changes that is its seed and nothing else.
#[derive(Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed)
    }

    /// A number below `bound` (splitmix64).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    /// Changes `bytes` in a few places; `other` is an input that pieces may come from.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8], longest: usize) {
        for _ in 0..=self.below(4) {
            self.change(bytes, other);
        }
        bytes.truncate(longest);
    }

    /// Makes a list somewhere in `bytes` a very long one of very small items, and has the items follow: what is read of it
    /// before it is refused shows in memory.
    pub fn swell(&mut self, bytes: &mut Vec<u8>) {
        const ITEMS: usize = 1 << 18;
        // Lists begin near the front, or are like one that does.
        let at = self.below(bytes.len().min(96) + 1);
        // The length as postcard writes it, or as the fixed formats do.
        let length = if self.below(4) == 0 { vec![0, 0, 4, 0] } else { vec![0x80, 0x80, 0x10] };
        let until = (at + self.below(2) * length.len()).min(bytes.len());
        let item = [0, 1][self.below(2)];
        bytes.splice(at..until, length.into_iter().chain(std::iter::repeat_n(item, ITEMS)));
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let left = bytes.len() - at;
        match self.below(10) {
            0 if left > 0 => bytes[at] ^= 1 << self.below(8),
            1 if left > 0 => bytes[at] = self.below(256) as u8,
            2 if left > 0 => bytes[at] = bytes[at].wrapping_add(if self.below(2) == 0 { 1 } else { 255 }),
            3 => self.write_edge(&mut bytes[at..]),
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..at + self.below(left.min(16) + 1))),
            6 => {
                let piece = bytes[at..at + self.below(left.min(64) + 1)].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => {
                let count = self.below(12);
                let fresh = self.bytes(count);
                bytes.splice(at..at, fresh);
            }
            8 if !other.is_empty() => {
                let from = self.below(other.len());
                let until = from + self.below((other.len() - from).min(64)) + 1;
                let replaced = self.below(left.min(64) + 1);
                bytes.splice(at..at + replaced, other[from..until].iter().copied());
            }
            // A varint that says "very many".
            _ => drop(bytes.splice(at..at + left.min(1), [0xff, 0xff, 0xff, 0xff, 0x0f])),
        }
    }

    fn write_edge(&mut self, bytes: &mut [u8]) {
        let edge = EDGES[self.below(EDGES.len())];
        let width = [1, 2, 4, 8][self.below(4)].min(bytes.len());
        let field = if self.below(2) == 0 {
            edge.to_le_bytes()
        } else {
            edge.swap_bytes().rotate_left(8 * width as u32).to_le_bytes()
        };
        bytes[..width].copy_from_slice(&field[..width]);
    }
}
