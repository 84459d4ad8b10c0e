//! File tier, with a registry in a temporary directory; the last one needs root to start a process with another uid.

use super::*;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// A registry and a place for state directories. One test at a time has one: the last test starts a process that every
/// other would see.
struct Host(
    TempDir,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Host {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self(TempDir::new().expect("temporary directory"), turn)
    }

    /// For tests that depend on which block is free: leaves out the first ones, a different number in each run, because
    /// the machine may have real sessions, or this test running elsewhere, in them.
    fn apart(self) -> Self {
        fs::create_dir(self.registry()).expect("directory");
        for first in Registry::blocks().take(8 + std::process::id() as usize % 100) {
            fs::write(self.registry().join(first.to_string()), "not ours").expect("writes");
        }
        self
    }

    fn registry(&self) -> PathBuf {
        self.0.path().join("registry")
    }

    /// A state directory as the daemon makes it: with its id.
    fn state(&self, name: &str, instance: &str) -> PathBuf {
        let dir = self.0.path().join(name);
        fs::create_dir_all(&dir).expect("directory");
        fs::write(dir.join("instance"), format!("{instance}\n")).expect("id");
        dir
    }

    fn claim(&self, instance: &str, state_dir: &Path) -> Result<UidBlock> {
        claim_in(&self.registry(), instance, state_dir)
    }
}

#[test]
fn instances_side_by_side_have_blocks_of_their_own() {
    let host = Host::new();
    let start = Barrier::new(8);
    let blocks: Vec<UidBlock> = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..8)
            .map(|n| {
                let (host, start) = (&host, &start);
                scope.spawn(move || {
                    let name = format!("inst{n}");
                    let state = host.state(&name, &name);
                    start.wait();
                    host.claim(&name, &state).expect("a block")
                })
            })
            .collect();
        claims
            .into_iter()
            .map(|claim| claim.join().expect("joins"))
            .collect()
    });
    let mut firsts: Vec<u32> = blocks.iter().map(|block| block.range().start).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 8, "two share a block");
    for block in &blocks {
        let range = block.range();
        assert!(range.start >= FIRST_UID && range.end <= END_UID);
        assert_eq!(range.len(), 1 << 20);
    }
}

#[test]
fn sessions_get_aligned_ranges_and_never_the_brokers() {
    let host = Host::new();
    let block = host
        .claim("inst", &host.state("a", "inst"))
        .expect("a block");
    let bases: Vec<u32> = block.session_bases().collect();
    assert_eq!(bases.len(), 65_535);
    assert!(bases.iter().all(|base| block.has_session_base(*base)));
    assert!(
        block
            .range()
            .contains(&(bases[bases.len() - 1] + UIDS_PER_SESSION - 1))
    );
    let broker = block.broker_uid();
    for bad in [
        broker,
        broker + 1,
        broker + 8,
        block.range().end,
        broker - UIDS_PER_SESSION,
    ] {
        assert!(!block.has_session_base(bad), "{bad}");
    }
}

#[test]
fn the_same_instance_gets_its_block_again_wherever_its_directory_is() {
    let host = Host::new();
    let other = host
        .claim("other", &host.state("o", "other"))
        .expect("a block");
    let state = host.state("a", "inst");
    let first = host.claim("inst", &state).expect("a block").range();
    drop(other);
    assert_eq!(host.claim("inst", &state).expect("again").range(), first);
    let moved = host.0.path().join("moved");
    fs::rename(&state, &moved).expect("moves");
    assert_eq!(host.claim("inst", &moved).expect("moved").range(), first);
    // A lost registry: the state directory remembers.
    fs::remove_dir_all(host.registry()).expect("removes");
    assert_eq!(
        host.claim("inst", &moved).expect("remembered").range(),
        first
    );
}

#[test]
fn a_running_instance_is_not_started_twice() {
    let host = Host::new();
    let state = host.state("a", "inst");
    let held = host.claim("inst", &state).expect("a block");
    let fault = host.claim("inst", &state).expect_err("runs already");
    let pid = std::process::id();
    assert!(
        matches!(fault, UidBlockError::Running { pid: found, .. } if found == pid),
        "{fault}"
    );
    drop(held);
    host.claim("inst", &state)
        .expect("a lock dies with its holder");
}

