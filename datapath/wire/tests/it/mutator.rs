//! A small deterministic mutator: the same seed grows the same inputs.

/// xorshift64*, after Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
pub(crate) struct Random(u64);

impl Random {
    /// A generator; `seed` must not be 0.
    pub(crate) fn new(seed: u64) -> Self {
        assert_ne!(seed, 0);
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Numbers at which parsers go wrong.
const EDGES: [u32; 10] =
    [0, 1, 0x7f, 0x80, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0xffff_ffff];

/// Longest input grown: long enough for every field, short enough to be quick.
const MAX_INPUT: usize = 1024;

/// Changes `input` in one to four places; `other` lends bytes to splice in.
pub(crate) fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        mutate_once(random, input, other);
    }
    input.truncate(MAX_INPUT);
}

fn mutate_once(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    if input.is_empty() {
        input.push(random.next() as u8);
        return;
    }
    let at = random.below(input.len());
    match random.below(8) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.next() as u8,
        2 => input[at] = input[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xff }),
        3 => {
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let end = input.len().min(at + 4);
            input[at..end].copy_from_slice(&edge[..end - at]);
        }
        4 => input.truncate(at),
        5 => input.insert(at, random.next() as u8),
        6 => {
            input.remove(at);
        }
        _ if other.is_empty() => input[at] = 0xff,
        _ => {
            let from = random.below(other.len());
            let len = random.below(other.len() - from) + 1;
            let end = input.len().min(at + len);
            input.splice(at..end, other[from..from + len].iter().copied());
        }
    }
}
