//! That a session is isolated: the probes of the security bar, run by an agent inside it, and the same session read from the
//! host. Tier: root; runs in the virtual machine too.

use anyhow::{Context as _, ensure};
use e2e::canaries::Canaries;
use e2e::client::session_name;
use e2e::sharing::Footprint;
use e2e::{Daemon, Options, Result, cgroup, ground, host, probe};
use proto::api::{Origin, Phase, Session};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Probes that may have nothing to judge, and why; any other that says INFO has lost what it looks for.
const NOTHING_TO_JUDGE: &[(&str, &str)] = &[
    ("C14", "allowed on purpose; for the record"),
    ("F04.sources", "what mountinfo shows of the host's paths"),
    ("F28.tmp", "programs may run from /tmp on purpose"),
    ("I12.floor", "the launcher may lack CAP_SYS_RESOURCE"),
    ("I19", "the limit on processes may come first"),
    ("I20", "refused, or harmless where the kernel has it"),
    ("L01.count", "a figure"),
    ("L04.reopen", "what the agent's own streams lead to"),
    ("N05.shown.*", "families that stay open on purpose"),
    ("N15", "the host's net.ipv4.ping_group_range decides"),
    ("P11", "the host's security module decides"),
    ("R01.shown.*", "limits that are not set on purpose"),
    ("R03", "sysconf shows the host's memory"),
    ("S01.personality_query", "a question without effect"),
    ("S08", "compared with the table, below"),
    ("S08.time", "a figure"),
    ("S12", "allowed on purpose; for the record"),
    ("U03.time", "sessions share the host's clocks"),
];

/// Calls past every filter: the kernel lets uretprobe (since 6.14) and uprobe (6.18) through, as instrumented programs would
/// die under filters that know nothing of them. Elsewhere than in the kernel's own trampolines they do nothing.
const UNFILTERED: [u32; 2] = [335, 336];

/// Calls of which the kernel itself says EPERM or ENOSYS: setgroups (denied), futex (no such operation).
const OF_THE_KERNEL: [u32; 2] = [116, 202];

/// The last number of the oldest kernel that we run on, 6.1: what is newer may be allowed and absent.
const LAST_OF_OLDEST: u32 = 450;

