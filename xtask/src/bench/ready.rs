//! An invocation of a session that is ready, beside the same request through HAProxy to the same agent, and of an agent of the AWS SDK
//! beside uvicorn with its application: one core for client, daemon or proxy, shim and agent, one kept connection each.

use super::direct::{Native, Uvicorn};
use super::peers::Haproxy;
use super::pinned::Pinned;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use super::{Effort, direct};
use e2e::client::{SESSION_HEADER, session_name};

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

pub(crate) fn measure(
    subject: &mut Subject,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    let pinned = Pinned::to_last()?;
    subject.restart("")?;
    let agent = Native::start()?;
    let folder = subject.daemon().dir().join("uvicorn");
    direct::copy_once(&subject.bundle("aws_sdk")?, &folder)?;
    let uvicorn = Uvicorn::start(&folder)?;
    let proxy = Haproxy::start(subject.daemon().dir(), &agent.target)?;
    let session = session_name("ready");
    let through_us = wire::post(
        "/runtimes/native/invocations",
        &[(SESSION_HEADER, session.as_str())],
        BODY,
    );
    let python_session = session_name("ready");
    let python_through_us = wire::post(
        "/runtimes/aws_sdk/invocations",
        &[(SESSION_HEADER, python_session.as_str())],
        BODY,
    );
    let plain = direct::request(&session, BODY);
    let mut ways = [
        (Wire::connect(&subject.tcp()?)?, &through_us),
        (Wire::connect(&proxy.target)?, &plain),
        (Wire::connect(&agent.target)?, &plain),
        (Wire::connect(&subject.unix())?, &through_us),
        (Wire::connect(&subject.tcp()?)?, &python_through_us),
        (Wire::connect(&uvicorn.target)?, &plain),
    ];
    let mut samples = [(); 6].map(|()| Samples::default());
    for (wire, request) in &mut ways {
        for _ in 0..effort.calls_per_block {
            wire.call(request)?;
        }
    }
    subject.rest()?;
    pinned.holds(subject.daemon().pid())?;
    for _ in 0..effort.blocks {
        for ((wire, request), samples) in ways.iter_mut().zip(&mut samples) {
            for _ in 0..effort.calls_per_block {
                samples.push_us(wire.call(request)?.whole);
            }
        }
    }
    let [ours, proxied, straight, over_unix, python, served] = samples;
    let name = "HAProxy to the same agent";
    let rows = [
        (
            "invocation of a ready session, over TCP",
            &ours,
            name,
            &proxied,
            Promise::RatioAtMost(2.0),
        ),
        (
            "… over the Unix socket",
            &over_unix,
            name,
            &proxied,
            Promise::Context,
        ),
        (
            "… over TCP",
            &ours,
            "the agent itself",
            &straight,
            Promise::Context,
        ),
        (
            "invocation of a ready session, AWS SDK, over TCP",
            &python,
            "uvicorn with the same application",
            &served,
            Promise::Context,
        ),
    ];
    for (what, ours, name, theirs, promise) in rows {
        table.add(Row {
            what: what.to_owned(),
            unit: "µs",
            ours: ours.clone(),
            peer: Some(Peer {
                name: name.to_owned(),
                samples: theirs.clone(),
            }),
            promise,
        });
    }
    Ok(())
}
