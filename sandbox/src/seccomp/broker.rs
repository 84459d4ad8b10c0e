//! The filter that the broker puts on itself when it has become an ordinary user: what sessions are refused too, and programs.
//!
//! It has no list of what is allowed: a runtime for asynchronous work and a database make calls that nobody foresees, and a
//! daemon that ends for want of one is worse than what is left. It is for what an intruder in a parser would try next: another
//! program, a user namespace, and the kernel's own interfaces that the broker has no business with.
//!
//! Sessions do not inherit it: the launcher makes them, which was forked before.

use super::{FilterError, by_argument, errno, forbidden, foreign_tables, numbers, tree};
use nix::errno::Errno;
use seccompiler::BpfProgram;

/// The broker never starts a program: bases are built before there is one, and whatever else runs, runs in a session.
const PROGRAMS: [libc::c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// Its flags are in memory, where a filter cannot look; C libraries then take clone, whose flags are judged.
const UNSEEN: [libc::c_long; 1] = [libc::SYS_clone3];

/// Compiles it.
pub fn broker_filter() -> Result<BpfProgram, FilterError> {
    let mut program = foreign_tables();
    program.extend(tree::search(UNSEEN, errno(Errno::ENOSYS)));
    program.extend(tree::search(
        numbers(forbidden::GROUPS).chain(PROGRAMS),
        errno(Errno::EPERM),
    ));
    program.extend(by_argument()?);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::install;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::prctl;

    /// The filter is that of one thread of the test's.
    fn filtered<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(|| {
            prctl::set_no_new_privs().expect("no_new_privs");
            install(&broker_filter().expect("compiles")).expect("installs");
            act()
        });
        thread.join().expect("no panic")
    }

    #[test]
    fn what_it_refuses_is_refused_by_the_kernel() {
        let nothing = CloneFlags::empty();
        assert_eq!(unshare(nothing), Ok(()), "else nothing below is shown");
        assert_eq!(filtered(move || unshare(nothing)), Err(Errno::EPERM));
        let program = || {
            let outcome = std::process::Command::new("/nonexistent/program").spawn();
            outcome.expect_err("there is none").raw_os_error()
        };
        assert_eq!(program(), Some(libc::ENOENT));
        assert_eq!(filtered(program), Some(libc::EPERM));
        let socket = || {
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
            let flags = SockFlag::empty();
            socket(AddressFamily::Packet, SockType::Raw, flags, None).map(drop)
        };
        assert_eq!(filtered(socket), Err(Errno::EPERM));
        let status = filtered(|| std::fs::read_to_string("/proc/thread-self/status"));
        assert!(status.expect("reads").contains("Seccomp:\t2"));
    }

    #[test]
    fn what_a_daemon_does_goes_on() {
        let outcome = filtered(|| {
            // Threads come by clone where clone3 is not there.
            let thread = std::thread::spawn(|| 7).join().map_err(|_| "thread");
            let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|_| "listener")?;
            let address = listener.local_addr().map_err(|_| "address")?;
            std::net::TcpStream::connect(address).map_err(|_| "connection")?;
            use std::net::ToSocketAddrs as _;
            ("localhost", 80)
                .to_socket_addrs()
                .map_err(|_| "resolver")?;
            std::os::unix::net::UnixStream::pair().map_err(|_| "pair")?;
            let file = tempfile::tempfile().map_err(|_| "file")?;
            nix::fcntl::fallocate(
                std::os::fd::AsFd::as_fd(&file),
                nix::fcntl::FallocateFlags::empty(),
                0,
                4096,
            )
            .map_err(|_| "fallocate")?;
            file.sync_all().map_err(|_| "fsync")?;
            thread
        });
        assert_eq!(outcome, Ok(7));
    }
}
