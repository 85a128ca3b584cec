// SPDX-License-Identifier: GPL-2.0

//! Writes the breaks of `selftests/hostile` as inputs of the target `image`: corpus DIR.

use sim::hostile::{Bases, Edits};
use sim::image;
use std::path::PathBuf;

fn main() {
    let directory = PathBuf::from(std::env::args_os().nth(1).expect("usage: corpus DIR"));
    std::fs::create_dir_all(&directory).expect("a directory");
    let bases = Bases::open();
    for (n, broken) in image::hostile().0.iter().enumerate() {
        let edits = Edits::of(&bases, &broken.image, &broken.edits);
        std::fs::write(directory.join(format!("broken-{n:03}")), edits.bytes()).expect("a file");
    }
}
