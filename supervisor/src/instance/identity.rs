//! The instance's id: made at random once, kept in the state directory, part of every name it has on the host.

use super::directory::{Directory, at};
use super::{InstanceError, Result};
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use proto::ids::InstanceId;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const NAME: &str = "instance";
/// 26 · 36^9 ids: two of a thousand instances on one host are the same with a chance of 1 in 5 billion.
const LENGTH: usize = 10;

/// Reads the id, or makes one.
pub(super) fn of(state: &Directory) -> Result<InstanceId> {
    let path = state.path().join(NAME);
    let text = match state.open(Path::new(NAME), OFlag::O_RDONLY, Mode::empty()) {
        Ok(fd) => {
            let mut text = String::new();
            File::from(fd)
                .take(64)
                .read_to_string(&mut text)
                .map_err(|source| InstanceError::Io {
                    verb: "read",
                    path: path.clone(),
                    source,
                })?;
            text
        }
        Err(InstanceError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return make(state);
        }
        Err(error) => return Err(error),
    };
    InstanceId::parse(text.trim()).map_err(|fault| InstanceError::Foreign {
        path,
        detail: format!(
            "holds no instance id ({fault}). Put the old one back: sessions that live have it in their names. If none \
             does, delete the file"
        ),
    })
}

fn make(state: &Directory) -> Result<InstanceId> {
    let path = state.path().join(NAME);
    let failed = |source| InstanceError::Io {
        verb: "create",
        path: path.clone(),
        source,
    };
    let id = random().map_err(failed)?;
    let temporary = Path::new("instance.new");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let mut file = File::from(state.open(temporary, flags, Mode::from_bits_truncate(0o644))?);
    // The mode above passed through the umask.
    file.set_permissions(Permissions::from_mode(0o644))
        .map_err(failed)?;
    writeln!(file, "{id}")
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    renameat(state, temporary, state, NAME).map_err(at("create", &path))?;
    state.sync()?;
    Ok(id)
}

fn random() -> std::io::Result<InstanceId> {
    const FIRST: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    const LATER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = File::open("/dev/urandom")?;
    let mut id = String::new();
    while id.len() < LENGTH {
        let letters = if id.is_empty() { FIRST } else { LATER };
        let mut byte = [0];
        source.read_exact(&mut byte)?;
        // Bytes beyond a multiple of the alphabet would favour its first letters.
        let usable = 256 / letters.len() * letters.len();
        if usize::from(byte[0]) < usable {
            id.push(char::from(letters[usize::from(byte[0]) % letters.len()]));
        }
    }
    InstanceId::parse(id).map_err(std::io::Error::other)
}
