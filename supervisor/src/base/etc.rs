//! `/etc` of a base: nothing in it tells of this host but its certificates and which distribution it is.

use super::{Result, io_at, read_if_there};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that are the same on every host. PID 1 of a session is uid 0 in there, its agent 1000.
pub(super) const FILES: [(&str, &str); 8] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/usr/bin/false\n\
         agent:x:1000:1000:agent:/home/agent:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"),
    (
        "etc/hosts",
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    ),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\n\
         services: files\nethers: files\nrpc: files\n",
    ),
    ("etc/hostname", "localhost\n"),
    (
        "etc/resolv.conf",
        "# No resolver here: names are resolved by the proxy that HTTP_PROXY and HTTPS_PROXY name.\n",
    ),
    ("etc/shells", "/bin/sh\n/bin/bash\n"),
    ("etc/timezone", "Etc/UTC\n"),
];

/// Links, name and target.
pub(super) const LINKS: [(&str, &str); 6] = [
    ("etc/mtab", "../proc/self/mounts"),
    ("etc/localtime", "../usr/share/zoneinfo/Etc/UTC"),
    ("etc/os-release", "../usr/lib/os-release"),
    // Where Debian's OpenSSL looks. No cert.pem: with one, Python parses every certificate for each TLS context instead
    // of looking up the one that it needs.
    ("usr/lib/ssl/certs", "/etc/ssl/certs"),
    ("usr/lib/ssl/openssl.cnf", "/etc/ssl/openssl.cnf"),
    ("var/tmp", "../tmp"),
];

/// Files of the host that no package lists (they are generated when packages are installed) or that are settings, with
/// their content, sorted by name. They are part of a base's key.
pub(super) fn from_host() -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for file in ["/etc/ssl/openssl.cnf", "/usr/lib/os-release"] {
        if let Some(content) = read_if_there(Path::new(file))? {
            files.push((PathBuf::from(file), content));
        }
    }
    let certificates = Path::new("/etc/ssl/certs");
    let names = match fs::read_dir(certificates) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(io_at("list", certificates)(error)),
    };
    for name in names {
        let path = name.map_err(io_at("list", certificates))?.path();
        // Links lead to the certificates' own places, which a base need not have. One that leads nowhere has nothing to
        // trust in it.
        if path.is_file()
            && let Some(content) = read_if_there(&path)?
        {
            files.push((path, content));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_those_of_the_sandbox_and_names_are_unique() {
        let passwd = FILES
            .iter()
            .find(|(name, _)| *name == "etc/passwd")
            .expect("is there")
            .1;
        let uids: Vec<&str> = passwd
            .lines()
            .filter_map(|line| line.split(':').nth(2))
            .collect();
        assert_eq!(uids, ["0", "1000", "65534"]);
        let mut names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        names.extend(LINKS.iter().map(|(name, _)| *name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
