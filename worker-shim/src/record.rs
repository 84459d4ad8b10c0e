//! The exit record: says *how* the session ended, where a pidfd only says *when*.

use proto::shim::ExitRecord;
use sandbox::exit_mark::{self, Mark};
use std::io;
use std::os::fd::AsFd;

/// Leaves the record. At once, so that a reader sees all of it or none.
pub(crate) fn leave(pipe: impl AsFd, record: &ExitRecord) -> io::Result<()> {
    let (seconds, nanoseconds) = record.to_numbers();
    exit_mark::leave(
        pipe,
        Mark {
            seconds,
            nanoseconds,
        },
    )
}
