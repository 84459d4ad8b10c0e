//! Root tier: real owners and modes, in a temporary directory.

use super::*;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A place for directories, reachable by everybody as /var/lib is. `None`, said loudly, without root.
struct Ground(TempDir);

impl Ground {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED (root tier): needs root to give files away");
            return None;
        }
        let dir = TempDir::new().expect("temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        Some(Self(dir))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    /// Opens `<name>-state` and `<name>-run`.
    fn open(&self, name: &str) -> Result<Instance> {
        self.open_at(
            &self.path(&format!("{name}-state")),
            &self.path(&format!("{name}-run")),
        )
    }

    fn open_at(&self, state_dir: &Path, runtime_dir: &Path) -> Result<Instance> {
        Instance::open(Where {
            state_dir,
            runtime_dir,
            broker_user: "no-such-user",
            uid_registry: &self.path("uids"),
        })
    }
}

fn mode_and_owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (found.mode() & 0o7777, found.uid())
}

/// Every path below with what a change of it would change.
fn picture(dir: &Path) -> Vec<(PathBuf, u32, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("lists").flatten() {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).expect("is there");
        let content = if meta.is_file() {
            fs::read(&path).expect("reads")
        } else {
            Vec::new()
        };
        if meta.is_dir() {
            found.extend(picture(&path));
        }
        found.push((path, meta.mode(), meta.uid(), meta.mtime_nsec(), content));
    }
    found.sort();
    found
}

