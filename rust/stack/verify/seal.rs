// SPDX-License-Identifier: GPL-2.0

//! Setting the attribute of open files, when they become durable.

use super::files::{Identity, Known, State, Used};
use super::sums::{sum_of, Sums, PAGE, PAGES_MAX};
use super::{Summed, OPEN};
use crate::asynchronous::{AsyncStackable, Ino};
use crate::change::Sync as Durable;
use disk::gfp;
use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::atomic::Relaxed;
use upcall::Block;

/// A file that was open when something began to be durable.
struct Noted {
    ino: Ino,
    file: Used,
    version: u64,
}

/// Whether an attribute finds no room.
fn is_full(error: Error) -> bool {
    [ENOSPC, E2BIG, ERANGE, EFBIG, EDQUOT].contains(&error)
}

impl<L: AsyncStackable> Summed<L> {
    pub(super) async fn make_durable(&self, what: Durable) -> Result {
        let (mut noted, mut what) = (KVVec::new(), what);
        match what {
            Durable::All => {
                let mut from = Some(0);
                while let Some((ino, file)) = from.and_then(|from| self.files.open_from(from)) {
                    from = ino.0.checked_add(1);
                    self.note(ino, file, &mut noted).await?;
                }
            }
            Durable::Inode(ino) | Durable::Data(ino) => {
                if let Some(file) = self.files.find(ino) {
                    if self.note(ino, file, &mut noted).await? {
                        // The attribute is durable with the contents.
                        what = Durable::Inode(ino);
                    }
                }
            }
        }
        self.below.make_durable(what).await?;
        if noted.is_empty() {
            return Ok(());
        }
        // What is wrong with one file does not keep the others from it.
        let (mut left, mut done) = (KVVec::with_capacity(noted.len(), gfp())?, Ok(()));
        while let Some(open) = noted.pop() {
            match self.seal_if(&open).await {
                Ok(true) => {}
                Ok(false) => done = done.and(left.push(open, gfp()).map_err(Error::from)),
                Err(error) => done = done.and(Err(error)),
            }
        }
        done = done.and(self.below.make_durable(what).await);
        // Those that were changed meanwhile.
        while let Some(open) = left.pop() {
            done = done.and(self.seal_alone(open.ino, &open.file).await);
        }
        done
    }

    /// Notes what an open file has, when no change is under way. Returns whether the file has
    /// checksums.
    async fn note(&self, ino: Ino, file: Used, noted: &mut KVVec<Noted>) -> Result<bool> {
        let version = {
            let state = file.state.read().await.map_err(|_| ESHUTDOWN)?;
            match state.known {
                Known::Open { version, .. } => version,
                Known::Sealed(_) => return Ok(true),
                Known::Unread | Known::Unknown { .. } => return Ok(false),
            }
        };
        noted.push(Noted { ino, file, version }, gfp())?;
        Ok(true)
    }

    /// Sets the attribute of a file whose contents are durable, unless it was changed since.
    /// Returns whether it is sealed.
    async fn seal_if(&self, noted: &Noted) -> Result<bool> {
        let mut state = noted.file.state.write().await.map_err(|_| ESHUTDOWN)?;
        match state.known {
            Known::Open { version, .. } if version != noted.version => Ok(false),
            Known::Open { .. } => {
                self.set_sums(noted.ino, &noted.file, &mut state).await?;
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    /// Makes an open file durable and sets its attribute, while nobody uses it.
    pub(super) async fn seal_alone(&self, ino: Ino, file: &Used) -> Result {
        let mut state = file.state.write().await.map_err(|_| ESHUTDOWN)?;
        if !matches!(state.known, Known::Open { .. }) {
            return Ok(());
        }
        if self.is_other(ino, file, &mut state).await? {
            return Ok(());
        }
        let done = self.below.make_durable(Durable::Data(ino)).await;
        if self.is_gone(file, &mut state, done)? {
            return Ok(());
        }
        self.set_sums(ino, file, &mut state).await?;
        let done = self.below.make_durable(Durable::Inode(ino)).await;
        self.is_gone(file, &mut state, done).map(drop)
    }

    /// Whether something failed because the file is gone. Then nothing is known of it.
    fn is_gone(&self, file: &Used, state: &mut State, done: Result) -> Result<bool> {
        match done {
            Err(ESTALE) => {
                self.files.put(file, state, Known::Unread);
                Ok(true)
            }
            done => done.map(|()| false),
        }
    }

    /// Whether the number is another file's by now, or nobody's. Then nothing is known of it.
    async fn is_other(&self, ino: Ino, file: &Used, state: &mut State) -> Result<bool> {
        let done = match self.below.stat(ino).await {
            Ok(attr) if Identity::from(&attr) != state.of => Err(ESTALE),
            done => done.map(drop),
        };
        self.is_gone(file, state, done)
    }

    /// Sets the attribute of an open file whose contents are durable.
    async fn set_sums(&self, ino: Ino, file: &Used, state: &mut State) -> Result {
        if self.is_other(ino, file, state).await? {
            return Ok(());
        }
        let Known::Open { sums, marked, .. } = &mut state.known else {
            return Ok(());
        };
        // If we are dropped nobody knows which of both the attribute has.
        *marked = false;
        match self.set(ino, sums.value()).await {
            Ok(()) => {
                if let Known::Open { sums, .. } = self.files.put(file, state, Known::Unread) {
                    self.files.put(file, state, Known::Sealed(sums));
                }
                Ok(())
            }
            Err(error) if is_full(error) => {
                let done = self.set(ino, OPEN).await;
                if !self.is_gone(file, state, done)? {
                    let unknown = Known::Unknown {
                        marked: true,
                        settled: false,
                    };
                    self.files.put(file, state, unknown);
                    self.report(ino, error);
                }
                Ok(())
            }
            error => self.is_gone(file, state, error).map(drop),
        }
    }

    /// Gives a file that has no checksums those of what it has.
    pub(super) async fn give(&self, ino: Ino) -> Result {
        let file = self.files.get(ino)?;
        self.make_room().await?;
        {
            let mut state = file.state.write().await.map_err(|_| ESHUTDOWN)?;
            let attr = self.below.stat(ino).await?;
            self.load_anew(ino, &file, &mut state, Identity::from(&attr))
                .await?;
            if let Known::Unknown { .. } = state.known {
                if self.cut_off.load(Relaxed) {
                    // What was cut off may still change the contents.
                    return Err(ESHUTDOWN);
                }
                if attr.size.div_ceil(PAGE) > PAGES_MAX {
                    return Err(EFBIG);
                }
                let (mut sums, mut block) = (Sums::new(&[])?, Block::vacant());
                for page in 0.. {
                    let count = self.below.read(ino, page * PAGE, &mut block).await?;
                    if count > 0 {
                        sums.push(sum_of(block.as_slice().get(..count).ok_or(EIO)?))?;
                    }
                    if count < Block::SIZE {
                        break;
                    }
                }
                // Where the attribute cannot be set the file does not become open.
                self.set(ino, OPEN).await?;
                let open = Known::Open {
                    sums,
                    version: self.files.version(),
                    marked: false,
                };
                self.files.put(&file, &mut state, open);
            }
        }
        self.make_durable(Durable::Inode(ino)).await
    }
}
