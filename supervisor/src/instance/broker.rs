//! Whom the broker becomes, and the one directory that is its own.

use super::directory::{Directory, MAX_DEPTH, at, is_directory, kind};
use super::{InstanceError, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Group, Uid, User, fchownat};
use sandbox::uid_block::{FIRST_UID, UidRange};
use std::path::Path;

/// The unprivileged user that the broker becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUser {
    /// Its uid.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Group whose members may use the API socket.
    pub api_gid: u32,
    /// Its name, where the host has such a user; else it is the first uid of the instance's block.
    pub name: Option<String>,
}

impl BrokerUser {
    /// The user of that name, else the block's first uid.
    pub(super) fn find(name: &str, uids: &UidRange) -> Result<Self> {
        let unreadable = |errno: Errno| InstanceError::Foreign {
            path: "/etc/passwd".into(),
            detail: format!("cannot be asked for the user `{name}`: {errno}"),
        };
        let user = User::from_name(name).map_err(unreadable)?;
        let group = Group::from_name(name).map_err(unreadable)?;
        let (uid, gid) = match &user {
            Some(user) => (user.uid.as_raw(), user.gid.as_raw()),
            None => (uids.broker_uid(), uids.broker_uid()),
        };
        if uid == 0 || gid == 0 {
            return Err(InstanceError::Foreign {
                path: "/etc/passwd".into(),
                detail: format!(
                    "gives the user `{name}` root's uid or gid; the broker must have neither (broker_user)"
                ),
            });
        }
        Ok(Self {
            uid,
            gid,
            api_gid: group.map_or(gid, |group| group.gid.as_raw()),
            name: user.map(|user| user.name),
        })
    }
}

/// Opens `broker/` for this broker. If it belongs to an earlier one (the user `agentcore` was added, or the instance got
/// another block), it is handed over with all that is in it.
pub(super) fn directory(state: &Directory, broker: &BrokerUser) -> Result<Directory> {
    let name = Path::new("broker");
    let owner = (broker.uid, broker.gid);
    if state.look_at(name)?.is_none() {
        return state.make(name, 0o700, owner);
    }
    let dir = state.open_dir(name)?;
    let before = dir.stat()?.st_uid;
    if before != broker.uid {
        // Only from a uid that can have been a broker's: a system user's or one of a block.
        let was_a_broker = (1..1000).contains(&before) || before >= FIRST_UID;
        if !was_a_broker {
            return Err(InstanceError::Owner {
                path: dir.path().to_owned(),
                found: before,
                wanted: broker.uid,
            });
        }
        hand_over(&dir, before, owner, MAX_DEPTH)?;
        // Last, so that an interrupted hand-over is taken up again.
        dir.set_owner(owner)?;
    }
    dir.set_mode(0o700)?;
    Ok(dir)
}

/// Gives every file that belongs to `before` to `owner`. Each is opened first, without following links, and what was
/// opened is what is given: a process of the old uid that renames things meanwhile gains nothing, and files of others
/// (hard links to them) stay theirs.
fn hand_over(dir: &Directory, before: u32, owner: (u32, u32), levels: usize) -> Result<()> {
    let Some(levels) = levels.checked_sub(1) else {
        return Err(at("hand over", dir.path())(Errno::ENAMETOOLONG));
    };
    for name in dir.names()? {
        let name = Path::new(&name);
        let path = dir.path().join(name);
        let Some(found) = dir.look_at(name)? else {
            continue;
        };
        if kind(&found) == SFlag::S_IFLNK {
            // A link's owner decides nothing.
            continue;
        }
        if is_directory(&found) {
            hand_over(&dir.open_dir(name)?, before, owner, levels)?;
        }
        let file = dir.open(name, OFlag::O_PATH, Mode::empty())?;
        if fstat(&file).map_err(at("look at", &path))?.st_uid == before {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            fchownat(&file, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
                .map_err(at("set the owner of", &path))?;
        }
    }
    Ok(())
}