#[test]
fn everything_has_its_owner_and_mode_whatever_the_umask() {
    let Some(ground) = Ground::new() else { return };
    // Of the whole process: the other tests do not care, for the same reason.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let instance = ground.open("a").expect("opens");
    let broker = instance.layout.broker.uid;
    assert_eq!(broker, instance.layout.uids.broker_uid());
    assert_ne!(broker, 0);
    for (path, mode, owner) in [
        ("a-state", 0o711, 0),
        ("a-state/lock", 0o600, 0),
        ("a-state/instance", 0o644, 0),
        ("a-state/bases", 0o755, 0),
        ("a-state/broker", 0o700, broker),
        ("a-run", 0o755, 0),
        ("a-run/lock", 0o600, 0),
        ("a-run/sessions", 0o711, 0),
    ] {
        assert_eq!(mode_and_owner(&ground.path(path)), (mode, owner), "{path}");
    }
    // Wrong modes of directories that are there are put right.
    let id = instance.layout.id.clone();
    drop(instance);
    for loose in ["a-state", "a-state/broker", "a-run", "a-run/sessions"] {
        fs::set_permissions(ground.path(loose), fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    let again = ground.open("a").expect("opens again");
    assert_eq!(again.layout.id, id, "the id is made once");
    assert_eq!(mode_and_owner(&ground.path("a-state")).0, 0o711);
    assert_eq!(mode_and_owner(&ground.path("a-state/broker")).0, 0o700);
    assert_eq!(mode_and_owner(&ground.path("a-run/sessions")).0, 0o711);
}

#[test]
fn a_second_daemon_is_refused_and_touches_nothing() {
    let Some(ground) = Ground::new() else { return };
    let first = ground.open("a").expect("opens");
    let before = picture(ground.0.path());
    // The same state, the same runtime directory, both.
    let (state, run) = (ground.path("a-state"), ground.path("a-run"));
    for (state, run) in [(&state, &ground.path("other-run")), (&state, &run)] {
        let fault = ground.open_at(state, run).expect_err("in use");
        assert_eq!(fault.exit_code(), 75);
        assert!(
            fault
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{fault}"
        );
        assert_eq!(picture(ground.0.path()), before);
    }
    let fault = ground
        .open_at(&ground.path("other-state"), &run)
        .expect_err("in use");
    assert!(
        matches!(&fault, InstanceError::Locked { path, .. } if *path == run),
        "{fault}"
    );

    let beside = ground.open("b").expect("other directories, side by side");
    assert_ne!(beside.layout.id, first.layout.id);
    assert_ne!(beside.layout.uids, first.layout.uids);
}

#[test]
fn a_daemon_that_was_killed_leaves_no_lock() {
    let Some(ground) = Ground::new() else { return };
    drop(ground.open("a").expect("opens"));
    let mut dead = Command::new("flock")
        .args(["--no-fork", "--verbose"])
        .arg(ground.path("a-state/lock"))
        .args(["sh", "-c", "echo held; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts flock");
    let mut said = String::new();
    let mut output = dead.stdout.take().expect("piped");
    while !said.contains("held") {
        let mut byte = [0];
        assert_eq!(
            output.read(&mut byte).expect("reads"),
            1,
            "flock ended: {said}"
        );
        said.push(char::from(byte[0]));
    }
    assert_eq!(ground.open("a").expect_err("held").exit_code(), 75);
    dead.kill().expect("kills");
    dead.wait().expect("waits");
    ground.open("a").expect("a stale lock file is no lock");
}

#[test]
fn the_launchers_half_does_not_keep_a_successor_out() {
    let Some(ground) = Ground::new() else { return };
    let layout = ground.open("a").expect("opens").into_layout();
    let successor = ground.open("a").expect("no lock is left in it");
    assert_eq!(successor.layout.id, layout.id);
    assert_eq!(successor.layout.uids, layout.uids);
}

#[test]
fn directories_that_others_control_are_refused() {
    let Some(ground) = Ground::new() else { return };
    let real = ground.path("real");
    fs::create_dir(&real).expect("directory");
    symlink(&real, ground.path("link")).expect("link");
    let run = ground.path("run");
    for through in ["link", "link/below"] {
        let fault = ground
            .open_at(&ground.path(through), &run)
            .expect_err("a link");
        assert!(
            matches!(fault, InstanceError::Link { .. }),
            "{through}: {fault}"
        );
    }
    assert_eq!(
        fs::read_dir(&real).expect("lists").count(),
        0,
        "nothing was made behind the link"
    );

    let theirs = ground.path("theirs");
    fs::create_dir(&theirs).expect("directory");
    chown(&theirs, Some(65534), None).expect("chown");
    let fault = ground.open_at(&theirs, &run).expect_err("not root's");
    assert!(
        matches!(
            fault,
            InstanceError::Owner {
                found: 65534,
                wanted: 0,
                ..
            }
        ),
        "{fault}"
    );

    let open = ground.path("open");
    fs::create_dir(&open).expect("directory");
    let set = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode)).expect("chmod");
    set(0o777);
    let fault = ground
        .open_at(&open.join("state"), &run)
        .expect_err("anybody may replace it");
    assert!(
        matches!(&fault, InstanceError::Replaceable { path } if *path == open),
        "{fault}"
    );
    set(0o700);
    let fault = ground
        .open_at(&open.join("state"), &run)
        .expect_err("the broker cannot get there");
    assert!(
        matches!(&fault, InstanceError::Unreachable { path } if *path == open),
        "{fault}"
    );
    set(0o1777);
    ground
        .open_at(&open.join("state"), &run)
        .expect("as in /tmp");
}

#[test]
fn a_link_in_place_of_a_directory_or_file_of_ours_is_not_followed() {
    let Some(ground) = Ground::new() else { return };
    drop(ground.open("a").expect("opens"));
    let elsewhere = ground.path("elsewhere");
    for name in ["bases", "broker", "instance", "lock"] {
        let path = ground.path("a-state").join(name);
        let kept = ground.path("kept");
        fs::rename(&path, &kept).expect("moves");
        fs::create_dir_all(&elsewhere).expect("directory");
        symlink(&elsewhere, &path).expect("link");
        ground.open("a").expect_err(name);
        fs::remove_file(&path).expect("removes");
        fs::rename(&kept, &path).expect("moves back");
    }
    assert_eq!(mode_and_owner(&elsewhere).1, 0);
    assert_eq!(fs::read_dir(&elsewhere).expect("lists").count(), 0);
    ground.open("a").expect("opens");
}

#[test]
fn a_damaged_id_is_not_replaced_silently() {
    let Some(ground) = Ground::new() else { return };
    drop(ground.open("a").expect("opens"));
    fs::write(ground.path("a-state/instance"), "../../etc\n").expect("writes");
    let fault = ground.open("a").expect_err("no id");
    assert!(
        fault
            .to_string()
            .contains("a-state/instance holds no instance id"),
        "{fault}"
    );
}

#[test]
fn files_of_an_earlier_broker_go_to_the_present_one_and_no_others() {
    let Some(ground) = Ground::new() else { return };
    let instance = ground.open("a").expect("opens");
    let (dir, uid) = (ground.path("a-state/broker"), instance.layout.broker.uid);
    drop(instance);
    fs::create_dir_all(dir.join("artifacts/sha256")).expect("directory");
    fs::write(dir.join("artifacts/sha256/x"), "x").expect("writes");
    let outside = ground.path("outside");
    fs::write(&outside, "root's").expect("writes");
    fs::hard_link(&outside, dir.join("hard")).expect("links");
    symlink(&outside, dir.join("soft")).expect("links");
    for path in ["", "artifacts", "artifacts/sha256", "artifacts/sha256/x"] {
        chown(dir.join(path), Some(997), Some(997)).expect("chown");
    }
    ground.open("a").expect("hands over");
    for path in ["", "artifacts", "artifacts/sha256", "artifacts/sha256/x"] {
        assert_eq!(mode_and_owner(&dir.join(path)).1, uid, "{path}");
    }
    assert_eq!(mode_and_owner(&outside).1, 0);

    chown(&dir, Some(1000), Some(1000)).expect("chown");
    let fault = ground.open("a").expect_err("a person's");
    assert!(
        matches!(fault, InstanceError::Owner { found: 1000, .. }),
        "{fault}"
    );
}

#[test]
fn a_user_with_roots_uid_is_no_broker() {
    let Some(ground) = Ground::new() else { return };
    let fault = Instance::open(Where {
        state_dir: &ground.path("state"),
        runtime_dir: &ground.path("run"),
        broker_user: "root",
        uid_registry: &ground.path("uids"),
    })
    .expect_err("root");
    assert!(fault.to_string().contains("broker_user"), "{fault}");
}

#[test]
fn the_api_socket_is_the_brokers_and_its_groups() {
    let Some(ground) = Ground::new() else { return };
    let instance = ground.open("a").expect("opens");
    let path = ground.path("a-run/api.sock");
    let listener = instance.bind_api_socket(&path).expect("binds");
    assert_eq!(mode_and_owner(&path), (0o660, instance.layout.broker.uid));
    assert_eq!(
        fs::metadata(&path).expect("is there").gid(),
        instance.layout.broker.api_gid
    );
    UnixStream::connect(&path).expect("somebody listens");

    let fault = instance
        .bind_api_socket(&path)
        .expect_err("somebody listens");
    assert!(
        fault.to_string().contains("another program listens"),
        "{fault}"
    );
    UnixStream::connect(&path).expect("it was left alone");
    drop(listener);
    instance
        .bind_api_socket(&path)
        .expect("a dead one is replaced");
}

#[test]
fn what_is_not_our_dead_socket_is_refused_and_left_alone() {
    let Some(ground) = Ground::new() else { return };
    let instance = ground.open("a").expect("opens");
    let path = ground.path("a-run/api.sock");
    let refuse = |what: &str| {
        let before = picture(&ground.path("a-run"));
        let fault = instance.bind_api_socket(&path).expect_err(what);
        assert_eq!(picture(&ground.path("a-run")), before, "{what} was touched");
        fault.to_string()
    };
    fs::write(&path, "mine").expect("writes");
    assert!(refuse("a file").contains("is no socket"));
    fs::remove_file(&path).expect("removes");

    fs::create_dir(&path).expect("directory");
    assert!(refuse("a directory").contains("is no socket"));
    fs::remove_dir(&path).expect("removes");

    symlink("/run/somewhere-else.sock", &path).expect("links");
    assert!(refuse("a link").contains("is no socket"));
    fs::remove_file(&path).expect("removes");

    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    chown(&path, Some(1000), Some(1000)).expect("chown");
    assert!(refuse("another user's socket").contains("uid 1000"));
    chown(&path, Some(0), Some(0)).expect("chown");
    instance
        .bind_api_socket(&path)
        .expect("root's dead one is replaced");
}