#[test]
fn a_copied_state_directory_is_refused() {
    let host = Host::new();
    let original = host.state("a", "inst");
    drop(host.claim("inst", &original).expect("a block"));
    let fault = host
        .claim("inst", &host.state("copy", "inst"))
        .expect_err("a copy");
    assert!(
        matches!(&fault, UidBlockError::Copied { original: o, .. } if *o == original.canonicalize().expect("is there"))
    );
    // With an id of its own it is an instance of its own, and its remembered block is not its own.
    let copy = host.state("copy", "inst2");
    fs::copy(original.join("uids"), copy.join("uids")).expect("copies");
    let second = host.claim("inst2", &copy).expect("a block").range();
    assert_ne!(
        host.claim("inst", &original).expect("its own").range(),
        second
    );
}

#[test]
fn a_block_is_given_back_only_when_the_state_directory_is_gone_and_nobody_runs() {
    let host = Host::new().apart();
    let state = host.state("a", "inst");
    let held = host.claim("inst", &state).expect("a block");
    let first = held.range();
    let next = |name: &str| {
        host.claim(name, &host.state(name, name))
            .expect("a block")
            .range()
    };

    fs::remove_dir_all(&state).expect("removes");
    assert_ne!(next("b"), first, "still held");
    drop(held);
    assert_eq!(next("c"), first, "nothing of it is left");

    // c does not run, but its directory is there.
    assert_ne!(next("d"), first);
    // Another instance in its place: what c had is nobody's.
    host.state("c", "newc");
    assert_eq!(next("e"), first);
}

#[test]
fn all_blocks_taken_is_said_and_an_unreadable_entry_stays_taken() {
    let host = Host::new();
    drop(
        host.claim("inst", &host.state("a", "inst"))
            .expect("a block"),
    );
    for first in Registry::blocks() {
        fs::write(host.registry().join(first.to_string()), "garbage").expect("writes");
    }
    let fault = host
        .claim("inst2", &host.state("b", "inst2"))
        .expect_err("all taken");
    assert!(matches!(fault, UidBlockError::Exhausted { .. }), "{fault}");
}

#[test]
fn a_registry_that_others_may_change_is_refused() {
    let host = Host::new();
    let state = host.state("a", "inst");
    fs::create_dir(host.registry()).expect("directory");
    fs::set_permissions(host.registry(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let fault = host.claim("inst", &state).expect_err("world-writable");
    assert!(matches!(fault, UidBlockError::Untrusted { .. }), "{fault}");
    fs::remove_dir(host.registry()).expect("removes");
    let elsewhere = host.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("directory");
    std::os::unix::fs::symlink(&elsewhere, host.registry()).expect("link");
    let fault = host.claim("inst", &state).expect_err("a link");
    assert!(matches!(fault, UidBlockError::Untrusted { .. }), "{fault}");
    assert_eq!(fs::read_dir(elsewhere).expect("lists").count(), 0);
}

#[test]
fn a_block_with_living_processes_is_not_given_to_another() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED (root tier): needs root to start a process with another uid");
        return;
    }
    let host = Host::new().apart();
    let state = host.state("a", "inst");
    let block = host.claim("inst", &state).expect("a block");
    let first = block.range();
    // A session outlives its daemon and even its state directory.
    let uid = block.session_bases().nth(5).expect("many") + 3;
    let mut session = Command::new("/bin/sleep")
        .arg("60")
        .uid(uid)
        .gid(uid)
        .spawn()
        .expect("starts");
    drop(block);
    fs::remove_dir_all(&state).expect("removes");
    let second = host
        .claim("b", &host.state("b", "b"))
        .expect("a block")
        .range();
    let entry_stays = host.registry().join(first.start.to_string()).exists();
    session.kill().expect("kills");
    session.wait().expect("waits");
    assert!(entry_stays, "the registry forgot who has it");
    assert_ne!(second, first, "a session of it lives");
    assert_eq!(
        host.claim("c", &host.state("c", "c"))
            .expect("a block")
            .range(),
        first
    );
}
