// SPDX-License-Identifier: GPL-2.0

//! The Rust API, as `selftests/door` asks for it.
//!
//! Writing a command to the debugfs file `upcall_door/run` runs it for the writer's thread, and fails with the error
//! of what was asked. Reading the file gives what the last one said.

#[path = "upcall_door/changes.rs"]
mod changes;
#[path = "upcall_door/dump.rs"]
mod dump;
#[path = "upcall_door/hammer.rs"]
mod hammer;
#[path = "upcall_door/layers.rs"]
mod layers;

use kernel::debugfs::{Dir, File, Reader, Writer};
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::uaccess::UserSliceReader;
use kernel::{fmt, InPlaceModule};
use stack::{AsyncStackable, Blocking, OpenInode, Permitted, Stackable};
use upcall::{block_on, Block, Mutex, Scope};
use vfs::permission::current_credentials;
use volume::{Ino, Volume};

module! {
    type: UpcallDoor,
    name: "upcall_door",
    authors: ["The Upcall developers"],
    description: "Tests the Rust API",
    license: "GPL",
}

#[pin_data]
struct UpcallDoor {
    #[pin]
    file: File<Runner>,
    /// Goes after the file.
    dir: Dir,
}

impl InPlaceModule for UpcallDoor {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let dir = Dir::new(c"upcall_door");
        try_pin_init!(Self {
            file <- dir.read_write_file(c"run", Runner(Mutex::new(State::default()))),
            dir,
        })
    }
}

/// What the file does.
struct Runner(Mutex<State>);

#[derive(Default)]
struct State {
    /// Goes first: its tasks use the volume.
    hammer: Option<hammer::Hammer>,
    churn: Option<changes::Churn>,
    kept: KVVec<OpenInode>,
    volume: Option<Arc<Volume>>,
    said: Text,
}

/// Text that grows.
#[derive(Default)]
pub(crate) struct Text(KVVec<u8>);

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0
            .extend_from_slice(s.as_bytes(), GFP_KERNEL)
            .map_err(|_| fmt::Error)
    }
}

impl Writer for Runner {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock_blocking().map_err(|_| fmt::Error)?;
        f.write_str(core::str::from_utf8(&state.said.0).map_err(|_| fmt::Error)?)
    }
}

impl Reader for Runner {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut line = KVec::new();
        line.resize(reader.len(), 0, GFP_KERNEL)?;
        reader.read_slice(&mut line)?;
        let line = core::str::from_utf8(&line).map_err(|_| EINVAL)?;
        self.0.lock_blocking()?.run(line)
    }
}

pub(crate) fn number(word: Option<&str>) -> Result<u64> {
    word.ok_or(EINVAL)?.parse().map_err(|_| EINVAL)
}

fn ino(word: Option<&str>) -> Result<Ino> {
    Ok(Ino(u32::try_from(number(word)?).map_err(|_| EINVAL)?))
}

impl State {
    fn volume(&self) -> Result<&Arc<Volume>> {
        self.volume.as_ref().ok_or(ENODEV)
    }

