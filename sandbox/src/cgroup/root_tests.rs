//! Root tier: real cgroups and real processes on this host. Each test has an instance of its own and leaves nothing.

use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    cpu_millis: 1000,
    pids: 32,
    cpu_weight: 40,
    io: None,
};

/// Every process forks for ever, and goes on when it is refused.
const BOMB: &str = "
import os
while True:
    try: os.fork()
    except OSError: pass
";

/// An instance that is gone when the test ends, however it ends.
struct Ground(CgroupRoot);

impl Drop for Ground {
    fn drop(&mut self) {
        let outcome = self.clear();
        // A second panic would abort and hide the first.
        if !std::thread::panicking() {
            outcome.expect("nothing is left");
        } else if let Err(fault) = outcome {
            eprintln!("left behind: {fault}");
        }
    }
}

impl Ground {
    fn clear(&self) -> Result<()> {
        for name in self.0.list()? {
            let session = self.0.open_existing(&name)?;
            session.kill()?;
            session.wait_empty(soon())?;
            session.remove(soon())?;
        }
        let paths = self.0.paths();
        self.0.clone().remove_self()?;
        assert_eq!(paths.iter().find(|path| path.exists()), None);
        Ok(())
    }
}

/// `None`, said loudly, where the tests cannot run.
fn ground() -> Option<Ground> {
    plant(hierarchy::find().expect("finds"))
}

/// The same ground without the unified hierarchy: a pure v1 host. `None` on a v2 host.
fn v1_ground() -> Option<Ground> {
    let mut found = hierarchy::find().expect("finds");
    found.unified = None;
    plant(found)
}

fn plant(found: hierarchy::Hierarchies) -> Option<Ground> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED (root tier): needs root to make cgroups");
        return None;
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let instance = format!("t{}x{count}", std::process::id());
    match CgroupRoot::open_in(&found, &instance, None) {
        Ok(root) => Some(Ground(root)),
        Err(CgroupError::MissingController { .. }) if found.unified.is_none() => {
            eprintln!("SKIPPED (root tier): this host has no v1 controllers");
            None
        }
        Err(fault) => panic!("{fault}"),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Runs a shell script inside the session. The shell waits for its move before it reads the script's first line.
fn run(session: &SessionCgroup, script: &str) -> Child {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("read -r go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts sh");
    for branch in session.tree.branches() {
        branch
            .dir
            .write(&session.file("cgroup.procs"), &child.id().to_string())
            .expect("moves");
    }
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"go\n")
        .expect("writes");
    child
}

fn is_v2(root: &CgroupRoot) -> bool {
    matches!(root.tree.backend, Backend::V2(_))
}

fn await_that(what: &str, condition: impl Fn() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come to pass");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn limits_read_back_as_written_and_can_be_changed() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    for mib in [64u64, 32, 128] {
        let limits = Limits {
            memory_bytes: mib << 20,
            cpu_millis: 250,
            ..LIMITS
        };
        session.apply(&limits).expect("applies");
        let bytes = (mib << 20).to_string();
        let wanted: Vec<(&str, &str)> = if is_v2(&ground.0) {
            vec![
                ("memory.max", &bytes),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
                ("cpu.max", "25000 100000"),
                ("cpu.weight", "40"),
                ("pids.max", "32"),
            ]
        } else {
            vec![
                ("memory.limit_in_bytes", &bytes),
                ("memory.memsw.limit_in_bytes", &bytes),
                ("memory.kmem.tcp.limit_in_bytes", &bytes),
                ("cpu.cfs_quota_us", "25000"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.shares", "410"),
                ("pids.max", "32"),
            ]
        };
        for (file, value) in wanted {
            let path = session.file(file);
            let found: Vec<String> = ground
                .0
                .tree
                .branches()
                .iter()
                .filter(|b| b.dir.has(&path))
                .map(|b| b.dir.read(&path).expect("reads").trim().to_owned())
                .collect();
            let optional = [
                "memory.memsw.limit_in_bytes",
                "memory.kmem.tcp.limit_in_bytes",
            ];
            if optional.contains(&file) && found.is_empty() {
                eprintln!("SKIPPED {file}: this kernel counts none");
                continue;
            }
            assert_eq!(found, [value], "{file}");
        }
    }
}

