//! SysV objects of sessions in this ipc namespace. Sessions have one of their own, so there are none, unless a session was
//! made without it on purpose; and then nobody else takes them away.

use crate::Result;
use anyhow::ensure;
use std::fs;
use std::ops::RangeInclusive;
use std::process::Command;

/// Uids that sessions of any instance may have (`sandbox::uid_block`).
const SESSION_UIDS: RangeInclusive<u32> = 2_013_265_920..=0x7FFF_FFFF;

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `shm`, `msg` or `sem`.
    pub kind: &'static str,
    /// Its identifier.
    pub id: String,
    /// Its line in `/proc/sysvipc`.
    pub line: String,
}

/// Those that are there.
#[must_use]
pub fn of_sessions() -> Vec<Object> {
    let mut found = Vec::new();
    for (kind, column) in [("shm", 7), ("msg", 7), ("sem", 4)] {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let uid = words.get(column).and_then(|word| word.parse().ok());
            if let Some(id) = words.get(1)
                && uid.is_some_and(|uid| SESSION_UIDS.contains(&uid))
            {
                found.push(Object {
                    kind,
                    id: (*id).to_owned(),
                    line: line.to_owned(),
                });
            }
        }
    }
    found
}

/// Takes them away.
pub fn remove_all() -> Result {
    for object in of_sessions() {
        let status = Command::new("ipcrm")
            .args([object.kind, &object.id])
            .status()?;
        ensure!(status.success(), "ipcrm: {status}: {object:?}");
    }
    Ok(())
}
