//! Each hardening measure is worth something: without it, the probe that `tests/agents/probe/measures.py` names turns red;
//! with it, that probe is green. Tier: root, fault-injection build.
//!
//! One run of all probes with everything on is the common "with it". A measure that stands behind another one (`cover`) gets a
//! "with it" of its own, without the cover. Measures whose ground this machine lacks are skipped, each by name.

use anyhow::{Context as _, ensure};
use e2e::canaries::{Canaries, peer};
use e2e::client::session_name;
use e2e::probe::Verdicts;
use e2e::{Daemon, Options, Result, ground, host, places, probe};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

#[derive(Debug, Clone, Deserialize)]
struct Measure {
    red: Vec<String>,
    steps: Vec<String>,
    cover: Vec<String>,
    ground: String,
    host: String,
}

/// Fewest measures that must be shown (issue 2, point 11).
const LEAST: usize = 30;

fn measures() -> anyhow::Result<BTreeMap<String, Measure>> {
    let out = Command::new("/usr/bin/python3")
        .arg(places::agent("probe").join("measures.py"))
        .arg("--json")
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// What a plan without `steps` shows in the probes `ids`.
fn probed(
    canaries: &Canaries,
    daemon: &mut Daemon,
    steps: &BTreeSet<String>,
    ids: &Value,
) -> anyhow::Result<Verdicts> {
    let mut options = canaries.around(Options::default().faults());
    if !steps.is_empty() {
        let names: Vec<_> = steps.iter().cloned().collect();
        options = options.env("AGENTCORED_ABLATE", &names.join(","));
    }
    daemon.terminate()?;
    daemon.restart_with(options)?;
    let client = daemon.client();
    let other = session_name("planted");
    let planted = probe::plant(&client, "probe", &other, "other")?;
    let mut told = canaries.json(daemon, json!({}))?;
    told.insert("peer".into(), peer(&client.session(&other)?, &planted)?);
    told.insert("filters".into(), json!(2));
    let limits = json!({
        "memory_bytes": 256u64 << 20, "cpus": 0.5, "pids": 128, "tmp_bytes": 16 << 20, "home_bytes": 16 << 20,
        "shm_bytes": 4 << 20, "nofile": 4096, "core": 0, "rtprio": 0, "nice": 0, "memlock": 8 << 20, "sigpending": 1024,
        "msgqueue": 819_200, "oom_score_adj": 100,
    });
    let id = session_name("ablated");
    let verdicts = probe::run(
        &client,
        "probe",
        &id,
        &json!({"run": ids, "canaries": told, "limits": limits, "strict": false}),
    );
    for id in [&id, &other] {
        let _ = client.stop(id);
    }
    verdicts
}

/// Measures whose loss leaves no session to probe: they are closed by themselves.
const NO_SESSION_WITHOUT: &[&str] = &["net.loopback", "ns.mount", "sys.absent"];

/// Measures that no probe sees on this machine, each with the reason.
const UNSEEN: &[(&str, &str)] = &[
    (
        "mounts.private",
        "the clones of base and bundle leave their peer groups themselves",
    ),
    (
        "rlimit.memlock",
        "this host's own limit is what a session is promised",
    ),
    (
        "rlimit.msgqueue",
        "this host's own limit is what a session is promised",
    ),
];

/// Why this machine cannot show a measure.
fn groundless(name: &str, measure: &Measure) -> Option<String> {
    if !measure.host.is_empty() {
        return Some(format!("read from the host instead: {}", measure.host));
    }
    if measure.red.is_empty() || measure.steps.is_empty() {
        return Some("no step of the plan: shown by the limits and isolation suites".to_owned());
    }
    if let Some((_, reason)) = UNSEEN.iter().find(|(unseen, _)| *unseen == name) {
        return Some((*reason).to_owned());
    }
    if name.starts_with("rlimit.rtprio") || name.starts_with("rlimit.nice") {
        return Some(format!(
            "this machine's root cannot raise limits: {}",
            measure.ground
        ));
    }
    None
}

#[test]
fn without_any_one_measure_its_probe_turns_red() -> Result {
    ground!(Daemon, Faults, Python, Command("unshare"));
    let canaries = Canaries::new()?;
    let measures = measures()?;
    Daemon::with(canaries.around(Options::default().faults()), |daemon| {
        let config =
            json!({"resources": {"memory": "256M", "cpus": 0.5, "pids": 128, "tmp_size": "16M"}});
        probe::deploy(&daemon.client(), "probe", config)?;
        let wanted: BTreeSet<_> = measures.values().flat_map(|m| m.red.clone()).collect();
        let all_on = probed(&canaries, daemon, &BTreeSet::new(), &json!(wanted))?;
        let (mut shown, mut faults, mut not_here) = (Vec::new(), Vec::new(), Vec::new());
        for (name, measure) in &measures {
            if let Some(reason) = groundless(name, measure) {
                not_here.push(format!("{name} ({reason})"));
                continue;
            }
            match shows(&canaries, daemon, &measures, name, measure, &all_on) {
                Ok(()) => shown.push(name.clone()),
                Err(error)
                    if NO_SESSION_WITHOUT.contains(&name.as_str())
                        && format!("{error:#}").contains("the session could not be started") =>
                {
                    shown.push(format!("{name} (no session without it)"));
                }
                Err(error) => faults.push(format!("{name}: {error:#}")),
            }
        }
        println!("{} measures shown: {}", shown.len(), shown.join(" "));
        if !not_here.is_empty() {
            e2e::ground::skip(&format!(
                "{} measures: {}",
                not_here.len(),
                not_here.join(", ")
            ));
        }
        ensure!(
            faults.is_empty(),
            "{} measures are not shown:\n{}",
            faults.len(),
            faults.join("\n")
        );
        ensure!(shown.len() >= LEAST, "only {} measures", shown.len());
        Ok(())
    })
}

fn shows(
    canaries: &Canaries,
    daemon: &mut Daemon,
    measures: &BTreeMap<String, Measure>,
    name: &str,
    measure: &Measure,
    all_on: &Verdicts,
) -> Result {
    let mut cover = BTreeSet::new();
    for other in &measure.cover {
        let other = measures
            .get(other)
            .with_context(|| format!("unknown cover {other}"))?;
        cover.extend(other.steps.iter().cloned());
    }
    let ids = json!(measure.red);
    let with = if cover.is_empty() {
        all_on.clone()
    } else {
        probed(canaries, daemon, &cover, &ids)?
    };
    for id in &measure.red {
        let row = with.of(id).with_context(|| format!("no verdict of {id}"))?;
        ensure!(
            row.verdict == "PASS",
            "{id} is {} with the measure: {}",
            row.verdict,
            row.detail
        );
    }
    let steps = cover
        .union(&measure.steps.iter().cloned().collect())
        .cloned()
        .collect();
    let without =
        probed(canaries, daemon, &steps, &ids).with_context(|| format!("without {name}"))?;
    for id in &measure.red {
        let row = without
            .of(id)
            .with_context(|| format!("no verdict of {id}"))?;
        ensure!(
            row.verdict == "FAIL",
            "{id} is {} without the measure: {}",
            row.verdict,
            row.detail
        );
    }
    Ok(())
}

#[test]
fn what_only_the_host_sees_goes_with_its_measure_too() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::quick().faults();
    Daemon::with(options.clone(), |daemon| {
        probe::deploy(&daemon.client(), "probe", json!({}))?;
        let mut seen = Vec::new();
        for ablated in ["", "caps.permitted"] {
            daemon.terminate()?;
            daemon.restart_with(options.clone().env("AGENTCORED_ABLATE", ablated))?;
            let session =
                daemon
                    .client()
                    .start("probe", &session_name("host"), &json!({"list": true}))?;
            let shim = session.pid.context("pid")?;
            seen.push(host::status(shim, shim)?["CapPrm"].clone());
        }
        let shim_only = format!("{:016x}", (1u64 << 5) | (1 << 6) | (1 << 7));
        ensure!(
            seen[0] == shim_only,
            "PID 1 keeps {} and not exactly KILL, SETGID and SETUID",
            seen[0]
        );
        ensure!(
            seen[1] != shim_only,
            "switching the measure off changed nothing"
        );
        Ok(())
    })
}
