// SPDX-License-Identifier: GPL-2.0

//! The kernel's checksums.

use upcall_bindings as ub;

/// CRC-32C of `data`, seeded with and returned as the raw register, without inversion.
///
/// C header: [`include/linux/crc32c.h`](srctree/include/linux/crc32c.h). Any context.
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    // SAFETY: The slice is valid for reads.
    unsafe { ub::crc32c(seed, data.as_ptr().cast(), data.len()) }
}

/// CRC-16 (polynomial 0x8005, reflected) of `data`, seeded with `crc`.
///
/// C header: [`include/linux/crc16.h`](srctree/include/linux/crc16.h). Any context.
pub fn crc16(crc: u16, data: &[u8]) -> u16 {
    // SAFETY: The slice is valid for reads.
    unsafe { ub::crc16(crc, data.as_ptr(), data.len()) }
}

/// CRC-32 of `data`, as zlib and Ethernet have it, going on from `crc`, which is 0 at first.
///
/// C header: [`include/linux/crc32.h`](srctree/include/linux/crc32.h). Any context.
pub fn crc32(crc: u32, data: &[u8]) -> u32 {
    // SAFETY: The slice is valid for reads.
    unsafe { !ub::crc32_le(!crc, data.as_ptr().cast(), data.len()) }
}

/// CRC-32 of `data`, most significant bit first, seeded with and returned as the raw register.
///
/// C header: [`include/linux/crc32.h`](srctree/include/linux/crc32.h). Any context.
pub fn crc32_be(crc: u32, data: &[u8]) -> u32 {
    // SAFETY: The slice is valid for reads.
    unsafe { ub::crc32_be(crc, data.as_ptr().cast(), data.len()) }
}