/// Probe S08 against the table of the sandbox: number by number, refused by the filter or left to the kernel.
fn calls_are_answered_as_the_table_says(verdicts: &probe::Verdicts) -> Result {
    let row = verdicts.of("S08").context("no S08")?;
    let seen: BTreeMap<u32, &str> = row
        .detail
        .split(' ')
        .map(|word| {
            let (number, class) = word.split_once(':').context("number:class")?;
            Ok((number.parse()?, class))
        })
        .collect::<anyhow::Result<_>>()?;
    let path = e2e::places::source().join("sandbox/src/seccomp/golden.txt");
    let table = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in table.lines() {
        let (numbers, expected) = line.split_once(' ').context("numbers and answer")?;
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        for number in first.parse::<u32>()?..=last.parse()? {
            let seen = *seen.get(&number).context("a number is missing")?;
            let fine = match expected {
                "kernel" => match seen {
                    "EPERM" => OF_THE_KERNEL.contains(&number),
                    "ENOSYS" => OF_THE_KERNEL.contains(&number) || number > LAST_OF_OLDEST,
                    _ => true,
                },
                refusal => seen == refusal || UNFILTERED.contains(&number),
            };
            compared += 1;
            if !fine {
                wrong.push(format!("{number}: {seen}, the table says {expected}"));
            }
        }
    }
    ensure!(compared == 601, "the table has {compared} numbers");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Sessions that are started for their callers.
fn cold() -> Value {
    json!({"fork": "off", "pool": {"max": 0}})
}

/// Sessions that are forked for their callers.
fn forked() -> Value {
    json!({"fork": "auto", "pool": {"max": 0}})
}

/// A dirty daemon with a planted session and one to probe, both of a runtime with this in its configuration.
fn probed(more: Value, test: impl FnOnce(&mut Daemon, &str, Value) -> Result) -> Result {
    let canaries = Canaries::new()?;
    Daemon::with(canaries.around(Options::default()), |daemon| {
        let client = daemon.client();
        let mut config: Value = serde_json::from_str(probe::LIMITS)?;
        e2e::chaos::merge(&mut config, json!({"environment": {"COLOUR": "blue"}}));
        e2e::chaos::merge(&mut config, more);
        let waiting = config["pool"]["min"].as_u64();
        probe::deploy(&client, "probe", config)?;
        e2e::wait::until_true(60, "what is to wait for callers", || {
            let pool = client.runtime("probe")?.pool.unwrap_or_default();
            Ok(u64::from(pool.ready) == waiting.unwrap_or(0))
        })?;
        if client.runtime("probe")?.template.is_some() {
            probe::warm(&client, "probe", &json!({"list": true}))?;
            // Those that were started are replaced by forks.
            e2e::wait::until_true(60, "forks that wait", || {
                let members = client.sessions("pool=true&live=true&runtime=probe")?;
                let members = members
                    .iter()
                    .filter(|one| one.origin == Some(Origin::Waiting));
                let forks = members.filter(|one| one.phase == Phase::Ready && is_fork(one));
                Ok(u64::try_from(forks.count())? == waiting.unwrap_or(0))
            })?;
        }
        let other = session_name("planted");
        let planted = probe::plant(&client, "probe", &other, "other")?;
        let id = session_name("probed");
        client.invoke("probe", &id, &json!({"list": true}))?;
        let payload = probe::payload(daemon, &canaries, &id, (&other, &planted))?;
        test(daemon, &id, payload)
    })
}

/// Whether its agent is a fork of a template.
fn is_fork(session: &Session) -> bool {
    let shim = session.pid;
    shim.is_some_and(|shim| host::is_forked(shim).unwrap_or(false))
}

#[test]
fn no_probe_of_an_agent_succeeds() -> Result {
    ground!(Daemon, Python);
    probed(cold(), |daemon, id, payload| {
        let verdicts = probe::run(&daemon.client(), "probe", id, &payload)?;
        for row in verdicts.with("INFO") {
            println!("INFO {}: {}", row.id, row.detail);
        }
        println!(
            "{} PASS, {} FAIL, {} INFO",
            verdicts.with("PASS").len(),
            verdicts.with("FAIL").len(),
            verdicts.with("INFO").len()
        );
        verdicts.all_green(probe::LEAST)?;
        verdicts.nothing_untold_but(NOTHING_TO_JUDGE)?;
        calls_are_answered_as_the_table_says(&verdicts)?;
        // And they were harmless: the session still answers.
        daemon
            .client()
            .invoke("probe", id, &json!({"list": true}))?;
        Ok(())
    })
}

#[test]
fn no_probe_of_an_agent_succeeds_in_a_session_from_the_pool() -> Result {
    ground!(Daemon, Python);
    let pool = json!({"fork": "off", "pool": {"min": 2, "max": 2}});
    probed(pool, |daemon, id, payload| {
        let pool = daemon.client().runtime("probe")?.pool.unwrap_or_default();
        ensure!((pool.hits, pool.misses) == (2, 0), "not claimed: {pool:?}");
        let verdicts = probe::run(&daemon.client(), "probe", id, &payload)?;
        verdicts.all_green(probe::LEAST)?;
        verdicts.nothing_untold_but(NOTHING_TO_JUDGE)?;
        calls_are_answered_as_the_table_says(&verdicts)
    })
}

#[test]
fn no_probe_of_an_agent_succeeds_in_a_forked_session() -> Result {
    ground!(Daemon, Python);
    probed(forked(), |daemon, id, payload| {
        let session = daemon.client().session(id)?;
        ensure!(
            session.origin == Some(Origin::Fork),
            "not forked: {session:?}"
        );
        let verdicts = probe::run(&daemon.client(), "probe", id, &payload)?;
        verdicts.all_green(probe::LEAST)?;
        verdicts.nothing_untold_but(NOTHING_TO_JUDGE)?;
        calls_are_answered_as_the_table_says(&verdicts)
    })
}

#[test]
fn no_probe_of_an_agent_succeeds_in_a_fork_from_the_pool() -> Result {
    ground!(Daemon, Python);
    let both = json!({"fork": "auto", "pool": {"min": 2, "max": 2}});
    probed(both, |daemon, id, payload| {
        let session = daemon.client().session(id)?;
        ensure!(
            session.origin == Some(Origin::Pool) && is_fork(&session),
            "no fork that waited: {session:?}"
        );
        let verdicts = probe::run(&daemon.client(), "probe", id, &payload)?;
        verdicts.all_green(probe::LEAST)?;
        verdicts.nothing_untold_but(NOTHING_TO_JUDGE)?;
        calls_are_answered_as_the_table_says(&verdicts)
    })
}

#[test]
fn no_probe_of_a_joined_process_succeeds() -> Result {
    joined(cold())
}

#[test]
fn no_probe_of_a_process_that_joined_a_forked_session_succeeds() -> Result {
    joined(forked())
}

fn joined(origin: Value) -> Result {
    ground!(Daemon, Python);
    probed(origin, |daemon, id, mut payload| {
        let shim = daemon.client().session(id)?.pid.context("pid")?;
        let told = &mut payload["canaries"];
        // Whoever joins is the shim's child in any case, and no fork of a template.
        told["filters"] = json!(2);
        if host::is_forked(shim)? {
            let agent = host::agent(shim).context("no agent")?;
            told["undumpable_agent"] = json!(host::number_inside(agent)?);
        }
        let mut command = daemon.cli();
        command.args([
            "exec",
            "-i",
            "-a",
            "probe",
            "-s",
            id,
            "--",
            "python3",
            "/app/main.py",
            "--run",
            "all",
            "--canaries",
            "-",
        ]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("stdin")?
            .write_all(payload.to_string().as_bytes())?;
        let out = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("{text}{}", String::from_utf8_lossy(&out.stderr)))?;
        let verdicts = probe::Verdicts::read(&answer)?;
        verdicts.all_green(probe::LEAST)?;
        verdicts.nothing_untold_but(NOTHING_TO_JUDGE)?;
        calls_are_answered_as_the_table_says(&verdicts)
    })
}

/// A daemon with the runtime `chaos`, whose sessions come to be like this.
fn as_seen_by_the_host(origin: Value, test: impl FnOnce(&Daemon) -> Result) -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        let mut config: Value = serde_json::from_str(probe::LIMITS)?;
        e2e::chaos::merge(&mut config, origin);
        // Else it has a thread that waits for signals, and cannot be forked.
        e2e::chaos::merge(
            &mut config,
            json!({"environment": {"AGENT_ON_TERM": "default"}}),
        );
        let forked = config["fork"] == "auto";
        e2e::chaos::deploy(&client, "chaos", "sdk", config)?;
        if forked {
            probe::warm(&client, "chaos", &json!({"do": "echo"}))?;
        }
        test(daemon)?;
        let origin = if forked { Origin::Fork } else { Origin::Cold };
        let all = client.live_sessions()?;
        ensure!(!all.is_empty() && all.iter().all(|one| one.origin == Some(origin)));
        Ok(())
    })
}

