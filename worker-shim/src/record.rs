//! The exit record: one JSON line that says *how* the session ended, where a pidfd only says *when*.

use proto::shim::ExitRecord;
use std::io::{self, Write};

/// Writes the record. One write, so that a reader sees all of it or none.
pub(crate) fn write(mut to: impl Write, record: &ExitRecord) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    to.write_all(&line)
}
