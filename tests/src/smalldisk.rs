//! A file system of a test's own below a daemon's state directory, small enough to be filled.

use crate::{daemon, host, wait};
use anyhow::{Context as _, ensure};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory for one daemon, of which `state/` is a mount. Taken away when it is dropped, which has to be after the daemon.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
    /// Image of the ext4.
    image: Option<PathBuf>,
    /// Of a thin one: the file system that the image is on.
    below: Option<PathBuf>,
}

impl SmallDisk {
    /// A tmpfs of so many bytes.
    pub fn tmpfs(bytes: u64) -> anyhow::Result<Self> {
        let disk = Self::new(None)?;
        let size = format!("size={bytes},mode=0755");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "small"],
            &[&disk.mount()],
        )?;
        Ok(disk)
    }

    /// An ext4 without a journal, so that it can be repaired and mounted again after [`Self::trip`].
    pub fn ext4(bytes: u64) -> anyhow::Result<Self> {
        let mut disk = Self::new(None)?;
        let image = disk.dir.join("disk.img");
        File::create(&image)?.set_len(bytes)?;
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal"],
            &[&image],
        )?;
        disk.image = Some(image);
        disk.attach("errors=remount-ro")?;
        Ok(disk)
    }

    /// An ext4 that says it has so many bytes, on a disk that has only `room`: see [`Self::fail`].
    pub fn thin(bytes: u64, room: u64) -> anyhow::Result<Self> {
        let mut disk = Self::new(None)?;
        let below = disk.dir.join("below");
        fs::create_dir(&below)?;
        let size = format!("size={room},mode=0755");
        run("mount", &["-t", "tmpfs", "-o", &size, "below"], &[&below])?;
        let image = below.join("disk.img");
        disk.below = Some(below);
        File::create(&image)?.set_len(bytes)?;
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal"],
            &[&image],
        )?;
        disk.image = Some(image);
        disk.attach("errors=continue,noinit_itable")?;
        Ok(disk)
    }

    /// From now on a thin disk fails what is written to it: to whoever writes all is well, until it is synced.
    pub fn fail(&self) -> anyhow::Result<()> {
        fill(&self.filler_below()?)
    }

    /// The disk is well again; what it has failed to write is lost.
    pub fn mend(&self) -> anyhow::Result<()> {
        fs::remove_file(self.filler_below()?).context("mend the disk")
    }

    fn filler_below(&self) -> anyhow::Result<PathBuf> {
        Ok(self.below.as_deref().context("not thin")?.join("filler"))
    }

    fn new(image: Option<PathBuf>) -> anyhow::Result<Self> {
        let disk = Self {
            dir: daemon::new_dir()?,
            image,
            below: None,
        };
        fs::create_dir(disk.mount())?;
        Ok(disk)
    }

    fn attach(&self, how: &str) -> Result<(), anyhow::Error> {
        let image = self.image.as_deref().context("no image")?;
        let how = format!("loop,{how}");
        run("mount", &["-o", &how], &[image, &self.mount()])
    }

    /// For [`crate::Options::dir`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    fn mount(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn filler(&self) -> PathBuf {
        self.mount().join("filler")
    }

    /// Takes all the room that there is.
    pub fn fill(&self) -> anyhow::Result<()> {
        fill(&self.filler())
    }

    /// Gives back what [`Self::fill`] took.
    pub fn make_room(&self) -> anyhow::Result<()> {
        fs::remove_file(self.filler()).context("make room")
    }

    /// Has the ext4 find an error, after which it is read-only.
    pub fn trip(&self) -> anyhow::Result<()> {
        let device = Command::new("findmnt")
            .args(["-no", "SOURCE"])
            .arg(self.mount())
            .output()?;
        let device = String::from_utf8(device.stdout)?;
        let name = device.trim().rsplit('/').next().context("no device")?;
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        fs::write(&trigger, "a test").with_context(|| trigger.clone())?;
        let probe = File::create(self.mount().join("probe"));
        ensure!(probe.is_err(), "it can still be written");
        Ok(())
    }

    /// Takes it off, repairs it and mounts it again: nobody may have a file of it open, soon.
    pub fn repair(&self) -> anyhow::Result<()> {
        let mount = self.mount();
        let mut last = Ok(());
        let taken_off = wait::until_true(20, "the disk to be let go", || {
            // A daemon that did not start was cleared away with what is mounted there.
            if host::mounts_below(&mount).is_empty() {
                return Ok(true);
            }
            last = run("umount", &[], &[&mount]);
            Ok(last.is_ok())
        });
        taken_off.with_context(|| format!("{last:?}"))?;
        let image = self.image.as_deref().context("no image")?;
        let repaired = Command::new("e2fsck").arg("-fy").arg(image).output()?;
        // 1: faults were corrected.
        let code = repaired.status.code();
        ensure!(matches!(code, Some(0 | 1)), "e2fsck: {repaired:?}");
        self.attach("errors=remount-ro")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What was left open goes with its last user.
        let _ = nix::mount::umount2(&self.mount(), nix::mount::MntFlags::MNT_DETACH);
        if let Some(below) = &self.below {
            let _ = nix::mount::umount2(below, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    for size in [1 << 20, 64 << 10, 4096, 512, 1] {
        let piece = vec![b'x'; size];
        loop {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
    }
    Ok(())
}

fn run(program: &str, words: &[&str], paths: &[&Path]) -> anyhow::Result<()> {
    let done = Command::new(program).args(words).args(paths).output()?;
    ensure!(done.status.success(), "{program} {words:?}: {done:?}");
    Ok(())
}