/// Every process of it: of a forked session the agent is no descendant of its shim.
fn processes(session: &Session) -> Vec<i32> {
    cgroup::members_named(session.id.as_str())
}

/// A session with an agent, a child of it and a joined command.
fn populated(daemon: &Daemon, runtime: &str) -> anyhow::Result<(Session, std::process::Child)> {
    let client = daemon.client();
    let id = session_name("host");
    client.invoke(runtime, &id, &json!({"do": "stray", "count": 2}))?;
    let joined = daemon
        .cli()
        .args(["exec", "-a", runtime, "-s", &id, "--", "sleep", "987"])
        .stdin(Stdio::null())
        .spawn()?;
    let session = client.session(&id)?;
    let pid = session.pid.context("pid")?;
    e2e::wait::until_true(10, "the joined command", || {
        Ok(host::processes(pid)
            .iter()
            .any(|p| host::title(*p).contains("sleep 987")))
    })?;
    Ok((session, joined))
}

fn zero(text: &str) -> bool {
    text.trim_start_matches('0').is_empty()
}

#[test]
fn every_task_of_a_session_is_stripped_filtered_and_in_its_cgroups() -> Result {
    as_seen_by_the_host(cold(), every_task_is_stripped)
}

#[test]
fn every_task_of_a_forked_session_is_stripped_filtered_and_in_its_cgroups() -> Result {
    as_seen_by_the_host(forked(), every_task_is_stripped)
}

