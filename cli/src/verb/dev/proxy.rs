//! The local-dev wire on localhost: `POST /invocations` and `GET /ping`, streamed both ways.
//!
//! For: callers written against `python my_agent.py`, so an agent's own status and body come back as the agent sent
//! them. Only pages and programs of this machine may call: a web page elsewhere reaches localhost through its visitor's
//! browser, which `Host` and `Origin` give away.

use super::sticky::Sticky;
use crate::daemon::{Body, DaemonError, Refusal, SESSION_HEADER, encode, full};
use crate::failure::{Failure, chain};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto::api::Phase;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Headers that concern one connection only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Accepts connections until the listener breaks.
pub(super) async fn serve(
    listener: TcpListener,
    sticky: Arc<Sticky>,
    own_path: Arc<str>,
) -> Result<(), Failure> {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others will be closed.
                sticky
                    .desk
                    .screen
                    .warn(format!("cannot accept a connection: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                continue;
            }
        };
        // Events are small and must not wait for each other. A stream that is gone already fails below.
        let _ = stream.set_nodelay(true);
        let (sticky, own_path) = (Arc::clone(&sticky), Arc::clone(&own_path));
        let service = service_fn(move |request| {
            let (sticky, own_path) = (Arc::clone(&sticky), Arc::clone(&own_path));
            async move { Ok::<_, Infallible>(answer(&sticky, &own_path, request).await) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is its own business; dropping its request cancels the invocation.
            let _ = connection.await;
        });
    }
}

async fn answer(sticky: &Sticky, own_path: &str, request: Request<Incoming>) -> Response<Body> {
    if let Err(refused) = local_caller(request.headers()) {
        return *refused;
    }
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, "/ping") => ping(sticky).await,
        (&Method::POST, path) if path == "/invocations" || path == own_path => {
            forward(sticky, request).await
        }
        (method, path) => problem(
            StatusCode::NOT_FOUND,
            &format!("{method} {path} is not served; there are POST /invocations and GET /ping"),
        ),
    }
}

/// Refuses what a browser sends on behalf of somebody else's page.
fn local_caller(headers: &HeaderMap) -> Result<(), Box<Response<Body>>> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    if !text(HOST).is_some_and(is_loopback) {
        return Err(Box::new(problem(
            StatusCode::MISDIRECTED_REQUEST,
            "this server answers to localhost and 127.0.0.1 only",
        )));
    }
    let foreign = text(ORIGIN).is_some_and(|origin| {
        !origin
            .split_once("://")
            .is_some_and(|(_, host)| is_loopback(host))
    });
    if foreign {
        return Err(Box::new(problem(
            StatusCode::FORBIDDEN,
            "pages of other origins may not call this server",
        )));
    }
    Ok(())
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

/// Health as the daemon sees it; before the first request there is no session, and nothing wrong.
async fn ping(sticky: &Sticky) -> Response<Body> {
    let session = match sticky.session().await {
        Ok(session) => session,
        Err(error) => return unavailable(&error),
    };
    let status = match session
        .as_ref()
        .map(|session| (session.phase, session.in_flight))
    {
        // Busy without a request in flight is the agent's own HealthyBusy.
        Some((Phase::Busy, 0)) => "HealthyBusy",
        Some((Phase::Launching | Phase::Requested | Phase::Starting, _)) => {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is starting");
        }
        Some((
            Phase::Ready
            | Phase::Busy
            | Phase::Frozen
            | Phase::Draining
            | Phase::Ended
            | Phase::Failed,
            _,
        ))
        | None => "Healthy",
    };
    document(StatusCode::OK, &json!({ "status": status }))
}

async fn forward(sticky: &Sticky, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = format!("/runtimes/{}/invocations", encode(&sticky.runtime));
    let body = body.map_err(std::io::Error::other).boxed();
    let mut order = sticky.desk.daemon.request(Method::POST, &path, body);
    for (name, value) in end_to_end(&head.headers) {
        order.headers_mut().append(name, value);
    }
    if !head.headers.contains_key(SESSION_HEADER) {
        let id = HeaderValue::from_str(&sticky.id()).expect("a UUID is visible ASCII");
        order.headers_mut().insert(SESSION_HEADER, id);
    }
    let answer = match sticky.desk.daemon.send(order).await {
        Ok(answer) => answer,
        Err(error) => return unavailable(&error),
    };
    if answer.status() == StatusCode::FAILED_DEPENDENCY {
        return failed(sticky, sticky.desk.daemon.refusal(answer).await);
    }
    let (head, body) = answer.into_parts();
    let mut response = Response::new(body.map_err(std::io::Error::other).boxed());
    *response.status_mut() = head.status;
    for (name, value) in end_to_end(&head.headers) {
        response.headers_mut().append(name, value);
    }
    response
}

/// 424: the agent's own answer if it gave one, else the daemon's words.
fn failed(sticky: &Sticky, refusal: Refusal) -> Response<Body> {
    sticky.desk.screen.failure(&refusal.failure());
    match refusal.agent {
        Some(agent) => {
            let json = serde_json::from_str::<serde::de::IgnoredAny>(&agent.body).is_ok();
            let kind = if json {
                "application/json"
            } else {
                "text/plain; charset=utf-8"
            };
            let status = StatusCode::from_u16(agent.status).unwrap_or(StatusCode::BAD_GATEWAY);
            respond(status, kind, agent.body.into())
        }
        None => document(
            StatusCode::FAILED_DEPENDENCY,
            &json!({ "error": refusal.message, "log": refusal.log }),
        ),
    }
}

fn end_to_end(headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let all = headers.iter();
    all.filter(|(name, _)| {
        **name != HOST
            && !HOP_BY_HOP.contains(&name.as_str())
            && !name.as_str().starts_with("proxy-")
    })
    .map(|(name, value)| (name.clone(), value.clone()))
}

fn unavailable(error: &DaemonError) -> Response<Body> {
    problem(StatusCode::BAD_GATEWAY, &chain(error))
}

fn problem(status: StatusCode, text: &str) -> Response<Body> {
    document(status, &json!({ "error": text }))
}

fn document(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    respond(status, "application/json", value.to_string().into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_names_and_pages_are_served() {
        let status = |pairs: &[(HeaderName, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            local_caller(&headers.collect())
                .err()
                .map(|response| response.status().as_u16())
        };
        assert_eq!(status(&[(HOST, "localhost:8080")]), None);
        assert_eq!(status(&[(HOST, "127.0.0.1")]), None);
        assert_eq!(status(&[(HOST, "[::1]:8080")]), None);
        assert_eq!(status(&[]), Some(421));
        assert_eq!(status(&[(HOST, "evil.example:8080")]), Some(421));
        assert_eq!(status(&[(HOST, "localhost.evil.example")]), Some(421));
        assert_eq!(
            status(&[(HOST, "localhost:1"), (ORIGIN, "http://localhost:3000")]),
            None
        );
        assert_eq!(
            status(&[(HOST, "localhost:1"), (ORIGIN, "https://evil.example")]),
            Some(403)
        );
        assert_eq!(
            status(&[(HOST, "localhost:1"), (ORIGIN, "null")]),
            Some(403)
        );
    }
}
