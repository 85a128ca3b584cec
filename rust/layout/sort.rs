// SPDX-License-Identifier: GPL-2.0

//! Sorting in little stack: a heap sort, as the kernel's own `lib/sort.c`.
//!
//! The sort of crate `core` takes some 850 bytes of stack for each level of its recursion.

/// Sorts by a key. Equal ones come in any order.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    sort(items, |a, b| key(a) < key(b));
}

/// Sorts by `is_less`, which is an order. Equal ones come in any order.
pub fn sort<T>(items: &mut [T], is_less: impl Fn(&T, &T) -> bool) {
    let len = items.len();
    for root in (0..len / 2).rev() {
        sift_down(items, root, &is_less);
    }
    for end in (1..len).rev() {
        swap(items, 0, end);
        if let Some(heap) = items.get_mut(..end) {
            sift_down(heap, 0, &is_less);
        }
    }
}

/// Makes a heap of what is below `root`, of which both halves are heaps.
fn sift_down<T>(heap: &mut [T], mut root: usize, is_less: &impl Fn(&T, &T) -> bool) {
    loop {
        let mut child = 2 * root + 1;
        let Some(mut largest) = heap.get(child) else {
            return;
        };
        if let Some(other) = heap.get(child + 1).filter(|other| is_less(largest, other)) {
            (child, largest) = (child + 1, other);
        }
        if !heap.get(root).is_some_and(|root| is_less(root, largest)) {
            return;
        }
        swap(heap, root, child);
        root = child;
    }
}

/// Swaps two, of which `a` comes first.
fn swap<T>(items: &mut [T], a: usize, b: usize) {
    if let Some((before, from)) = items.split_at_mut_checked(b) {
        if let (Some(a), Some(b)) = (before.get_mut(a), from.first_mut()) {
            core::mem::swap(a, b);
        }
    }
}
