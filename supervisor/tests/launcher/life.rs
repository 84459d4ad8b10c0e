//! Sessions from launch to removal, through the launcher's client.

use super::ground::{Daemon, Ground, LIMITS, PATIENCE, end_of, id, uids};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use procfs::process::Process;
use sandbox::cgroup::{CgroupRoot, Owner};
use sandbox::privileges::LAUNCHER_CAPABILITIES;
use sandbox::sys::capability::CapMask;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use supervisor::launcher::message::{AdoptOrder, LaunchOrder, Limits, Lineage, OrderFault};

pub(crate) type Test = (&'static str, fn());

pub(crate) const TESTS: &[Test] = &[
    ("a_session_lives_and_leaves_nothing", || run("li", lives)),
    (
        "the_launcher_keeps_what_it_needs_and_sessions_have_their_own",
        || run("ca", capable),
    ),
    ("an_exit_is_noticed_and_its_record_returned", || {
        run("ex", exits)
    }),
    ("a_prepared_session_is_launched", || run("pr", prepared)),
    ("orders_out_of_bounds_are_refused", || run("re", refused)),
    ("no_more_sessions_than_may_be_are_launched", || {
        run("cr", crowded)
    }),
    ("out_of_memory_ends_the_whole_session", || {
        run("oo", starved)
    }),
    ("a_fork_bomb_stops_at_its_limit_and_dies", || {
        run("bo", bombed)
    }),
    ("a_busy_cgroup_keeps_nobody_waiting_but_its_own", || {
        run("bu", busy)
    }),
    ("sessions_outlive_launcher_and_broker", || {
        run("ou", outlived)
    }),
    ("a_dead_launcher_is_told", || run("de", dead)),
    ("uids_of_a_session_of_an_earlier_launcher_are_taken", || {
        run("fo", foreign)
    }),
    ("a_session_is_adopted_only_as_what_it_was_launched", || {
        run("ad", adopted)
    }),
    (
        "a_session_is_frozen_and_thawed_also_by_the_next_launcher",
        || run("fr", frozen),
    ),
    ("what_is_no_session_is_ended_by_the_next_launcher", || {
        run("st", stranger)
    }),
];

pub(crate) fn run<F: Future<Output = ()>>(name: &str, test: fn(Ground) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(test(Ground::new(name)));
}

async fn lives(ground: Ground) {
    let daemon = ground.daemon();
    let launched = daemon
        .launch(&ground, "slives", "stay")
        .await
        .expect("launch");
    let (_link, hello) = ground.hello(&id("slives"));
    assert_eq!(hello, "stay");

    let process = Process::new(launched.pid).expect("process");
    let status = process.status().expect("status");
    assert_eq!(
        [status.ruid, status.rgid],
        [ground.setup.uid_block.start + 16; 2],
        "a uid of its own"
    );
    assert_eq!(status.nspid.as_deref().and_then(<[i32]>::last), Some(&1));
    assert_eq!(process.stat().expect("stat").starttime, launched.start_time);
    let mine = Process::myself()
        .expect("me")
        .namespaces()
        .expect("namespaces")
        .0;
    for (name, namespace) in process.namespaces().expect("namespaces").0 {
        let shared = mine
            .get(&name)
            .is_some_and(|own| own.identifier == namespace.identifier);
        // The one namespace that a session shares: clocks.
        assert_eq!(
            shared,
            name.to_string_lossy().starts_with("time"),
            "{name:?}"
        );
    }
    let usage = daemon.usage_of(&id("slives"), 1).await;
    assert!(
        usage.pids == 1 && usage.memory_bytes > 0 && usage.oom_kills == 0,
        "{usage:?}"
    );

    let removed = daemon.client.remove(id("slives")).await.expect("remove");
    assert!(
        removed.record.is_none() && removed.usage.cpu_us > 0,
        "{removed:?}"
    );
    ground.leaves_nothing().await;
    assert_eq!(
        daemon.client.kill(id("slives")).await,
        Err(OrderFault::Unknown)
    );
    // Whoever asks again hears the same, be it another broker, until it is on record.
    let again = daemon.client.remove(id("slives")).await.expect("again");
    assert_eq!((again.usage, again.record), (removed.usage, removed.record));
    daemon.client.forget(id("slives")).await.expect("forget");
    let gone = daemon.client.remove(id("slives")).await.expect("gone");
    assert_eq!(
        (gone.usage.cpu_us, gone.record),
        (0, None),
        "removing what is gone is no error"
    );
    assert_eq!(end_of_exit(daemon).await, 0);
}

async fn end_of_exit(daemon: Daemon) -> i32 {
    match daemon.end().await {
        WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}"),
    }
}

