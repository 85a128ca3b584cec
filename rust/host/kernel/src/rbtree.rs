// SPDX-License-Identifier: GPL-2.0

//! Sorted maps. On the host a sorted vector of nodes, each in memory of its own as in the kernel.

use crate::alloc::{Flags, KBox};
use crate::error::Result;

/// A sorted map.
pub struct RBTree<K, V>(Vec<RBTreeNode<K, V>>);

/// A node that is in no tree.
pub struct RBTreeNode<K, V>(KBox<(K, V)>);

impl<K, V> RBTreeNode<K, V> {
    /// Allocates one.
    pub fn new(key: K, value: V, flags: Flags) -> Result<Self> {
        Ok(Self(KBox::new((key, value), flags)?))
    }

    /// Drops what it has, and keeps the memory.
    pub fn into_reservation(self) -> RBTreeNodeReservation<K, V> {
        RBTreeNodeReservation(KBox::drop_contents(self.0))
    }

    /// What it has.
    pub fn to_key_value(self) -> (K, V) {
        KBox::into_inner(self.0)
    }
}

/// The memory of a node.
pub struct RBTreeNodeReservation<K, V>(KBox<core::mem::MaybeUninit<(K, V)>>);

impl<K, V> RBTreeNodeReservation<K, V> {
    /// Allocates it.
    pub fn new(flags: Flags) -> Result<Self> {
        Ok(Self(KBox::new_uninit(flags)?))
    }

    /// Makes a node of it.
    pub fn into_node(self, key: K, value: V) -> RBTreeNode<K, V> {
        RBTreeNode(KBox::write(self.0, (key, value)))
    }
}

impl<K, V> RBTree<K, V> {
    /// An empty one.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether it has no node.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|node| (&node.0 .0, &node.0 .1))
    }

    /// All, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|node| {
            let (key, value) = &mut *node.0;
            (&*key, value)
        })
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn cursor(&self, at: usize) -> Option<Cursor<'_, K, V>> {
        (at < self.0.len()).then_some(Cursor { tree: self, at })
    }

    fn cursor_mut(&mut self, at: usize) -> Option<CursorMut<'_, K, V>> {
        (at < self.0.len()).then_some(CursorMut { tree: self, at })
    }

    /// At the first.
    pub fn cursor_front(&self) -> Option<Cursor<'_, K, V>> {
        self.cursor(0)
    }

    /// At the first.
    pub fn cursor_front_mut(&mut self) -> Option<CursorMut<'_, K, V>> {
        self.cursor_mut(0)
    }

    /// At the last.
    pub fn cursor_back(&self) -> Option<Cursor<'_, K, V>> {
        self.cursor(self.0.len().wrapping_sub(1))
    }

    /// At the last.
    pub fn cursor_back_mut(&mut self) -> Option<CursorMut<'_, K, V>> {
        self.cursor_mut(self.0.len().wrapping_sub(1))
    }
}

impl<K: Ord, V> RBTree<K, V> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|node| node.0 .0.cmp(key))
    }

    /// Allocates a node and puts it in. Gives the one that had the key.
    pub fn try_create_and_insert(
        &mut self,
        key: K,
        value: V,
        flags: Flags,
    ) -> Result<Option<RBTreeNode<K, V>>> {
        Ok(self.insert(RBTreeNode::new(key, value, flags)?))
    }

    /// Puts a node in. Gives the one that had the key.
    pub fn insert(&mut self, node: RBTreeNode<K, V>) -> Option<RBTreeNode<K, V>> {
        match self.find(&node.0 .0) {
            Ok(at) => Some(core::mem::replace(&mut self.0[at], node)),
            Err(at) => {
                self.0.insert(at, node);
                None
            }
        }
    }

    /// The value for a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let at = self.find(key).ok()?;
        Some(&self.0[at].0 .1)
    }

    /// The value for a key.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key).ok()?;
        Some(&mut self.0[at].0 .1)
    }

    /// Takes the node with a key out.
    pub fn remove_node(&mut self, key: &K) -> Option<RBTreeNode<K, V>> {
        let at = self.find(key).ok()?;
        Some(self.0.remove(at))
    }

    /// Takes the node with a key out, and frees it.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.remove_node(key).map(|node| node.to_key_value().1)
    }

    /// At the first that is not before `key`.
    pub fn cursor_lower_bound(&self, key: &K) -> Option<Cursor<'_, K, V>> {
        let at = self.find(key).unwrap_or_else(|at| at);
        self.cursor(at)
    }

    /// At the first that is not before `key`.
    pub fn cursor_lower_bound_mut(&mut self, key: &K) -> Option<CursorMut<'_, K, V>> {
        let at = self.find(key).unwrap_or_else(|at| at);
        self.cursor_mut(at)
    }
}

impl<K, V> Default for RBTree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in a tree.
pub struct Cursor<'a, K, V> {
    tree: &'a RBTree<K, V>,
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    /// What is there.
    pub fn current(&self) -> (&'a K, &'a V) {
        let (key, value) = &*self.tree.0[self.at].0;
        (key, value)
    }

    /// The next place.
    pub fn move_next(self) -> Option<Self> {
        self.tree.cursor(self.at + 1)
    }

    /// The place before.
    pub fn move_prev(self) -> Option<Self> {
        self.tree.cursor(self.at.wrapping_sub(1))
    }

    /// What is next.
    pub fn peek_next(&self) -> Option<(&K, &V)> {
        self.tree.cursor(self.at + 1).map(|next| next.current())
    }

    /// What is before.
    pub fn peek_prev(&self) -> Option<(&K, &V)> {
        let prev = self.tree.cursor(self.at.wrapping_sub(1));
        prev.map(|prev| prev.current())
    }
}

/// A place in a tree that can be changed.
pub struct CursorMut<'a, K, V> {
    tree: &'a mut RBTree<K, V>,
    at: usize,
}

impl<K, V> CursorMut<'_, K, V> {
    /// What is there.
    pub fn current(&self) -> (&K, &V) {
        let (key, value) = &*self.tree.0[self.at].0;
        (key, value)
    }

    /// What is there.
    pub fn current_mut(&mut self) -> (&K, &mut V) {
        let (key, value) = &mut *self.tree.0[self.at].0;
        (&*key, value)
    }

    /// The next place.
    pub fn move_next(mut self) -> Option<Self> {
        self.at += 1;
        (self.at < self.tree.0.len()).then_some(self)
    }

    /// The place before.
    pub fn move_prev(mut self) -> Option<Self> {
        self.at = self.at.checked_sub(1)?;
        Some(self)
    }

    /// Takes out what is there. Gives the next place, or else the one before.
    pub fn remove_current(mut self) -> (Option<Self>, RBTreeNode<K, V>) {
        let node = self.tree.0.remove(self.at);
        if self.at == self.tree.0.len() {
            match self.at.checked_sub(1) {
                Some(at) => self.at = at,
                None => return (None, node),
            }
        }
        (Some(self), node)
    }

    /// What is next.
    pub fn peek_next(&self) -> Option<(&K, &V)> {
        self.tree.cursor(self.at + 1).map(|next| next.current())
    }

    /// What is before.
    pub fn peek_prev(&self) -> Option<(&K, &V)> {
        let prev = self.tree.cursor(self.at.wrapping_sub(1));
        prev.map(|prev| prev.current())
    }
}
