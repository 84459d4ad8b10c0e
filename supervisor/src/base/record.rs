//! What a base is made from: its key, and the record that lies in it.

use super::package::Packages;
use super::{BaseError, Result, builtin, etc, io_at};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Raised by whoever changes how a base is built: then every host builds anew.
const RECIPE: u32 = 1;

/// Where the record is in a base. Agents may read it, too.
pub(super) const PATH: &str = "opt/agentcore/base.json";

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Versions of interpreters.
    pub(super) versions: BTreeMap<String, String>,
    /// For the log.
    pub(super) notes: Vec<String>,
    /// Package and version.
    pub(super) packages: BTreeMap<String, String>,
}

impl Record {
    /// Reads the record of a finished base.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(PATH);
        let bytes = fs::read(&path).map_err(io_at("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|fault| BaseError::Broken {
            detail: format!(
                "{} is damaged ({fault}), so {} is not used",
                path.display(),
                root.display()
            ),
        })
    }

    /// Its text.
    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|fault| BaseError::Broken {
            detail: format!("the record of a base could not be written: {fault}"),
        })
    }
}

/// The name of the base that these packages make, with the host's files and our own that go into it.
pub(super) fn key(packages: &Packages) -> Result<String> {
    let mut hash = Sha256::new();
    // Lengths go in, too: no two lists of parts give the same bytes.
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&RECIPE.to_le_bytes());
    for (package, version) in &packages.versions {
        add(package.as_bytes());
        add(version.as_bytes());
    }
    for (file, content) in builtin::FILES {
        add(file.as_bytes());
        add(content);
    }
    for (file, content) in etc::from_host()? {
        add(file.as_os_str().as_encoded_bytes());
        add(&content);
    }
    let mut key = String::new();
    for byte in &hash.finalize()[..16] {
        write!(key, "{byte:02x}").map_err(|_| BaseError::Broken {
            detail: "a key could not be written".to_owned(),
        })?;
    }
    Ok(key)
}