async fn capable(ground: Ground) {
    let daemon = ground.daemon();
    let launched = daemon
        .launch(&ground, "scapable", "stay")
        .await
        .expect("launch");
    // Once it has said hello it has done all that it does with privilege.
    ground.hello(&id("scapable"));
    let launcher = CapMask::of(&LAUNCHER_CAPABILITIES).0;
    // CAP_KILL, CAP_SETGID and CAP_SETUID.
    let shim = 1 << 5 | 1 << 6 | 1 << 7;
    for (who, pid, kept, bounding) in [
        ("launcher", daemon.pid.as_raw(), launcher, launcher),
        ("shim", launched.pid, shim, 0),
    ] {
        let status = Process::new(pid)
            .and_then(|process| process.status())
            .expect("status");
        assert_eq!([status.capeff, status.capprm], [kept; 2], "{who}");
        assert_eq!(status.capbnd, Some(bounding), "{who}");
        assert_eq!(status.nonewprivs, Some(1), "{who}");
        if who == "launcher" {
            assert_eq!((status.capinh, status.capamb), (0, Some(0)));
        }
    }
    daemon.client.remove(id("scapable")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn exits(ground: Ground) {
    let mut daemon = ground.daemon();
    let launched = daemon
        .launch(&ground, "sexits", "exit")
        .await
        .expect("launch");
    let exited = daemon.exit().await;
    assert_eq!((exited.session, exited.code), (id("sexits"), Some(3)));
    let mut ended = [nix::poll::PollFd::new(
        launched.pidfd.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(
        nix::poll::poll(&mut ended, 0u8),
        Ok(1),
        "the pidfd says so too"
    );
    let removed = daemon.client.remove(id("sexits")).await.expect("remove");
    assert_eq!(removed.record, Some((3, 14)));
    ground.leaves_nothing().await;
}

async fn prepared(ground: Ground) {
    let daemon = ground.daemon();
    for name in ["sone", "stwo"] {
        daemon.client.prepare(id(name)).await.expect("prepare");
    }
    let third = daemon.client.prepare(id("sthree")).await;
    assert!(
        matches!(third, Err(OrderFault::Refused(_))),
        "at most two: {third:?}"
    );
    daemon
        .launch(&ground, "sone", "stay")
        .await
        .expect("launch");
    assert_eq!(ground.hello(&id("sone")).1, "stay");
    let again = daemon.launch_with(&ground, "sone", "stay", 2, LIMITS).await;
    assert!(
        matches!(again, Err(OrderFault::Refused(_))),
        "a name is used once: {again:?}"
    );
    assert_eq!(
        ground.hello(&id("sone")).1,
        "stay",
        "and the first one lives on"
    );
    for name in ["sone", "stwo"] {
        daemon.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

async fn refused(ground: Ground) {
    let daemon = ground.daemon();
    let order = |uid_base, limits| LaunchOrder {
        session: id("srefused"),
        uid_base,
        limits,
        storage: None,
        lineage: Lineage::Host,
    };
    let block = ground.setup.uid_block.clone();
    let good = block.start + 0x10;
    let limits = |change: fn(&mut Limits)| {
        let mut limits = LIMITS;
        change(&mut limits);
        limits
    };
    for (what, order) in [
        ("uid 0", order(0, LIMITS)),
        ("below the block", order(good - 0x20, LIMITS)),
        ("the broker's range", order(good - 0x10, LIMITS)),
        ("not aligned", order(good + 1, LIMITS)),
        ("past the block", order(block.end, LIMITS)),
        ("at the end of all uids", order(u32::MAX - 15, LIMITS)),
        ("memory", order(good, limits(|l| l.memory_bytes = 2 << 30))),
        ("no memory", order(good, limits(|l| l.memory_bytes = 0))),
        ("cpu", order(good, limits(|l| l.cpu_millis += 1))),
        ("pids", order(good, limits(|l| l.pids += 1))),
        ("tmp", order(good, limits(|l| l.tmp_bytes = u64::MAX))),
        ("nofile", order(good, limits(|l| l.nofile = 1 << 30))),
    ] {
        let boot = sandbox::memfd::sealed(b"stay").expect("memfd");
        let answer = daemon.client.launch(order, boot, ground.bundle()).await;
        assert!(
            matches!(answer, Err(OrderFault::Refused(_))),
            "{what}: {answer:?}"
        );
    }
    let file = || std::fs::File::open("/etc/passwd").expect("open").into();
    let roots = || std::fs::File::open("/var/tmp").expect("open").into();
    let sealed = || sandbox::memfd::sealed(b"stay").expect("memfd");
    for (what, boot, bundle) in [
        ("boot is a file", file(), ground.bundle()),
        ("boot is not sealed", ground.bundle(), ground.bundle()),
        ("bundle is root's", sealed(), roots()),
        ("bundle is a file", sealed(), file()),
    ] {
        let answer = daemon
            .client
            .launch(order(good, LIMITS), boot, bundle)
            .await;
        assert!(
            matches!(answer, Err(OrderFault::Refused(_))),
            "{what}: {answer:?}"
        );
    }
    ground.leaves_nothing().await;
}

/// The broker counts its sessions as well; here it does not.
async fn crowded(mut ground: Ground) {
    ground.setup.max_sessions = 2;
    let full = |answer| assert!(matches!(answer, Err(OrderFault::Refused(_))), "{answer:?}");
    let daemon = ground.daemon();
    daemon.launch(&ground, "sone", "stay").await.expect("one");
    daemon
        .launch_with(&ground, "stwo", "stay", 2, LIMITS)
        .await
        .expect("two");
    daemon.client.prepare(id("sthree")).await.expect("prepare");
    full(
        daemon
            .launch_with(&ground, "sthree", "stay", 3, LIMITS)
            .await,
    );
    full(
        daemon
            .launch_with(&ground, "sfour", "stay", 3, LIMITS)
            .await,
    );
    assert_eq!(end_of_exit(daemon).await, 0);

    // Those of an earlier launcher count, until they are removed.
    let next = ground.daemon();
    full(next.launch_with(&ground, "sfour", "stay", 3, LIMITS).await);
    next.client.remove(id("sone")).await.expect("remove");
    next.launch_with(&ground, "sfour", "stay", 3, LIMITS)
        .await
        .expect("there is room again");
    for name in ["stwo", "sfour"] {
        next.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

async fn starved(ground: Ground) {
    let mut daemon = ground.daemon();
    daemon
        .launch(&ground, "sstarved", "stay")
        .await
        .expect("launch");
    let (link, _) = ground.hello(&id("sstarved"));
    link.send(b"starve", &[]).expect("send");
    // The one who starves is a child; that PID 1 ends as well is the launcher's doing (v1) or the kernel's (v2).
    let exited = daemon.exit().await;
    assert_eq!(exited.code, Some(128 + 9));
    assert!(exited.oom_kills > 0, "{exited:?}");
    let removed = daemon.client.remove(id("sstarved")).await.expect("remove");
    assert!(
        removed.usage.oom_kills > 0 && removed.usage.memory_peak_bytes > 32 << 20,
        "{removed:?}"
    );
    ground.leaves_nothing().await;
}

async fn bombed(ground: Ground) {
    let daemon = ground.daemon();
    daemon
        .launch(&ground, "sbombed", "stay")
        .await
        .expect("launch");
    let (link, _) = ground.hello(&id("sbombed"));
    link.send(b"bomb", &[]).expect("send");
    let mut buffer = [0; 16];
    let heard = link.recv(&mut buffer).expect("recv").len;
    // The limit counts PID 1 too.
    assert_eq!(&buffer[..heard], b"63");
    daemon.usage_of(&id("sbombed"), 64).await;
    daemon.client.remove(id("sbombed")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn busy(ground: Ground) {
    let daemon = ground.daemon();
    daemon
        .launch(&ground, "sbusy", "stay")
        .await
        .expect("launch");
    daemon
        .launch_with(&ground, "sother", "stay", 2, LIMITS)
        .await
        .expect("launch");
    // A cgroup with another one below it cannot be removed. In the hierarchy whose turn comes last: its counters are gone by
    // then where each controller has a hierarchy of its own.
    let obstacle = ground.cgroups()[0].join("sbusy/obstacle");
    std::fs::create_dir(&obstacle).expect("create");
    let client = daemon.client.clone();
    let removal = tokio::spawn(async move { client.remove(id("sbusy")).await });
    let began = Instant::now();
    for _ in 0..20 {
        daemon.client.usage(id("sother")).await.expect("usage");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(began.elapsed() < PATIENCE / 5, "{:?}", began.elapsed());
    assert!(!removal.is_finished(), "it is still there");

    std::fs::remove_dir(&obstacle).expect("remove");
    let removed = tokio::time::timeout(PATIENCE, removal)
        .await
        .expect("in time")
        .expect("task")
        .expect("removed");
    assert!(removed.usage.cpu_us > 0, "{removed:?}");
    daemon.client.remove(id("sother")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn outlived(ground: Ground) {
    let daemon = ground.daemon();
    daemon
        .launch(&ground, "soutlived", "stay")
        .await
        .expect("launch");
    daemon.client.prepare(id("sparked")).await.expect("prepare");
    assert_eq!(end_of_exit(daemon).await, 0);
    assert_eq!(ground.hello(&id("soutlived")).1, "stay");

    let next = ground.daemon();
    let parked = next.client.usage(id("sparked")).await;
    assert_eq!(
        parked,
        Err(OrderFault::Unknown),
        "what was only prepared is gone"
    );
    next.usage_of(&id("soutlived"), 1).await;
    let again = next.launch(&ground, "soutlived", "stay").await;
    assert!(matches!(again, Err(OrderFault::Refused(_))), "{again:?}");
    next.client.remove(id("soutlived")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn dead(ground: Ground) {
    let mut daemon = ground.daemon();
    daemon
        .launch(&ground, "sdead", "stay")
        .await
        .expect("launch");
    daemon.client.prepare(id("sparked")).await.expect("prepare");
    kill(daemon.pid, Signal::SIGKILL).expect("kill");
    daemon.client.closed().await;
    assert!(daemon.exits.recv().await.is_none());
    let answer = daemon.client.usage(id("sdead")).await;
    assert!(matches!(answer, Err(OrderFault::Host { .. })), "{answer:?}");
    end_of(daemon.pid).await;
    assert_eq!(
        ground.hello(&id("sdead")).1,
        "stay",
        "the session does not notice"
    );
    let next = ground.daemon();
    let parked = next.client.usage(id("sparked")).await;
    assert_eq!(
        parked,
        Err(OrderFault::Unknown),
        "what was only prepared is cleared away by the next launcher"
    );
    next.client.remove(id("sdead")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn foreign(ground: Ground) {
    let daemon = ground.daemon();
    daemon
        .launch_with(&ground, "sforeign", "stay", 3, LIMITS)
        .await
        .expect("launch");
    kill(daemon.pid, Signal::SIGKILL).expect("kill");
    end_of(daemon.pid).await;

    let next = ground.daemon();
    let same = next.launch_with(&ground, "ssame", "stay", 3, LIMITS).await;
    assert!(matches!(same, Err(OrderFault::Refused(_))), "{same:?}");
    for slot in [2, 4] {
        let name = format!("sslot{slot}");
        next.launch_with(&ground, &name, "stay", slot, LIMITS)
            .await
            .expect("another range");
    }
    assert_eq!(ground.hello(&id("sforeign")).1, "stay", "it lives on");

    next.client.remove(id("sforeign")).await.expect("remove");
    next.launch_with(&ground, "ssame", "stay", 3, LIMITS)
        .await
        .expect("the range is free again");
    for name in ["ssame", "sslot2", "sslot4"] {
        next.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

async fn frozen(ground: Ground) {
    let daemon = ground.daemon();
    let one = daemon
        .launch_with(&ground, "sfrozen", "stay", 3, LIMITS)
        .await
        .expect("launch");
    let session = || id("sfrozen");
    assert_eq!(
        daemon.client.freeze(id("snobody")).await,
        Err(OrderFault::Unknown)
    );
    daemon.client.prepare(id("sparked")).await.expect("prepare");
    let parked = daemon.client.freeze(id("sparked")).await;
    assert!(matches!(parked, Err(OrderFault::Refused(_))), "{parked:?}");
    // Said twice, or of one that runs, it is no error.
    for _ in 0..2 {
        daemon.client.freeze(session()).await.expect("frozen");
    }
    for _ in 0..2 {
        daemon.client.thaw(session()).await.expect("thawed");
    }
    assert_eq!(ground.hello(&session()).1, "stay", "it runs");
    daemon.client.freeze(session()).await.expect("frozen");
    kill(daemon.pid, Signal::SIGKILL).expect("kill");
    end_of(daemon.pid).await;

    let mut next = ground.daemon();
    let order = AdoptOrder {
        session: session(),
        uid_base: uids().start + 16 * 3,
        pid: one.pid,
        start_time: one.start_time,
        cgroup_inode: one.cgroup_inode,
    };
    assert_eq!(next.client.adopt(order).await, Ok(true), "it is frozen");
    next.client.thaw(session()).await.expect("thawed");
    assert_eq!(ground.hello(&session()).1, "stay", "it runs");
    next.client.freeze(session()).await.expect("frozen");
    // What is frozen can be killed, and its end is told.
    next.client.kill(session()).await.expect("killed");
    assert_eq!(next.exit().await.session, session());
    next.client.remove(session()).await.expect("remove");
    let gone = next.client.thaw(session()).await;
    assert_eq!(gone, Err(OrderFault::Unknown));
    ground.leaves_nothing().await;
}

async fn adopted(ground: Ground) {
    let daemon = ground.daemon();
    let one = daemon
        .launch_with(&ground, "sone", "stay", 3, LIMITS)
        .await
        .expect("launch");
    let other = daemon
        .launch_with(&ground, "sother", "stay", 4, LIMITS)
        .await
        .expect("launch");
    kill(daemon.pid, Signal::SIGKILL).expect("kill");
    end_of(daemon.pid).await;

    let mut next = ground.daemon();
    let right = AdoptOrder {
        session: id("sone"),
        uid_base: uids().start + 16 * 3,
        pid: one.pid,
        start_time: one.start_time,
        cgroup_inode: one.cgroup_inode,
    };
    let wrong = [
        AdoptOrder {
            session: id("sother"),
            ..right.clone()
        },
        AdoptOrder {
            uid_base: right.uid_base + 16,
            ..right.clone()
        },
        AdoptOrder {
            // Lives, and is no process of this session's.
            pid: other.pid,
            start_time: other.start_time,
            ..right.clone()
        },
        AdoptOrder {
            pid: i32::try_from(std::process::id()).expect("a pid"),
            ..right.clone()
        },
        AdoptOrder {
            start_time: right.start_time + 1,
            ..right.clone()
        },
        AdoptOrder {
            cgroup_inode: right.cgroup_inode + 1,
            ..right.clone()
        },
        AdoptOrder {
            pid: -1,
            ..right.clone()
        },
    ];
    for order in wrong {
        let answer = next.client.adopt(order.clone()).await;
        assert!(
            matches!(
                answer,
                Err(OrderFault::Refused(_) | OrderFault::Host { .. })
            ),
            "{order:?}: {answer:?}"
        );
    }
    let nobody = AdoptOrder {
        session: id("snobody"),
        ..right.clone()
    };
    assert_eq!(next.client.adopt(nobody).await, Err(OrderFault::Unknown));
    assert_eq!(ground.hello(&id("sone")).1, "stay", "it lives on");
    assert_eq!(next.client.adopt(right.clone()).await, Ok(false), "it runs");
    let again = next.client.adopt(right).await;
    assert!(matches!(again, Err(OrderFault::Refused(_))), "{again:?}");

    // Its end is noticed, though it is nobody's child here.
    kill(Pid::from_raw(one.pid), Signal::SIGKILL).expect("kill");
    let exited = next.exit().await;
    assert_eq!((exited.session, exited.code), (id("sone"), None));
    let theirs = AdoptOrder {
        session: id("sother"),
        uid_base: uids().start + 16 * 4,
        pid: other.pid,
        start_time: other.start_time,
        cgroup_inode: other.cgroup_inode,
    };
    next.client.adopt(theirs).await.expect("adopted");
    for name in ["sone", "sother"] {
        next.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

async fn stranger(ground: Ground) {
    let daemon = ground.daemon();
    daemon
        .launch(&ground, "sforeign", "stay")
        .await
        .expect("launch");
    assert_eq!(end_of_exit(daemon).await, 0);
    // As a stager that does not die with its launcher would be.
    let cgroups = CgroupRoot::open(ground.setup.instance.as_str(), None).expect("cgroups");
    let cgroup = cgroups.create("sstranger").expect("create");
    let stranger = sandbox::sys::fork::fork_single(|| {
        cgroup.enter_self().expect("enter");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    })
    .expect("fork");
    let deadline = Instant::now() + PATIENCE;
    while cgroup.owner(&(0..1)).expect("owner") != Owner::Of(0) {
        assert!(Instant::now() < deadline, "it does not enter");
    }

    let next = ground.daemon();
    let ended = end_of(stranger).await;
    assert!(
        matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{ended:?}"
    );
    next.launch_with(&ground, "snew", "stay", 2, LIMITS)
        .await
        .expect("others are launched");
    for name in ["sforeign", "snew"] {
        assert_eq!(ground.hello(&id(name)).1, "stay");
        next.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}
