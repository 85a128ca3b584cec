// SPDX-License-Identifier: GPL-2.0

//! The block layer: what stands behind `submit_bio` on the host.

use core::ptr::NonNull;

/// What a bio asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BioOp {
    /// Data comes from the device.
    Read,
    /// Data goes to the device.
    Write,
    /// What is there is needed no more.
    Discard,
    /// Zeroes go to the device.
    WriteZeroes,
}

/// A bio.
pub struct Bio {
    /// What is asked; a flush is a write without data.
    pub op: BioOp,
    /// A flush comes before it.
    pub preflush: bool,
    /// It is durable when it completes.
    pub fua: bool,
    /// It is refused rather than that the submitter waits.
    pub nowait: bool,
    /// Where it begins, in sectors of 512 bytes.
    pub sector: u64,
    /// For how many bytes.
    pub size: u32,
    /// Its memory, which stays until `end` was called.
    pub segments: Vec<(NonNull<u8>, u32)>,
    /// Called once, in any context, also inside of [`BlockDevice::submit`].
    pub end: Box<dyn FnOnce(Status) + Send>,
}

// SAFETY: The memory is the request's, which may be used by any thread.
unsafe impl Send for Bio {}

/// How a bio ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Ok,
    /// It was not begun, since that would have waited.
    Again,
    /// With this error number, which is negative.
    Error(i32),
}

/// A device.
pub trait BlockDevice: Send + Sync {
    /// Takes a bio on. May sleep unless it is a `nowait` one.
    fn submit(&self, bio: Bio);

    /// The size, in bytes.
    fn size(&self) -> u64;

    /// The smallest unit, in bytes.
    fn logical_block_size(&self) -> u32 {
        512
    }

    /// How many sectors were written to it.
    fn sectors_written(&self) -> u64 {
        0
    }

    /// Whether nothing can be written to it.
    fn read_only(&self) -> bool {
        false
    }

    /// Whether it refuses rather than waits.
    fn nowait(&self) -> bool {
        true
    }

    /// How many requests it can have in flight, if it has a number.
    fn depth(&self) -> Option<usize> {
        None
    }
}

/// C's `struct block_device`.
#[allow(non_camel_case_types)]
pub struct block_device(pub Box<dyn BlockDevice>);
