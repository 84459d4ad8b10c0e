//! The environment of an agent: what the user sets, and what the runtime promises (contract §1.9).

use super::command::{Command, shown};
use super::faults::Faults;
use super::{BUILT_IN_PYTHON, HOME, HostPolicy};
use proto::config::{Language, Protocol, RuntimeConfig};
use std::collections::BTreeMap;

/// Most variables that a runtime sets.
const MAX_VARIABLES: usize = 128;

/// Longest name (contract §3.2).
const MAX_NAME: usize = 100;

/// Longest value, in bytes.
const MAX_VALUE: usize = 16 * 1024;

/// Most bytes of all names and values.
const MAX_TOTAL: usize = 32 * 1024;

const PROXY: &str = "leads to the session's way out; say what it may reach under [network]";

/// Names that a runtime may not set, and why.
pub const RESERVED: &[(&str, &str)] = &[
    (
        "PORT",
        "is the port that the agent must listen on; it follows from `protocol`, or `port` says it",
    ),
    ("DOCKER_CONTAINER", "tells SDKs that they are deployed"),
    ("AGENTCORE_RUNTIME_NAME", "is the runtime's name"),
    (
        "HOME",
        "is the one directory beside /tmp that can be written",
    ),
    ("HTTP_PROXY", PROXY),
    ("HTTPS_PROXY", PROXY),
    ("ALL_PROXY", PROXY),
    ("NO_PROXY", PROXY),
    ("http_proxy", PROXY),
    ("https_proxy", PROXY),
    ("all_proxy", PROXY),
    ("no_proxy", PROXY),
];

/// The whole environment; worthless after a fault.
pub(super) fn resolve(
    config: &RuntimeConfig,
    policy: &HostPolicy,
    command: Option<&Command>,
    faults: &mut Faults,
) -> BTreeMap<String, String> {
    check(&config.environment, faults);
    let mut env = config.environment.clone();
    fn default(env: &mut BTreeMap<String, String>, name: &str, value: &str) {
        env.entry(name.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    let mut ours = |name: &str, value: String| env.insert(name.to_owned(), value);
    ours("PORT", config.port().to_string());
    ours("DOCKER_CONTAINER", "1".to_owned());
    ours("AGENTCORE_RUNTIME_NAME", config.name.to_string());
    ours("HOME", HOME.to_owned());
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("LANG", "C.UTF-8"),
        // getpass, and many a library behind it, ask for a name; the uid's own is nobody's business.
        ("USER", "agent"),
        ("LOGNAME", "agent"),
    ] {
        default(&mut env, name, value);
    }
    // SDKs read one or the other: whoever sets one means both.
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .find_map(|name| env.get(*name))
        .unwrap_or(&policy.region)
        .clone();
    default(&mut env, "AWS_REGION", &region);
    default(&mut env, "AWS_DEFAULT_REGION", &region);
    if config.protocol == Protocol::A2a {
        default(&mut env, "A2A_PORT", &config.port().to_string());
        // What the agent's card tells its clients.
        if let Some(url) = &policy.url {
            let own = format!("{url}/runtimes/{}/invocations", config.name);
            default(&mut env, "AGENTCORE_RUNTIME_URL", &own);
        }
    }
    if command.is_some_and(|command| command.language == Language::Python) {
        python(&mut env);
    }
    env
}

/// The bundle itself is on the path already: it is the directory of the script.
fn python(env: &mut BTreeMap<String, String>) {
    let path = match env.get("PYTHONPATH") {
        Some(theirs) if !theirs.is_empty() => format!("{theirs}:{BUILT_IN_PYTHON}"),
        Some(_) | None => BUILT_IN_PYTHON.to_owned(),
    };
    env.insert("PYTHONPATH".to_owned(), path);
    // Lines reach the log as they are printed, not when a buffer is full.
    env.entry("PYTHONUNBUFFERED".to_owned())
        .or_insert_with(|| "1".to_owned());
    // The bundle is read-only; trying to write .pyc files into it costs time and shows in traces.
    env.entry("PYTHONDONTWRITEBYTECODE".to_owned())
        .or_insert_with(|| "1".to_owned());
}

fn check(environment: &BTreeMap<String, String>, faults: &mut Faults) {
    let count = environment.len();
    if count > MAX_VARIABLES {
        faults.add(
            "environment",
            format!("has {count} variables; at most {MAX_VARIABLES}"),
        );
    }
    let total: usize = environment
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    if total > MAX_TOTAL {
        faults.add(
            "environment",
            format!(
                "takes {total} bytes in all; at most {MAX_TOTAL}. Put large values into a file of the bundle"
            ),
        );
    }
    for (name, value) in environment.iter().take(MAX_VARIABLES) {
        check_one(name, value, faults);
    }
}

fn check_one(name: &str, value: &str, faults: &mut Faults) {
    let field = format!("environment.{}", shown(name).trim_matches('"'));
    let mut bytes = name.bytes();
    let name_ok = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && name.len() <= MAX_NAME;
    if !name_ok {
        faults.add(
            &field,
            format!(
                "is not a name: 1 to {MAX_NAME} of a-z, A-Z, 0-9, `_`, `.` and `-`, a letter or `_` first"
            ),
        );
    }
    if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        faults.add(&field, format!("is set by the runtime: it {reason}"));
    }
    if value.len() > MAX_VALUE {
        let found = value.len();
        faults.add(
            &field,
            format!("has a value of {found} bytes; at most {MAX_VALUE}"),
        );
    }
    if value.contains('\0') {
        faults.add(
            &field,
            "has a NUL in its value, which no environment can hold",
        );
    }
}