#[test]
fn io_limits_reach_the_kernel_or_are_refused() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    let Some(device) = whole_disk() else {
        eprintln!("SKIPPED: this host has no disk to limit");
        return;
    };
    let io = IoLimits {
        device,
        read_bps: Some(1 << 20),
        ..IoLimits::default()
    };
    let outcome = session.apply(&Limits {
        io: Some(io),
        ..LIMITS
    });
    let enforced = ground
        .0
        .capabilities()
        .iter()
        .any(|c| c.name == "cgroup.io" && c.support == Support::On);
    assert_eq!(outcome.is_ok(), enforced, "{outcome:?}");
    let (major, minor) = device;
    let read = |file: &str| -> String {
        let path = session.file(file);
        let branches = ground.0.tree.branches();
        branches
            .iter()
            .find(|b| b.dir.has(&path))
            .map_or_else(String::new, |b| b.dir.read(&path).expect("reads"))
    };
    if enforced {
        let text = read("io.max") + &read("blkio.throttle.read_bps_device");
        assert!(
            text.contains(&format!("{major}:{minor}")) && text.contains("1048576"),
            "{text}"
        );
    }
}

fn whole_disk() -> Option<(u32, u32)> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    entries.flatten().find_map(|entry| {
        let numbers = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = numbers.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[test]
fn an_out_of_memory_kill_is_announced_and_counted_and_spares_the_neighbour() {
    let Some(ground) = ground() else { return };
    let hog = ground.0.create("hog").expect("creates");
    let neighbour = ground.0.create("neighbour").expect("creates");
    hog.apply(&LIMITS).expect("applies");
    neighbour.apply(&LIMITS).expect("applies");
    let mut other = run(&neighbour, "exec sleep 60");
    let event = hog.oom_event().expect("watches");
    assert_eq!(event.is_none(), is_v2(&ground.0));
    // tail keeps a line in memory until it ends; this one does not end. The shell is the second process of the session.
    let mut child = run(&hog, "tail /dev/zero; echo survived");
    if let Some(event) = event {
        let mut polled = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut polled, PollTimeout::from(20_000u16)).expect("polls");
        assert_eq!(ready, 1, "no out-of-memory event");
    }
    await_that("oom_kills > 0", || hog.oom_kills().expect("reads") > 0);
    let status = child.wait().expect("waits");
    if is_v2(&ground.0) {
        assert!(!status.success(), "v2 kills the session as a whole");
    }
    let used = hog.counters().expect("reads");
    assert!(used.memory_peak_bytes <= LIMITS.memory_bytes, "{used:?}");
    assert!(used.memory_peak_bytes > LIMITS.memory_bytes / 2, "{used:?}");
    assert_eq!(neighbour.counters().expect("reads").oom_kills, 0);
    assert!(
        other.try_wait().expect("waits").is_none(),
        "the neighbour was harmed"
    );
    neighbour.kill().expect("kills");
    other.wait().expect("waits");
}

#[test]
fn a_fork_bomb_stops_at_pids_max_and_dies_at_once() {
    for ground in [ground(), v1_ground()].into_iter().flatten() {
        let session = ground.0.create("bomb").expect("creates");
        session.apply(&LIMITS).expect("applies");
        let mut child = run(&session, &format!("exec /usr/bin/python3 -c '{BOMB}'"));
        await_that("the bomb is at its limit", || {
            session.counters().expect("reads").pids >= u64::from(LIMITS.pids) - 2
        });
        for _ in 0..100 {
            assert!(session.counters().expect("reads").pids <= u64::from(LIMITS.pids));
        }
        session.kill().expect("kills");
        session.wait_empty(soon()).expect("empties");
        session.remove(soon()).expect("removes");
        assert!(!child.wait().expect("waits").success());
        assert_eq!(ground.0.list().expect("lists"), [""; 0]);
    }
}

#[test]
fn a_frozen_session_stands_still_and_can_be_killed() {
    for ground in [ground(), v1_ground()].into_iter().flatten() {
        let session = ground.0.create("s1").expect("creates");
        session.apply(&LIMITS).expect("applies");
        let mut child = run(&session, "while :; do :; done");
        let cpu = || session.counters().expect("reads").cpu_us;
        let gauge = session.gauge().expect("opens");
        await_that("it runs", || cpu() > 1000);
        session.freeze().expect("freezes");
        // On v2 a process counts as frozen before it has left the processor, and is charged for that turn when it does.
        await_that("it stands still", || {
            let before = cpu();
            std::thread::sleep(Duration::from_millis(20));
            cpu() == before
        });
        let (found, sample) = (
            session.counters().expect("reads"),
            gauge.read().expect("reads"),
        );
        assert_eq!(sample.cpu_us, found.cpu_us, "held open, and the same");
        assert_eq!(sample.peak_bytes, found.memory_peak_bytes);
        assert_eq!(sample.memory_bytes, found.memory_bytes);
        session.tmp_bytes().expect("reads");
        let (stopped, later) = (cpu(), {
            std::thread::sleep(Duration::from_millis(100));
            cpu()
        });
        assert_eq!(stopped, later, "it ran on while frozen");
        assert!(matches!(
            ground.0.create("s1"),
            Err(CgroupError::Occupied { .. })
        ));
        assert!(session.is_frozen().expect("reads"));
        session.thaw().expect("thaws");
        assert!(!session.is_frozen().expect("reads"));
        await_that("it runs again", || cpu() > later);
        await_that("it freezes again", || {
            session.try_freeze().expect("tries to freeze")
        });
        assert!(session.is_frozen().expect("reads"));
        session.kill().expect("kills");
        session
            .wait_empty(soon())
            .expect("a killed frozen session empties");
        session.remove(soon()).expect("removes");
        assert!(!child.wait().expect("waits").success());
    }
}

#[test]
fn a_session_frozen_on_v1_by_another_hand_can_be_killed() {
    let Some(ground) = ground() else { return };
    let Backend::V1 { hierarchies, .. } = &ground.0.tree.backend else {
        eprintln!("SKIPPED: this host is all v2");
        return;
    };
    let session = ground.0.create("s1").expect("creates");
    let mut child = run(&session, "exec sleep 60");
    v1::freeze(hierarchies, "s1", soon()).expect("freezes");
    session.kill().expect("kills");
    session.wait_empty(soon()).expect("empties");
    assert!(!child.wait().expect("waits").success());
}

#[test]
fn what_is_in_use_is_refused_and_an_empty_leftover_is_replaced() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    let first = session.inode().expect("inode");
    assert_eq!(
        ground
            .0
            .open_existing("s1")
            .expect("opens")
            .inode()
            .expect("inode"),
        first
    );
    let again = ground.0.create("s1").expect("an empty one is replaced");
    assert_ne!(again.inode().expect("inode"), first);

    let mut child = run(&again, "exec sleep 60");
    let fault = ground.0.create("s1").expect_err("holds a process");
    assert!(matches!(fault, CgroupError::Occupied { .. }), "{fault}");
    assert!(
        child.try_wait().expect("waits").is_none(),
        "refusing must not harm it"
    );
    again.kill().expect("kills");
    child.wait().expect("waits");
    again.wait_empty(soon()).expect("empties");

    again.freeze().expect("an empty one freezes");
    let fault = ground.0.create("s1").expect_err("frozen");
    assert!(fault.to_string().contains("is frozen"), "{fault}");
    again.thaw().expect("thaws");
}

