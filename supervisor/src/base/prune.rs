//! Old bases: after an upgrade of the host's packages there is a new one, and nobody needs the old one once the last
//! session that was started from it has ended.

use super::{Base, Result, io_at};
use std::fs;
use std::io;
use std::path::Path;

/// Removes every base of this state directory but `keep` that no process has mounted. Must run before sessions are
/// launched and by the daemon that has the state directory locked. Returns the keys of those removed.
pub fn prune(state_dir: &Path, keep: &Base) -> Result<Vec<String>> {
    let bases = state_dir.join("bases");
    let mut old = Vec::new();
    for entry in fs::read_dir(&bases).map_err(io_at("list", &bases))? {
        let entry = entry.map_err(io_at("list", &bases))?;
        let kind = entry.file_type().map_err(io_at("look at", &entry.path()))?;
        if let Some(key) = entry.file_name().to_str()
            && kind.is_dir()
            && is_key(key)
            && entry.path() != keep.root
        {
            old.push(key.to_owned());
        }
    }
    if old.is_empty() {
        return Ok(old);
    }
    let mounted = mounted()?;
    old.retain(|key| !mounted.contains(key.as_str()));
    for key in &old {
        let path = bases.join(key);
        fs::remove_dir_all(&path).map_err(io_at("remove", &path))?;
    }
    old.sort();
    Ok(old)
}

/// 128 bits in hexadecimal: no name of anything else, also not within a longer path.
fn is_key(name: &str) -> bool {
    name.len() == 32
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The mount tables of all processes. A mount's line has the path that it shows within its file system, and so the key.
/// A table that cannot be read is an error: what it might have named must not be removed.
fn mounted() -> Result<String> {
    let proc = Path::new("/proc");
    let mut tables = String::new();
    for process in fs::read_dir(proc).map_err(io_at("list", proc))? {
        let name = process.map_err(io_at("list", proc))?.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = proc.join(name).join("mountinfo");
        match fs::read_to_string(&path) {
            Ok(table) => tables.push_str(&table),
            // It has ended (EINVAL: a zombie has no mounts any more).
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || matches!(
                        error.raw_os_error(),
                        Some(nix::libc::ESRCH | nix::libc::EINVAL)
                    ) => {}
            Err(error) => return Err(io_at("read", &path)(error)),
        }
    }
    Ok(tables)
}
