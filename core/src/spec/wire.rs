//! How the agent is spoken to: port, path, the warm-up call, and which of the caller's headers reach it.

use super::command::shown;
use super::faults::Faults;
use proto::config::RuntimeConfig;
use proto::ports::Ports;

/// Ports that an agent may choose (contract §1.1), and the one among them that it may not.
const PORTS: std::ops::RangeInclusive<u16> = 8000..=12_000;
const NOT_A_PORT: u16 = 8443;

/// Most entries of a list of ports (contract §2.8).
const MAX_PORTS: usize = 5;

/// Longest path of invocations and of the warm-up call (contract §3.2, §1.11).
const MAX_PATH: usize = 2048;
const MAX_WARMUP: usize = 32;

/// Paths that mean something else already.
const CONTRACT_PATHS: &[&str] = &["/invocations", "/ping", "/ws", "/mcp", "/"];

/// Most headers of an allow-list, and the longest name (contract §3.2).
const MAX_HEADERS: usize = 20;
const MAX_NAME: usize = 256;

/// Names that no allow-list lets through, and why. A trailing `-` means everything that begins so.
const NOT_PASSED: &[(&str, &str)] = &[
    ("host", HOP),
    ("connection", HOP),
    ("keep-alive", HOP),
    ("transfer-encoding", HOP),
    ("content-length", HOP),
    ("upgrade", HOP),
    ("expect", HOP),
    ("te", HOP),
    ("trailer", HOP),
    ("proxy-", HOP),
    ("x-amz-", "belongs to the call's signature and its SDK"),
    ("workloadaccesstoken", "is set by the runtime"),
];

/// Of these names only the caller's own may be listed (contract §1.3).
const AWS_PREFIX: &str = "x-amzn-";
const CUSTOM_PREFIX: &str = "x-amzn-bedrock-agentcore-runtime-custom-";
/// Passed on without being listed.
const TRACE_ID: &str = "x-amzn-trace-id";

const HOP: &str = "concerns one connection, not the agent";

/// Port and path of invocations; worthless after a fault.
pub(super) fn address(config: &RuntimeConfig, faults: &mut Faults) -> (u16, String) {
    let port = config.port();
    if !PORTS.contains(&port) || port == NOT_A_PORT {
        faults.add(
            "port",
            format!(
                "must be {} to {}, but not {NOT_A_PORT}; is {port}",
                PORTS.start(),
                PORTS.end()
            ),
        );
    }
    let path = config.path().to_owned();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b);
    if !is_path(&path, MAX_PATH, allowed) {
        faults.add(
            "path",
            format!(
                "must be 1 to {MAX_PATH} of a-z, A-Z, 0-9 and -._~/%, a slash first; is {}",
                shown(&path)
            ),
        );
    }
    (port, path)
}

/// The session's other ports that callers may reach.
pub(super) fn allowed_ports(config: &RuntimeConfig, faults: &mut Faults) -> Vec<Ports> {
    let asked = &config.allowed_ports;
    if asked.len() > MAX_PORTS {
        faults.add(
            "allowed_ports",
            format!("has {} entries; at most {MAX_PORTS}", asked.len()),
        );
        return Vec::new();
    }
    for (at, ports) in asked.iter().enumerate() {
        let mut fault = |text| faults.add(format!("allowed_ports[{at}]"), text);
        if ports.from > ports.to {
            fault(format!(
                "must not run backwards: {} is more than {}",
                ports.from, ports.to
            ));
        } else if !PORTS.contains(&ports.from) || !PORTS.contains(&ports.to) {
            fault(format!(
                "must be {} to {}; is {ports}",
                PORTS.start(),
                PORTS.end()
            ));
        } else if ports.hold(NOT_A_PORT) {
            fault(format!(
                "must not hold {NOT_A_PORT}, which is reserved (give a range on either side of it); is {ports}"
            ));
        } else if let Some(other) = asked[..at].iter().find(|other| other.overlap(ports)) {
            fault(format!(
                "must not overlap another entry; {ports} does {other}"
            ));
        }
    }
    asked.clone()
}

/// The warm-up call's path.
pub(super) fn warmup(config: &RuntimeConfig, own: &str, faults: &mut Faults) -> Option<String> {
    let path = config.warmup.as_ref()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._~/-".contains(&b);
    if !is_path(path, MAX_WARMUP, allowed) {
        faults.add(
            "warmup",
            format!(
                "must be 1 to {MAX_WARMUP} of a-z, A-Z, 0-9 and ._~/-, a slash first; is {}",
                shown(path)
            ),
        );
    } else if CONTRACT_PATHS.contains(&path.as_str()) || path == own {
        faults.add(
            "warmup",
            format!("must not be {path}, which has a meaning already"),
        );
    }
    Some(path.clone())
}

/// The allow-list of headers.
pub(super) fn request_headers(config: &RuntimeConfig, faults: &mut Faults) -> Vec<String> {
    let asked = &config.request_headers;
    if asked.len() > MAX_HEADERS {
        faults.add(
            "request_headers",
            format!("has {} names; at most {MAX_HEADERS}", asked.len()),
        );
        return Vec::new();
    }
    let mut names = Vec::with_capacity(asked.len());
    for (at, name) in asked.iter().enumerate() {
        let field = format!("request_headers[{at}]");
        if !is_header(name) {
            faults.add(
                field,
                format!(
                    "is not a header's name: 1 to {MAX_NAME} of a-z, A-Z, 0-9, `-` and `_`, a letter first; is {}",
                    shown(name)
                ),
            );
            continue;
        }
        let name = name.to_ascii_lowercase();
        if name == "authorization" && config.authorizer.is_none() {
            faults.add(
                field,
                "cannot be passed on: without an `authorizer` Authorization holds a signature, which is not the agent's business",
            );
            continue;
        }
        if name.starts_with(AWS_PREFIX) && !name.starts_with(CUSTOM_PREFIX) && name != TRACE_ID {
            faults.add(
                field,
                format!("cannot be passed on: of {AWS_PREFIX}* only {CUSTOM_PREFIX}*"),
            );
            continue;
        }
        let refused = NOT_PASSED.iter().find(|(refused, _)| {
            name == *refused || (refused.ends_with('-') && name.starts_with(refused))
        });
        match refused {
            Some((_, why)) => faults.add(field, format!("cannot be passed on: {name} {why}")),
            None if names.contains(&name) => {}
            None => names.push(name),
        }
    }
    names
}

fn is_path(text: &str, max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    text.starts_with('/') && text.len() <= max && text.bytes().all(allowed)
}

fn is_header(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