    fn run(&mut self, line: &str) -> Result {
        self.said.0.clear();
        let mut out = Text::default();
        let (name, rest) = line
            .trim_end()
            .split_once(' ')
            .unwrap_or((line.trim_end(), ""));
        let mut words = rest.split(' ');
        match name {
            "open" => {
                self.volume = None;
                let path = CString::try_from_fmt(fmt!("{rest}"))?;
                self.volume = Some(Arc::new(Volume::open(&path)?, GFP_KERNEL)?);
            }
            "fd" => {
                self.volume = None;
                let fd = number(words.next())? as u32;
                let file = kernel::fs::LocalFile::fget(fd)?;
                // SAFETY: The thread that writes to us does nothing else with the file meanwhile.
                let file = unsafe { kernel::fs::LocalFile::assume_no_fdget_pos(file) };
                self.volume = Some(Arc::new(Volume::of_file(&file)?, GFP_KERNEL)?);
            }
            // Drops the volume on a thread that may not wait for its end.
            "let-go" => {
                let volume = self.volume.take().ok_or(ENODEV)?;
                let scope = Scope::new()?;
                if rest == "blocking" {
                    block_on(scope.spawner().spawn_blocking(move || drop(volume))?)??;
                } else {
                    block_on(scope.spawn(async move { drop(volume) })?)??;
                }
            }
            "mount" => {
                self.volume = None;
                let (device, options) = rest.split_once(' ').unwrap_or((rest, ""));
                let device = CString::try_from_fmt(fmt!("{device}"))?;
                let options = CString::try_from_fmt(fmt!("{options}"))?;
                self.volume = Some(Arc::new(Volume::mount(&device, &options)?, GFP_KERNEL)?);
            }
            "close" => {
                self.hammer = None;
                self.churn = None;
                self.kept = KVVec::new();
                self.volume = None;
            }
            "change" => {
                let volume = self.volume()?.clone();
                changes::change(volume, &mut self.kept, rest, &mut out)?;
            }
            // As the calling thread's credentials permit
            "permitted" => {
                let view = Permitted::new(self.volume()?.clone(), current_credentials());
                let view = view.with_umask(0o022);
                changes::change(view, &mut self.kept, rest, &mut out)?;
            }
            "release" => self.kept = KVVec::new(),
            "churn" => {
                let tasks = number(words.next())?;
                self.churn = Some(changes::Churn::new(self.volume()?, tasks)?);
            }
            // Cancelled wherever the tasks are
            "churn-drop" => self.churn = None,
            "churned" => {
                let churn = self.churn.take().ok_or(EINVAL)?;
                churn.stop(&mut out)?;
            }
            "dump" => {
                let in_flight = number(words.next())? as usize;
                dump::dump(self.volume()?, in_flight, &mut out)?;
            }
            "walk" | "walk_nofollow" => {
                let volume = self.volume()?;
                // From a directory, if one is named
                let (dir, path) = match rest.split_once(' ') {
                    Some((dir, path)) => (ino(Some(dir))?, path),
                    None => (volume.root(), rest),
                };
                let found = if name == "walk" {
                    block_on(volume.walk(dir, path.as_bytes()))??
                } else {
                    block_on(volume.walk_nofollow(dir, path.as_bytes()))??
                };
                writeln!(out, "{}", found.0)?;
            }
            "list" => {
                let (dir, pos) = (ino(words.next())?, number(words.next())?);
                let volume = self.volume()?;
                block_on(dump::list(&**volume, dir, pos, &mut out))??;
            }
            "extents" => {
                let volume = self.volume()?;
                let ino = ino(words.next())?;
                let range = number(words.next())?..number(words.next())?;
                block_on(dump::extents(volume, ino, range, &mut out))??;
            }
            "statfs" => {
                let st = block_on(self.volume()?.statfs())??;
                let info = self.volume()?.info();
                writeln!(
                    out,
                    "{} {} {} {} {} {}",
                    info.block_size, st.blocks, st.free, st.available, st.files, st.free_files
                )?;
            }
            "read" => {
                let (ino, offset) = (ino(words.next())?, number(words.next())?);
                let mut block = Block::vacant();
                let count = block_on(self.volume()?.read(ino, offset, &mut block))??;
                let zero = block.as_slice().get(count..).ok_or(EIO)?;
                if zero.iter().any(|&byte| byte != 0) {
                    return Err(EBADMSG);
                }
                let bytes = block.as_slice().get(..count).ok_or(EIO)?;
                writeln!(out, "{count} {}", disk::checksum::crc32(0, bytes))?;
            }
            "access" => {
                // What the calling thread's credentials permit
                let volume = self.volume()?.clone();
                let view = Permitted::new(volume, current_credentials());
                let ino = block_on(view.walk(view.root(), rest.as_bytes()))??;
                let kind = block_on(view.stat(ino))??.file_type;
                if kind == vfs::FileType::Directory {
                    let mut entries = view.entries(ino, 0);
                    block_on(entries.next())??;
                } else {
                    block_on(view.read(ino, 0, &mut Block::vacant()))??;
                }
                let names = block_on(view.listxattr(ino))??;
                let count = names.iter().filter(|&&byte| byte == 0).count();
                writeln!(out, "{count}")?;
            }
            "getxattr" => {
                let (ino, name) = (ino(words.next())?, words.next().ok_or(EINVAL)?);
                let value = block_on(self.volume()?.getxattr(ino, name.as_bytes()))??;
                writeln!(out, "{}", value.len())?;
            }
            "blocking" => {
                // The same by the synchronous twin
                let view = Blocking(self.volume()?.clone());
                let ino = view.walk(view.root(), rest.as_bytes())?;
                let bytes = view.read_to_end(ino, 1 << 24)?;
                writeln!(out, "{} {}", bytes.len(), disk::checksum::crc32(0, &bytes))?;
            }
            "hammer" => {
                let tasks = number(words.next())?;
                self.hammer = Some(hammer::Hammer::new(self.volume()?, tasks)?);
            }
            "hammered" => {
                let hammer = self.hammer.take().ok_or(EINVAL)?;
                hammer.stop(&mut out)?;
            }
            "layers" => layers::in_memory()?,
            "verify" => layers::verify(self.volume()?, rest, &mut out)?,
            "summed" => layers::summed(self.volume()?, rest, &mut out)?,
            "overlay" => layers::overlay(self.volume()?, rest, &mut out)?,
            "overlaid" => layers::overlaid(self.volume()?, &mut out)?,
            "mirror" => {
                let devices = rest.split_once(' ').ok_or(EINVAL)?;
                layers::mirror(devices, &mut out)?;
            }
            _ => return Err(ENOSYS),
        }
        self.said = out;
        Ok(())
    }
}
