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
        disk.attach()?;
        Ok(disk)
    }

    fn new(image: Option<PathBuf>) -> anyhow::Result<Self> {
        let disk = Self {
            dir: daemon::new_dir()?,
            image,
        };
        fs::create_dir(disk.mount())?;
        Ok(disk)
    }

    fn attach(&self) -> Result<(), anyhow::Error> {
        let image = self.image.as_deref().context("no image")?;
        run(
            "mount",
            &["-o", "loop,errors=remount-ro"],
            &[image, &self.mount()],
        )
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
        let path = self.filler();
        let mut file = File::options().create(true).append(true).open(&path)?;
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
        self.attach()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What was left open goes with its last user.
        let _ = nix::mount::umount2(&self.mount(), nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn run(program: &str, words: &[&str], paths: &[&Path]) -> anyhow::Result<()> {
    let done = Command::new(program).args(words).args(paths).output()?;
    ensure!(done.status.success(), "{program} {words:?}: {done:?}");
    Ok(())
}
