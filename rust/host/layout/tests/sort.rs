// SPDX-License-Identifier: GPL-2.0

//! The sort against that of the standard library.

use layout_host::layout::sort::{sort, sort_by_key};

#[test]
fn sorts_as_the_library_does() {
    let mut state = 1u64;
    for len in (0..40).chain([100, 1000, 10_000]) {
        for most in [2, 1 << 20, u64::MAX] {
            let mut items: Vec<u64> = Vec::new();
            for _ in 0..len {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                items.push((state >> 11) % most);
            }
            let mut wanted = items.clone();
            wanted.sort_unstable();
            let mut backward = items.clone();
            sort_by_key(&mut items, |item| *item);
            assert_eq!(items, wanted, "{len} items below {most}");
            sort(&mut backward, |a, b| a > b);
            wanted.reverse();
            assert_eq!(backward, wanted, "{len} items below {most}, backward");
        }
    }
}
