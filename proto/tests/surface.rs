//! Tier 1 (pure): the wire surface of the session protocol against the golden file of its generation.
//!
//! `UPDATE_GOLDEN=1 cargo test -p proto --test surface` writes the file; see `VERSIONING.md` for when that is allowed.
#![allow(missing_docs, reason = "a test")]

use proto::code::ErrorCode;
use proto::ids::{ExecId, InvocationId, SessionId};
use proto::jsonrpc;
use proto::ports::Ports;
use proto::shim::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn message(packet: &[u8]) -> Value {
    assert!(packet.len() <= jsonrpc::MAX_PACKET);
    jsonrpc::parse(packet).expect("our own packets are messages");
    serde_json::from_slice(packet).expect("our own packets are JSON")
}

fn surface() -> Value {
    let session = SessionId::parse("s0123456789").expect("well-formed");
    let other = session.clone();
    let id = InvocationId(7);
    let kept = InvocationId(1 << 62 | 3 << 32 | 8);
    let exec = ExecId(9);
    let health = Health {
        status: HealthStatus::Unhealthy {
            failures: 3,
            detail: "GET /ping answered 500".into(),
        },
        time_of_last_update: Some(1_700_000_000),
    };
    let exited = AgentExited {
        status: Ok(ExitStatus::Signal(9)),
    };
    let size = TtySize { rows: 24, cols: 80 };
    let mut codes = BTreeMap::new();
    for code in ErrorCode::ALL {
        let row = code.row();
        codes.insert(format!("{code:?}"), json!([row.rpc, row.http, row.aws]));
    }
    json!({
        "generation": GENERATION,
        "limits": { "packet": jsonrpc::MAX_PACKET, "packetFds": jsonrpc::MAX_PACKET_FDS, "head": MAX_HEAD, "headers": MAX_HEADERS, "logLine": MAX_LOG_LINE, "keptWindow": KEPT_WINDOW, "kept": MAX_KEPT, "keepMs": MAX_KEEP_MS },
        "fds": { "boot": fd::BOOT, "listener": fd::LISTENER, "exitRecord": fd::EXIT_RECORD },
        "boot": Boot {
            generation: GENERATION,
            session: session.clone(),
            token: "0".repeat(64),
            epoch: 1,
            agent: AgentStart {
                argv: vec!["/usr/bin/python3".into(), "/app/my_agent.py".into()],
                env: BTreeMap::from([("PORT".into(), "8080".into())]),
                cwd: "/app".into(),
                uid: 1000,
                gid: 1000,
            },
            wire: AgentWire { port: 8080, ping_path: Some("/ping".into()), ports: vec![Ports::one(8001), Ports { from: 9000, to: 9010 }] },
            limits: ShimLimits {
                ping_interval_ms: 2000,
                ping_timeout_ms: 5000,
                stop_grace_ms: 15_000,
                max_lifetime_ms: 28_800_000,
                orphan_timeout_ms: 3_600_000,
                log_bytes_per_s: 1 << 20,
                log_burst_bytes: 1 << 20,
                max_invocations: 64,
                max_egress_backlog: 128,
            },
            egress: true,
            origin: proto::shim::Origin::Started,
        },
        "origins": [Origin::Started, Origin::Template, Origin::Fork],
        "exitRecord": ExitRecord { cause: ExitCause::AgentExited, agent: Some(exited.clone()) }.to_numbers(),
        "toShim": [
            message(&jsonrpc::request(1, "attach", &Attach { token: "0".repeat(64), epoch: 1, generation: GENERATION })),
            message(&jsonrpc::request(2, "invoke", &Invoke {
                id,
                method: "POST".into(),
                target: "/invocations".into(),
                headers: vec![("content-type".into(), "application/json".into())],
                content_length: Some(2),
                port: Some(8001),
                keep: None,
            })),
            message(&jsonrpc::request(5, "invoke", &Invoke {
                id: kept,
                method: "POST".into(),
                target: "/invocations".into(),
                headers: vec![],
                content_length: Some(2),
                port: None,
                keep: Some(Keep { deadline_ms: 28_800_000 }),
            })),
            message(&jsonrpc::request(6, "resume", &Resume { id: kept, from: 300, request_from: 2 })),
            message(&jsonrpc::notification("ack", &Ack { id: kept, bytes: 300 })),
            message(&jsonrpc::notification("settle", &Settle { id: kept })),
            message(&jsonrpc::notification("body.end", &BodyEnd { id, bytes: 2 })),
            message(&jsonrpc::notification("cancel", &Cancel { id })),
            message(&jsonrpc::request(3, "exec", &Exec {
                id: exec,
                argv: vec!["bash".into()],
                env: BTreeMap::new(),
                cwd: None,
                tty: Some(size),
            })),
            message(&jsonrpc::notification("resize", &Resize { id: exec, size })),
            message(&jsonrpc::request(4, "signal", &Signal { id: Some(exec), signal: 15 })),
            message(&jsonrpc::notification("clock-gap", &ClockGap { gap_ms: 60_000 })),
            message(&jsonrpc::request(5, "claim", &Claim { max_lifetime_ms: 28_800_000 })),
            message(&jsonrpc::notification("shutdown", &Shutdown { grace_ms: 15_000 })),
            message(&jsonrpc::request(7, "fork", &Fork {})),
            message(&jsonrpc::notification("go", &Go {})),
        ],
        "fromShim": [
            message(&jsonrpc::result(1, &Attached {
                generation: GENERATION,
                session,
                health: Some(health.clone()),
                exited: None,
                uptime_ms: 12,
                idle_ms: 5,
                ending: false,
                kept: vec![],
            })),
            message(&jsonrpc::result(1, &Attached {
                generation: GENERATION,
                session: other,
                health: None,
                exited: None,
                uptime_ms: 12,
                idle_ms: 0,
                ending: false,
                kept: vec![Kept { id: kept, acked: 100, produced: 300, uploaded: 2, ended: false, left_ms: 27_000_000 }],
            })),
            message(&jsonrpc::result(2, &InvokeHead {
                status: 200,
                headers: vec![("content-type".into(), "application/json".into())],
                content_length: None,
            })),
            message(&jsonrpc::error(2, &jsonrpc::ErrorObject {
                code: ErrorCode::AgentClosed.row().rpc,
                message: "the agent closed the connection".into(),
            })),
            message(&jsonrpc::result(3, &Execed { pid: 12 })),
            message(&jsonrpc::notification("body.end", &BodyEnd { id, bytes: 42 })),
            message(&jsonrpc::notification("ended", &Ended { id: kept, bytes: 400, failure: None })),
            message(&jsonrpc::notification("ended", &Ended {
                id: kept,
                bytes: 400,
                failure: Some(jsonrpc::ErrorObject {
                    code: ErrorCode::AgentClosed.row().rpc,
                    message: "the agent closed the connection in the middle of its answer".into(),
                }),
            })),
            message(&jsonrpc::notification("health", &health)),
            message(&jsonrpc::notification("log", &Log {
                lines: vec![LogLine { stream: LogStream::Stderr, at_ms: 5, text: "hello".into() }],
                dropped: 1,
            })),
            message(&jsonrpc::notification("agent.exited", &exited)),
            message(&jsonrpc::notification("exec.exited", &ExecExited { id: exec, status: ExitStatus::Code(0) })),
            message(&jsonrpc::notification("egress", &Egress { connection: 1 })),
            message(&jsonrpc::notification("template", &TemplateState::Ready)),
            message(&jsonrpc::notification("template", &TemplateState::Refused { reason: "threads".into() })),
            message(&jsonrpc::notification("forked", &Forked { pid: 2 })),
            message(&jsonrpc::notification("fault", &Fault { detail: "no pseudo-terminal".into() })),
        ],
        "codes": codes,
    })
}

#[test]
fn the_surface_is_that_of_the_golden_file() {
    let path = format!(
        "{}/schema/gen-{GENERATION}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let live = serde_json::to_string_pretty(&surface()).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &live).expect("write the golden file");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file of this generation");
    assert_eq!(live, golden, "the wire surface changed; see VERSIONING.md");
}
