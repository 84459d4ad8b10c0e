//! The session's own `/dev`, with inodes of its own: the host's nodes, bound into sessions, would be shared inodes, on
//! which one session's file locks and inotify watches meet the others' and the host's.
//!
//! Made by root outside the session's user namespace, because device nodes work only on a file system that the initial
//! user namespace owns. No source has to be checked (CVE-2025-31133): the numbers are given, not found.

use super::{StepResult, add_attrs, make_fs, step};
use crate::plan::{Attr, DevNode, FsOption};
use nix::sys::stat::{Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::symlinkat;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) fn make(
    name: &'static str,
    options: &[FsOption],
    nodes: &[DevNode],
    attrs: &[Attr],
) -> StepResult<OwnedFd> {
    let dev = make_fs(name, c"tmpfs", options, &[])?;
    for node in nodes {
        step(name, || make_node(dev.as_fd(), node))?;
    }
    add_attrs(name, attrs, dev.as_fd())?;
    Ok(dev)
}

fn make_node(dev: BorrowedFd<'_>, node: &DevNode) -> io::Result<()> {
    match node {
        DevNode::Device { name, major, minor } => {
            let mode = Mode::from_bits_truncate(0o666);
            mknodat(
                dev,
                name.as_c_str(),
                SFlag::S_IFCHR,
                mode,
                makedev(*major, *minor),
            )?;
            // mknod's mode suffers from the umask.
            fchmodat(
                dev,
                name.as_c_str(),
                mode,
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            )?;
        }
        DevNode::Directory(name) => mkdirat(dev, name.as_c_str(), Mode::S_IRWXU)?,
        DevNode::Link { name, to } => symlinkat(to.as_c_str(), dev, name.as_c_str())?,
    }
    Ok(())
}
