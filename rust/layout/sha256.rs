// SPDX-License-Identifier: GPL-2.0

//! SHA-256, for names that are too long to be shown while the directory's key is missing.
//!
//! The kernel's own is there only if something else in its configuration asks for it.

use super::bytes::us;

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// The first 32 bits of the fractional parts of the square roots of the first eight primes.
const START: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// Returns the digest of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut state = START;
    // The message ends with a set bit, zeros, and its length in bits, in a whole number of blocks.
    let blocks = data.len().saturating_add(9).div_ceil(64);
    let bits = u64::try_from(data.len())
        .unwrap_or(u64::MAX)
        .wrapping_mul(8);
    for block in 0..blocks {
        let mut bytes = [0; 64];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = block * 64 + i;
            *byte = match data.get(at) {
                Some(byte) => *byte,
                None if at == data.len() => 0x80,
                None => 0,
            };
        }
        if block + 1 == blocks {
            for (to, from) in bytes.iter_mut().skip(56).zip(bits.to_be_bytes()) {
                *to = from;
            }
        }
        compress(&mut state, &bytes);
    }
    let mut digest = [0; 32];
    for (to, word) in digest.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn compress(state: &mut [u32; 8], block: &[u8; 64]) {
    // The last sixteen words of the message schedule.
    let mut words = [0u32; 16];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (round, k) in (0u32..).zip(K) {
        let word = |words: &[u32; 16], back: u32| {
            let at = us(round.wrapping_sub(back) % 16);
            words.get(at).copied().unwrap_or(0)
        };
        if round >= 16 {
            let (w15, w2) = (word(&words, 15), word(&words, 2));
            let s0 = w15.rotate_right(7) ^ w15.rotate_right(18) ^ w15 >> 3;
            let s1 = w2.rotate_right(17) ^ w2.rotate_right(19) ^ w2 >> 10;
            let next = word(&words, 16)
                .wrapping_add(s0)
                .wrapping_add(word(&words, 7))
                .wrapping_add(s1);
            if let Some(slot) = words.get_mut(us(round % 16)) {
                *slot = next;
            }
        }
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let one = h
            .wrapping_add(s1)
            .wrapping_add(e & f ^ !e & g)
            .wrapping_add(k)
            .wrapping_add(word(&words, 0));
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let two = s0.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(one));
        (d, c, b, a) = (c, b, a, one.wrapping_add(two));
    }
    for (to, from) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *to = to.wrapping_add(from);
    }
}
