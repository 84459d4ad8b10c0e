//! User and group ids of a process, from its `/proc/PID/status`
//! ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)).
//!
//! Of bytes, not of text: the first line is the name that the process has given itself, and a stranger's name need not be
//! UTF-8. (It cannot pretend to be another line: the kernel escapes line feeds in it.)

/// Real, effective, saved and file system uid and gid.
pub(crate) fn ids_of(status: &[u8]) -> Vec<u32> {
    String::from_utf8_lossy(status)
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Uid:")
                .or_else(|| line.strip_prefix("Gid:"))
        })
        .flat_map(str::split_whitespace)
        .filter_map(|id| id.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_hides_no_ids() {
        assert_eq!(
            ids_of(b"Name:\t\xff\\nUid:\t1\nUid:\t5\t6\t7\t8\nGid:\t9\t9\t9\t9\n"),
            [5, 6, 7, 8, 9, 9, 9, 9]
        );
    }
}