fn every_task_is_stripped(daemon: &Daemon) -> Result {
    let (session, mut joined) = populated(daemon, "chaos")?;
    let shim = session.pid.context("pid")?;
    let base = session.uid_base.context("uid_base")?;
    let tree = processes(&session);
    ensure!(
        tree.len() >= 5,
        "shim, agent, two strays, a command: {tree:?}"
    );
    let own = cgroup::of(daemon.pid());
    for pid in &tree {
        for tid in host::tasks(*pid) {
            let status = host::status(*pid, tid)?;
            let who = format!("{pid}/{tid} {}", host::title(*pid));
            ensure!(status["NoNewPrivs"] == "1", "{who} may gain privileges");
            ensure!(status["Seccomp"] == "2", "{who} is not filtered");
            ensure!(
                zero(&status["CapBnd"]),
                "{who}: bounding {}",
                status["CapBnd"]
            );
            let expected = if *pid == shim { base } else { base + 1 };
            for kind in ["Uid", "Gid"] {
                let ids: BTreeSet<_> = status[kind].split_whitespace().collect();
                ensure!(
                    ids == BTreeSet::from([expected.to_string().as_str()]),
                    "{who}: {kind} {ids:?}, expected {expected}"
                );
            }
            ensure!(
                status["Groups"].is_empty(),
                "{who}: groups {}",
                status["Groups"]
            );
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                if *pid == shim {
                    // SETGID, SETUID, KILL in its own user namespace, and no other.
                    let bits = u64::from_str_radix(&status[set], 16)?;
                    ensure!(bits & !0b1110_0000 == 0, "{who}: {set} {}", status[set]);
                } else {
                    ensure!(zero(&status[set]), "{who}: {set} {}", status[set]);
                }
            }
        }
        // In a cgroup of its own wherever the host limits anything (G03), and none of them the daemon's.
        let of = cgroup::of(*pid);
        for (names, path) in &of {
            let limited = names.is_empty()
                || ["memory", "pids", "cpu"]
                    .iter()
                    .any(|c| names.split(',').any(|n| n == *c));
            if limited {
                ensure!(
                    path.contains(session.id.as_str()),
                    "{pid} is in {names}:{path}"
                );
                ensure!(
                    own.get(names) != Some(path),
                    "{pid} shares the daemon's {names}:{path}"
                );
            }
        }
    }
    joined.kill()?;
    joined.wait()?;
    Ok(())
}

