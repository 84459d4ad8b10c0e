//! Each hardening measure is worth something: without it, the probe that `tests/agents/probe/measures.py` names turns red;
//! with it, that probe is green. Tier: root, fault-injection build.
//!
//! One run of all probes with everything on is the common "with it". A measure that stands behind another one (`cover`) gets a
//! "with it" of its own, without the cover. Measures whose ground this machine lacks are skipped, each by name.

use anyhow::{Context as _, ensure};
use e2e::canaries::{Canaries, denied_device, peer};
use e2e::client::session_name;
use e2e::probe::Verdicts;
use e2e::{Client, Daemon, Options, Result, chaos, ground, host, places, probe, sysv};
use proto::api::{EndReason, Origin};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

#[derive(Debug, Clone, Deserialize)]
struct Measure {
    red: Vec<String>,
    steps: Vec<String>,
    cover: Vec<String>,
}

/// Fewest measures that must be shown by the one test: all but those of [`SHOWN_BY`] and of [`NEED_MORE`].
const LEAST: usize = 95;

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

/// What a run of some probes stands on.
struct Scene<'a> {
    canaries: &'a Canaries,
    /// Runtime of the session that is probed.
    runtime: &'static str,
    cpus: f64,
    /// Put before the daemon's command line.
    wrap: &'static [&'static str],
}

impl Scene<'_> {
    /// For one measure.
    fn of<'a>(canaries: &'a Canaries, measure: &str) -> Scene<'a> {
        let mut scene = Scene {
            canaries,
            runtime: "probe",
            cpus: 0.5,
            wrap: &[],
        };
        match measure {
            // A machine that is busy gives no more by itself, and a missing quota would look like a kept one.
            "cgroup.cpu" => (scene.runtime, scene.cpus) = ("slow", SLOW),
            // Where there is no peer group, nothing can stay in one.
            "mounts.private" => scene.wrap = SHARED,
            _ => {}
        }
        scene
    }

    fn options(&self, steps: &BTreeSet<String>) -> Options {
        // A measure is shown where it is: sessions that are started for their callers have them all.
        let cold = "[template]\nfork = \"off\"\n[pool]\nmax = 0";
        let mut options = self
            .canaries
            .around(Options::default().faults().config(cold));
        let wrap = self.wrap.iter().map(|word| (*word).to_owned());
        options.wrap = wrap.chain(options.wrap).collect();
        if steps.is_empty() {
            return options;
        }
        let names: Vec<_> = steps.iter().cloned().collect();
        options.env("AGENTCORED_ABLATE", &names.join(","))
    }

    /// What a daemon without `steps` shows in the probes `ids`.
    fn probed(
        &self,
        daemon: &mut Daemon,
        steps: &BTreeSet<String>,
        ids: &Value,
    ) -> anyhow::Result<Verdicts> {
        daemon.terminate()?;
        daemon.restart_with(self.options(steps))?;
        let client = daemon.client();
        let other = session_name("planted");
        let planted = probe::plant(&client, "probe", &other, "other")?;
        let mut told = self.canaries.json(daemon, json!({}))?;
        told.insert("peer".into(), peer(&client.session(&other)?, &planted)?);
        told.insert("filters".into(), json!(2));
        let id = session_name("ablated");
        if ids
            .as_array()
            .is_some_and(|ids| ids.contains(&json!("G08")))
        {
            let session = client.start(self.runtime, &id, &json!({"list": true}))?;
            let node = denied_device(session.pid.context("pid")?)?;
            told.insert("denied_device".into(), json!(node));
        }
        let promised = host::inotify_promised(client.session(&other)?.pid.context("pid")?)?;
        let limits = json!({
            "memory_bytes": 256u64 << 20, "cpus": self.cpus, "pids": 128, "tmp_bytes": 16 << 20, "home_bytes": 16 << 20,
            "shm_bytes": 4 << 20, "nofile": 4096, "core": 0, "rtprio": 0, "nice": 0, "memlock": 8 << 20, "sigpending": 1024,
            "msgqueue": 819_200, "oom_score_adj": 100, "inotify": promised.instances, "watches": promised.watches,
        });
        let payload = json!({"run": ids, "canaries": told, "limits": limits, "strict": false});
        let verdicts = probe::run(&client, self.runtime, &id, &payload);
        for id in [&id, &other] {
            let _ = client.stop(id);
        }
        // Without `ns.ipc` they had ours.
        sysv::remove_all()?;
        verdicts
    }
}

