//! Bases in which a mount point is not a directory but something that leads elsewhere (security bar F19): the launch
//! fails at the step that would have used it, and nothing on the host is touched.

use super::ground::Ground;
use nix::sys::stat::Mode;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

/// Mount point, and the step that uses it.
const POINTS: [(&str, &str); 6] = [
    ("proc", "proc.mount"),
    ("dev", "dev.attach"),
    ("tmp", "tmp.mount"),
    ("home/agent", "home.mount"),
    ("home", "home.mount"),
    ("app", "app.attach"),
];

type Obstacle = (&'static str, fn(&Path));

const OBSTACLES: [Obstacle; 5] = [
    ("a link to the host", |at| {
        symlink("/etc", at).expect("symlink")
    }),
    ("a link upwards", |at| {
        symlink("../../../../../../etc", at).expect("symlink")
    }),
    ("a dangling link", |at| {
        symlink("/nowhere", at).expect("symlink")
    }),
    ("a file", |at| fs::write(at, "x").expect("write")),
    ("a FIFO", |at| {
        nix::unistd::mkfifo(at, Mode::S_IRWXU).expect("mkfifo")
    }),
];

pub(crate) fn trees() {
    let before = fingerprint();
    for (point, step) in POINTS {
        for (what, make) in OBSTACLES {
            let ground = Ground::new();
            let at = ground.base().join(point);
            fs::remove_dir_all(&at).expect("remove");
            make(&at);
            let fault = ground.launch("look").expect_err(what);
            assert_eq!(fault.stage, step, "{point} is {what}: {fault}");
        }
        let ground = Ground::new();
        fs::remove_dir_all(ground.base().join(point)).expect("remove");
        let fault = ground.launch("look").expect_err("nothing");
        assert_eq!(
            (fault.stage.as_str(), fault.errno),
            (step, libc::ENOENT),
            "{point} is missing"
        );
    }
    let ground = Ground::new();
    fs::create_dir_all(ground.base().join("sys/kernel")).expect("create");
    let fault = ground.launch("look").expect_err("a /sys with content");
    assert_eq!(
        (fault.stage.as_str(), fault.errno),
        ("sys.absent", libc::ENOTEMPTY)
    );
    assert_eq!(before, fingerprint(), "the host has changed");
}

/// What a mount or a write on the host would change.
fn fingerprint() -> (String, i64, u64) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let etc = fs::metadata("/etc").expect("stat");
    (mounts, etc.mtime_nsec() + etc.mtime(), etc.dev())
}

/// A session is never in the host's network, whatever its stager has left out.
pub(crate) fn a_place_without_a_network_becomes_no_session() {
    let mut ground = Ground::new();
    ground.settles = false;
    let fault = ground.launch("look").expect_err("no network");
    assert_eq!(
        (fault.stage.as_str(), fault.errno),
        ("ns.net", libc::EINVAL)
    );
}
