// SPDX-License-Identifier: GPL-2.0

//! A whole tree, or many files, with a bound on what is in flight.
//!
//! # How a tree is walked
//!
//! A number of tasks takes turns with a stack of directories that are still to be listed. A task takes
//! one, reads what entries one step of [`AsyncStackable::read_dir`] gives, puts the rest of the directory back for
//! another task, and visits the entries one by one; directories among them go on the stack. So the
//! number of tasks bounds the operations in flight, and the stack needs a few bytes for a directory.
//!
//! # Concurrency
//!
//! `stack` is under a spinlock, and `ready` has a permit for each directory in it. `left` counts those that
//! were put there and are not done. Who brings it to zero, or meets an error, closes `ready`, at
//! which all tasks end. Dropping the future of the walk drops the scope of its tasks, and cancels them.

use crate::asynchronous::{AsyncStackable, Ino};
use core::future::Future;
use disk::gfp;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use upcall::{Block, Budget, Scope, Semaphore};
use vfs::{Attr, DirBatch, FileType};

/// Trees are not deeper: a volume that claims to be is damaged, or its directories lead in a circle.
pub const MAX_DEPTH: u32 = 4096;

/// An entry that a walk has found.
pub struct Found<'a> {
    /// The directory that has it.
    pub dir: Ino,
    /// Its name.
    pub name: &'a [u8],
    /// Its inode.
    pub ino: Ino,
    /// The inode's attributes.
    pub attr: &'a Attr,
    /// How many directories lie between it and the top, whose entries have 0.
    pub depth: u32,
}

/// What is done with each entry of a tree.
pub trait Visitor<L>: Send + Sync + 'static {
    /// Visits an entry; not `.` and `..`. Returns whether a directory is walked, too.
    ///
    /// Called by several tasks at the same time, and in no order but that a directory comes before what is in it. An
    /// error ends the walk.
    fn visit(&self, layer: &L, found: Found<'_>) -> impl Future<Output = Result<bool>> + Send;
}

/// What a walk has visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visited {
    /// Directories that were listed, the top among them.
    pub directories: u64,
    /// Entries.
    pub entries: u64,
}

/// A directory, or what is left of one, to be listed.
#[derive(Clone, Copy)]
struct Todo {
    dir: Ino,
    pos: u64,
    depth: u32,
}

/// What the tasks of a walk share, whatever is walked.
#[pin_data]
struct Plan {
    #[pin]
    stack: SpinLock<KVec<Todo>>,
    #[pin]
    error: SpinLock<Option<Error>>,
    ready: Semaphore,
    left: Atomic<usize>,
    directories: Atomic<u64>,
    entries: Atomic<u64>,
}

impl Plan {
    /// Not in the caller, which is generic and so compiled into another module: lockdep would have the
    /// locks' names from there.
    #[inline(never)]
    fn new(top: Ino) -> Result<Arc<Self>> {
        let plan = Arc::pin_init(
            pin_init!(Self {
                stack <- new_spinlock!(KVec::new()),
                error <- new_spinlock!(None),
                ready: Semaphore::new(0),
                left: Atomic::new(0),
                directories: Atomic::new(0),
                entries: Atomic::new(0),
            }),
            gfp(),
        )?;
        plan.add(Todo {
            dir: top,
            pos: 0,
            depth: 0,
        })?;
        Ok(plan)
    }

    /// Puts a directory on the stack. The caller has one in hand, or is the first.
    #[inline(never)]
    fn add(&self, todo: Todo) -> Result {
        loop {
            let mut stack = self.stack.lock();
            if stack.len() < stack.capacity() {
                // Within the capacity: does not allocate.
                stack.push(todo, GFP_ATOMIC)?;
                break;
            }
            let want = stack.capacity() * 2;
            drop(stack);
            self.grow(want.max(16))?;
        }
        self.left.fetch_add(1, Relaxed);
        self.ready.release(1);
        Ok(())
    }

    /// Gives the stack room for `want` directories. Allocates outside of the lock.
    fn grow(&self, want: usize) -> Result {
        let mut larger = KVec::with_capacity(want, gfp())?;
        let mut stack = self.stack.lock();
        if larger.capacity() > stack.capacity() {
            larger.extend_from_slice(&stack, GFP_ATOMIC)?;
            core::mem::swap(&mut *stack, &mut larger);
        }
        drop(stack);
        Ok(())
    }

    /// Waits for a directory; `None` when there will be no more.
    async fn next(&self) -> Option<Todo> {
        self.ready.acquire(1).await.ok()?.forget();
        self.stack.lock().pop()
    }

    /// A directory that was taken is done.
    fn finish(&self) {
        if self.left.fetch_sub(1, Full) == 1 {
            self.ready.close();
        }
    }

    fn fail(&self, error: Error) {
        self.error.lock().get_or_insert(error);
        self.ready.close();
    }
}

/// What the tasks of one walk share.
struct Walk<L, V> {
    layer: Arc<L>,
    visitor: Arc<V>,
    plan: Arc<Plan>,
}

