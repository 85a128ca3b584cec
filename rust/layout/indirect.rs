// SPDX-License-Identifier: GPL-2.0

//! Block pointers as ext2 has them: 12 direct ones and trees of one, two and three levels.
//!
//! A zero pointer is a hole, at any level. Neighbours are looked at, so that one look-up returns a
//! run of blocks or a whole hole.

use super::bytes::get_u32;
use super::error::{OrShort, Result};
use super::geometry::Geometry;
use super::map::{Extent, ExtentState, Step, Tree, TreeBlock};
use super::units::{Lblk, Pblk};

const SHORT: &str = "indirect block: buffer too short";

/// How many pointers in the inode lead to data directly.
pub const DIRECT: u32 = 12;

/// Returns the binary logarithm of the number of pointers in a block.
pub(super) fn ptr_bits(geo: &Geometry) -> u32 {
    u32::from(geo.block_bits()).saturating_sub(2)
}

/// Returns how many blocks of the file a pointer covers that has `levels` levels of metadata below
/// it.
pub(super) fn span(levels: u8, geo: &Geometry) -> u64 {
    1u64.checked_shl(ptr_bits(geo).saturating_mul(u32::from(levels)))
        .unwrap_or(u64::MAX)
}

/// Returns `block` as an exclusive end, cut off where files end.
pub(super) fn clamp(block: u64) -> Lblk {
    u32::try_from(block).map_or(Lblk::END, Lblk)
}

pub(super) fn pointer(data: &[u8], index: usize) -> Result<Pblk> {
    let off = index.saturating_mul(4);
    let value = get_u32(data, off).or_short(SHORT)?;
    Ok(Pblk(u64::from(value)))
}

pub(super) fn check(pblk: Pblk, len: u64, geo: &Geometry) -> Result<Pblk> {
    geo.check(
        pblk,
        len,
        "block pointer: block {} with {} blocks is not on the volume",
    )
}

/// Counts how many pointers from `index` on continue a run from `pblk`, or are zero if that is.
fn run_len(data: &[u8], index: usize, count: usize, pblk: Pblk) -> Result<u32> {
    let mut len = 1u32;
    for i in index.saturating_add(1)..count {
        let expected = match pblk.0 {
            0 => 0,
            start => start.saturating_add(u64::from(len)),
        };
        if pointer(data, i)?.0 != expected {
            break;
        }
        len = len.saturating_add(1);
    }
    Ok(len)
}

/// Starts to look `lblk` up, among the 15 pointers of an inode.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) for a pointer out of the volume.
pub(super) fn start(i_block: &[u8; 60], lblk: Lblk, geo: &Geometry) -> Result<Step> {
    if lblk.0 < DIRECT {
        let index = super::bytes::us(lblk.0);
        let pblk = pointer(i_block, index)?;
        let len = run_len(i_block, index, 12, pblk)?;
        if pblk.0 != 0 {
            return Ok(Step::Extent(Extent {
                lblk,
                len,
                state: ExtentState::Written(check(pblk, u64::from(len), geo)?),
            }));
        }
        let until = Lblk(lblk.0.saturating_add(len));
        if until.0 < DIRECT {
            return Ok(Step::Hole { until });
        }
    }
    // The trees: each starts where the one before ends, which is how a hole grows over missing
    // ones.
    let mut first = u64::from(DIRECT);
    let mut hole_from = lblk.0 < DIRECT;
    for (depth, index) in [(0u8, 12usize), (1, 13), (2, 14)] {
        let end = first.saturating_add(span(depth.saturating_add(1), geo));
        let pblk = pointer(i_block, index)?;
        if hole_from && pblk.0 != 0 {
            return Ok(Step::Hole {
                until: clamp(first),
            });
        }
        if !hole_from && u64::from(lblk.0) < end {
            if pblk.0 != 0 {
                return Ok(Step::Descend(TreeBlock {
                    pblk: check(pblk, 1, geo)?,
                    depth,
                    first: clamp(first),
                    end: clamp(end),
                    tree: Tree::Indirect,
                }));
            }
            hole_from = true;
        }
        first = end;
    }
    // Nothing can be mapped beyond, however large the file says it is.
    Ok(Step::Hole { until: Lblk::END })
}

/// Looks `lblk` up in an indirect block; the caller has checked that it is in the node's range.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt) for a pointer out of the volume.
pub(super) fn step(data: &[u8], node: &TreeBlock, lblk: Lblk, geo: &Geometry) -> Result<Step> {
    geo.whole_block(data, SHORT)?;
    let count = data.len() / 4;
    let span = span(node.depth, geo);
    let rel = u64::from(lblk.0.saturating_sub(node.first.0));
    // `span` is a power of two, so never zero.
    let slot = rel >> span.trailing_zeros();
    let index = usize::try_from(slot).unwrap_or(count);
    let pblk = pointer(data, index)?;
    let slot_first = u64::from(node.first.0).saturating_add(slot.saturating_mul(span));

    if pblk.0 == 0 {
        let len = u64::from(run_len(data, index, count, pblk)?);
        let until = clamp(slot_first.saturating_add(len.saturating_mul(span)));
        return Ok(Step::Hole {
            until: until.min(node.end),
        });
    }
    if let Some(depth) = node.depth.checked_sub(1) {
        return Ok(Step::Descend(TreeBlock {
            pblk: check(pblk, 1, geo)?,
            depth,
            first: clamp(slot_first),
            end: clamp(slot_first.saturating_add(span)).min(node.end),
            tree: Tree::Indirect,
        }));
    }
    let len = run_len(data, index, count, pblk)?;
    // The last block number is no block of a file, so the run ends before it.
    let len = len.min(node.end.0.saturating_sub(lblk.0));
    Ok(Step::Extent(Extent {
        lblk,
        len,
        state: ExtentState::Written(check(pblk, u64::from(len), geo)?),
    }))
}

/// Checks that every pointer is a hole or on the volume.
///
/// # Errors
///
/// [`Kind::Corrupt`](super::Kind::Corrupt).
pub(super) fn verify(data: &[u8], geo: &Geometry) -> Result<()> {
    for i in 0..data.len() / 4 {
        let pblk = pointer(data, i)?;
        if pblk.0 != 0 {
            check(pblk, 1, geo)?;
        }
    }
    Ok(())
}
