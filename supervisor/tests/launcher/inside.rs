//! As PID 1 of a session: says hello to whoever connects, then does what the boot file says.

use sandbox::exit_mark::{self, Mark};
use sandbox::shim_entry;
use std::io::Read;
use std::time::Duration;

pub(crate) fn main() {
    let mut boot = String::new();
    let mut file = shim_entry::claim_boot().expect("boot");
    file.read_to_string(&mut boot).expect("read boot");
    let listener = shim_entry::claim_listener().expect("listener");
    let record = shim_entry::claim_exit_record().expect("exit record");
    shim_entry::harden().expect("harden");
    if boot == "exit" {
        let mark = Mark {
            seconds: 3,
            nanoseconds: 14,
        };
        exit_mark::leave(record, mark).expect("leave");
        std::process::exit(3);
    }
    if boot == "template" || boot == "forked" {
        let link = listener.accept().expect("accept");
        link.send(boot.as_bytes(), &[]).expect("send hello");
        match &*boot {
            "template" => super::forks::template(&link),
            _ => super::forks::session(&link),
        }
    }
    loop {
        let link = listener.accept().expect("accept");
        link.send(boot.as_bytes(), &[]).expect("send hello");
        let mut buffer = [0; 64];
        while let Ok(asked @ 1..) = link.recv(&mut buffer).map(|packet| packet.len) {
            match &buffer[..asked] {
                b"starve" => starve(),
                b"bomb" => {
                    let forks = bomb();
                    link.send(forks.to_string().as_bytes(), &[]).expect("send");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A child takes more memory than the session has; PID 1 itself stays small.
fn starve() {
    sandbox::sys::fork::fork_single(|| {
        let mut hoard: Vec<Vec<u8>> = Vec::new();
        loop {
            hoard.push(vec![1; 1 << 20]);
        }
    })
    .expect("fork");
}

/// Forks until that fails.
fn bomb() -> usize {
    let mut forks = 0;
    while sandbox::sys::fork::fork_single(|| {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    })
    .is_ok()
    {
        forks += 1;
    }
    forks
}
