//! What the agent saw from inside its session, and what that says about its isolation.
//!
//! For: judging. Pure, so that every finding is tested with facts that must turn it red.

use crate::endpoint::Endpoint;
use proto::api::Session;
use proto::units::MemoryBytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Namespaces that every session has of its own.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Most processes that an agent may see: itself, and what belongs to its own session.
const MAX_PROCESSES: u64 = 8;

/// The agent's report (`agent.py`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    uid_map: Vec<[u32; 3]>,
    capabilities: BTreeMap<String, String>,
    no_new_privs: String,
    seccomp: String,
    new_user_namespace: Option<String>,
    namespaces: BTreeMap<String, u64>,
    interfaces: Vec<String>,
    writable: Vec<String>,
    tmp_writable: bool,
    tmp_bytes: u64,
    visible_paths: Vec<String>,
    processes: u64,
}

/// What is known outside, to compare with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outside {
    /// Inodes of this process's namespaces.
    namespaces: BTreeMap<String, u64>,
    /// Who we are.
    uid: u32,
    /// Paths that exist here and must not exist there.
    pub(super) host_paths: Vec<String>,
    /// Size that was asked for.
    tmp: MemoryBytes,
}

/// One check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked.
    pub(super) name: &'static str,
    /// Whether it is as it should be.
    pub(super) ok: bool,
    /// What was seen.
    pub(super) detail: String,
}

impl Outside {
    /// Of this process.
    pub(super) fn here(
        canary: &Path,
        endpoint: &Endpoint,
        tmp: MemoryBytes,
    ) -> std::io::Result<Self> {
        let mut namespaces = BTreeMap::new();
        for name in NAMESPACES {
            let inode = std::fs::metadata(format!("/proc/self/ns/{name}"))?.ino();
            namespaces.insert(name.to_owned(), inode);
        }
        let mut host_paths = vec![canary.display().to_string()];
        host_paths.extend(
            [
                "/run/agentcore",
                "/var/lib/agentcore",
                "/boot",
                "/sys/kernel",
            ]
            .map(str::to_owned),
        );
        if let Endpoint::Unix(path) = endpoint {
            host_paths.push(path.display().to_string());
        }
        Ok(Self {
            namespaces,
            uid: std::fs::metadata("/proc/self")?.uid(),
            host_paths,
            tmp,
        })
    }
}

/// Every check, in a stable order.
pub(super) fn judge(facts: &Facts, outside: &Outside, record: &Session) -> Vec<Finding> {
    vec![
        identity(facts),
        uid_range(facts, outside, record),
        capabilities(facts),
        finding(
            "no_new_privs",
            facts.no_new_privs.trim() == "1",
            format!("NoNewPrivs {}", facts.no_new_privs),
        ),
        seccomp(facts),
        namespaces(facts, outside),
        finding(
            "network",
            facts.interfaces == ["lo"],
            format!("interfaces: {}", facts.interfaces.join(", ")),
        ),
        read_only(facts),
        tmp(facts, outside),
        host_files(facts),
        finding(
            "processes",
            facts.processes <= MAX_PROCESSES,
            match facts.processes {
                1 => "sees 1 process".to_owned(),
                several => format!("sees {several} processes"),
            },
        ),
    ]
}

fn finding(name: &'static str, ok: bool, detail: String) -> Finding {
    Finding { name, ok, detail }
}

fn identity(facts: &Facts) -> Finding {
    let own = facts.groups.iter().all(|group| *group == facts.gid);
    finding(
        "identity",
        facts.uid != 0 && facts.gid != 0 && own,
        format!(
            "uid {}, gid {}, groups {:?}",
            facts.uid, facts.gid, facts.groups
        ),
    )
}

