// SPDX-License-Identifier: GPL-2.0

//! The kernel's checksums, bit by bit for a table of one byte.

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

static CRC32C: [u32; 256] = table(0x82f6_3b78);
static CRC32: [u32; 256] = table(0xedb8_8320);
static CRC16: [u32; 256] = table(0xa001);

fn crc(table: &[u32; 256], seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |crc, byte| {
        (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)]
    })
}

/// CRC-32C of `data`, seeded with and returned as the raw register, without inversion.
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    crc(&CRC32C, seed, data)
}

/// CRC-16 (polynomial 0x8005, reflected) of `data`, seeded with `crc`.
pub fn crc16(seed: u16, data: &[u8]) -> u16 {
    crc(&CRC16, seed.into(), data) as u16
}

/// CRC-32, as zlib and Ethernet have it, going on from `crc`, which is 0 at first.
pub fn crc32(seed: u32, data: &[u8]) -> u32 {
    !crc(&CRC32, !seed, data)
}

/// CRC-32 of `data`, most significant bit first, seeded with and returned as the raw register.
pub fn crc32_be(crc: u32, data: &[u8]) -> u32 {
    data.iter().fold(crc, |mut crc, byte| {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = crc << 1 ^ (0x04c1_1db7 & (crc >> 31).wrapping_neg());
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogues() {
        let check = b"123456789";
        assert_eq!(!crc32c(!0, check), 0xe306_9283);
        assert_eq!(crc16(0, check), 0xbb3d);
        assert_eq!(crc32(0, check), 0xcbf4_3926);
        assert_eq!(crc32_be(!0, check), 0x0376_e6e7);
    }
}
