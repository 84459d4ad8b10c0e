//! What a stager makes in its place before there is an order: the network of the session to come.
//!
//! A network namespace takes the kernel longer than all the others together, and nothing of it depends on the session. PID 1 is
//! cloned into the stager's, instead of one of its own.
//!
//! ```text
//! stager ─▶ maker   clone3 with a user and a network namespace; waits
//!        ◀─         the stager joins the network, and the maker ends
//! ```
//!
//! Why there is a maker: who brings up `lo` needs `CAP_NET_ADMIN` over the namespace, which the launcher does not keep; whose
//! user namespace it is has it (user_namespaces(7)). That user namespace stays without a process. So nobody in the session has
//! any capability over its network, also not PID 1 while it has all of them in its own.

use super::{StepResult, step};
use crate::plan::{PlaceAct, Step};
use crate::sys::fork::Clone3;
use crate::sys::loopback;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{self, Read};

pub(super) fn make(steps: &[Step<PlaceAct>]) -> StepResult<()> {
    for Step { name, act } in steps {
        step(name, || match act {
            PlaceAct::Network => network(),
            PlaceAct::Loopback => loopback::up(),
        })?;
    }
    Ok(())
}

fn network() -> io::Result<()> {
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
    let clone = Clone3 {
        namespaces: u64::from(namespaces.cast_unsigned()),
        ..Clone3::default()
    };
    let mut ends = Some(pipe2(OFlag::O_CLOEXEC)?);
    let maker = clone.spawn(|| {
        // Without our copy of the stager's end, its closing is an end of file here, and so is its death.
        let Some((wait, stagers)) = ends.take() else {
            return 1;
        };
        drop(stagers);
        i32::from(File::from(wait).read(&mut [0]).is_err())
    })?;
    // Not reaped yet, so its number is its own.
    let joined = File::open(format!("/proc/{}/ns/net", maker.pid))
        .and_then(|network| Ok(setns(network, CloneFlags::CLONE_NEWNET)?));
    drop(ends);
    let ended = waitpid(maker.pid, None)?;
    joined?;
    match ended {
        WaitStatus::Exited(_, 0) => Ok(()),
        other => Err(io::Error::other(format!("the maker: {other:?}"))),
    }
}
