//! Every step of the plan that fails means: no session, its name in the answer, nothing left. Only in builds with
//! `fault-injection`; each step in a process of its own, because the variable is read where the fork begins.

use super::ground::{Ground, id};
use sandbox::plan::{SessionSpec, compile};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use supervisor::launcher::message::OrderFault;

const VARIABLE: &str = "AGENTCORED_FAIL_STEP";

/// The step that this process is to make fail, if it is such a process.
pub(crate) fn wanted() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Runs this program once per step.
pub(crate) fn every_step_fails_closed() {
    let spec = SessionSpec {
        uid_base: 1 << 20,
        tmp_bytes: 1 << 20,
        nofile: 64,
        nproc: 64,
        staging: PathBuf::from("/run"),
        core_is_piped: false,
        filters: sandbox::seccomp::filters().expect("filters"),
    };
    let names = compile(&spec).expect("plan").names();
    assert!(names.len() > 90, "only {} steps", names.len());
    let faults: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let output = Command::new("/proc/self/exe")
                .env(VARIABLE, name)
                .stderr(Stdio::piped())
                .output()
                .expect("run");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            (!output.status.success()).then(|| format!("{name}: {told}"))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// In such a process: with and without a prepared place, the launch fails with the step's name and leaves nothing.
pub(crate) async fn fails(ground: Ground) {
    let step = wanted().expect("a step");
    let daemon = ground.daemon();
    for prepared in [false, true] {
        if prepared && let Err(fault) = daemon.client.prepare(id("sfails")).await {
            // The launcher's own part of the plan fails right here.
            assert_names(&fault, &step);
        }
        let launched = daemon.launch(&ground, "sfails", "stay").await;
        match launched {
            Ok(_) => panic!("a session without {step}"),
            Err(fault) => assert_names(&fault, &step),
        }
        // The name is free again, and so are the uids.
        ground.leaves_nothing().await;
    }
}

fn assert_names(fault: &OrderFault, step: &str) {
    let expected = OrderFault::Step {
        stage: step.to_owned(),
        errno: nix::errno::Errno::EIO as i32,
    };
    assert_eq!(*fault, expected);
}