#[test]
fn a_half_removed_session_is_listed_and_can_be_removed() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    let identity = ground.0.tree.identity().expect("has one");
    identity.remove_child("s1").expect("removes");
    if is_v2(&ground.0) {
        assert!(matches!(
            ground.0.open_existing("s1"),
            Err(CgroupError::Unknown(_))
        ));
        return;
    }
    assert_eq!(ground.0.list().expect("lists"), ["s1"]);
    let leftover = ground.0.open_existing("s1").expect("opens");
    leftover.kill().expect("nobody is in it");
    leftover.apply(&LIMITS).expect("v1 halves are all there");
    let fault = leftover.enter_self().expect_err("its unified half is gone");
    assert_eq!(fault.errno(), libc::ENOENT, "{fault}");
    leftover.remove(soon()).expect("removes");
    session.remove(soon()).expect("removing twice is no error");
    assert!(matches!(
        ground.0.open_existing("s1"),
        Err(CgroupError::Unknown(_))
    ));
}

#[test]
fn removal_waits_for_the_last_process() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    let mut child = run(&session, "sleep 0.3");
    let started = Instant::now();
    let fault = session.remove(started).expect_err("it is not empty yet");
    assert!(fault.is_busy(), "{fault}");
    assert!(
        started.elapsed() < Duration::from_millis(100),
        "nobody asked it to wait"
    );
    session.remove(soon()).expect("removes once it is empty");
    assert!(
        started.elapsed() > Duration::from_millis(100),
        "it was not empty yet"
    );
    assert!(
        child.wait().expect("waits").success(),
        "removal must not kill"
    );
}