#[test]
fn limits_read_back_from_the_host_are_those_of_the_version() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::chaos::deploy(
            &client,
            "chaos",
            "sdk",
            serde_json::from_str(probe::LIMITS)?,
        )?;
        let session = client.start("chaos", &session_name("limits"), &json!({"do": "echo"}))?;
        let pid = session.pid.context("pid")?;
        let value = |controller: &str, files: &[&str]| {
            cgroup::value(pid, controller, files)
                .with_context(|| format!("{files:?} of {controller}"))
        };
        assert_eq!(
            value("memory", &["memory.max", "memory.limit_in_bytes"])?,
            (256u64 << 20).to_string()
        );
        assert_eq!(value("pids", &["pids.max"])?, "128");
        let cpu = value("cpu", &["cpu.max", "cpu.cfs_quota_us"])?;
        let words: Vec<f64> = cpu
            .split_whitespace()
            .filter_map(|w| w.parse().ok())
            .collect();
        let period = match words.get(1) {
            Some(period) => *period,
            None => value("cpu", &["cpu.cfs_period_us"])?.parse()?,
        };
        let share = words.first().context("quota")? / period;
        ensure!((share - 0.5).abs() < 0.01, "{share} CPUs");
        // Swap is no way around the memory limit, where the host counts it.
        if let Ok(swap) = value("memory", &["memory.swap.max"]) {
            assert_eq!(swap, "0");
        } else if let Ok(both) = value("memory", &["memory.memsw.limit_in_bytes"]) {
            assert_eq!(both, (256u64 << 20).to_string());
        }
        if let Ok(group) = value("memory", &["memory.oom.group"]) {
            assert_eq!(group, "1");
        }
        // And what the API says of its use is what the host says.
        client.invoke(
            "chaos",
            session.session_id.as_str(),
            &json!({"do": "eat", "bytes": 64 << 20}),
        )?;
        client.invoke(
            "chaos",
            session.session_id.as_str(),
            &json!({"do": "spin", "seconds": 1, "processes": 1}),
        )?;
        let used = e2e::wait::until(10, "usage to be read", || {
            let usage = client.session(session.id.as_str())?.usage;
            Ok((usage.memory_bytes > 64 << 20 && usage.cpu_seconds > 0.2).then_some(usage))
        })?;
        ensure!(
            used.memory_peak_bytes >= used.memory_bytes && used.memory_peak_bytes < 256 << 20,
            "{used:?}"
        );
        ensure!(used.pids >= 2 && used.oom_kills == 0, "{used:?}");
        let ended = client.stop(session.id.as_str())?;
        ensure!(
            ended.usage.cpu_seconds >= used.cpu_seconds
                && ended.usage.memory_peak_bytes >= used.memory_peak_bytes,
            "{ended:?}"
        );
        Ok(())
    })
}

#[test]
fn two_sessions_share_nothing_with_each_other_or_the_host() -> Result {
    as_seen_by_the_host(cold(), sessions_share_nothing)
}

#[test]
fn two_forks_of_a_template_share_nothing_with_each_other_or_the_host() -> Result {
    as_seen_by_the_host(forked(), sessions_share_nothing)
}

fn sessions_share_nothing(daemon: &Daemon) -> Result {
    let client = daemon.client();
    let mut all = Vec::new();
    for _ in 0..4 {
        let id = session_name("foot");
        client.invoke("chaos", &id, &json!({"do": "write", "path": "/tmp/marker"}))?;
        let session = client.session(&id)?;
        let footprint = Footprint::of(
            session.pid.context("pid")?,
            session.uid_base.context("uid")? + 1,
        )?;
        ensure!(
            footprint.files.len() >= 3,
            "/tmp, the marker, home: {:?}",
            footprint.files
        );
        let with_host = footprint.shared_with_host()?;
        ensure!(with_host.is_empty(), "{with_host:#?}");
        all.push(footprint);
    }
    for (n, a) in all.iter().enumerate() {
        for b in &all[n + 1..] {
            ensure!(a.shared(b).is_empty(), "{:#?}", a.shared(b));
        }
    }
    // The comparison can see red.
    let same = all[0].shared(&all[0]);
    for what in [
        "user namespace",
        "net namespace",
        "uids",
        "gids",
        "cgroup",
        "writable mount",
        "writable file",
    ] {
        ensure!(
            same.iter().any(|s| s.contains(what)),
            "{what} would not be noticed: {same:#?}"
        );
    }
    Ok(())
}

#[test]
fn no_descriptor_path_or_mount_leads_out() -> Result {
    as_seen_by_the_host(cold(), nothing_leads_out)
}

#[test]
fn no_descriptor_path_or_mount_leads_out_of_a_forked_session() -> Result {
    as_seen_by_the_host(forked(), nothing_leads_out)
}