impl<L, V> Clone for Walk<L, V> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            visitor: self.visitor.clone(),
            plan: self.plan.clone(),
        }
    }
}

impl<L: AsyncStackable + 'static, V: Visitor<L>> Walk<L, V> {
    async fn run(self) {
        let mut batch = DirBatch::new();
        let mut budget = Budget::new();
        while let Some(todo) = self.plan.next().await {
            if let Err(error) = self.step(todo, &mut batch, &mut budget).await {
                return self.plan.fail(error);
            }
            self.plan.finish();
        }
    }

    /// Lists a part of a directory, and visits what is there. What is in memory does not make it wait,
    /// so that it pauses now and then.
    async fn step(&self, todo: Todo, batch: &mut DirBatch, budget: &mut Budget) -> Result {
        let Todo { dir, pos, depth } = todo;
        batch.clear();
        self.layer.read_dir(dir, pos, batch).await?;
        if pos == 0 {
            self.plan.directories.fetch_add(1, Relaxed);
        }
        if let Some(pos) = batch.next() {
            // For whoever is free, while we visit.
            self.plan.add(Todo { dir, pos, depth })?;
        }
        for entry in batch.iter() {
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            budget.pause().await;
            let ino = Ino(entry.ino);
            let attr = self.layer.stat(ino).await?;
            self.plan.entries.fetch_add(1, Relaxed);
            let found = Found {
                dir,
                name: entry.name,
                ino,
                attr: &attr,
                depth,
            };
            let descend = self.visitor.visit(&self.layer, found).await?;
            if descend && attr.file_type == FileType::Directory {
                if depth == MAX_DEPTH {
                    return Err(ELOOP);
                }
                self.plan.add(Todo {
                    dir: ino,
                    pos: 0,
                    depth: depth + 1,
                })?;
            }
        }
        Ok(())
    }
}

/// Visits every entry below directory `top`, with at most `in_flight` operations at a time.
///
/// Fails with the first error of an operation or of the visitor; what was begun then is cancelled.
///
/// # Cancellation
///
/// Dropping the future cancels the walk; inside an upcall what is left of it ends with the scope of that upcall.
pub async fn walk_tree<L, V>(
    layer: &Arc<L>,
    top: Ino,
    in_flight: usize,
    visitor: &Arc<V>,
) -> Result<Visited>
where
    L: AsyncStackable + 'static,
    V: Visitor<L>,
{
    let walk = Walk {
        layer: layer.clone(),
        visitor: visitor.clone(),
        plan: Plan::new(top)?,
    };
    let plan = walk.plan.clone();
    let scope = Scope::new()?;
    for _ in 0..in_flight.max(1) {
        scope.spawn(walk.clone().run())?;
    }
    drop(walk);
    scope.join().await;
    let error = plan.error.lock().take();
    match error {
        Some(error) => Err(error),
        None => Ok(Visited {
            directories: plan.directories.load(Relaxed),
            entries: plan.entries.load(Relaxed),
        }),
    }
}

/// What is done with the contents of many files.
pub trait ReadMany<L>: Send + Sync + 'static {
    /// The next file to read; `None` if there is none. Called by several tasks.
    fn next(&self) -> Option<Ino>;

    /// Some bytes of a file, in order: all pages of one file come from the same task.
    fn page(&self, ino: Ino, offset: u64, bytes: &[u8]);

    /// A file was read, and has as many bytes; or could not be.
    fn end(&self, ino: Ino, size: Result<u64>);
}

/// Reads many files, at most `in_flight` at a time.
///
/// # Cancellation
///
/// As of [`walk_tree`].
pub async fn read_many<L, R>(layer: &Arc<L>, in_flight: usize, reader: &Arc<R>) -> Result
where
    L: AsyncStackable + 'static,
    R: ReadMany<L>,
{
    let scope = Scope::new()?;
    for _ in 0..in_flight.max(1) {
        let (layer, reader) = (layer.clone(), reader.clone());
        scope.spawn(async move {
            let mut block = Block::vacant();
            let mut budget = Budget::new();
            while let Some(ino) = reader.next() {
                let size = read_one(&*layer, ino, &mut block, &mut budget, |offset, bytes| {
                    reader.page(ino, offset, bytes)
                });
                reader.end(ino, size.await);
            }
        })?;
    }
    scope.join().await;
    Ok(())
}

async fn read_one<L: AsyncStackable>(
    layer: &L,
    ino: Ino,
    block: &mut Block,
    budget: &mut Budget,
    mut page: impl FnMut(u64, &[u8]) + Send,
) -> Result<u64> {
    let mut offset = 0;
    loop {
        budget.pause().await;
        let count = layer.read(ino, offset, block).await?;
        page(offset, block.as_slice().get(..count).ok_or(EIO)?);
        offset += count as u64;
        if count < Block::SIZE {
            return Ok(offset);
        }
    }
}
