// SPDX-License-Identifier: GPL-2.0

//! The two checksums, as the kernel defines them.

use crate::layout::CrcFns;

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 != 0 { polynomial } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

static CRC32C: [u32; 256] = table(0x82f6_3b78);
static CRC16: [u32; 256] = table(0xa001);

/// CRC-32C without inversion.
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |crc, &b| {
        CRC32C[usize::from(crc as u8 ^ b)] ^ (crc >> 8)
    })
}

/// CRC-16.
pub fn crc16(crc: u16, data: &[u8]) -> u16 {
    data.iter().fold(crc, |crc, &b| {
        CRC16[usize::from(crc as u8 ^ b)] as u16 ^ (crc >> 8)
    })
}

/// Both, to lend to the parser.
pub const FNS: CrcFns = CrcFns { crc32c, crc16 };

/// Functions that yield the same for all data, so that a fuzzer's changes are not all caught by
/// checksums.
///
/// An image whose checksum fields are zero passes with them.
pub const NULL_FNS: CrcFns = CrcFns {
    crc32c: |_, _| 0,
    crc16: |_, _| 0,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        // The customary check value of each CRC, over "123456789".
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