/// Another uid, and a name that is not text.
const ANOTHER: &str = "
import os, time
open(\"/proc/self/comm\", \"wb\").write(b\"\\xff\")
os.setuid(305419896)
time.sleep(60)
";

#[test]
fn an_owner_is_found_by_what_the_kernel_says_of_processes() {
    for ground in [ground(), v1_ground()].into_iter().flatten() {
        let session = ground.0.create("s1").expect("creates");
        let owner = |ids| session.owner(&ids).expect("tells");
        let theirs = 305_419_890..305_419_900;
        assert_eq!(owner(theirs.clone()), Owner::Nobody);
        let mut roots = run(&session, "exec sleep 60");
        assert_eq!(owner(theirs.clone()), Owner::Stranger);
        let mut another = run(&session, &format!("exec /usr/bin/python3 -c '{ANOTHER}'"));
        await_that("it has another uid", || {
            owner(theirs.clone()) == Owner::Of(305_419_896)
        });
        assert_eq!(owner(305_419_800..305_419_890), Owner::Stranger);
        session.kill().expect("kills");
        session.wait_empty(soon()).expect("empties");
        roots.wait().expect("waits");
        another.wait().expect("waits");
        assert_eq!(owner(theirs.clone()), Owner::Nobody);
        session.remove(soon()).expect("removes");
        assert_eq!(owner(theirs), Owner::Nobody, "it is not there");
    }
}

#[test]
fn the_cpu_quota_holds() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    session
        .apply(&Limits {
            cpu_millis: 100,
            ..LIMITS
        })
        .expect("applies");
    let mut child = run(&session, "while :; do :; done");
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    let used = session.counters().expect("reads").cpu_us;
    let passed = started.elapsed().as_micros();
    session.kill().expect("kills");
    child.wait().expect("waits");
    // A tenth is due; a whole period more may be in flight.
    assert!(u128::from(used) < passed / 4, "{used} of {passed} µs");
    assert!(used > 10_000, "{used} µs: it did not run at all");
}

#[test]
fn limits_that_change_leave_an_agent_its_devices() {
    let Some(ground) = ground() else {
        return;
    };
    let session = ground.0.create("s1").expect("creates");
    session.apply(&LIMITS).expect("applies");
    let scratch = tempfile::TempDir::new().expect("temporary directory");
    let over = scratch.path().join("over");
    let script = format!(
        "until [ -e {} ]; do : </dev/null || echo refused; done; echo over",
        over.display()
    );
    let child = run(&session, &script);
    for _ in 0..200 {
        session.apply(&LIMITS).expect("applies again");
    }
    std::fs::write(over, "").expect("written");
    let output = child.wait_with_output().expect("waits");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "over\n");
}