/// Processors of the runtime `slow`.
const SLOW: f64 = 0.2;

/// A mount namespace in which all is shared, as systemd makes the host's: the daemon has one of its own, and ours is left alone.
const SHARED: &[&str] = &["unshare", "--mount", "--propagation", "shared"];

/// Measures whose loss leaves no session to probe: they are closed by themselves.
const NO_SESSION_WITHOUT: &[&str] = &["net.loopback", "ns.mount", "sys.absent"];

/// Measures that other tests of this file show.
const SHOWN_BY: &[(&str, &str)] = &[
    (
        "caps.shim",
        "what_only_the_host_sees_goes_with_its_measure_too",
    ),
    (
        "rootfs.pivot",
        "what_only_the_host_sees_goes_with_its_measure_too",
    ),
    ("cgroup.memory", "memory_without_its_limit_has_no_end"),
    (
        "inotify.share",
        "without_shares_one_fork_takes_what_all_have",
    ),
    (
        "inotify.watches",
        "without_shares_one_fork_takes_what_all_have",
    ),
    (
        "net.loopback_only",
        "an_interface_more_than_the_loopback_would_be_seen",
    ),
];

/// Limits that are no higher than what a daemon of this machine has by itself: their effect shows only under one with more.
const NEED_MORE: &[&str] = &[
    "rlimit.memlock",
    "rlimit.msgqueue",
    "rlimit.nice",
    "rlimit.rtprio",
];

/// Why this machine cannot show a measure.
fn groundless(name: &str) -> anyhow::Result<Option<&'static str>> {
    if !NEED_MORE.contains(&name) {
        return Ok(None);
    }
    let own = i32::try_from(std::process::id())?;
    let effective = u64::from_str_radix(&host::status(own, own)?["CapEff"], 16)?;
    let raises_limits = effective & (1 << 24) != 0;
    Ok((!raises_limits).then_some(
        "without CAP_SYS_RESOURCE no daemon can be started with a higher limit than is promised",
    ))
}