/// The uids of the session are no uid that anything on the host has, and those that the daemon says.
fn uid_range(facts: &Facts, outside: &Outside, record: &Session) -> Finding {
    let holds = |uid: u32| {
        facts
            .uid_map
            .iter()
            .any(|[_, base, length]| uid.wrapping_sub(*base) < *length)
    };
    let agreed = record
        .uid_base
        .is_none_or(|base| facts.uid_map.iter().any(|[_, host, _]| *host == base));
    let ok = !facts.uid_map.is_empty() && !holds(0) && !holds(outside.uid) && agreed;
    let ranges: Vec<String> = facts
        .uid_map
        .iter()
        .map(|[_, base, length]| format!("{length} from {base}"))
        .collect();
    finding("uid_range", ok, format!("host uids: {}", ranges.join(", ")))
}

fn capabilities(facts: &Facts) -> Finding {
    let set: Vec<String> = facts
        .capabilities
        .iter()
        .filter(|(_, mask)| !mask.trim().trim_matches('0').is_empty())
        .map(|(name, mask)| format!("{name} {mask}"))
        .collect();
    let all = facts.capabilities.len() == 5;
    let detail = if set.is_empty() {
        "all five sets are empty".to_owned()
    } else {
        set.join(", ")
    };
    finding("capabilities", all && set.is_empty(), detail)
}

/// A filter is there, and it bites: a new user namespace, the usual first step of an escape, is refused.
fn seccomp(facts: &Facts) -> Finding {
    let refused = facts.new_user_namespace.as_deref();
    let ok = facts.seccomp.trim() == "2" && matches!(refused, Some("EPERM" | "ENOSYS"));
    let seen = refused.map_or("allowed".to_owned(), |errno| format!("refused ({errno})"));
    finding(
        "seccomp",
        ok,
        format!(
            "mode {}, a new user namespace is {seen}",
            facts.seccomp.trim()
        ),
    )
}

fn namespaces(facts: &Facts, outside: &Outside) -> Finding {
    let shared: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|name| {
            let inside = facts.namespaces.get(*name);
            inside.is_none() || inside == outside.namespaces.get(*name)
        })
        .collect();
    let detail = if shared.is_empty() {
        NAMESPACES.join(", ")
    } else {
        format!("shared with the host: {}", shared.join(", "))
    };
    finding("namespaces", shared.is_empty(), detail)
}

fn read_only(facts: &Facts) -> Finding {
    let detail = if facts.writable.is_empty() {
        "nothing outside of /tmp and $HOME can be written".to_owned()
    } else {
        format!("writable: {}", facts.writable.join(", "))
    };
    finding("read_only_root", facts.writable.is_empty(), detail)
}

fn tmp(facts: &Facts, outside: &Outside) -> Finding {
    let ok = facts.tmp_writable && facts.tmp_bytes <= outside.tmp.0;
    let size = crate::table::bytes(facts.tmp_bytes);
    let writable = if facts.tmp_writable {
        "writable"
    } else {
        "not writable"
    };
    finding(
        "tmp",
        ok,
        format!(
            "/tmp is {writable}, {size} of {} asked for",
            crate::table::bytes(outside.tmp.0)
        ),
    )
}

