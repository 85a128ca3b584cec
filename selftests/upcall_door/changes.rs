// SPDX-License-Identifier: GPL-2.0

//! Changes by the Rust API: single ones, and many tasks that change the same directories.

use crate::{ino, number, Text};
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use stack::{AsyncStackable, Blocking, OpenInode, RenameFlags, Stackable};
use upcall::{block_on, yield_now, Block, Blocks, Scope};
use vfs::{NewInode, SetAttr, XattrFlags};
use volume::{Ino, Volume};

fn mode(word: Option<&str>) -> Result<u16> {
    u16::from_str_radix(word.ok_or(EINVAL)?, 8).map_err(|_| EINVAL)
}

fn flags(word: Option<&str>) -> RenameFlags {
    let word = word.unwrap_or("");
    RenameFlags {
        no_replace: word == "noreplace",
        exchange: word == "exchange",
        whiteout: word == "whiteout",
    }
}

/// Makes one change by `layer`, by its name and words. Says the inode's number, and for contents where and how much.
pub(crate) fn change<L: AsyncStackable>(
    layer: L,
    kept: &mut KVVec<OpenInode>,
    line: &str,
    out: &mut Text,
) -> Result {
    let mut words = line.split(' ');
    let name = words.next().ok_or(EINVAL)?;
    let mut word = || words.next();
    let layer = Blocking(layer);
    let done = match name {
        "create" => {
            let (dir, name) = (ino(word())?, word().ok_or(EINVAL)?);
            layer.create(dir, name.as_bytes(), &NewInode::with_mode(mode(word())?))?
        }
        "mkdir" => {
            let (dir, name) = (ino(word())?, word().ok_or(EINVAL)?);
            layer.mkdir(dir, name.as_bytes(), 0o755)?
        }
        "symlink" => {
            let (dir, name) = (ino(word())?, word().ok_or(EINVAL)?);
            layer.symlink(dir, name.as_bytes(), word().ok_or(EINVAL)?.as_bytes())?
        }
        "mknod" => {
            let (dir, name) = (ino(word())?, word().ok_or(EINVAL)?);
            let device = (number(word())? as u32, number(word())? as u32);
            layer.mknod(dir, name.as_bytes(), 0o020_600, device)?
        }
        "link" => {
            let (dir, name) = (ino(word())?, word().ok_or(EINVAL)?);
            layer.link(dir, name.as_bytes(), ino(word())?)?
        }
        "unlink" => layer.unlink(ino(word())?, word().ok_or(EINVAL)?.as_bytes())?,
        "rmdir" => layer.rmdir(ino(word())?, word().ok_or(EINVAL)?.as_bytes())?,
        "rename" => {
            let (from, name) = (ino(word())?, word().ok_or(EINVAL)?);
            let (to, new_name) = (ino(word())?, word().ok_or(EINVAL)?);
            let flags = flags(word());
            layer.rename(from, name.as_bytes(), to, new_name.as_bytes(), flags)?
        }
        "tmpfile" => {
            let made = layer.tmpfile(ino(word())?, &NewInode::file(0o600))?;
            let made_ino = made.ino();
            kept.push(made, GFP_KERNEL)?;
            made_ino
        }
        "open" => {
            let opened = layer.open(ino(word())?)?;
            let opened_ino = opened.ino();
            kept.push(opened, GFP_KERNEL)?;
            opened_ino
        }
        "chmod" => {
            let ino = ino(word())?;
            let set = SetAttr {
                mode: Some(mode(word())?),
                ..SetAttr::default()
            };
            layer.set_attr(ino, &set)?
        }
        "chown" => {
            let ino = ino(word())?;
            let set = SetAttr {
                uid: Some(number(word())? as u32),
                gid: Some(number(word())? as u32),
                ..SetAttr::default()
            };
            layer.set_attr(ino, &set)?
        }
        "setxattr" => {
            let (ino, name) = (ino(word())?, word().ok_or(EINVAL)?);
            let value = word().ok_or(EINVAL)?.as_bytes();
            layer.setxattr(ino, name.as_bytes(), value, XattrFlags::default())?
        }
        "removexattr" => layer.removexattr(ino(word())?, word().ok_or(EINVAL)?.as_bytes())?,
        "truncate" => layer.truncate(ino(word())?, number(word())?)?,
        "fallocate" => {
            let ino = ino(word())?;
            layer.fallocate(ino, number(word())?..number(word())?, false)?
        }
        "append" => {
            let ino = ino(word())?;
            let at = layer.append(ino, word().ok_or(EINVAL)?.as_bytes())?;
            writeln!(out, "{at}")?;
            ino
        }
        "write" => {
            // From a page of a file on, so many bytes of one value
            let (ino, page) = (ino(word())?, number(word())?);
            let (len, byte) = (number(word())? as usize, number(word())? as u8);
            let start = page * Block::SIZE as u64;
            let mut blocks = Blocks::new(len.div_ceil(Block::SIZE))?;
            for n in 0..len.div_ceil(Block::SIZE) {
                blocks.page_mut(n).fill(byte);
            }
            let count = layer.write_at(ino, start..start + len as u64, &mut blocks)?;
            writeln!(out, "{count}")?;
            ino
        }
        "fsync" => {
            let ino = ino(word())?;
            layer.fsync(ino)?;
            layer.fdatasync(ino)?;
            ino
        }
        "sync" => {
            layer.sync()?;
            layer.root()
        }
        _ => return Err(ENOSYS),
    };
    writeln!(out, "{}", done.0)?;
    Ok(())
}