#[test]
fn only_the_listed_devices_open() {
    // As this host has it; and with the v2 filter where it would use the v1 controller.
    let mut found = hierarchy::find().expect("finds");
    found.v1.retain(|mount| mount.controllers != ["devices"]);
    for ground in [ground(), plant(found)].into_iter().flatten() {
        let devices = ground
            .0
            .capabilities()
            .into_iter()
            .find(|c| c.name == "cgroup.devices")
            .expect("listed");
        if devices.support != Support::On {
            eprintln!("SKIPPED: {}", devices.detail);
            continue;
        }
        let session = ground.0.create("s1").expect("creates");
        session.apply(&LIMITS).expect("applies");
        let scratch = tempfile::TempDir::new().expect("temporary directory");
        let dir = scratch.path();
        let Some((major, minor)) = whole_disk() else {
            return;
        };
        let make = |name: &str, kind: &str, major: u32, minor: u32| {
            let status = Command::new("mknod")
                .arg(dir.join(name))
                .args([kind, &major.to_string(), &minor.to_string()])
                .status();
            assert!(status.expect("runs mknod").success());
        };
        make("disk", "b", major, minor);
        make("kmsg", "c", 1, 11);
        let script = format!(
            "head -c 1 /dev/zero >/dev/null && head -c 1 /dev/urandom >/dev/null && echo open; \
             cd {}; for file in disk kmsg; do head -c 1 $file && echo $file; done; mknod null c 1 3 && echo made",
            dir.display()
        );
        let output = run(&session, &script).wait_with_output().expect("waits");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "open\n",
            "by {}",
            devices.detail
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.matches("Operation not permitted").count(), 3, "{said}");
    }
}

#[test]
fn a_parent_is_made_where_it_is_missing_and_used_in_every_hierarchy() {
    let Some(beside) = ground() else { return };
    let parent = format!("agentcore-test-{}/deep", std::process::id());
    let root = CgroupRoot::open("inst", Some(&parent)).expect("opens");
    for path in root.paths() {
        assert!(
            path.ends_with(format!("{parent}/agentcore-inst")),
            "{}",
            path.display()
        );
    }
    let session = root.create("s1").expect("creates");
    session.apply(&LIMITS).expect("applies");
    let mut child = run(&session, "exec sleep 60");
    assert_eq!(session.counters().expect("reads").pids, 1);
    assert_eq!(
        beside.0.list().expect("lists"),
        [""; 0],
        "instances do not see each other"
    );
    session.kill().expect("kills");
    child.wait().expect("waits");
    session.remove(soon()).expect("removes");
    let paths = root.paths();
    root.remove_self().expect("removes");
    for path in paths {
        let above = path.parent().expect("has a parent");
        std::fs::remove_dir(above).expect("removes");
        std::fs::remove_dir(above.parent().expect("has a parent")).expect("removes");
    }
}

#[test]
fn on_v2_a_parent_that_holds_processes_is_refused_with_their_numbers() {
    let Some(ground) = ground() else { return };
    if !is_v2(&ground.0) {
        eprintln!("SKIPPED: the rule is v2's");
        return;
    }
    // A session's cgroup has processes and no enabled controllers, as a service's own cgroup has.
    let session = ground.0.create("s1").expect("creates");
    let mut child = run(&session, "exec sleep 60");
    let mount = hierarchy::find().expect("finds").unified.expect("v2");
    let path = ground.0.paths()[0].join("s1");
    let below = path
        .strip_prefix(mount)
        .expect("below")
        .to_str()
        .expect("text")
        .to_owned();
    let fault = CgroupRoot::open("inst", Some(&below)).expect_err("holds a process");
    assert!(
        matches!(&fault, CgroupError::InternalProcesses { pids, .. } if *pids == child.id().to_string()),
        "{fault}"
    );
    session.kill().expect("kills");
    child.wait().expect("waits");
}

/// Not a test: what [`a_process_enters_every_hierarchy`] runs in a process of its own.
#[test]
#[ignore = "runs only as the child of a_process_enters_every_hierarchy"]
fn child_that_enters() {
    let instance = std::env::var("AGENTCORE_TEST_INSTANCE").expect("set by the parent");
    let root = CgroupRoot::open(&instance, None).expect("opens");
    root.open_existing("s1")
        .expect("opens")
        .enter_self()
        .expect("enters");
    print!(
        "{}",
        std::fs::read_to_string("/proc/self/cgroup").expect("reads")
    );
}

