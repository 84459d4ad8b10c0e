//! What an order may say. The broker has checked all this too; the launcher does not know that.

use super::ground::Ground;
use super::message::{LaunchOrder, Limits, OrderFault, SetLimits, StorageOrder};
use nix::sys::stat::{SFlag, fstat};
use sandbox::memfd;
use sandbox::shim_entry::MAX_BOOT;
use sandbox::storage;
use sandbox::uid_block::UIDS_PER_SESSION;
use std::os::fd::{AsFd, OwnedFd};

/// Smallest useful limits: below them not even the shim starts, and the fault would name a step that is not to blame.
const FLOORS: Limits = Limits {
    memory_bytes: 16 << 20,
    cpu_millis: 10,
    pids: 4,
    cpu_weight: 1,
    tmp_bytes: 64 << 10,
    nofile: 16,
};

fn refused<T>(why: impl Into<String>) -> Result<T, OrderFault> {
    Err(OrderFault::Refused(why.into()))
}

/// Ids and limits of a launch.
pub(super) fn launch(order: &LaunchOrder, ground: &Ground) -> Result<(), OrderFault> {
    uid_base(order.uid_base, ground)?;
    let (asked, top) = (&order.limits, &ground.ceilings);
    for (name, asked, floor, ceiling) in [
        (
            "memory",
            asked.memory_bytes,
            FLOORS.memory_bytes,
            top.memory_bytes
                .saturating_add(order.lineage.left_by_forks()),
        ),
        (
            "cpu",
            asked.cpu_millis.into(),
            FLOORS.cpu_millis.into(),
            most_cpu(ground),
        ),
        (
            "cpu_weight",
            asked.cpu_weight.into(),
            FLOORS.cpu_weight.into(),
            top.cpu_weight.into(),
        ),
        (
            "pids",
            asked.pids.into(),
            FLOORS.pids.into(),
            top.pids.into(),
        ),
        ("tmp", asked.tmp_bytes, FLOORS.tmp_bytes, top.tmp_bytes),
        (
            "nofile",
            asked.nofile.into(),
            FLOORS.nofile.into(),
            top.nofile.into(),
        ),
    ] {
        if asked < floor || asked > ceiling {
            return refused(format!("{name} must be {floor} to {ceiling}, is {asked}"));
        }
    }
    order
        .storage
        .as_ref()
        .map_or(Ok(()), |asked| storage_order(asked, ground))
}

/// No session has more than all of them may have together: cgroup v1 would refuse it.
fn most_cpu(ground: &Ground) -> u64 {
    let top = ground.ceilings.cpu_millis;
    ground.all.cpu_millis.map_or(top, |all| all.min(top)).into()
}

/// New limits of a session that runs: as a launch may ask for them.
pub(super) fn set_limits(order: &SetLimits, ground: &Ground) -> Result<(), OrderFault> {
    let top = &ground.ceilings;
    let asked = [
        (
            "memory",
            order.memory_bytes,
            FLOORS.memory_bytes,
            top.memory_bytes,
        ),
        (
            "cpu",
            order.cpu_millis.map(u64::from),
            FLOORS.cpu_millis.into(),
            most_cpu(ground),
        ),
        (
            "cpu_weight",
            order.cpu_weight.map(u64::from),
            FLOORS.cpu_weight.into(),
            top.cpu_weight.into(),
        ),
        (
            "pids",
            order.pids.map(u64::from),
            FLOORS.pids.into(),
            top.pids.into(),
        ),
    ];
    for (name, asked, floor, ceiling) in asked {
        if let Some(asked) = asked
            && !(floor..=ceiling).contains(&asked)
        {
            return refused(format!("{name} must be {floor} to {ceiling}, is {asked}"));
        }
    }
    Ok(())
}

/// What a launch says of its storage. That the runtime's id is one was checked when the order was read.
fn storage_order(order: &StorageOrder, ground: &Ground) -> Result<(), OrderFault> {
    let Some(granted) = &ground.storage else {
        return refused("this host has no session storage");
    };
    if !storage::is_name(&order.name) {
        return refused("the storage's name is not that of a directory in /mnt");
    }
    let (floor, ceiling) = (storage::MIN_BYTES, granted.max_bytes);
    if !(floor..=ceiling).contains(&order.bytes) {
        let asked = order.bytes;
        return refused(format!("storage must be {floor} to {ceiling}, is {asked}"));
    }
    Ok(())
}

/// First uid of the range that holds `uid`, which is one of the instance's.
pub(super) fn base_of(uid: u32, ground: &Ground) -> u32 {
    uid - (uid - ground.uid_block.start) % UIDS_PER_SESSION
}

fn uid_base(base: u32, ground: &Ground) -> Result<(), OrderFault> {
    let block = &ground.uid_block;
    let fits = base >= block.start
        && base.checked_add(UIDS_PER_SESSION).is_some_and(|end| end <= block.end)
        && (base - block.start).is_multiple_of(UIDS_PER_SESSION)
        // The broker may be the block's first uid, and its range is then nobody else's.
        && !(base..base + UIDS_PER_SESSION).contains(&ground.broker.0);
    if fits {
        Ok(())
    } else {
        refused(format!(
            "uid {base} does not begin a session's range of {block:?}"
        ))
    }
}

/// The two descriptors of a launch: boot file and bundle.
pub(super) fn launch_fds(
    fds: Vec<OwnedFd>,
    ground: &Ground,
) -> Result<(OwnedFd, OwnedFd), OrderFault> {
    let Ok([boot, bundle]) = <[OwnedFd; 2]>::try_from(fds) else {
        return refused("a launch has two descriptors");
    };
    if !memfd::is_sealed(boot.as_fd(), MAX_BOOT).unwrap_or(false) {
        return refused("the boot file is not a sealed memory file");
    }
    let Ok(found) = fstat(&bundle) else {
        return refused("the bundle cannot be looked at");
    };
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFDIR
        || found.st_uid != ground.broker.0
        || found.st_dev != ground.state_device
    {
        return refused(
            "the bundle is not a directory of the broker's on the state directory's file system",
        );
    }
    Ok((boot, bundle))
}
