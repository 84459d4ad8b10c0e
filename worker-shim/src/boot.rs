//! What the shim is started with: [`Boot`], checked once.
//!
//! The broker wrote it and the launcher sealed it, so this is not a defence against an attacker but against a mistake:
//! what is out of range here would otherwise surface as a session that behaves oddly.

use proto::shim::Boot;
use std::io::{self, Read};

/// Why a boot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Reading failed.
    #[error("cannot read the boot file")]
    Read(#[source] io::Error),
    /// Not the JSON of a [`Boot`].
    #[error("the boot file is not a boot message")]
    Json(#[source] serde_json::Error),
    /// A field is out of range.
    #[error("boot.{0}")]
    Field(&'static str),
}

/// Reads and checks a boot file.
pub fn read(mut file: impl Read) -> Result<Boot, BootError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(BootError::Read)?;
    let boot: Boot = serde_json::from_slice(&bytes).map_err(BootError::Json)?;
    check(&boot)?;
    Ok(boot)
}

fn check(boot: &Boot) -> Result<(), BootError> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let path_ok = |path: &str| {
        path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic())
    };
    let ping_path = boot.wire.ping_path.as_deref();
    let rules = [
        (
            boot.token.len() == 64 && boot.token.chars().all(hex),
            "token: must be 64 lower-case hexadecimal digits",
        ),
        (
            boot.agent
                .argv
                .first()
                .is_some_and(|program| !program.is_empty()),
            "agent.argv: must name a program",
        ),
        (
            boot.agent.cwd.starts_with('/'),
            "agent.cwd: must be an absolute path",
        ),
        (boot.wire.port != 0, "wire.port: must not be 0"),
        (
            ping_path.is_none_or(path_ok),
            "wire.ping_path: must be a path of visible ASCII",
        ),
        (
            boot.wire.ports.iter().all(|ports| ports.from != 0),
            "wire.ports: must not hold 0",
        ),
        (
            boot.limits.ping_interval_ms > 0,
            "limits.ping_interval_ms: must not be 0",
        ),
        (
            boot.limits.ping_timeout_ms > 0,
            "limits.ping_timeout_ms: must not be 0",
        ),
        (
            boot.limits.max_invocations > 0,
            "limits.max_invocations: must not be 0",
        ),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, broken)) => Err(BootError::Field(broken)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ids::SessionId;
    use proto::ports::Ports;
    use proto::shim::{AgentStart, AgentWire, GENERATION, ShimLimits};
    use std::collections::BTreeMap;

    fn boot() -> Boot {
        Boot {
            generation: GENERATION,
            session: SessionId::parse("s0001").expect("id"),
            token: "0f".repeat(32),
            epoch: 1,
            agent: AgentStart {
                argv: vec!["/bin/true".to_owned()],
                env: BTreeMap::new(),
                cwd: "/".to_owned(),
                uid: 1000,
                gid: 1000,
            },
            wire: AgentWire {
                port: 8080,
                ping_path: Some("/ping".to_owned()),
                ports: Vec::new(),
            },
            limits: ShimLimits {
                ping_interval_ms: 2000,
                ping_timeout_ms: 5000,
                stop_grace_ms: 15_000,
                max_lifetime_ms: 1,
                orphan_timeout_ms: 1,
                log_bytes_per_s: 0,
                log_burst_bytes: 0,
                max_invocations: 1,
                max_egress_backlog: 0,
            },
            egress: false,
            origin: proto::shim::Origin::Started,
        }
    }

    fn fault(change: impl FnOnce(&mut Boot)) -> Option<String> {
        let mut boot = boot();
        change(&mut boot);
        let bytes = serde_json::to_vec(&boot).expect("json");
        read(&bytes[..]).err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        assert_eq!(fault(|_| {}), None);
        type Change = fn(&mut Boot);
        let cases: [(Change, &str); 7] = [
            (|b| b.token.push('0'), "boot.token"),
            (|b| b.token = "G0".repeat(32), "boot.token"),
            (|b| b.agent.argv.clear(), "boot.agent.argv"),
            (|b| b.agent.cwd = "app".to_owned(), "boot.agent.cwd"),
            (|b| b.wire.port = 0, "boot.wire.port"),
            (
                |b| b.wire.ports = vec![Ports { from: 0, to: 9000 }],
                "boot.wire.ports",
            ),
            (
                |b| b.wire.ping_path = Some("/a b\r\n".to_owned()),
                "boot.wire.ping_path",
            ),
        ];
        for (change, field) in cases {
            let text = fault(change).expect(field);
            assert!(text.starts_with(field), "{text}");
        }
    }

    #[test]
    fn what_is_no_boot_is_refused() {
        assert!(matches!(read(&b"{}"[..]), Err(BootError::Json(_))));
    }
}