#[test]
fn a_process_enters_every_hierarchy() {
    let Some(ground) = ground() else { return };
    let session = ground.0.create("s1").expect("creates");
    let name = &ground.0.tree.name;
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args([
            "--exact",
            "cgroup::root_tests::child_that_enters",
            "--ignored",
            "--nocapture",
        ])
        .env(
            "AGENTCORE_TEST_INSTANCE",
            name.trim_start_matches("agentcore-"),
        )
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| l.matches(':').count() >= 2 && l.contains('/'))
        .collect();
    assert_eq!(lines.len(), ground.0.tree.branches().len(), "{text}");
    for line in lines {
        assert!(line.ends_with(&format!("/{name}/s1")), "{line}");
    }
    session.wait_empty(soon()).expect("it has ended");
}

#[test]
fn capabilities_tell_this_hosts_layout() {
    let Some(ground) = ground() else { return };
    let found = ground.0.capabilities();
    let of = |name: &str| {
        found
            .iter()
            .find(|c| c.name == name)
            .expect("listed")
            .support
    };
    assert_eq!(of("cgroup") == Support::On, is_v2(&ground.0));
    assert_eq!(of("cgroup.clone_into") == Support::On, is_v2(&ground.0));
    assert_eq!(of("cgroup.memory"), Support::On);
    assert!(found.iter().all(|c| !c.detail.is_empty()));
}

#[test]
fn all_sessions_together_are_limited_and_no_more() {
    for ground in [ground(), v1_ground()].into_iter().flatten() {
        let all = &ground.0;
        let slice = Slice {
            memory_bytes: Some(256 << 20),
            cpu_millis: Some(2000),
            pids: Some(500),
            cpu_weight: 50,
        };
        all.limit_all(&slice, soon()).expect("writes");
        assert_eq!(all.all_enforced().expect("reads"), slice);
        let session = all.create("s1").expect("creates");
        session.apply(&LIMITS).expect("applies below it");
        let hold = "x=$(head -c 25165824 /dev/zero | tr '\\0' x); while :; do sleep 0.1; done";
        let mut child = run(&session, hold);
        await_that("it holds memory", || {
            session.counters().expect("reads").memory_bytes > 24 << 20
        });
        // Less than it holds, and with it less CPU: neither.
        let less = Slice {
            memory_bytes: Some(16 << 20),
            cpu_millis: Some(1500),
            ..slice
        };
        let fault = all.limit_all(&less, soon()).expect_err("in use");
        assert!(matches!(fault, CgroupError::InUse { .. }), "{fault}");
        assert_eq!(all.all_enforced().expect("reads"), slice);
        // Fewer CPUs than one session has: v1 cannot.
        let fewer = Slice {
            cpu_millis: Some(LIMITS.cpu_millis / 2),
            ..slice
        };
        match all.limit_all(&fewer, soon()) {
            Ok(()) => assert!(is_v2(all)),
            Err(CgroupError::Above {
                session,
                has,
                asked,
            }) => {
                assert!(!is_v2(all));
                assert_eq!((session.as_str(), has, asked), ("s1", 1000, 500));
                assert_eq!(all.all_enforced().expect("reads"), slice);
            }
            Err(other) => panic!("{other}"),
        }
        all.limit_all(&Slice::default(), soon()).expect("writes");
        assert_eq!(all.all_enforced().expect("reads"), Slice::default());
        session.kill().expect("kills");
        session.wait_empty(soon()).expect("empties");
        child.wait().expect("waits");
        session.remove(soon()).expect("removes");
    }
}

