//! A disk of the run's own, small enough to be filled: a file, an ext4 in it, mounted.

use crate::command::run;
use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: u64 = 1 << 30;

/// Unmounted and removed when dropped.
pub(super) struct Disk {
    image: PathBuf,
    point: PathBuf,
}

/// What fills a disk; gone when dropped.
pub(super) struct Ballast(PathBuf);

impl Disk {
    /// Mounts a new one at `point`.
    pub(super) fn mount(point: &Path) -> anyhow::Result<Self> {
        let image = point.with_extension("img");
        File::create(&image)
            .and_then(|file| file.set_len(BYTES))
            .with_context(|| image.display().to_string())?;
        // Nothing is set apart for root, who fills it.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, point]))?;
        Ok(Self {
            image,
            point: point.to_owned(),
        })
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) -> anyhow::Result<Ballast> {
        let path = self.point.join("ballast");
        let file = File::create(&path)?;
        let ballast = Ballast(path);
        let (mut at, mut piece) = (0, 64 << 20);
        while piece >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), at, piece) {
                Ok(()) => at += piece,
                Err(Errno::ENOSPC) => piece /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("xtask: {}: {error}", self.0.display());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let removed = run(Command::new("umount").arg(&self.point)).and_then(|()| {
            std::fs::remove_dir(&self.point)?;
            Ok(std::fs::remove_file(&self.image)?)
        });
        if let Err(error) = removed {
            eprintln!("xtask: {}: {error:#}", self.image.display());
        }
    }
}