/// How many names each directory has at most.
const NAMES: u64 = 12;

/// What the tasks share.
struct Shared {
    volume: Arc<Volume>,
    dirs: KVec<Ino>,
    done: Atomic<u64>,
    refused: Atomic<u64>,
    wrong: Atomic<u64>,
    stop: Atomic<bool>,
}

/// Numbers that look random.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33).checked_rem(limit).unwrap_or(0)
    }
}

/// Tasks that change the same directories as fast as they can. Dropping it cancels them, wherever they are.
pub(crate) struct Churn {
    scope: Scope,
    shared: Arc<Shared>,
}

impl Shared {
    fn dir(&self, rng: &mut Rng) -> Ino {
        let at = rng.below(self.dirs.len() as u64) as usize;
        self.dirs.get(at).copied().unwrap_or(self.volume.root())
    }

    /// One step.
    async fn step(&self, rng: &mut Rng) -> Result {
        let v = &*self.volume;
        let (dir, to) = (self.dir(rng), self.dir(rng));
        let mut buffers = [[0u8; 4]; 2];
        for buffer in &mut buffers {
            let n = rng.below(NAMES);
            *buffer = [b'n', b'0' + (n / 10) as u8, b'0' + (n % 10) as u8, b'x'];
        }
        let [name, other] = &buffers;
        match rng.below(14) {
            0 | 1 => drop(v.create(dir, name, &NewInode::file(0o644)).await?),
            2 => drop(v.mkdir(dir, name, 0o755).await?),
            3 => drop(v.symlink(dir, name, b"somewhere").await?),
            4 => {
                let found = v.lookup(dir, name).await?;
                v.link(to, other, found).await?;
            }
            5 => drop(v.unlink(dir, name).await?),
            6 => drop(v.rmdir(dir, name).await?),
            7 | 8 => {
                let flags = RenameFlags {
                    exchange: rng.below(4) == 0,
                    ..RenameFlags::default()
                };
                v.rename(dir, name, to, other, flags).await?;
            }
            9 => {
                let ino = v.lookup(dir, name).await?;
                let byte = rng.below(256) as u8;
                let mut block = Block::new()?;
                block.as_mut_slice().fill(byte);
                v.write(ino, rng.below(8) * 4096, &mut block).await?;
            }
            10 => {
                let ino = v.lookup(dir, name).await?;
                v.truncate(ino, rng.below(40_000)).await?;
            }
            11 => {
                let kept = v.open(v.lookup(dir, name).await?).await?;
                let gone = v.unlink(dir, name).await;
                // It is there until the handle goes.
                v.stat(kept.ino()).await.inspect_err(|_| {
                    self.wrong.fetch_add(1, Relaxed);
                })?;
                gone?;
            }
            12 => {
                let mut entries = v.entries(dir, 0);
                while entries.next().await?.is_some() {}
            }
            _ => {
                let ino = v.lookup(dir, name).await?;
                v.read(ino, 0, &mut Block::vacant()).await?;
                v.append(ino, name).await?;
            }
        }
        Ok(())
    }

    async fn run(self: Arc<Self>, seed: u64) {
        /// What may come of a change of names that others change, too.
        const EXPECTED: [Error; 12] = [
            ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, ESTALE, EINVAL, EPERM, EBUSY, ENOSPC,
            EMLINK, ETXTBSY,
        ];
        let mut rng = Rng(seed);
        while !self.stop.load(Relaxed) {
            match self.step(&mut rng).await {
                Ok(()) => {
                    self.done.fetch_add(1, Relaxed);
                }
                Err(error) if EXPECTED.contains(&error) => {
                    self.refused.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    pr_err!("a change failed: error {}\n", error.to_errno());
                    self.wrong.fetch_add(1, Relaxed);
                }
            }
            yield_now().await;
        }
    }
}

impl Churn {
    /// Lets `tasks` tasks change the directories in the root that are called `churn*`.
    pub(crate) fn new(volume: &Arc<Volume>, tasks: u64) -> Result<Self> {
        let mut dirs = KVec::new();
        block_on(async {
            let mut entries = volume.entries(volume.root(), 0);
            while let Some(entry) = entries.next().await? {
                if entry.name.starts_with(b"churn") {
                    dirs.push(Ino(entry.ino), GFP_KERNEL)?;
                }
            }
            Ok::<_, Error>(())
        })??;
        let shared = Shared {
            volume: volume.clone(),
            dirs,
            done: Atomic::new(0),
            refused: Atomic::new(0),
            wrong: Atomic::new(0),
            stop: Atomic::new(false),
        };
        let shared = Arc::new(shared, GFP_KERNEL)?;
        let scope = Scope::new()?;
        for n in 0..tasks {
            scope.spawn(shared.clone().run(n.wrapping_mul(0x9e37_79b9) + 1))?;
        }
        Ok(Self { scope, shared })
    }

    /// Lets the tasks finish what they are at, and says how many changes were done, refused and wrong.
    pub(crate) fn stop(self, out: &mut Text) -> Result {
        self.shared.stop.store(true, Relaxed);
        block_on(self.scope.join())?;
        let count = |of: &Atomic<u64>| of.load(Relaxed);
        let shared = &self.shared;
        writeln!(
            out,
            "{} {} {}",
            count(&shared.done),
            count(&shared.refused),
            count(&shared.wrong)
        )?;
        Ok(())
    }
}