#[test]
fn limits_of_a_session_that_runs_are_changed_and_read_back() {
    for ground in [ground(), v1_ground()].into_iter().flatten() {
        let session = ground.0.create("s1").expect("creates");
        session.apply(&LIMITS).expect("applies");
        let as_applied = Enforced {
            memory_bytes: Some(LIMITS.memory_bytes),
            cpu_millis: Some(LIMITS.cpu_millis),
            pids: Some(LIMITS.pids),
            cpu_weight: LIMITS.cpu_weight,
        };
        assert_eq!(session.enforced().expect("reads"), as_applied);
        // Holds 24 MiB, says so, and keeps them.
        let hold = "x=$(head -c 25165824 /dev/zero | tr '\\0' x); while :; do sleep 0.1; done";
        let mut child = run(&session, hold);
        await_that("it holds memory", || {
            session.counters().expect("reads").memory_bytes > 24 << 20
        });
        let fault = session.set_memory(16 << 20, soon()).expect_err("in use");
        assert!(matches!(fault, CgroupError::InUse { .. }), "{fault}");
        assert_eq!(session.enforced().expect("reads"), as_applied);
        session.set_memory(512 << 20, soon()).expect("more");
        session.set_memory(128 << 20, soon()).expect("less");
        session.set_cpu(100).expect("less");
        session.set_pids(7).expect("fewer");
        session.set_cpu_weight(1).expect("less");
        session.set_cpu_weight(0).expect_err("none");
        let changed = Enforced {
            memory_bytes: Some(128 << 20),
            cpu_millis: Some(100),
            pids: Some(7),
            cpu_weight: 1,
        };
        assert_eq!(session.enforced().expect("reads"), changed);
        assert_eq!(session.counters().expect("reads").oom_kills, 0);
        session.kill().expect("kills");
        session.wait_empty(soon()).expect("empties");
        child.wait().expect("waits");
        session.remove(soon()).expect("removes");
    }
}

/// What the kernel takes without swap is page cache, which goes the same way.
#[test]
fn memory_of_a_frozen_session_is_given_back_and_its_limit_stays() {
    let files = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
    for (number, ground) in [ground(), v1_ground()].into_iter().flatten().enumerate() {
        let session = ground.0.create("s1").expect("creates");
        session.apply(&LIMITS).expect("applies");
        let limits = session.enforced().expect("reads");
        let path = files.path().join(number.to_string());
        // Written back, so that it can be taken; and 8 MiB that nothing can be done about.
        let script = format!(
            "x=$(head -c 8388608 /dev/zero | tr '\\0' x); head -c 25165824 /dev/zero > {0}; \
             sync {0}; : > {0}.done; while :; do sleep 0.1; done",
            path.display()
        );
        let mut child = run(&session, &script);
        let done = path.with_extension("done");
        await_that("it holds page cache", || done.exists());
        session.freeze().expect("freezes");
        let piece = 8 << 20;
        match (
            ground.0.reclaims_by(),
            session.reclaim(piece).expect("asks"),
        ) {
            (Some(_), Some((before, after))) => {
                assert!(before > 24 << 20, "{before}");
                assert!(
                    after + piece / 2 < before && after + 2 * piece > before,
                    "a piece of it: {before} {after}"
                );
                assert_eq!(session.enforced().expect("reads"), limits);
                // More than there is to be had: what runs keeps what it holds.
                session.reclaim(1 << 30).expect("asks");
                let held = session.counters().expect("reads").memory_bytes;
                assert!(held > 4 << 20, "{held}");
                assert_eq!(session.enforced().expect("reads"), limits);
            }
            (None, None) => eprintln!("SKIPPED: this kernel cannot be asked"),
            other => panic!("{other:?}"),
        }
        if let Backend::V1 { hierarchies, .. } = &session.tree.backend {
            // As a launcher leaves it that dies between the two writes.
            let memory = &v1::of(hierarchies, "memory").expect("there").branch.dir;
            let less = session.file("memory.limit_in_bytes");
            memory.write(&less, "33554432").expect("writes");
        }
        session.thaw().expect("thaws");
        assert_eq!(session.enforced().expect("reads"), limits);
        assert_eq!(session.counters().expect("reads").oom_kills, 0);
        session.kill().expect("kills");
        session.wait_empty(soon()).expect("empties");
        child.wait().expect("waits");
        session.remove(soon()).expect("removes");
    }
}