#[test]
fn without_any_one_measure_its_probe_turns_red() -> Result {
    ground!(Daemon, Faults, Python, Command("unshare"), Command("ipcrm"));
    let canaries = Canaries::new()?;
    let measures = measures()?;
    Daemon::with(canaries.around(Options::default().faults()), |daemon| {
        for (runtime, cpus) in [("probe", 0.5), ("slow", SLOW)] {
            let config = json!({"resources": {"memory": "256M", "cpus": cpus, "pids": 128, "tmp_size": "16M"}, "storage": [{"mount": "/mnt/data", "size": "16M"}]});
            probe::deploy(&daemon.client(), runtime, config)?;
        }
        let wanted: BTreeSet<_> = measures.values().flat_map(|m| m.red.clone()).collect();
        let usual = Scene::of(&canaries, "");
        let all_on = usual.probed(daemon, &BTreeSet::new(), &json!(wanted))?;
        let (mut shown, mut faults) = (Vec::new(), Vec::new());
        let (mut elsewhere, mut not_here) = (Vec::new(), Vec::new());
        for (name, measure) in &measures {
            if let Some((_, test)) = SHOWN_BY.iter().find(|(other, _)| other == name) {
                elsewhere.push(format!("{name} ({test})"));
                continue;
            }
            if let Some(reason) = groundless(name)? {
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
        println!("and by other tests: {}", elsewhere.join(", "));
        if !not_here.is_empty() {
            let (count, all) = (not_here.len(), not_here.join(", "));
            e2e::ground::skip_part(&format!("{count} measures: {all}"));
        }
        ensure!(
            faults.is_empty(),
            "{} measures are not shown:\n{}",
            faults.len(),
            faults.join("\n")
        );
        ensure!(
            shown.len() >= LEAST && elsewhere.len() == SHOWN_BY.len(),
            "only {} measures",
            shown.len()
        );
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
    ensure!(
        !measure.red.is_empty() && !measure.steps.is_empty(),
        "names no probe or no step"
    );
    let mut cover = BTreeSet::new();
    for other in &measure.cover {
        let other = measures
            .get(other)
            .with_context(|| format!("unknown cover {other}"))?;
        cover.extend(other.steps.iter().cloned());
    }
    let ids = json!(measure.red);
    let scene = Scene::of(canaries, name);
    let usual = scene.runtime == "probe" && scene.wrap.is_empty();
    let with = if cover.is_empty() && usual {
        all_on.clone()
    } else {
        scene.probed(daemon, &cover, &ids)?
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
    let without = scene
        .probed(daemon, &steps, &ids)
        .with_context(|| format!("without {name}"))?;
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
    ground!(Daemon, Faults, Python, Command("nsenter"));
    let options = Options::quick().faults();
    Daemon::with(options.clone(), |daemon| {
        probe::deploy(&daemon.client(), "probe", json!({}))?;
        let mut shim_under = |ablated: &str| -> anyhow::Result<i32> {
            daemon.terminate()?;
            daemon.restart_with(options.clone().env("AGENTCORED_ABLATE", ablated))?;
            let id = session_name("host");
            let session = daemon
                .client()
                .start("probe", &id, &json!({"list": true}))?;
            session.pid.context("pid")
        };
        let permitted =
            |shim: i32| Ok::<_, anyhow::Error>(host::status(shim, shim)?["CapPrm"].clone());
        let shim = shim_under("")?;
        let seen = permitted(shim)?;
        let shim_only = format!("{:016x}", (1u64 << 5) | (1 << 6) | (1 << 7));
        ensure!(
            seen == shim_only,
            "PID 1 keeps {seen} and not exactly KILL, SETGID and SETUID"
        );
        ensure!(
            !host_is_around(shim)?,
            "the host's files are in its mount namespace"
        );
        ensure!(
            permitted(shim_under("caps.permitted")?)? != shim_only,
            "without caps.permitted nothing changes"
        );
        let chroot = shim_under("rootfs.pivot,rootfs.detach_old")?;
        ensure!(
            host_is_around(chroot)?,
            "without rootfs.pivot nothing changes"
        );
        Ok(())
    })
}

#[test]
fn without_shares_one_fork_takes_what_all_have() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::quick().faults().config("[pool]\nmax = 0");
    Daemon::with(options.clone(), |daemon| {
        probe::deploy(&daemon.client(), "probe", json!({"fork": "auto"}))?;
        for (ablated, ids, verdict) in [
            ("", &["Y09.inotify_share", "Y09.watches"][..], "PASS"),
            ("inotify.share", &["Y09.inotify_share"], "FAIL"),
            ("inotify.watches", &["Y09.watches"], "FAIL"),
        ] {
            daemon.terminate()?;
            daemon.restart_with(options.clone().env("AGENTCORED_ABLATE", ablated))?;
            let client = daemon.client();
            probe::warm(&client, "probe", &json!({"list": true}))?;
            little_room(&client)?;
            let other = session_name("planted");
            let planted = probe::plant(&client, "probe", &other, "other")?;
            let told = peer(&client.session(&other)?, &planted)?;
            let id = session_name("hunter");
            let hunter = client.start("probe", &id, &json!({"list": true}))?;
            let shim = hunter.pid.context("pid")?;
            ensure!(host::is_forked(shim)?, "not forked: {hunter:?}");
            let promised = host::inotify_promised(shim)?;
            let limits = json!({"inotify": promised.instances, "watches": promised.watches});
            let payload = json!({
                "run": ids, "canaries": {"peer": told}, "limits": limits, "strict": true,
            });
            let verdicts = probe::run(&client, "probe", &id, &payload)?;
            for id in ids {
                let row = verdicts.of(id).context("no verdict")?;
                println!("{ablated}: {row:?}");
                ensure!(row.verdict == verdict, "with {ablated:?} off: {row:?}");
            }
        }
        Ok(())
    })
}

/// The template's owner gets few more watches than one share, as on a host that has no more: what one session can take in a probe's
/// time.
fn little_room(client: &Client) -> Result {
    let waiting = client.sessions("pool=true&live=true")?;
    let mut templates = waiting
        .iter()
        .filter(|one| one.origin == Some(Origin::Template));
    let shim = templates.next().and_then(|one| one.pid);
    let shim = shim.context("no template")?;
    let promised = host::inotify_promised(shim)?;
    // Written without an exec, which would take away what entering has given.
    let script = "import ctypes, sys\n\
        namespace = open(f'/proc/{sys.argv[1]}/ns/user')\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        assert libc.setns(namespace.fileno(), 0x10000000) == 0, ctypes.get_errno()\n\
        open('/proc/sys/user/max_inotify_watches', 'w').write(sys.argv[2])";
    let out = Command::new("/usr/bin/python3")
        .args(["-I", "-S", "-c", script, &shim.to_string()])
        .arg((promised.share_of_watches + promised.watches).to_string())
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{said}");
    Ok(())
}

/// Whether a file that only the host has is there for one who enters the mount namespace of `shim`, whose root he then has:
/// of a process that was merely confined to a directory, that of the host.
fn host_is_around(shim: i32) -> anyhow::Result<bool> {
    let file = places::scratch().join(format!("host-{}", std::process::id()));
    std::fs::write(&file, "")?;
    let out = Command::new("nsenter")
        .args(["--mount", "--target", &shim.to_string(), "--"])
        .args(["/usr/bin/python3", "-I", "-S", "-c"])
        .arg("import os, sys; print(os.path.exists(sys.argv[1]))")
        .arg(&file)
        .output()?;
    std::fs::remove_file(&file)?;
    match out.stdout.trim_ascii() {
        b"True" => Ok(true),
        b"False" => Ok(false),
        _ => anyhow::bail!("{}", String::from_utf8_lossy(&out.stderr)),
    }
}

#[test]
fn memory_without_its_limit_has_no_end() -> Result {
    ground!(Daemon, Faults, Python);
    let options = Options::quick().faults();
    Daemon::with(options.clone(), |daemon| {
        let limited = json!({"resources": {"memory": "64M"}});
        chaos::deploy(&daemon.client(), "hungry", "sdk", limited)?;
        for (ablated, outcome) in [("", 424), ("cgroup.memory", 200)] {
            daemon.terminate()?;
            daemon.restart_with(options.clone().env("AGENTCORED_ABLATE", ablated))?;
            let client = daemon.client();
            let id = session_name("hungry");
            client.invoke("hungry", &id, &json!({"do": "echo"}))?;
            let eat = json!({"do": "eat", "bytes": 160 << 20});
            let answer = client.send(Client::invocation("hungry", &id, &eat))?;
            answer.expect(outcome)?;
            if outcome == 424 {
                let session = client.ended(&id, 30)?;
                ensure!(
                    session.end_reason == Some(EndReason::OutOfMemory),
                    "{session:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn an_interface_more_than_the_loopback_would_be_seen() -> Result {
    ground!(Daemon, Python, Command("nsenter"), Command("ip"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        probe::deploy(&client, "probe", json!({}))?;
        let id = session_name("wired");
        let seen = || -> anyhow::Result<String> {
            let verdicts = probe::run(&client, "probe", &id, &json!({"run": ["N01"]}))?;
            Ok(verdicts.of("N01").context("N01")?.verdict.clone())
        };
        ensure!(seen()? == "PASS", "more than the loopback");
        let shim = client.session(&id)?.pid.context("pid")?;
        // Both ends stay in there, and go with it.
        let out = Command::new("nsenter")
            .args(["--net", "--target", &shim.to_string(), "--"])
            .args("ip link add ac0 type veth peer name ac1".split(' '))
            .output()?;
        ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        ensure!(seen()? == "FAIL", "N01 does not see another interface");
        Ok(())
    })
}
