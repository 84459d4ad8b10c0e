//! The API's Unix socket: bound by root, so that it can be anywhere, then given to the broker.

use super::broker::BrokerUser;
use super::directory::{Directory, absolute, at, kind};
use super::{InstanceError, Result};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use sandbox::sys::scm;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Binds `path`: 0660, the broker's, its group's. The directory above is made if it is missing.
pub(super) fn bind(path: &Path, broker: &BrokerUser) -> Result<UnixListener> {
    let path = absolute(path)?;
    let (Some(above), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
        return Err(InstanceError::Foreign {
            path,
            detail: "is no path for a socket".to_owned(),
        });
    };
    let dir = Directory::open_or_make_path(above)?;
    dir.check_on_the_way()?;
    remove_dead(&dir, name, &path, broker)?;

    // Nobody can connect before it has its owner and mode. The umask is the process's, but there is one thread yet.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(&path);
    umask(before);
    let listener = bound.map_err(|source| InstanceError::Io {
        verb: "listen on",
        path: path.clone(),
        source,
    })?;
    let listener = receive(listener, &path)?;
    let (uid, gid) = (Uid::from_raw(broker.uid), Gid::from_raw(broker.api_gid));
    fchownat(
        &dir,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(at("set the owner of", &path))?;
    // This call follows links on old kernels, but the name is in a directory that only root writes to.
    fchmodat(
        &dir,
        name,
        Mode::from_bits_truncate(0o660),
        FchmodatFlags::FollowSymlink,
    )
    .map_err(at("set the mode of", &path))?;
    Ok(listener)
}

/// Takes a listener; its owner and mode are whoever's who bound it.
pub fn receive(listener: UnixListener, path: &Path) -> Result<UnixListener> {
    // HTTP carries no descriptors.
    let refused = scm::refuse_descriptors(listener.as_fd());
    refused.map_err(|source| InstanceError::Io {
        verb: "refuse descriptors on",
        path: path.to_owned(),
        source,
    })?;
    Ok(listener)
}

/// Removes a socket that an earlier daemon left. Only that: anything else is somebody's.
fn remove_dead(dir: &Directory, name: &Path, path: &Path, broker: &BrokerUser) -> Result<()> {
    let foreign = |detail: String| InstanceError::Foreign {
        path: path.to_owned(),
        detail,
    };
    let Some(found) = dir.look_at(name)? else {
        return Ok(());
    };
    if kind(&found) != SFlag::S_IFSOCK {
        return Err(foreign(
            "is there already and is no socket; delete it, or choose another path (--socket)"
                .to_owned(),
        ));
    }
    // An earlier broker's uid counts too: it may have been another user's, see `BrokerUser`.
    let ours = found.st_uid == 0
        || found.st_uid == broker.uid
        || found.st_uid >= sandbox::uid_block::FIRST_UID;
    if !ours {
        return Err(foreign(format!(
            "is a socket of uid {}, not ours to replace; delete it, or choose another path (--socket)",
            found.st_uid
        )));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(at("remove", path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(InstanceError::Io {
            verb: "look whether anybody listens on",
            path: path.to_owned(),
            source,
        }),
        Ok(_) => Err(foreign(
            "is in use: another program listens there; stop it, or choose another path (--socket)"
                .to_owned(),
        )),
    }
}
