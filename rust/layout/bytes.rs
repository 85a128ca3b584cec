// SPDX-License-Identifier: GPL-2.0

//! Little-endian reads and writes with a bounds check.
//!
//! Every byte of a disk block that the parser looks at, or an edit changes, goes through these
//! functions, so that no offset taken from a disk can make it panic.

/// Returns `len` bytes from `off`, or `None` if they do not all lie in `buf`.
#[inline]
pub fn get_bytes(buf: &[u8], off: usize, len: usize) -> Option<&[u8]> {
    buf.get(off..off.checked_add(len)?)
}

/// Returns the `N` bytes from `off` as an array, or `None` if they do not all lie in `buf`.
#[inline]
pub fn get_array<const N: usize>(buf: &[u8], off: usize) -> Option<[u8; N]> {
    get_bytes(buf, off, N)?.try_into().ok()
}

/// Reads the byte at `off`.
#[inline]
pub fn get_u8(buf: &[u8], off: usize) -> Option<u8> {
    buf.get(off).copied()
}

/// Reads a 16-bit little-endian number at `off`.
#[inline]
pub fn get_u16(buf: &[u8], off: usize) -> Option<u16> {
    get_array(buf, off).map(u16::from_le_bytes)
}

/// Reads a 32-bit little-endian number at `off`.
#[inline]
pub fn get_u32(buf: &[u8], off: usize) -> Option<u32> {
    get_array(buf, off).map(u32::from_le_bytes)
}

/// Reads a 64-bit little-endian number at `off`.
#[inline]
pub fn get_u64(buf: &[u8], off: usize) -> Option<u64> {
    get_array(buf, off).map(u64::from_le_bytes)
}

/// Writes `bytes` at `off`; `None`, and nothing is written, if they do not all fit `buf`.
#[inline]
pub fn put_bytes(buf: &mut [u8], off: usize, bytes: &[u8]) -> Option<()> {
    let to = buf.get_mut(off..off.checked_add(bytes.len())?)?;
    to.copy_from_slice(bytes);
    Some(())
}

/// Writes the byte at `off`.
#[inline]
pub fn put_u8(buf: &mut [u8], off: usize, v: u8) -> Option<()> {
    put_bytes(buf, off, &[v])
}

/// Writes a 16-bit little-endian number at `off`.
#[inline]
pub fn put_u16(buf: &mut [u8], off: usize, v: u16) -> Option<()> {
    put_bytes(buf, off, &v.to_le_bytes())
}

/// Writes a 32-bit little-endian number at `off`.
#[inline]
pub fn put_u32(buf: &mut [u8], off: usize, v: u32) -> Option<()> {
    put_bytes(buf, off, &v.to_le_bytes())
}

/// Writes a 64-bit little-endian number at `off`.
#[inline]
pub fn put_u64(buf: &mut [u8], off: usize, v: u64) -> Option<()> {
    put_bytes(buf, off, &v.to_le_bytes())
}

/// Joins the low and high halves of a number that the disk keeps apart.
#[inline]
pub fn join32(lo: u32, hi: u32) -> u64 {
    u64::from(hi) << 32 | u64::from(lo)
}

/// Joins the low and high 16 bits of a number that the disk keeps apart.
#[inline]
pub fn join16(lo: u16, hi: u16) -> u32 {
    u32::from(hi) << 16 | u32::from(lo)
}

/// Returns the low 16 bits, for checksums of which the disk keeps only so much.
#[inline]
pub fn low16(v: u32) -> u16 {
    let [a, b, ..] = v.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// Returns the low 32 bits of a number.
#[inline]
pub fn low32(v: u64) -> u32 {
    let [a, b, c, d, ..] = v.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Widens to `usize`, which holds 32 bits on every machine that this code runs on.
#[inline]
pub const fn us(v: u32) -> usize {
    v as usize
}
