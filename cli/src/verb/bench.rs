//! `agentcore bench`: how long callers wait for this runtime, here: calls of a new session and calls of a session that is ready.
//!
//! What is measured is what a caller sees over this endpoint, a new connection included. The sessions are its own, and are stopped
//! again. Not for: comparing with other programs, which `cargo xtask bench` does where this is built.

use super::Desk;
use super::invoke::{self, payload};
use crate::args::bench::Bench;
use crate::daemon::{DaemonError, SESSION_HEADER, empty, encode, full};
use crate::failure::Failure;
use crate::table::Table;
use crate::target;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use std::time::{Duration, Instant};

/// One line of the result; times in milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    what: &'static str,
    /// `first`: to the answer's head. `whole`: to its last byte.
    to: &'static str,
    calls: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
    samples: Vec<f64>,
}

/// What one call took.
#[derive(Debug, Clone, Copy)]
struct Took {
    first: Duration,
    whole: Duration,
}

/// Calls, measures, and prints.
pub(super) async fn run(desk: &Desk, args: &Bench) -> Result<(), Failure> {
    let payload = payload(&args.payload, false)?;
    let runtime = target::runtime(&desk.daemon, args.target.agent.as_deref()).await?;
    let mut lines = Vec::new();
    let mut ready = None;
    let mut new = Vec::new();
    for _ in 0..args.new {
        let (took, session) = call(desk, &runtime, &payload, None).await?;
        new.push(took);
        // The last one is kept for the calls of a ready session.
        if let Some(before) = ready.replace(session) {
            stop(desk, &runtime, &before).await?;
        }
    }
    lines.extend(told("new session", &new));
    let measured = async {
        let mut again = Vec::new();
        for _ in 0..args.calls {
            let (took, session) = call(desk, &runtime, &payload, ready.as_deref()).await?;
            again.push(took);
            ready = Some(session);
        }
        Ok::<_, Failure>(again)
    };
    let again = measured.await;
    if let Some(session) = ready {
        stop(desk, &runtime, &session).await?;
    }
    lines.extend(told("ready session", &again?));
    print(desk, &lines)
}

/// One call, and the session that answered it.
async fn call(
    desk: &Desk,
    runtime: &str,
    payload: &Bytes,
    session: Option<&str>,
) -> Result<(Took, String), Failure> {
    let path = format!("/runtimes/{}/invocations", encode(runtime));
    let daemon = &desk.daemon;
    let mut request = daemon.request(Method::POST, &path, full(payload.clone()));
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(id) = session {
        let value = HeaderValue::from_str(id).expect("it came in a header");
        headers.insert(SESSION_HEADER, value);
    }
    let began = Instant::now();
    let answer = daemon.send(request).await?;
    let first = began.elapsed();
    let named = answer.headers().get(SESSION_HEADER);
    let named = named.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    if !answer.status().is_success() {
        return Err(invoke::refused(desk, runtime, answer).await);
    }
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| DaemonError::Broken {
            method: Method::POST,
            path: path.clone(),
            source: error.into(),
        })?;
    }
    let whole = began.elapsed();
    let session = named.ok_or_else(|| {
        Failure::usage(format!(
            "{} names no session in its answers; is it an AgentCore daemon?",
            daemon.endpoint()
        ))
    })?;
    Ok((Took { first, whole }, session))
}

async fn stop(desk: &Desk, runtime: &str, session: &str) -> Result<(), Failure> {
    let path = target::session_path(session, "", Some(target::plain_name(runtime)));
    let request = desk.daemon.request(Method::DELETE, &path, empty());
    match desk.daemon.call(request).await {
        Ok(_) => Ok(()),
        // It has ended by itself.
        Err(DaemonError::Refused(refusal)) if refusal.status == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn told(what: &'static str, calls: &[Took]) -> Vec<Line> {
    let line = |to, of: &dyn Fn(&Took) -> Duration| {
        let samples: Vec<f64> = calls
            .iter()
            .map(|took| of(took).as_secs_f64() * 1e3)
            .collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Line {
            what,
            to,
            calls: samples.len(),
            p50: quantile(&sorted, 50),
            p90: quantile(&sorted, 90),
            p99: quantile(&sorted, 99),
            max: quantile(&sorted, 100),
            samples,
        }
    };
    if calls.is_empty() {
        return Vec::new();
    }
    vec![
        line("first", &|took| took.first),
        line("whole", &|took| took.whole),
    ]
}

/// The smallest sample that `percent` of all do not exceed.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn print(desk: &Desk, lines: &[Line]) -> Result<(), Failure> {
    if desk.screen.json {
        return desk.screen.document(&lines);
    }
    let mut table = Table::new(["CALL OF A", "TO ITS", "CALLS", "P50", "P90", "P99", "MAX"]);
    let ms = |value: f64| match value {
        v if v < 10.0 => format!("{v:.2} ms"),
        v => format!("{v:.1} ms"),
    };
    for line in lines {
        let to = match line.to {
            "first" => "first byte",
            _ => "last byte",
        };
        table.row([
            line.what.to_owned(),
            to.to_owned(),
            line.calls.to_string(),
            ms(line.p50),
            ms(line.p90),
            ms(line.p99),
            ms(line.max),
        ]);
    }
    desk.screen.line(table.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        let found = [50, 90, 99, 100].map(|percent| quantile(&sorted, percent));
        assert!((found[0] - 2.0).abs() < f64::EPSILON);
        assert!(
            found[1..]
                .iter()
                .all(|each| (each - 4.0).abs() < f64::EPSILON)
        );
    }
}
