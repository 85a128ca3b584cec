// SPDX-License-Identifier: GPL-2.0

//! Any change of an image's metadata gives an error and a log line, and never a panic or a run
//! without end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sim::hostile::{Bases, Edits};
use std::sync::OnceLock;

static BASES: OnceLock<Bases> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let bases = BASES.get_or_init(Bases::open);
    if let Some(edits) = Edits::parse(data) {
        sim::hostile::walk_image(bases.changed(&edits), edits.seed());
    }
});