fn nothing_leads_out(daemon: &Daemon) -> Result {
    let client = daemon.client();
    let mounts = host::mountinfo(1).len();
    let (session, mut joined) = populated(daemon, "chaos")?;
    let shim = session.pid.context("pid")?;
    let id = session.session_id.as_str();
    let look = || -> anyhow::Result<Vec<(String, BTreeSet<String>)>> {
        processes(&session)
            .into_iter()
            .map(|pid| {
                let kinds = host::descriptors(pid)?
                    .into_iter()
                    .filter(|d| d.number > 2)
                    .map(|d| {
                        d.target
                            .split(['[', '('])
                            .next()
                            .unwrap_or_default()
                            .to_owned()
                    })
                    .collect();
                Ok((host::title(pid), kinds))
            })
            .collect()
    };
    let at_start = look()?;
    for _ in 0..300 {
        client.invoke("chaos", id, &json!({"do": "echo"}))?;
    }
    for (title, kinds) in look()?.into_iter().chain(at_start) {
        for kind in kinds {
            let fine = [
                "socket:",
                "pipe:",
                "anon_inode:",
                "/memfd:",
                "/dev/null",
                "/proc",
                "/app",
                "/tmp",
                "/home/agent",
            ]
            .iter()
            .any(|k| kind.starts_with(k))
                || kind.contains("exit");
            ensure!(fine, "{title} holds {kind}");
        }
    }
    let before = host::descriptors(shim)?.len();
    for _ in 0..300 {
        client.invoke("chaos", id, &json!({"do": "echo"}))?;
    }
    let after = host::descriptors(shim)?.len();
    ensure!(
        after <= before + 2,
        "the shim's descriptors grew from {before} to {after} in 300 invocations"
    );
    for pid in processes(&session) {
        let lines = host::mountinfo(pid);
        ensure!(!lines.is_empty());
        for line in lines {
            ensure!(
                !line.contains(" shared:") && !line.contains(" master:"),
                "propagation in {pid}: {line}"
            );
        }
        for link in ["root", "cwd", "exe"] {
            let target = std::fs::read_link(format!("/proc/{pid}/{link}"))?;
            ensure!(
                !target.starts_with(daemon.dir()),
                "{link} of {pid} is {}",
                target.display()
            );
        }
    }
    ensure!(
        host::mountinfo(1).len() == mounts,
        "the host's mount table grew"
    );
    // The shim runs from a sealed copy: its inode is not the file that the host executes (T11).
    let copy = std::fs::metadata(format!("/proc/{shim}/exe"))?;
    let file = std::fs::metadata(e2e::places::binaries().join("agentcore-shim"))?;
    use std::os::unix::fs::MetadataExt as _;
    ensure!(
        (copy.dev(), copy.ino()) != (file.dev(), file.ino()),
        "the shim is the host's own file"
    );
    let python = std::fs::metadata("/usr/bin/python3")?;
    let theirs = std::fs::metadata(format!("/proc/{shim}/root/usr/bin/python3"))?;
    ensure!(
        (python.dev(), python.ino()) != (theirs.dev(), theirs.ino()),
        "the interpreter is the host's own file"
    );
    joined.kill()?;
    joined.wait()?;
    Ok(())
}

#[test]
fn the_host_cannot_be_entered_through_a_session_by_its_own_users() -> Result {
    ground!(Daemon, Python, Command("setpriv"));
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        e2e::chaos::deploy(&client, "chaos", "sdk", json!({}))?;
        let session = client.start("chaos", &session_name("nobody"), &json!({"do": "echo"}))?;
        let shim = session.pid.context("pid")?;
        for (program, path) in [
            ("ls", format!("/proc/{shim}/root/tmp")),
            ("cat", format!("/proc/{shim}/environ")),
            ("cat", format!("/proc/{shim}/mem")),
            ("ls", format!("/proc/{shim}/fd")),
        ] {
            let out = Command::new("setpriv")
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .args([program, &path])
                .output()?;
            ensure!(!out.status.success(), "nobody reads {path}");
        }
        Ok(())
    })
}
