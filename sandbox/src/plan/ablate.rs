//! Test builds only: a plan without the measures that are switched off (see [`crate::faults`]).
//!
//! Most are simply left out. Where nothing would be left to look at, or no session would start, something weaker takes
//! the measure's place; each such case says what.

use super::{AheadAct, ChildAct, FsMount, OrderAct, PlaceAct, Plan, SessionSpec, Step, StorageAct};
use crate::faults::is_off;
use crate::sys::capability::CapMask;
use crate::uid_block::{BLOCK_SIZE, FIRST_UID, UIDS_PER_SESSION};
use std::ffi::CStr;

/// Every capability that a kernel of today knows.
const ALL: CapMask = CapMask((1 << 41) - 1);

/// `idmap.session_range` off: whatever range a session is given, it gets that of its daemon's first one.
pub(super) fn spec(spec: &SessionSpec) -> SessionSpec {
    let mut spec = spec.clone();
    if is_off("idmap.session_range") {
        let block = spec.uid_base - spec.uid_base.saturating_sub(FIRST_UID) % BLOCK_SIZE;
        spec.uid_base = block + UIDS_PER_SESSION;
    }
    spec
}

pub(super) fn ahead(steps: &mut Vec<Step<AheadAct>>) {
    for step in &mut *steps {
        match &mut step.act {
            AheadAct::CloneBase(attrs) => attrs.retain(|attr| !is_off(attr.name)),
            // The host's own, bound.
            AheadAct::MakeDev { attrs, .. } if is_off(step.name) => {
                step.act = AheadAct::BindHostDev(std::mem::take(attrs));
            }
            AheadAct::MakeDev { options, attrs, .. } => {
                options.retain(|option| !is_off(option.name));
                attrs.retain(|attr| !is_off(attr.name));
            }
            AheadAct::BindHostDev(_) => {}
        }
    }
    let replaced = |act: &AheadAct| matches!(act, AheadAct::BindHostDev(_));
    steps.retain(|step| replaced(&step.act) || !is_off(step.name));
}

pub(super) fn place(steps: &mut Vec<Step<PlaceAct>>) {
    // The host's `lo` is up, and not ours to touch.
    steps.retain(|step| !is_off(step.name) && !is_off("ns.net"));
}

/// Only what the mount is made with: without the other steps there is no storage.
pub(super) fn storage(steps: &mut [Step<StorageAct>]) {
    for step in steps {
        if let StorageAct::Mount { options, attrs } = &mut step.act {
            options.retain(|option| !is_off(option.name));
            attrs.retain(|attr| !is_off(attr.name));
        }
    }
}

pub(super) fn plan(plan: &mut Plan) {
    for step in &mut plan.order {
        if let OrderAct::CloneBundle(attrs) = &mut step.act {
            attrs.retain(|attr| !is_off(attr.name));
        }
    }
    plan.order.retain(|step| !is_off(step.name));
    plan.namespaces.retain(|step| !is_off(step.name));
    // Without a user namespace there is nothing to map.
    plan.maps
        .retain(|step| !is_off(step.name) && !is_off("ns.user"));
    plan.child = std::mem::take(&mut plan.child)
        .into_iter()
        .filter_map(child)
        .collect();
    sysfs(&mut plan.child);
    filters_before_capabilities(&mut plan.child);
}

/// One step of the new process: as it is, weaker, or not at all.
fn child(mut step: Step<ChildAct>) -> Option<Step<ChildAct>> {
    let bind = |path: &CStr, target: &CStr| ChildAct::BindHost {
        source: path.to_owned(),
        target: target.to_owned(),
    };
    step.act = match step.act {
        ChildAct::Mount(fs) => match (step.name, is_off(step.name)) {
            // A proc of the host's processes cannot be mounted by anyone less than the host's root.
            ("proc.mount", _) if is_off("ns.pid") => bind(c"/proc", c"proc"),
            ("dev.pts_newinstance", true) => bind(c"/dev/pts", c"dev/pts"),
            (_, true) => return None,
            (_, false) => ChildAct::Mount(without_options(fs)),
        },
        // The host's /dev is bound in place of our own; it has to be attached all the same.
        ChildAct::AttachDev(target) if is_off("dev.minimal") => ChildAct::AttachDev(target),
        ChildAct::PivotRoot if is_off(step.name) => ChildAct::Chroot,
        ChildAct::DetachOldRoot if is_off("rootfs.pivot") => return None,
        // Our own session keeps its name, the host's would be changed.
        ChildAct::Hostname(_) if is_off("ns.uts") => return None,
        // The host's `lo` is up, and not ours to touch.
        ChildAct::Loopback if is_off("ns.net") => return None,
        // Not only the last step: what the shim may keep is limited, and carried through exec, before it.
        ChildAct::LimitCaps { .. } if is_off("caps.permitted") => ChildAct::LimitCaps { keep: ALL },
        ChildAct::RaiseAmbient { .. } if is_off("caps.permitted") => {
            ChildAct::RaiseAmbient { keep: ALL }
        }
        // The shim's three descriptors are no measure.
        ChildAct::OwnDescriptors { .. } if is_off(step.name) => {
            ChildAct::OwnDescriptors { null: None }
        }
        // Replaced below.
        ChildAct::RequireEmpty(path) => ChildAct::RequireEmpty(path),
        _ if is_off(step.name) => return None,
        act => act,
    };
    Some(step)
}

fn without_options(mut fs: FsMount) -> FsMount {
    fs.options.retain(|option| !is_off(option.name));
    fs.attrs.retain(|attr| !is_off(attr.name));
    fs
}

/// `sys.absent` off: the host's /sys, bound before the host's root goes out of sight.
fn sysfs(steps: &mut Vec<Step<ChildAct>>) {
    let name = "sys.absent";
    if !is_off(name) {
        return;
    }
    steps.retain(|step| step.name != name);
    let at = steps
        .iter()
        .position(|step| step.name == "rootfs.pivot")
        .unwrap_or(0);
    let act = ChildAct::BindHost {
        source: c"/sys".to_owned(),
        target: c"sys".to_owned(),
    };
    steps.insert(at, Step { name, act });
}

/// `no_new_privs` off: only CAP_SYS_ADMIN may install a filter then, so the filters come before the capabilities go.
fn filters_before_capabilities(steps: &mut Vec<Step<ChildAct>>) {
    if !is_off("no_new_privs") {
        return;
    }
    let (filters, mut rest): (Vec<_>, Vec<_>) = std::mem::take(steps)
        .into_iter()
        .partition(|step| matches!(step.act, ChildAct::Seccomp(_)));
    let at = rest
        .iter()
        .position(|step| step.name == "caps.inheritable")
        .unwrap_or(0);
    rest.splice(at..at, filters);
    *steps = rest;
}
