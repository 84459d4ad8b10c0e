//! Session storage, through the launcher's client: what an order may say, and that one image is one session's at a time,
//! whatever happens to the processes around it.

use super::ground::{Ground, PATIENCE, end_of, id};
use super::life::{Test, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::{Process, all_processes};
use proto::ids::RuntimeId;
use std::time::{Duration, Instant};
use supervisor::launcher::message::{OrderFault, StorageOrder};

pub(crate) const TESTS: &[Test] = &[
    ("orders_for_storage_out_of_bounds_are_refused", || {
        run_with_storage("sr", refused)
    }),
    ("storage_is_one_sessions_at_a_time_whoever_dies", || {
        run_with_storage("so", alone)
    }),
    ("a_launch_that_waits_for_storage_can_be_given_up", || {
        run_with_storage("sg", given_up)
    }),
    ("storage_is_removed_with_its_runtime", || {
        run_with_storage("sf", forgotten)
    }),
    ("a_new_version_waits_for_the_session_of_the_old_one", || {
        run_with_storage("sv", versions)
    }),
    ("what_is_not_to_be_kept_goes_with_its_session", || {
        run_with_storage("ss", scratch)
    }),
    ("callers_have_a_share_each", || {
        run_with_storage("sc", shares)
    }),
];

fn run_with_storage<F: Future<Output = ()>>(name: &str, test: fn(Ground) -> F) {
    match sandbox::storage::unavailable() {
        None => run(name, test),
        Some(reason) => eprintln!("SKIPPED launcher storage: {reason}"),
    }
}

fn runtime() -> RuntimeId {
    RuntimeId::parse("agent-AbCdEf1234").expect("id")
}

fn order(key: u8) -> StorageOrder {
    StorageOrder {
        runtime: runtime(),
        key: [key; 32],
        caller: [0; 16],
        version: 1,
        name: "data".to_owned(),
        bytes: 16 << 20,
        scratch: false,
    }
}

async fn refused(mut ground: Ground) {
    let daemon = ground.daemon();
    let with = |change: fn(&mut StorageOrder)| {
        let mut order = order(1);
        change(&mut order);
        order
    };
    for (what, order) in [
        ("too small", with(|s| s.bytes = (16 << 20) - 1)),
        ("too large", with(|s| s.bytes = (32 << 20) + 1)),
        ("absurdly large", with(|s| s.bytes = u64::MAX)),
        ("no name", with(|s| s.name = String::new())),
        ("the directory itself", with(|s| s.name = ".".to_owned())),
        ("above", with(|s| s.name = "..".to_owned())),
        ("below", with(|s| s.name = "a/b".to_owned())),
        ("absolute", with(|s| s.name = "/etc".to_owned())),
        ("a null byte", with(|s| s.name = "a\0b".to_owned())),
        ("ext4's own", with(|s| s.name = "lost+found".to_owned())),
        ("a long name", with(|s| s.name = "x".repeat(4096))),
    ] {
        let answer = daemon.launch_storing(&ground, "srefused", 1, order).await;
        assert!(
            matches!(answer, Err(OrderFault::Refused(_))),
            "{what}: {answer:?}"
        );
    }
    assert_eq!(ground.images(), [""; 0]);
    ground.leaves_nothing().await;
    let _ = daemon.end().await;

    ground.setup.storage = None;
    let daemon = ground.daemon();
    let answer = daemon.launch_storing(&ground, "snone", 1, order(1)).await;
    assert!(matches!(answer, Err(OrderFault::Refused(_))), "{answer:?}");
    let none = daemon.client.forget_storage(runtime()).await;
    assert_eq!(none, Ok(()), "there is nothing to forget");
    ground.leaves_nothing().await;
}

async fn alone(ground: Ground) {
    let daemon = ground.daemon();
    let first = daemon
        .launch_storing(&ground, "sfirst", 1, order(1))
        .await
        .expect("launch");
    assert_eq!(ground.loop_devices().len(), 1);
    let mounts = Process::new(first.pid)
        .and_then(|process| process.mountinfo())
        .expect("mounts");
    let point = |path: &str| {
        let at = |mount: &&procfs::process::MountInfo| mount.mount_point.as_os_str() == path;
        let mounts: Vec<_> = mounts.0.iter().filter(at).collect();
        mounts
            .first()
            .map(|mount| (mount.fs_type.clone(), mount.mount_options.clone()))
    };
    let (fs_type, options) = point("/mnt").expect("a mount");
    assert_eq!(fs_type, "ext4");
    assert!(options.contains_key("nosuid") && options.contains_key("nodev"));

    // Another key is nobody's business.
    daemon
        .launch_storing(&ground, "sother", 2, order(2))
        .await
        .expect("another storage");
    daemon.client.remove(id("sother")).await.expect("remove");

    // The lease is the kernel's: neither launcher nor broker has to remember it.
    kill(daemon.pid, Signal::SIGKILL).expect("kill");
    end_of(daemon.pid).await;
    assert_eq!(ground.loop_devices().len(), 1, "the session lives on");
    let next = ground.daemon();
    let began = Instant::now();
    let second = next.launch_storing(&ground, "ssecond", 3, order(1)).await;
    assert!(matches!(second, Err(OrderFault::StorageBusy)), "{second:?}");
    assert!(began.elapsed() < 2 * PATIENCE, "{:?}", began.elapsed());
    assert_eq!(ground.loop_devices().len(), 1);
    next.client.remove(id("sfirst")).await.expect("remove");
    next.launch_storing(&ground, "ssecond", 3, order(1))
        .await
        .expect("its turn");
    next.client.remove(id("ssecond")).await.expect("remove");
    ground.leaves_nothing().await;
    assert_eq!(ground.images().len(), 2, "{:?}", ground.images());
}

async fn given_up(ground: Ground) {
    let daemon = ground.daemon();
    daemon
        .launch_storing(&ground, "sfirst", 1, order(1))
        .await
        .expect("launch");
    for how in ["removed", "killed"] {
        let waiting = daemon.launch_storing(&ground, "ssecond", 2, order(1));
        let give_up = async {
            let steward = steward_of(daemon.pid).await;
            if how == "killed" {
                kill(steward, Signal::SIGKILL).expect("kill");
            } else {
                daemon.client.remove(id("ssecond")).await.expect("remove");
            }
        };
        let began = Instant::now();
        let (outcome, ()) = tokio::join!(waiting, give_up);
        let fault = outcome.expect_err("given up");
        assert!(
            matches!(fault, OrderFault::Step { .. } | OrderFault::Unknown),
            "{how}: {fault:?}"
        );
        assert!(
            began.elapsed() < PATIENCE / 2,
            "{how} {:?}",
            began.elapsed()
        );
    }
    // Its uids are free again, and so is the name.
    daemon
        .launch_storing(&ground, "ssecond", 2, order(2))
        .await
        .expect("launch");
    for name in ["sfirst", "ssecond"] {
        daemon.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}

/// The steward that works for a launcher and has looked in vain at least once.
async fn steward_of(launcher: Pid) -> Pid {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for process in all_processes().expect("processes").flatten() {
            let ours = process.stat().is_ok_and(|s| s.ppid == launcher.as_raw());
            let title = process.cmdline().unwrap_or_default().join(" ");
            if ours && title.contains("steward") {
                return Pid::from_raw(process.pid());
            }
        }
        assert!(Instant::now() < deadline, "no steward");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn forgotten(ground: Ground) {
    let daemon = ground.daemon();
    for key in 1..=2 {
        daemon
            .launch_storing(&ground, "sone", 1, order(key))
            .await
            .expect("launch");
        if key == 1 {
            daemon.client.remove(id("sone")).await.expect("remove");
        }
    }
    assert_eq!(ground.images().len(), 2);
    // One of them is in use: it goes from the disk with its session, and counts until then.
    daemon
        .client
        .forget_storage(runtime())
        .await
        .expect("forget");
    let left = ground.images();
    assert!(left.len() == 1 && left[0].ends_with(".1.gone"), "{left:?}");
    assert_eq!(ground.loop_devices().len(), 1);
    daemon.client.remove(id("sone")).await.expect("remove");
    assert_eq!(ground.images(), [""; 0]);
    daemon
        .client
        .forget_storage(runtime())
        .await
        .expect("again");
    ground.leaves_nothing().await;
}

async fn versions(ground: Ground) {
    let daemon = ground.daemon();
    let next = || StorageOrder {
        version: 2,
        ..order(1)
    };
    daemon
        .launch_storing(&ground, "sfirst", 1, order(1))
        .await
        .expect("launch");
    let second = daemon.launch_storing(&ground, "ssecond", 2, next()).await;
    assert!(matches!(second, Err(OrderFault::StorageBusy)), "{second:?}");
    let images = ground.images();
    assert!(
        images.len() == 1 && images[0].ends_with(".1.img"),
        "{images:?}"
    );
    daemon.client.remove(id("sfirst")).await.expect("remove");
    daemon
        .launch_storing(&ground, "ssecond", 2, next())
        .await
        .expect("its turn");
    let images = ground.images();
    assert!(
        images.len() == 1 && images[0].ends_with(".2.img"),
        "{images:?}"
    );
    daemon.client.remove(id("ssecond")).await.expect("remove");
    ground.leaves_nothing().await;
}

async fn scratch(ground: Ground) {
    let daemon = ground.daemon();
    let unkept = |key| StorageOrder {
        scratch: true,
        ..order(key)
    };
    daemon
        .launch_storing(&ground, "sone", 1, unkept(1))
        .await
        .expect("launch");
    assert_eq!(ground.images().len(), 1);
    daemon.client.remove(id("sone")).await.expect("remove");
    assert_eq!(ground.images(), [""; 0]);
    // A launcher that dies leaves it to the sweep of the one after the next session's end.
    daemon
        .launch_storing(&ground, "stwo", 2, unkept(2))
        .await
        .expect("launch");
    kill(daemon.pid, Signal::SIGKILL).expect("kill");
    end_of(daemon.pid).await;
    let next = ground.daemon();
    next.client.remove(id("stwo")).await.expect("remove");
    let _ = next.end().await;
    let last = ground.daemon();
    let deadline = Instant::now() + PATIENCE;
    while !ground.images().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", ground.images());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = last.end().await;
    ground.leaves_nothing().await;
}

async fn shares(mut ground: Ground) {
    if let Some(storage) = &mut ground.setup.storage {
        storage.caller_bytes = 32 << 20;
    }
    let daemon = ground.daemon();
    let of = |key, caller| StorageOrder {
        caller: [caller; 16],
        ..order(key)
    };
    for (name, number) in [("sone", 1), ("stwo", 2)] {
        daemon
            .launch_storing(&ground, name, number.into(), of(number, 1))
            .await
            .expect("launch");
    }
    match daemon.launch_storing(&ground, "sthree", 3, of(3, 1)).await {
        Err(OrderFault::StorageFull(why)) => assert!(why.contains("storage.per_caller"), "{why}"),
        other => panic!("{other:?}"),
    }
    daemon
        .launch_storing(&ground, "sthree", 3, of(3, 2))
        .await
        .expect("another caller's");
    for name in ["sone", "stwo", "sthree"] {
        daemon.client.remove(id(name)).await.expect("remove");
    }
    ground.leaves_nothing().await;
}