fn host_files(facts: &Facts) -> Finding {
    let detail = if facts.visible_paths.is_empty() {
        "no path of the host is there".to_owned()
    } else {
        format!("visible: {}", facts.visible_paths.join(", "))
    };
    finding("host_files", facts.visible_paths.is_empty(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn facts() -> Value {
        json!({
            "uid": 1000, "gid": 1000, "groups": [1000], "uidMap": [[0, 2_000_000, 65_536]],
            "capabilities": { "CapInh": "0000000000000000", "CapPrm": "0000000000000000",
                "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000" },
            "noNewPrivs": "1", "seccomp": "2", "newUserNamespace": "EPERM",
            "namespaces": { "user": 11, "mnt": 12, "pid": 13, "net": 14, "ipc": 15, "uts": 16, "cgroup": 17 },
            "interfaces": ["lo"], "writable": [], "tmpWritable": true, "tmpBytes": 33_554_432,
            "visiblePaths": [], "processes": 2,
        })
    }

    fn outside() -> Outside {
        let ids = NAMESPACES.into_iter().zip(1..);
        Outside {
            namespaces: ids.map(|(name, inode)| (name.to_owned(), inode)).collect(),
            uid: 1000,
            host_paths: vec![],
            tmp: MemoryBytes::mib(32),
        }
    }

    fn record() -> Session {
        serde_json::from_value(json!({
            "id": "abcd", "sessionId": "s".repeat(36), "runtime": "r", "version": 1, "phase": "ready",
            "inFlight": 0, "createdAt": "", "lastActivityAt": "", "uidBase": 2_000_000,
            "usage": { "cpuSeconds": 0.0, "memoryBytes": 0, "memoryPeakBytes": 0, "pids": 1, "oomKills": 0 },
            "egressRefused": 0, "logLinesDropped": 0,
        }))
        .expect("a session")
    }

    fn red(change: impl FnOnce(&mut Value)) -> Vec<&'static str> {
        let mut value = facts();
        change(&mut value);
        let facts: Facts = serde_json::from_value(value).expect("facts");
        let findings = judge(&facts, &outside(), &record());
        findings
            .into_iter()
            .filter(|finding| !finding.ok)
            .map(|finding| finding.name)
            .collect()
    }

    #[test]
    fn an_isolated_session_passes() {
        assert_eq!(red(|_| {}), Vec::<&str>::new());
    }

    #[test]
    fn every_weakness_turns_its_own_check_red() {
        type Case = (&'static str, &'static str, Value);
        let cases: [Case; 22] = [
            ("/uid", "identity", json!(0)),
            ("/gid", "identity", json!(0)),
            ("/groups", "identity", json!([1000, 27])),
            ("/uidMap", "uid_range", json!([[0, 0, 4_294_967_295_u32]])),
            ("/uidMap", "uid_range", json!([[0, 1000, 1]])),
            ("/uidMap", "uid_range", json!([[0, 3_000_000, 65_536]])),
            ("/uidMap", "uid_range", json!([])),
            (
                "/capabilities/CapEff",
                "capabilities",
                json!("0000000000200000"),
            ),
            (
                "/capabilities/CapBnd",
                "capabilities",
                json!("000001ffffffffff"),
            ),
            ("/capabilities", "capabilities", json!({})),
            ("/noNewPrivs", "no_new_privs", json!("0")),
            ("/seccomp", "seccomp", json!("0")),
            ("/newUserNamespace", "seccomp", json!(null)),
            ("/newUserNamespace", "seccomp", json!("EINVAL")),
            ("/namespaces/net", "namespaces", json!(4)),
            ("/namespaces", "namespaces", json!({})),
            ("/interfaces", "network", json!(["lo", "eth0"])),
            ("/writable", "read_only_root", json!(["/etc"])),
            ("/tmpBytes", "tmp", json!(33_554_433)),
            ("/tmpWritable", "tmp", json!(false)),
            ("/visiblePaths", "host_files", json!(["/boot"])),
            ("/processes", "processes", json!(200)),
        ];
        for (pointer, check, value) in cases {
            let name = format!("{pointer} = {value}");
            let red = red(|facts| *facts.pointer_mut(pointer).expect("a fact") = value);
            assert_eq!(red, [check], "{name}");
        }
    }

    #[test]
    fn outside_is_read_from_this_process() {
        let endpoint = Endpoint::Unix("/x/api.sock".into());
        let here = Outside::here(Path::new("/tmp/canary"), &endpoint, MemoryBytes::mib(1));
        let here = here.expect("proc is mounted");
        assert_eq!(here.namespaces.len(), 7);
        for path in ["/tmp/canary", "/x/api.sock"] {
            assert!(here.host_paths.iter().any(|each| each == path), "{path}");
        }
    }
}
