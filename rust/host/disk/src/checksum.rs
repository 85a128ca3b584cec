// SPDX-License-Identifier: GPL-2.0

//! The kernel's checksums, by tables of one byte; CRC-32C, of which recoveries have most, eight bytes at
//! a time.

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

/// For each place of a byte before the end, what the byte makes of the register.
static CRC32C: [[u32; 256]; 8] = {
    let mut tables = [table(0x82f6_3b78); 8];
    let mut place = 1;
    while place < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[place - 1][byte];
            tables[place][byte] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        place += 1;
    }
    tables
};
static CRC32: [u32; 256] = table(0xedb8_8320);
static CRC16: [u32; 256] = table(0xa001);

fn crc(table: &[u32; 256], seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |crc, byte| {
        (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)]
    })
}

/// CRC-32C of `data`, seeded with and returned as the raw register, without inversion.
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    let mut words = data.chunks_exact(8);
    let mut register = seed;
    for word in &mut words {
        let mut next = 0;
        for (at, byte) in word.iter().enumerate() {
            let old = register.checked_shr(8 * at as u32).unwrap_or(0) as u8;
            next ^= CRC32C[7 - at][usize::from(byte ^ old)];
        }
        register = next;
    }
    crc(&CRC32C[0], register, words.remainder())
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
        let long: Vec<u8> = (0..1000).map(|n| (n * 7) as u8).collect();
        assert_eq!(crc32c(5, &long), crc(&CRC32C[0], 5, &long));
        assert_eq!(crc16(0, check), 0xbb3d);
        assert_eq!(crc32(0, check), 0xcbf4_3926);
        assert_eq!(crc32_be(!0, check), 0x0376_e6e7);
    }
}
